"""
The process that started this one.
"""

from __future__ import annotations

import os
import socket
import struct

from txtableflip._handover.channel import connectChannel
from txtableflip._handover.frames import closeAll
from txtableflip._handover.lastwords import LastWords
from txtableflip._handover.messages import (
    PROBATION,
    SPEAKS,
    Abort,
    Commit,
    Confirm,
    Hello,
    Manifest,
    Message,
    Ready,
    Redeploy,
    Stopping,
    Withdraw,
    agree,
    bothCan,
    decode,
)
from txtableflip._handover.pidfd import Pidfd
from txtableflip._handover.receiving import receiveFrame
from txtableflip._journal import Hearing, Journal, ProcessLogger
from txtableflip._lifecycle import Lifecycle
from txtableflip._observers import Deadline, OneShot
from txtableflip.errors import Abandoned, ChannelError, ParentTimedOut
from txtableflip.interfaces import Reactor

MANIFEST_TIMEOUT = 60.0
"""
How long to wait for the parent's manifest, in seconds.
"""

CONFIRM_TIMEOUT = 60.0
"""
How long a parent may take to decide behind the end of the probation, in seconds: then
it is ended, so that nobody can take back.
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
    _, uid = _peerOf(sock)
    if uid not in (0, os.geteuid()):
        return f"its other end belongs to user {uid}"
    return None


def _peerOf(sock: socket.socket) -> tuple[int, int]:
    """
    @return: the process and the user that made the other end, by the kernel's word
        (C{SO_PEERCRED} of unix(7)), or where there is none, as we have it.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return os.getppid(), os.geteuid()
    layout = struct.Struct("3i")
    pid, uid, _ = layout.unpack(sock.getsockopt(socket.SOL_SOCKET, option, layout.size))
    return pid, uid


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
    @ivar lastWords: what it reads if this process dies.
    @ivar peerPid: the process that started this one: the parent, or what it had
        start it.
    @ivar isGone: that the parent has ended.
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
        self.peerPid: int | None = os.getppid()
        self.isGone = OneShot()
        self._socket = sock
        self.lastWords = LastWords(stderr)
        self._isFinal = False

    def connect(self, reactor: Reactor, lifecycle: Lifecycle) -> None:
        """
        Greet the parent, and give the channel to the reactor.
        """
        self._lifecycle = lifecycle
        self._deadline = Deadline(reactor)
        self._process = Pidfd(_peerOf(self._socket)[0])
        self._channel = connectChannel(reactor, self._socket, self, "parent")
        version = agree(SPEAKS, self.manifest.speaks)
        self._channel.send(Hello(pid=os.getpid(), version=version))
        self.lastWords.begin()

    def can(self, capability: str) -> bool:
        """
        @return: whether both can do this.
        """
        return bothCan(capability, self.manifest.can)

    def say(self, message: Message) -> None:
        """
        Tell the parent something.
        """
        self._channel.send(message)

    def ask(self, wish: Message) -> None:
        """
        Tell the parent what is wanted, if it understands that.
        """
        if self.can(PROBATION):
            self._channel.send(wish)

    def sayReady(self) -> None:
        """
        Ask the parent to commit, which it has to do within its own deadline
        for us: if it is that late, it has been asleep, and will end us.
        """
        self._channel.send(Ready())
        self._giveUpAfter(self.manifest.upgradeTimeout, "Ready")

    def sayGoodbye(self) -> None:
        """
        Tell a parent that drains that the end of this process is no crash: it has been
        replaced, or was told to stop.
        """
        if self._isFinal:
            self.ask(Stopping())

    def kill(self) -> None:
        """
        End the parent.

        @raise OSError: if that may not be.
        """
        self._process.kill()

    def messageReceived(self, message: Message) -> None:
        """
        The parent said something.
        """
        if isinstance(message, Redeploy):
            # Once it is final, only this process can do it.
            self._lifecycle.redeploy() if self._isFinal else self._lifecycle.told()
            return
        if not isinstance(message, Commit | Withdraw | Confirm | Abort):
            name = type(message).__name__
            _log.warn("the parent said {message}, which is not for us", message=name)
            return
        self._deadline.stop()
        if isinstance(message, Commit):
            self._committed(message.probation)
        elif isinstance(message, Withdraw):
            self._lifecycle.parentWithdrew()
        elif isinstance(message, Confirm):
            self._confirmed()
        else:
            what = f"the parent gave this process up: {message.reason}"
            self._lifecycle.parentAborted(Abandoned(what))

    def _committed(self, probation: float) -> None:
        if self.can(PROBATION):
            self._giveUpAfter(probation + CONFIRM_TIMEOUT, "Serving")
        else:
            # It has no way to take back.
            self._deadline.after(0, self._confirmed)
        self._lifecycle.parentCommitted()

    def _confirmed(self) -> None:
        self._isFinal = True
        self._lifecycle.parentConfirmed()

    def _giveUpAfter(self, seconds: float, unanswered: str) -> None:
        error = ParentTimedOut(f"the parent did not answer {unanswered} in time")
        self._deadline.after(seconds, self._lifecycle.parentTimedOut, error)

    def channelGarbled(self, error: ChannelError) -> None:
        """
        The parent sent nonsense.  It lives, so this process must not serve.
        """
        self._deadline.stop()
        self._lifecycle.quit(ChannelError(f"it sent what is not understood: {error}"))

    def channelLost(self) -> None:
        """
        The parent is no more.
        """
        self._deadline.stop()
        self._isFinal = True
        self._process.close()
        self._lifecycle.parentExited()
        self.isGone.fire()
