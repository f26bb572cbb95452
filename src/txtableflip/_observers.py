"""
What can be waited for: an event, by any number of callers, and time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.base import ReactorBase
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txtableflip.interfaces import Reactor

_TURNS = 2
"""
How many turns of the reactor come between the end of a time and what is done then:
what has come meanwhile is read first, for it may be this process that was suspended.  In
one turn a transport reads data, in the next the end of file.
"""


_ACCURACY = 0.001
"""
How much too early something may be, in seconds: two clocks do not run alike.
"""


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


class SteadyClock:
    """
    The time of a reactor, without the steps of the wall clock, by which Twisted's own
    reactors reckon: when that is set forward, nothing is over early.  When it is set back,
    all that a reactor waits for comes late, and so does this.
    """

    def __init__(self, reactor: Reactor) -> None:
        """
        @param reactor: a real one; the time of any other is its own.
        """
        self._reactor = reactor
        isReal = isinstance(reactor, ReactorBase)
        self.seconds: Callable[[], float] = time.monotonic if isReal else reactor.seconds

    def callLater(
        self, delay: float, call: Callable[..., object], /, *args: object, **kw: object
    ) -> SteadyCall:
        """
        See L{twisted.internet.interfaces.IReactorTime}.
        """
        return SteadyCall(self._reactor, self.seconds, delay, partial(call, *args, **kw))


class SteadyCall:
    """
    What is to be called when the time has really come.
    """

    def __init__(
        self,
        reactor: Reactor,
        seconds: Callable[[], float],
        delay: float,
        do: Callable[[], object],
    ) -> None:
        self._reactor = reactor
        self._seconds = seconds
        self._due = seconds() + delay
        self._do = do
        self._call = reactor.callLater(delay, self._come)

    def _come(self) -> None:
        early = self._due - self._seconds()
        if early > _ACCURACY:
            self._call = self._reactor.callLater(early, self._come)
        else:
            self._do()

    def active(self) -> bool:
        """
        @return: whether it is still to be called.
        """
        return bool(self._call.active())

    def cancel(self) -> None:
        """
        It is not to be called any more.
        """
        self._call.cancel()


class Deadline:
    """
    Does something unless something else happens first.
    """

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = SteadyClock(reactor)
        self._call: Any = None

    def after(self, seconds: float, do: Callable[..., object], *arguments: object) -> None:
        """
        Do something when the time is over, instead of what was to be done before.
        """
        self.stop()
        self._call = self._reactor.callLater(seconds, self._late, _TURNS, do, *arguments)

    def _late(self, turns: int, do: Callable[..., object], *arguments: object) -> None:
        if turns:
            self._call = self._reactor.callLater(0, self._late, turns - 1, do, *arguments)
        else:
            do(*arguments)

    def stop(self) -> None:
        """
        Something else has happened.
        """
        if self._call is not None and self._call.active():
            self._call.cancel()
