"""
Goodbyes that are said at a random moment in the first half of the time there is, so that
not all clients reconnect at once, and between two exchanges, never in the middle of one.
"""

from __future__ import annotations

import random
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from txtableflip._observers import SteadyClock
from txtableflip.interfaces import IResumable

TICK = 0.2
"""
How often a protocol that is in the middle of something is looked at, in seconds.
"""

TEXT = b"server restarting or going down, please reconnect"
"""
What clients are told if their protocol has room for a text.
"""


def realClock() -> SteadyClock:
    """
    @return: the clock that the deadline goes by, too.
    """
    from twisted.internet import reactor  # noqa: PLC0415 - it is chosen by now

    real: Any = reactor
    return SteadyClock(real)


@implementer(IResumable)
class Later:
    """
    Says goodbye, when it is time for that.

    @cvar isUrgent: whether to say it shortly before the deadline in any case.
    """

    isUrgent = False

    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol
        self._call: Any = None

    def drain(self, seconds: float) -> Deferred[None] | None:
        """
        See L{IDrainable.drain <txtableflip.IDrainable.drain>}.
        """
        self._clock = realClock()
        self._end = self._clock.seconds() + seconds
        moment = random.uniform(0, seconds / 2)  # noqa: S311 - no secret
        self._call = self._clock.callLater(moment, self._look)
        return None

    def resume(self) -> bool:
        """
        See L{IResumable.resume <txtableflip.IResumable.resume>}.
        """
        isEarly = bool(self._call.active())
        if isEarly:
            self._call.cancel()
        return isEarly

    def _look(self) -> None:
        left = self._end - self._clock.seconds()
        if not self.protocol.transport.connected:
            return
        if not self.isBusy() or (self.isUrgent and left < 2 * TICK):
            self.close()
        elif left > 0:
            self._call = self._clock.callLater(TICK, self._look)

    def isBusy(self) -> bool:
        """
        @return: whether the protocol is in the middle of something.
        """
        return False

    def close(self) -> None:
        """
        Say goodbye, and close the connection.
        """
        raise NotImplementedError


class Farewell(Later):
    """
    The same for protocols in which the server answers what the client asks, and where the
    connection can be closed once the goodbye has been sent.
    """

    def drain(self, seconds: float) -> Deferred[None]:
        """
        See L{IDrainable.drain <txtableflip.IDrainable.drain>}.
        """
        self._said: Deferred[None] = Deferred()
        super().drain(seconds)
        return self._said

    def isBusy(self) -> bool:
        """
        @return: whether the client has sent something that is not answered yet.
        """
        return not getattr(self.protocol.transport, "isAnswered", True)

    def close(self) -> None:
        """
        See L{Later.close}.
        """
        self.say()
        self._said.callback(None)

    def say(self) -> None:
        """
        Say goodbye.
        """
        raise NotImplementedError
