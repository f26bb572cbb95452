"""
The process that started this one.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import traceback
from types import TracebackType

from txtableflip._handover.channel import connectChannel
from txtableflip._handover.frames import closeAll
from txtableflip._handover.messages import (
    SPEAKS,
    Abort,
    Commit,
    Hello,
    Manifest,
    Message,
    Ready,
    Redeploy,
    Refused,
    Serving,
    agree,
    decode,
)
from txtableflip._handover.receiving import receiveFrame
from txtableflip._journal import Hearing, Journal, ProcessLogger
from txtableflip._lifecycle import Lifecycle
from txtableflip._observers import Deadline
from txtableflip.errors import ChannelError
from txtableflip.interfaces import Reactor

MANIFEST_TIMEOUT = 60.0
"""
How long to wait for the parent's manifest, in seconds.
"""

_log = ProcessLogger()


def findParent(fileno: int | None) -> Parent | None:
    """
    @param fileno: the number of the channel's descriptor, if there is one: it
        belongs to the parent that is found, or is closed.
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
        return "it is not a UNIX stream socket"
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
    frame = receiveFrame(sock, timeout)
    descriptors = frame.descriptors
    try:
        manifest = decode(frame)
        if not isinstance(manifest, Manifest):
            raise ChannelError(f"the parent began with a {frame.header['message']!r:.60}")
        if len(descriptors) != manifest.stderr + len(manifest.entries):
            raise ChannelError(
                f"{len(descriptors)} descriptors came with a manifest of "
                f"{len(manifest.entries)} entries and {int(manifest.stderr)} standard error"
            )
    except BaseException:
        closeAll(descriptors)
        raise
    ProcessLogger.generation = manifest.generation
    Journal().tell(Hearing, message="Manifest", peer="parent", peerPid=os.getppid())
    stderr = descriptors.pop(0) if manifest.stderr else None
    return Parent(sock, manifest, stderr, descriptors)


class Parent:
    """
    What the parent has sent, and what it is told.

    @ivar descriptors: what is inherited, in the order of the manifest's entries.
    @ivar peerPid: the process that started this one: the parent, or what it had
        start it.
    """

    def __init__(
        self,
        sock: socket.socket,
        manifest: Manifest,
        stderr: int | None,
        descriptors: list[int],
    ) -> None:
        self.manifest = manifest
        self.descriptors = descriptors
        self._socket = sock
        self.peerPid: int | None = os.getppid()
        self._stderr = stderr

    def connect(self, reactor: Reactor, lifecycle: Lifecycle) -> None:
        """
        Greet the parent, and give the channel to the reactor.
        """
        self._lifecycle = lifecycle
        self._deadline = Deadline(reactor)
        self._channel = connectChannel(reactor, self._socket, self, "parent")
        version = agree(SPEAKS, self.manifest.speaks)
        self._channel.send(Hello(pid=os.getpid(), version=version))
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
        self._deadline.after(self.manifest.upgradeTimeout, self._lifecycle.parentTimedOut)

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
            self._deadline.stop()
            self._lifecycle.parentCommitted()
        elif isinstance(message, Abort):
            self._deadline.stop()
            self._lifecycle.parentAborted(message.reason)
        elif isinstance(message, Redeploy):
            self._lifecycle.redeploy()
        else:
            name = type(message).__name__
            _log.warn("the parent said {message}, which is not for us", message=name)

    def channelGarbled(self, error: ChannelError) -> None:
        """
        The parent sent nonsense.  It lives, so this process must not serve.
        """
        self._deadline.stop()
        self._lifecycle.parentAborted(f"it sent what is not understood: {error}")

    def channelLost(self) -> None:
        """
        The parent is no more.
        """
        self._deadline.stop()
        self._lifecycle.parentExited()
