"""
The time in which a child that serves may be rolled back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from txtableflip._lifecycle import Lifecycle
from txtableflip._observers import Deadline, SteadyClock
from txtableflip.errors import RolledBack
from txtableflip.interfaces import Reactor

CHECK_INTERVAL = 1.0
"""
How long after one health check the next begins, in seconds.
"""

CHECK_TIMEOUT = 5.0
"""
How long a health check may take, in seconds: one that hangs is a bad answer.
"""

BAD_ANSWERS = 3
"""
How many bad answers in a row cause a rollback.
"""

EXTENSION = 30.0
"""
How long to wait for a last good answer when the time is over, in seconds.
"""


@dataclass(frozen=True)
class Terms:
    """
    On what terms a child is on probation.

    @ivar seconds: for how long.
    @ivar check: asks for the service's health: its Deferred fails if that is bad. C{None}
        if there is no health check.
    """

    seconds: float = 0.0
    check: Callable[[], Deferred[Any]] | None = None


class Probation:
    """
    Asks for the service's health while the child is on probation, and then tells the rules,
    once, what to do: C{confirm} or C{rollback}.
    """

    def __init__(self, reactor: Reactor, lifecycle: Lifecycle) -> None:
        self._reactor = SteadyClock(reactor)
        self._lifecycle = lifecycle
        self._confirming = Deadline(reactor)
        self._calls: list[Any] = []
        self._asked: Deferred[Any] | None = None
        self._isOver = True

    def begin(self, terms: Terms) -> None:
        """
        The child serves.
        """
        self._check = terms.check
        self._isTimeOver = self._isOver = False
        self._bad = 0
        self._last: str | None = "has not been answered"
        self._calls = [self._reactor.callLater(terms.seconds, self.timeIsOver)]
        if self._check is not None:
            self._ask()

    def timeIsOver(self) -> None:
        """
        Make the child final as soon as the last answer is good.
        """
        if self._isOver or self._isTimeOver:
            return
        self._isTimeOver = True
        if self._check is None or self._last is None:
            self._confirmSoon()
        else:
            self._calls.append(self._reactor.callLater(EXTENSION, self._giveUp))

    def stop(self) -> None:
        """
        The decision was made elsewhere.
        """
        self._isOver = True
        self._confirming.stop()
        for call in self._calls:
            if call.active():
                call.cancel()
        if self._asked is not None:
            self._asked.cancel()

    def rollback(self, reason: str) -> None:
        """
        Let the old process serve again.
        """
        self.stop()
        self._lifecycle.rollback(RolledBack(reason, phase="probation"))

    def _ask(self) -> None:
        check: Any = self._check
        self._asked = maybeDeferred(check)
        clock: Any = self._reactor
        self._asked.addTimeout(CHECK_TIMEOUT, clock, _late)
        self._asked.addCallbacks(self._isWell, self._isNotWell)

    def _isWell(self, answer: object) -> None:
        if not self._isOver:
            self._bad, self._last = 0, None
            if self._isTimeOver:
                self._confirmSoon()
            else:
                self._askAgain()

    def _isNotWell(self, failure: Failure) -> None:
        if not self._isOver:
            self._bad += 1
            self._last = failure.getErrorMessage() or repr(failure.value)
            if self._bad == BAD_ANSWERS:
                self._giveUp()
            else:
                self._askAgain()

    def _askAgain(self) -> None:
        self._asked = None
        self._calls[1:] = [call for call in self._calls[1:] if call.active()]
        self._calls.append(self._reactor.callLater(CHECK_INTERVAL, self._ask))

    def _confirmSoon(self) -> None:
        # What has come from the child is read first: it may have been its end.
        self._confirming.after(0, self._confirm)

    def _confirm(self) -> None:
        self.stop()
        self._lifecycle.confirm()

    def _giveUp(self) -> None:
        self.rollback(f"failed its health check: {self._last}")


def _late(result: object, seconds: float) -> None:
    """
    @raise TimeoutError: always, with words that an operator understands.
    """
    raise TimeoutError(f"no answer within {seconds:g} seconds")
