"""
How a child that is not to take over ends, and how its parent learns why.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress

from txtableflip._handover.messages import Abort
from txtableflip._handover.pidfd import Pidfd
from txtableflip._handover.probation import Probation
from txtableflip._handover.spawned import Spawned
from txtableflip._observers import Deadline
from txtableflip.errors import ChildExited, ChildProtocolError, Phase, RolledBack, UpgradeFailed

TERM_GRACE = 5.0
"""
How long a child that is not wanted has to end by itself, in seconds.
"""

STATUS_TIMEOUT = 2.0
"""
How long to wait for the exit status and the last words of a child that has
closed the channel, or was killed, in seconds.
"""

_REAP_INTERVAL = 0.05

_ALONE = ("commit", "probation")
"""
The phases in which nobody accepts when the child has ended: what it had to say then
is not waited for, if something holds its standard error open.
"""


class Ending:
    """
    Makes a child leave, politely at first; waits until it has; and reports why,
    once.

    @ivar phase: how far the child has come.
    @ivar probation: while it may be taken back.
    @ivar hasBegun: whether the child was told to leave.
    @ivar isOver: whether there is nothing more to report.
    """

    def __init__(
        self,
        process: Spawned,
        deadline: Deadline,
        say: Callable[[Abort], object],
        report: Callable[[UpgradeFailed], object],
    ) -> None:
        """
        @param deadline: the one of the conversation, which ends now.
        @param say: sends a message to the child, as far as there is a channel.
        @param report: is called with what the upgrade has failed of.
        """
        self.phase: Phase = "start"
        self.probation: Probation | None = None
        self._greeted: Pidfd | None = None
        self.isOver = False
        self._process = process
        self._deadline = deadline
        self._say = say
        self._report = report
        self.hasBegun = False
        self._verdict: tuple[type[UpgradeFailed], str] | None = None
        self._isLost = self._isKilled = False

    def greetedBy(self, pid: int) -> None:
        """
        The child initialises, and has this process id: if a wrapper has started it,
        another than the process that this one has started.
        """
        self.phase = "initialise"
        self._greeted = Pidfd(pid)

    def abandon(self) -> None:
        """
        There is nothing to report, and the child is not to live: it has not been
        started whole, or cannot be told to leave.
        """
        self.isOver = True
        self._deadline.stop()
        if self._process.pid is not None:
            self._signal("KILL")

    def hurry(self) -> None:
        """
        It is to be decided now whether the child serves for good.
        """
        if self.probation is not None:
            self.probation.timeIsOver()

    def stopWatching(self) -> None:
        """
        It has been decided whether the child is to serve, or it cannot any more.
        """
        if self.probation is not None:
            self.probation.stop()

    def giveUp(self, error: type[UpgradeFailed], what: str) -> None:
        """
        Make the child leave, politely at first.
        """
        if self.isOver:
            return
        self.hasBegun = True
        self.stopWatching()
        self.judge(error, what)
        self._say(Abort(what))
        self._signal("TERM")
        self._deadline.after(TERM_GRACE, self.kill, error, what)

    def kill(self, error: type[UpgradeFailed], what: str) -> None:
        """
        End the child at once.  It runs no more code of its own after that, so
        there is no need to wait until it is really gone.
        """
        if self.isOver:
            return
        self.hasBegun = True
        self.judge(error, what)
        self._signal("KILL")
        self._isLost = self._isKilled = True
        self._awaitExit(STATUS_TIMEOUT)

    def channelLost(self) -> None:
        """
        The child has closed the channel: it has ended, or should have.
        """
        self._isLost = True
        self._awaitExit(STATUS_TIMEOUT if self._verdict is None else TERM_GRACE)

    def exited(self) -> None:
        """
        The process that was started has ended.
        """
        if self._isLost and not self._outlives:
            self._finish()
        elif self._greeted is not None and self._wrapped is None:
            # It was no wrapper.  What it said last is still on the channel.
            self._awaitExit(STATUS_TIMEOUT)

    def judge(self, error: type[UpgradeFailed], what: str) -> None:
        """
        That is why the upgrade fails: the first reason counts.
        """
        self._verdict = self._verdict or (error, what)

    def conclude(self, error: type[UpgradeFailed], what: str) -> None:
        """
        The child accepts nothing and never will, and that is why, unless there is
        a reason already.
        """
        if not self.isOver:
            self.judge(error, what)
            self._report(self.over())

    def over(self) -> UpgradeFailed:
        """
        Have no more to do with the child.

        @return: why.
        """
        self.isOver = True
        self.stopWatching()
        self._deadline.stop()
        error = self.describe()
        # It may live, or something of it may: a process that it has forked, which
        # must not take the end of this one for a reason to serve.
        self._say(Abort(error.what))
        return error

    def describe(self) -> UpgradeFailed:
        """
        @return: why the upgrade fails, and how far it has come.
        """
        error, what = self._verdict or (ChildExited, self._process.howItEnded())
        return error(
            what,
            phase=self.phase,
            pid=self._process.pid,
            exitStatus=self._process.exitStatus,
            signal=self._process.signalNumber,
            stderr=self._process.lastLines,
        )

    def _awaitExit(self, seconds: float) -> None:
        """
        Give the child time to be reaped, and its last words time to arrive.
        """
        self.stopWatching()
        self._process.reap()
        if self.isOver:
            return
        if self._isLost and self._hasEnded():
            self._finish()
        elif seconds > 0:
            self._deadline.after(_REAP_INTERVAL, self._awaitExit, seconds - _REAP_INTERVAL)
        elif self._isKilled or (self._process.isReaped and not self._outlives):
            self._finish()
        elif self._verdict is None:
            self.giveUp(ChildProtocolError, "closed the upgrade channel but kept running")
        else:
            self.kill(*self._verdict)

    def _hasEnded(self) -> bool:
        """
        @return: whether it is certain that the child accepts nothing any more; and
            while this process accepts, whether all is known of its end.
        """
        if self.phase in _ALONE and self._greeted is not None and self._greeted.hasEnded:
            return True
        return self._process.hasEnded and not self._outlives

    @property
    def _wrapped(self) -> Pidfd | None:
        """
        The process that greeted us, if it is not the one that we have started.
        """
        greeted = self._greeted
        return None if greeted is None or greeted.pid == self._process.pid else greeted

    @property
    def _outlives(self) -> bool:
        """
        Whether the child is known to live, whatever became of a wrapper.
        """
        return self._wrapped is not None and self._wrapped.hasEnded is False

    def _signal(self, name: str) -> None:
        """
        Send a signal to the child, and to the process that greeted us if a
        wrapper stands between.
        """
        self._process.signal(name)
        child, number = self._wrapped, getattr(signal, f"SIG{name}")
        if child is None:
            return
        with suppress(ProcessLookupError, PermissionError, OverflowError):
            if child.hasEnded is not None:
                child.send(number)
            elif not self._isLost:
                os.kill(child.pid, number)

    def _finish(self) -> None:
        """
        The child is no more: say why, or how it ended.
        """
        if self.phase == "probation":
            self.conclude(RolledBack, self._process.howItEnded())
        else:
            ended = f"{self._process.howItEnded()} before it had taken over"
            self.conclude(ChildExited, ended)
