"""
The process that started this one.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace

from txtableflip._handover.channel import connectChannel
from txtableflip._handover.frames import closeAll
from txtableflip._handover.lastoutput import LastOutput, takeLastOutput
from txtableflip._handover.manifest import News
from txtableflip._handover.messages import (
    PROBATION,
    SPEAKS,
    Abort,
    Commit,
    Confirm,
    Hello,
    Manifest,
    Message,
    Offer,
    Ready,
    Redeploy,
    Stopping,
    Withdraw,
    agree,
    bothCan,
    decode,
)
from txtableflip._handover.pidfd import Pidfd, Watch
from txtableflip._handover.receiving import receiveFrame, requireWhole
from txtableflip._journal import Hearing, Journal, ProcessLogger
from txtableflip._kernel import peerOf
from txtableflip._lifecycle import Lifecycle
from txtableflip._observers import Deadline, OneShot
from txtableflip.errors import Abandoned, ChannelError, ParentTimedOut, SentAway
from txtableflip.interfaces import Reactor

MANIFEST_TIMEOUT = 60.0
"""
How long to wait for the parent's manifest, in seconds.
"""

CONFIRM_TIMEOUT = 60.0
"""
How long a parent may take to decide after the end of the probation, in seconds: after that
it is killed, so that it cannot roll back.
"""

END_TIMEOUT = 2.0
"""
How long a parent that has closed the channel may take to end, in seconds.
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
            "ignoring TXTABLEFLIP_CHANNEL ({reason}): starting as generation 1",
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
    _, uid = peerOf(sock)
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
        requireWhole(frame)
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
    lastOutput, others = takeLastOutput(stderr, manifest.entries, descriptors)
    manifest = replace(manifest, entries=tuple(entry for entry, _ in others))
    return Parent(sock, manifest, lastOutput, [fileno for _, fileno in others])


class Parent:
    """
    What the parent has sent, and what it is told.

    @ivar descriptors: what is inherited, in the order of the manifest's entries.
    @ivar lastOutput: what it reads if this process dies.
    @ivar peerPid: the process that started this one: the parent, or a wrapper of it.
    @ivar isGone: fires when the parent has exited.
    @ivar stored: nothing is known to be stored while the parent runs.
    @ivar offered: is called with connections on offer and their descriptors.
    """

    stored: Sequence[str] = ()

    def __init__(
        self,
        sock: socket.socket,
        manifest: Manifest,
        lastOutput: LastOutput,
        descriptors: list[int],
    ) -> None:
        self.manifest = manifest
        self.descriptors = descriptors
        self.peerPid: int | None = os.getppid()
        self.isGone = OneShot()
        self.offered: Callable[[Offer, list[int]], object]
        self._socket = sock
        self.lastOutput = lastOutput
        self._isFinal = False

    @property
    def livingPid(self) -> int | None:
        """
        The parent, as long as it is not known to have ended.
        """
        return self._process.pid if self.isGone.outcome is None else None

    def connect(
        self, reactor: Reactor, lifecycle: Lifecycle, release: str | None = None
    ) -> None:
        """
        Greet the parent, and give the channel to the reactor.

        @param release: what people call that of this process.
        """
        self._reactor = reactor
        self._lifecycle = lifecycle
        self._deadline = Deadline(reactor)
        self._process = Pidfd(peerOf(self._socket)[0])
        self._channel = connectChannel(reactor, self._socket, self, "parent")
        self._channel.endWith(self._process)
        version = agree(SPEAKS, self.manifest.speaks)
        self._channel.send(Hello(os.getpid(), version, release=release))
        self.lastOutput.begin(reactor)

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
        Ask the parent to commit, which it has to do within its own deadline for us: if it
        is later than that, it was suspended, and will end this process.
        """
        self._channel.send(Ready())
        self._giveUpAfter(self.manifest.upgradeTimeout, "Ready")

    def sayStopping(self) -> None:
        """
        Tell the parent that this process was told to stop, for both of them.
        """
        self.ask(Stopping())
        # The parent may exit first, and then no process would read the output of this one.
        self.lastOutput.end()

    def sayGoodbye(self) -> None:
        """
        Tell a parent that drains that the exit of this process is not a crash: it has been
        replaced, or was told to stop.
        """
        if self._isFinal:
            self.ask(Stopping())

    def kill(self) -> None:
        """
        Kill the parent, which is overdue; and try again if it still runs.

        @raise OSError: if that is not permitted.
        """
        self._giveUpAfter(CONFIRM_TIMEOUT, "Serving")
        self._process.kill()

    def messageReceived(self, message: Message) -> None:
        """
        The parent said something.
        """
        if isinstance(message, Redeploy):
            # Once it is final, only this process can do it.
            self._lifecycle.redeploy() if self._isFinal else self._lifecycle.told()
            return
        if isinstance(message, Offer):
            self.offered(message, self._channel.takeDescriptors())
            return
        if not isinstance(message, Commit | Withdraw | Confirm | Abort):
            name = type(message).__name__
            _log.warn("the parent said {message}, which is not for us", message=name)
            return
        self._deadline.stop()
        if isinstance(message, Commit):
            self._committed(message)
        elif isinstance(message, Withdraw):
            _log.warn("the parent serves again: {reason}", reason=message.reason)
            self._lifecycle.parentWithdrew()
        elif isinstance(message, Confirm):
            self._confirmed()
        else:
            self._lifecycle.parentAborted(_abandoned(message))

    def takeNews(self) -> News:
        """
        @return: what has come with the Commit that is being received.
        """
        return News(self._came, self._channel.takeDescriptors())

    def _committed(self, commit: Commit) -> None:
        self._came = commit.came
        if self.can(PROBATION):
            self._giveUpAfter(commit.probation + CONFIRM_TIMEOUT, "Serving")
        else:
            # It has no way to roll back.
            self._deadline.after(0, self._confirmed)
        self._lifecycle.parentCommitted()

    def _confirmed(self) -> None:
        self._isFinal = True
        # Also when this process is stopping by now, and never will be final.
        self.lastOutput.end()
        self._lifecycle.parentConfirmed()

    def _giveUpAfter(self, seconds: float, unanswered: str) -> None:
        error = ParentTimedOut(f"the parent did not answer {unanswered} in time")
        self._deadline.after(seconds, self._lifecycle.parentTimedOut, error)

    def channelGarbled(self, error: ChannelError) -> None:
        """
        The parent sent nonsense.  It lives, so this process must not serve.
        """
        self._deadline.stop()
        self._lifecycle.quit(ChannelError(f"it sent what is not a valid message: {error}"))

    def channelLost(self) -> None:
        """
        The parent has exited, or should have.
        """
        if self._process.hasEnded is False and self._process.pid != os.getpid():
            # While it lives, it may accept.
            Watch(self._reactor, self._process, self._ended).startReading()
            error = ChannelError("the parent has closed the channel, but is still running")
            self._deadline.after(END_TIMEOUT, self._lifecycle.quit, error)
        else:
            self._ended()

    def _ended(self) -> None:
        self._deadline.stop()
        self._isFinal = True
        self._process.close()
        # The parent no longer reads them.
        self.lastOutput.end()
        self._lifecycle.parentExited()
        self.isGone.fire()


def _abandoned(message: Abort) -> Abandoned:
    if message.rehearsal:
        return SentAway("this process was ready, and exits, because this is a rehearsal")
    return Abandoned(f"the parent aborted the upgrade: {message.reason}")
