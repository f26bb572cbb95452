"""
The process that started this one.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import time
import traceback
from types import TracebackType
from typing import Any

from txtableflip._handover.channel import connectChannel
from txtableflip._handover.messages import (
    MAX_FRAME,
    VERSION,
    Abort,
    Commit,
    Hello,
    Manifest,
    Message,
    Ready,
    Redeploy,
    Refused,
    Serving,
    decode,
)
from txtableflip._journal import Hearing, Journal, Peer, ProcessLogger
from txtableflip._lifecycle import Lifecycle
from txtableflip.errors import ChannelError

MANIFEST_TIMEOUT = 60.0
"""
How long to wait for the parent's manifest, in seconds.
"""

_FDS_PER_MESSAGE = 253
"""
The most descriptors that come with one message (C{SCM_MAX_FD} of unix(7)).
"""

_BUFFER = 4096
"""
How much to read at once, in bytes: a message with descriptors has few.
"""

_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

_log = ProcessLogger()


def findParent(fileno: int | None) -> Parent | None:
    """
    @param fileno: the number of the channel's descriptor, if there is one.
    @return: the parent, with what it has sent; or C{None} if this process was
        not started by one.
    @raise ChannelError: if it was, and cannot use what the parent sent.
    """
    if fileno is None:
        return None
    sock = socket.socket(fileno=fileno)
    reason = _distrust(sock)
    if reason is not None:
        sock.close()
        _log.warn(
            "the channel is not believed, {reason}: going on as a first generation",
            reason=reason,
        )
        return None
    return receiveManifest(sock, MANIFEST_TIMEOUT)


def _distrust(sock: socket.socket) -> str | None:
    """
    @return: why a socket cannot be the channel to a parent of ours, if so.
    """
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        return "it is no UNIX stream socket"
    peerCredentials = getattr(socket, "SO_PEERCRED", None)
    if peerCredentials is not None:
        layout = struct.Struct("3i")
        found = sock.getsockopt(socket.SOL_SOCKET, peerCredentials, layout.size)
        _, uid, _ = layout.unpack(found)
        if uid not in (0, os.geteuid()):
            return f"its other end belongs to user {uid}"
    return None


def receiveManifest(sock: socket.socket, timeout: float) -> Parent:
    """
    Read the manifest and its descriptors, before any reactor runs.

    @param timeout: how long to wait for all of it, in seconds.
    @raise ChannelError: if it does not come, or is not one.
    """
    reader = _Reader(sock, time.monotonic() + timeout)
    try:
        (length,) = struct.unpack("!I", reader.read(4))
        if length > MAX_FRAME:
            raise ChannelError(f"the manifest would be {length} bytes long")
        manifest = decode(reader.read(length))
        if not isinstance(manifest, Manifest):
            raise ChannelError(f"the parent began with a {type(manifest).__name__}")
        if len(reader.descriptors) != len(manifest.entries) + 1:
            raise ChannelError(
                f"{len(reader.descriptors)} descriptors came with a manifest of "
                f"{len(manifest.entries)} entries and a standard error"
            )
    except BaseException:
        for fileno in reader.descriptors:
            os.close(fileno)
        raise
    if not _CLOSE_ON_EXEC:
        for fileno in reader.descriptors:
            os.set_inheritable(fileno, False)
    ProcessLogger.generation = manifest.generation
    Journal().tell(Hearing, message="Manifest", peer=Parent.peer, peerPid=os.getppid())
    stderr, *inherited = reader.descriptors
    return Parent(sock, manifest, stderr, inherited)


class _Reader:
    """
    Reads exactly what is asked for, and collects the descriptors that come
    with it: what follows on the socket is for the reactor.
    """

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self.descriptors: list[int] = []
        self._socket = sock
        self._deadline = deadline
        self._space = socket.CMSG_LEN(_FDS_PER_MESSAGE * 4)
        sock.setblocking(False)

    def read(self, length: int) -> bytes:
        received = bytearray()
        while len(received) < length:
            try:
                received += self._receive(min(length - len(received), _BUFFER))
            except BlockingIOError:
                self._wait()
        return bytes(received)

    def _receive(self, length: int) -> bytes:
        data, ancillary, flags, _ = self._socket.recvmsg(length, self._space, _CLOSE_ON_EXEC)
        for level, kind, packed in ancillary:
            # Credentials look like numbers of descriptors, too.
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                count = len(packed) // 4
                self.descriptors.extend(struct.unpack(f"{count}i", packed[: count * 4]))
        if flags & socket.MSG_CTRUNC:
            raise ChannelError("the kernel dropped descriptors: is there a limit on them?")
        if not data:
            raise ChannelError("the parent closed the channel before its manifest was read")
        return data

    def _wait(self) -> None:
        remaining = max(0.0, self._deadline - time.monotonic())
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not poll.poll(remaining * 1000):
            raise ChannelError("the parent has not sent its manifest in time")


class Parent:
    """
    What the parent has sent, and what it is told.

    @ivar descriptors: what is inherited, in the order of the manifest's entries.
    @ivar pid: its process id.
    """

    peer: Peer = "parent"

    def __init__(
        self,
        sock: socket.socket,
        manifest: Manifest,
        stderr: int,
        descriptors: list[int],
    ) -> None:
        self.manifest = manifest
        self.descriptors = descriptors
        self._socket = sock
        self._stderr: int | None = stderr
        self._deadline: Any = None
        self.pid: int | None = os.getppid()

    def connect(self, reactor: Any, lifecycle: Lifecycle) -> None:
        """
        Greet the parent, and give the channel to the reactor.
        """
        self._reactor = reactor
        self._lifecycle = lifecycle
        self._channel = connectChannel(reactor, self._socket, self)
        self._channel.send(Hello(pid=os.getpid(), version=VERSION))
        self._previousHook, sys.excepthook = sys.excepthook, self._dying

    def _dying(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        """
        The interpreter is about to end by an exception.  The parent is to read
        of it: sys.stderr may lead to the log by now, where twistd redirects it.
        """
        self._previousHook(kind, error, trace)
        if sys.stderr is not sys.__stderr__:
            traceback.print_exception(kind, error, trace, file=sys.__stderr__)

    def sayReady(self) -> None:
        """
        Ask the parent to commit, which it has to do within its own deadline
        for us: if it is that late, it has been asleep, and will end us.
        """
        self._channel.send(Ready())
        self._deadline = self._reactor.callLater(
            self.manifest.upgradeTimeout, self._lifecycle.parentTimedOut
        )

    def sayServing(self) -> None:
        """
        Tell the parent that this process serves.
        """
        self._channel.send(Serving())

    def sayRefused(self, reason: str) -> None:
        """
        Tell the parent that this process will not serve, and why.
        """
        self._channel.send(Refused(reason))

    def releaseStderr(self) -> None:
        """
        Write to the parent's standard error from now on, and not into the
        pipe by which it reads our last words.
        """
        if sys.excepthook == self._dying:
            sys.excepthook = self._previousHook
        if self._stderr is not None:
            os.dup2(self._stderr, 2)
            os.close(self._stderr)
            self._stderr = None

    def messageReceived(self, message: Message) -> None:
        """
        The parent said something.
        """
        if isinstance(message, Commit):
            self._answered()
            self._lifecycle.parentCommitted()
        elif isinstance(message, Abort):
            self._answered()
            self._lifecycle.parentAborted(message.reason)
        elif isinstance(message, Redeploy):
            self._lifecycle.redeploy()
        else:
            _log.warn("the parent said {message}, which is not for us", message=str(message))

    def channelGarbled(self, error: ChannelError) -> None:
        """
        The parent sent nonsense.  It lives, so this process must not serve.
        """
        self._answered()
        self._lifecycle.parentAborted(f"it sent what is no message: {error}")

    def channelLost(self) -> None:
        """
        The parent is no more.
        """
        self._answered()
        self._lifecycle.parentExited()

    def _answered(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
