"""
How a child that is not to take over ends, and how its parent learns why.
"""

from __future__ import annotations

from collections.abc import Callable

from txtableflip._handover.childprocess import ChildProcess
from txtableflip._handover.messages import Abort
from txtableflip._handover.probation import Probation
from txtableflip._lifecycle import Lifecycle
from txtableflip._observers import Deadline
from txtableflip.errors import (
    ChildExited,
    ChildProtocolError,
    Phase,
    Rehearsed,
    RolledBack,
    UpgradeFailed,
)
from txtableflip.interfaces import Reactor

TERM_GRACE = 5.0
"""
How long a child that is not wanted has to end by itself, in seconds.
"""

STATUS_TIMEOUT = 2.0
"""
How long to wait for the exit status and the last output of a child that has closed the
channel, or was killed, in seconds.
"""

_REAP_INTERVAL = 0.05

_ALONE = ("commit", "probation")
"""
The phases in which no process accepts once the child has ended: its last output is not
waited for then, if something holds its standard error open.
"""


class Ending:
    """
    Makes a child exit, politely at first; waits until it has; and reports why,
    once.

    @ivar phase: how far the child has come.
    @ivar isFinal: whether it can no longer be rolled back.
    @ivar deadline: by when it has to answer.
    @ivar probation: while it may be rolled back.
    @ivar hasBegun: whether the child was told to exit.
    @ivar isOver: whether there is nothing more to report.
    """

    def __init__(
        self, reactor: Reactor, lifecycle: Lifecycle, say: Callable[[Abort], object]
    ) -> None:
        """
        @param say: sends a message to the child, if there still is a channel.
        """
        self.phase: Phase = "start"
        self.hasBegun = self.isOver = self.isFinal = False
        self.process = ChildProcess(self._exited)
        self.deadline = Deadline(reactor)
        self.probation = Probation(reactor, lifecycle)
        self._say = say
        self._lifecycle = lifecycle
        self._verdict: tuple[type[UpgradeFailed], str] | None = None
        self._isLost = self._isKilled = False

    def abandon(self) -> None:
        """
        Kill the child and report nothing: it was not started completely, or cannot be told
        to exit.
        """
        self.isOver = True
        self.deadline.stop()
        if self.process.pid is not None:
            self.process.signalAll("KILL", isConnected=not self._isLost)
        self.process.close()

    def giveUp(self, error: type[UpgradeFailed], what: str) -> None:
        """
        Make the child exit, politely at first.
        """
        if self.isOver:
            return
        self.hasBegun = True
        self.probation.stop()
        self.judge(error, what)
        self._say(Abort(what, rehearsal=error is Rehearsed))
        if self.phase != "probation" or self._isLost:
            # One that serves may have had a SIGTERM, and a second one aborts its
            # connections: it only gets the message, if it can.
            self.process.signalAll("TERM", isConnected=not self._isLost)
        self.deadline.after(TERM_GRACE, self.kill, error, what)

    def kill(self, error: type[UpgradeFailed], what: str) -> None:
        """
        Kill the child.  It runs no more code of its own after that, so there is no need to
        wait until it is really gone.
        """
        if self.isOver:
            return
        self.hasBegun = True
        self.judge(error, what)
        self.process.signalAll("KILL", isConnected=not self._isLost)
        self._isLost = self._isKilled = True
        self._awaitExit(STATUS_TIMEOUT)

    def channelLost(self) -> None:
        """
        The child has closed the channel: it has ended, or should have.
        """
        self._isLost = True
        self._awaitExit(STATUS_TIMEOUT if self._verdict is None else TERM_GRACE)

    def _exited(self) -> None:
        # The end of a final child is known by its channel.
        if not self.isFinal and self._isLost and not self.process.outlives:
            self._finish()
        elif not self.isFinal and self.process.isUnwrapped:
            # It was not a wrapper.  What it said last is still on the channel.
            self._awaitExit(STATUS_TIMEOUT)

    def judge(self, error: type[UpgradeFailed], what: str) -> None:
        """
        Note why the upgrade fails: the first reason counts.
        """
        self._verdict = self._verdict or (error, what)

    def conclude(self, error: type[UpgradeFailed], what: str) -> None:
        """
        The child accepts nothing and never will: report that, with this reason unless there
        is one already.
        """
        if not self.isOver:
            self.judge(error, what)
            self.over()
            self._lifecycle.childFailed(self.describe())

    def over(self) -> None:
        """
        Be done with the child.
        """
        self.isOver = True
        self.probation.stop()
        self.deadline.stop()
        # It, or a process that it has forked, may still run, and must not take the end of
        # this process for a reason to serve.
        self._say(Abort(self.describe().what))
        self.process.close()

    def describe(self) -> UpgradeFailed:
        """
        @return: why the upgrade fails, and how far it has come.
        """
        error, what = self._verdict or (ChildExited, self.process.howItEnded())
        return self.process.failure(error, what, self.phase)

    def _awaitExit(self, seconds: float) -> None:
        """
        Give the child time to be reaped, and its last output time to arrive.
        """
        self.probation.stop()
        # In this order: if it has ended here, its status is known once it is reaped.
        isGone = self.phase in _ALONE and self.process.isGone
        self.process.reap()
        if self.isOver:
            return
        hasEnded = self.process.hasEnded and not self.process.outlives
        if self._isLost and (hasEnded or isGone):
            self._finish()
        elif seconds > 0:
            self.deadline.after(_REAP_INTERVAL, self._awaitExit, seconds - _REAP_INTERVAL)
        elif self._isKilled or (self.process.isReaped and not self.process.outlives):
            self._finish()
        elif self._verdict is None:
            self.giveUp(ChildProtocolError, "closed the upgrade channel but kept running")
        else:
            self.kill(*self._verdict)

    def _finish(self) -> None:
        """
        The child has exited: say why, or how.
        """
        how = self.process.howItEnded()
        if self.phase == "probation":
            self.conclude(RolledBack, how)
        else:
            self.conclude(ChildExited, f"{how} before it had taken over")
