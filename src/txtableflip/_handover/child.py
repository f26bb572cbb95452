"""
The process that this one starts, to be replaced by it: the conversation.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence

from txtableflip._handover.channel import connectChannel
from txtableflip._handover.ending import Ending
from txtableflip._handover.manifest import NO_NEWS, News
from txtableflip._handover.messages import (
    OUTPUT,
    PROBATION,
    Commit,
    Confirm,
    Hello,
    Manifest,
    Message,
    Offer,
    Ready,
    Redeploy,
    Refused,
    Serving,
    Stopping,
    Withdraw,
    bothCan,
)
from txtableflip._handover.pidfd import Pidfd
from txtableflip._handover.probation import Terms
from txtableflip._handover.receiving import learnSenders
from txtableflip._journal import Greeted, Journal, ProcessLogger
from txtableflip._lifecycle import Lifecycle
from txtableflip.errors import (
    ChannelError,
    ChildExited,
    ChildProtocolError,
    ChildRefused,
    ChildTimedOut,
    HandoverFailed,
    UpgradeFailed,
)
from txtableflip.interfaces import Reactor

COMMIT_TIMEOUT = 5.0
"""
How long a child that said Ready may take to serve, in seconds.  It has only to
reach its reactor, and meanwhile clients wait.
"""

WITHDRAW_TIMEOUT = 5.0
"""
How long a child that is withdrawn may take to stand by, in seconds: meanwhile no process
accepts.
"""


Verdict = tuple[type[UpgradeFailed], str]
"""
Why a child is not to take over, as an error and in words.
"""

Inspect = Callable[[int | None], Verdict | None]
"""
Returns why a process that is ready is not to take over; C{None} if it is.
"""


class Child:
    """
    A child, as it is started and told what to do; L{Answers} receives what it says.

    @ivar probation: while it may be rolled back.
    @ivar can: whether both processes have a capability.
    """

    def __init__(
        self,
        reactor: Reactor,
        lifecycle: Lifecycle,
        inspect: Inspect = lambda pid: None,
    ) -> None:
        ours, self._theirs = socket.socketpair()
        learnSenders(ours)
        self._reactor = reactor
        self._isHandedBack = False
        self._ending = Ending(reactor, lifecycle, self._say)
        self._process = self._ending.process
        self._deadline = self._ending.deadline
        self.probation = self._ending.probation
        self._answers = Answers(self._ending, lifecycle, inspect)
        self.can = self._answers.can
        self._channel = connectChannel(reactor, ours, self._answers, "child")
        self._answers.greeted = self._channel.endWith

    @property
    def pid(self) -> int | None:
        """
        Its process id, or C{None} if it could not be started.
        """
        return self._process.pid

    @property
    def release(self) -> str | None:
        """
        What it calls its release, if it has greeted.
        """
        return self._answers.release

    @property
    def livingPid(self) -> int | None:
        """
        The process that has greeted, or will, while it is to serve or may.
        """
        return None if self._ending.isOver else self._process.childPid

    def start(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        number: int,
        blocked: Sequence[int],
        others: Mapping[int, int],
    ) -> None:
        """
        Start it.

        @param number: of the channel's descriptor in the child.
        @param blocked: the numbers of signals that must not kill it before it
            has handlers for them.
        @param others: our other descriptors that it inherits, by their numbers there.
        @raise OSError: if the operating system cannot.
        @raise ValueError: if there is a NUL in an argument.
        """
        with self._theirs as channel:
            inherited = {number: channel.fileno(), **others}
            self._process.start(self._reactor, argv, environment, inherited, blocked)

    def sendManifest(self, manifest: Manifest, descriptors: Sequence[int]) -> None:
        """
        Send it what it inherits, and wait for it to be ready.

        @raise ChannelError: if that is too long to be told.
        """
        self._channel.send(*self._process.withStreams(manifest, descriptors))
        late = f"was not ready after {manifest.upgradeTimeout:g} seconds"
        self._deadline.after(manifest.upgradeTimeout, self._ending.giveUp, ChildTimedOut, late)

    def commit(self, probation: float, news: News = NO_NEWS) -> None:
        """
        Tell it to serve.

        @param probation: for how long it may be rolled back, in seconds.
        @param news: what it inherits besides, if it L{can} take that.
        """
        # This may be the second time: this process could not serve again.
        self._isHandedBack = self._answers.isWithdrawn
        self._answers.isWithdrawn = False
        self._ending.phase = "commit"
        late = f"was ready, and then did not serve within {COMMIT_TIMEOUT:g} seconds"
        self._deadline.after(COMMIT_TIMEOUT, self._ending.kill, ChildTimedOut, late)
        self._channel.send(Commit(probation, news.entries), news.descriptors)

    def watch(self, terms: Terms) -> None:
        """
        See whether it serves well: C{confirm} or C{rollback} follows.
        """
        if self._isHandedBack or not self.can(PROBATION):
            terms = Terms()
        self.probation.begin(terms)

    def withdraw(self, why: Exception | None) -> None:
        """
        Tell it to stop accepting, and to stand by.
        """
        self._answers.isWithdrawn = True
        self.probation.stop()
        self._ending.judge(*_reason(why))
        if self.can(PROBATION):
            late = f"was withdrawn, and did not stand by within {WITHDRAW_TIMEOUT:g} seconds"
            self._deadline.after(WITHDRAW_TIMEOUT, self._ending.kill, ChildTimedOut, late)
            self._channel.send(Withdraw(_reason(why)[1]))
        else:
            self.kill(why)

    def confirm(self) -> None:
        """
        Tell it that it is final.
        """
        self._ending.isFinal = True
        self.probation.stop()
        if self.can(OUTPUT):
            self._process.leaveOutput()
        if self.can(PROBATION):
            self._channel.send(Confirm())

    def offer(self, offer: Offer, descriptors: Sequence[int]) -> None:
        """
        Offer it connections; L{can} says whether that means anything to it.

        @raise ChannelError: if that is too long to be told.
        """
        self._channel.send(offer, descriptors)

    def redeploy(self) -> None:
        """
        Tell it that a still newer version is wanted.
        """
        self._channel.send(Redeploy())

    def end(self, why: Exception | None) -> None:
        """
        Make it exit.
        """
        self._ending.giveUp(*_reason(why))

    def kill(self, why: Exception | None) -> None:
        """
        End it at once.
        """
        self._ending.kill(*_reason(why))

    def dismiss(self) -> None:
        """
        Let a child that stands by exit when it has finished; kill it if it cannot be told.
        """
        try:
            self._ending.over()
        except Exception:
            # It would take the end of this process for a reason to serve.
            self._ending.abandon()
            raise

    def _say(self, message: Message) -> None:
        self._channel.send(message)

    @property
    def mayDrain(self) -> bool:
        """
        Whether it may have accepted connections, and may still run.
        """
        return self._ending.phase in ("commit", "probation") and not self._process.isReaped

    def abandon(self) -> None:
        """
        Give up a child that could not be started completely.
        """
        self._ending.abandon()

    def keepChannelUntilExit(self) -> None:
        """
        Leave the channel open until this process exits: that is what its end means to a
        child that has taken over.
        """
        if self._ending.isFinal:
            self._channel.keepOpenUntilExit()


def _reason(why: Exception | None) -> Verdict:
    """
    @return: what the upgrade fails with, and why in words, if this process decides.
    """
    if why is None:
        return ChildExited, "was terminated, because the old one was told to stop"
    if isinstance(why, UpgradeFailed):
        return type(why), why.what
    return HandoverFailed, f"was aborted, because the old one failed to hand over: {why}"


class Answers:
    """
    Receives what a child says, and reports it to the rules or makes the child exit.  What
    counts is the channel; the exit status only adds the reason.

    @ivar isWithdrawn: whether it is to stand by.
    @ivar release: what it calls its release.
    @ivar greeted: is called with the child's process.
    """

    _log = ProcessLogger()
    _journal = Journal()

    def __init__(
        self, ending: Ending, lifecycle: Lifecycle, inspect: Inspect = lambda pid: None
    ) -> None:
        self.isWithdrawn = False
        self._inspect = inspect
        self._ending = ending
        self._lifecycle = lifecycle
        self._can: tuple[str, ...] = ()
        self.release: str | None = None
        self.greeted: Callable[[Pidfd], object] = id

    @property
    def peerPid(self) -> int | None:
        """
        Its process id, or C{None} if it could not be started.
        """
        return self._ending.process.pid

    def can(self, capability: str) -> bool:
        """
        @return: whether both can do this.
        """
        return bothCan(capability, self._can)

    def messageReceived(self, message: Message) -> None:
        """
        The child said something.
        """
        if isinstance(message, Redeploy):
            # A child that has been dismissed never will do it.
            self._lifecycle.redeploy() if self._ending.isOver else self._lifecycle.told()
            return
        if self._ending.isOver:
            return
        if self._ending.isFinal and isinstance(message, Stopping):
            # It exits next, in good order.
            self._ending.over()
        elif self._ending.isFinal:
            # It has not heard Confirm yet, or is broken.
            name = type(message).__name__
            self._log.warn(
                "ignoring a late {name} from process {child}", child=self.peerPid, name=name
            )
        elif isinstance(message, Refused):
            self._refused(message.reason)
        elif isinstance(message, Stopping) and self._mayStop:
            self._ending.over()
            self._lifecycle.childStopping()
        elif not self._ending.hasBegun:
            self._inTurn(message)

    @property
    def _mayStop(self) -> bool:
        """
        Whether it has served, or was told to exit: before that, it refuses.
        """
        return self._ending.hasBegun or self._ending.phase == "probation"

    def _refused(self, reason: str) -> None:
        what = f"refused to take over: {reason}"
        if self._ending.phase in ("start", "initialise"):
            self._ending.giveUp(ChildRefused, what)
        else:
            # No process accepts: do not wait to learn how it exits.
            self._ending.conclude(ChildRefused, what)

    def _inTurn(self, message: Message) -> None:
        phase = self._ending.phase
        if isinstance(message, Hello) and message.pid <= 0:
            # To kill(2), that means a process group, or every process.
            self.channelGarbled(ChannelError(f"process {message.pid} greets"))
        elif isinstance(message, Hello) and phase == "start":
            self._can, self.release = message.can, message.release
            self._ending.phase = "initialise"
            self._greeted(message.pid)
        elif isinstance(message, Ready) and self.isWithdrawn:
            self._ending.deadline.stop()
            self._lifecycle.childReady(self._ending.describe())
        elif isinstance(message, Ready) and phase == "initialise":
            self._ready()
        elif isinstance(message, Serving) and phase == "commit":
            self._ending.phase = "probation"
            if not self.isWithdrawn:
                self._ending.deadline.stop()
            self._lifecycle.childServing()
        elif isinstance(message, Withdraw) and phase == "probation":
            self._ending.probation.rollback(f"asked to be withdrawn: {message.reason}")
        elif isinstance(message, Confirm) and phase == "probation":
            self._ending.probation.timeIsOver()
        else:
            self.channelGarbled(ChannelError(f"{message} at the wrong time"))

    def _ready(self) -> None:
        verdict = self._inspect(self._ending.process.childPid)
        if verdict is not None:
            self._ending.giveUp(*verdict)
            return
        self._ending.deadline.stop()
        # Whether or not it can be told to serve.
        self._ending.phase = "commit"
        self._lifecycle.childReady()

    def _greeted(self, pid: int) -> None:
        process = self._ending.process
        self.greeted(process.greetedBy(pid))
        self._journal.tell(Greeted, child=pid, childRelease=self.release)
        if not process.maySignal:
            # It could not be made to exit, when that is needed most.
            what = f"greeted as process {pid}, which this process may not signal"
            self._ending.giveUp(ChildProtocolError, what)

    def channelGarbled(self, error: ChannelError) -> None:
        """
        The child sent nonsense.
        """
        what = f"sent what is not a valid message: {error}"
        if self._ending.isFinal:
            # It serves, and this process no longer does: leave it alone.
            self._log.error("process {child} {what}", child=self.peerPid, what=what)
        elif self._ending.phase in ("start", "initialise"):
            self._ending.giveUp(ChildProtocolError, what)
        else:
            self._ending.kill(ChildProtocolError, what)

    def channelLost(self) -> None:
        """
        The child has ended, or should have.
        """
        if self._ending.isFinal:
            self._ending.conclude(ChildExited, "ended after it had taken over")
        else:
            self._ending.channelLost()
