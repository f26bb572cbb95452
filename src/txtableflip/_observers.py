"""
Something that happens once, and any number of callers who wait for it.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure


class OneShot:
    """
    The other side of the methods named C{when...}: each caller gets a Deferred
    of its own, which may be cancelled without disturbing the others.

    @ivar outcome: C{None} until it happens.
    """

    def __init__(self) -> None:
        self.outcome: bool | Failure | None = None
        self._waiting: list[Deferred[None]] = []

    def wait(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when this happens, or at once if it has.
        """
        waiter: Deferred[None] = Deferred(self._waiting.remove)
        if self.outcome is None:
            self._waiting.append(waiter)
        else:
            self._tell(waiter)
        return waiter

    def fire(self) -> None:
        """
        It happens.  The first outcome stays.
        """
        self._conclude(True)

    def error(self, error: BaseException) -> None:
        """
        It cannot happen any more, and C{error} says why.
        """
        self._conclude(Failure(error))

    def _conclude(self, outcome: bool | Failure) -> None:
        if self.outcome is None:
            self.outcome = outcome
            waiting, self._waiting = self._waiting, []
            for waiter in waiting:
                self._tell(waiter)

    def _tell(self, waiter: Deferred[None]) -> None:
        if isinstance(self.outcome, Failure):
            waiter.errback(self.outcome)
        else:
            waiter.callback(None)
