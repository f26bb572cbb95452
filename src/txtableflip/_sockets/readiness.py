"""
What must still happen before this process can say that it is ready.
"""

from __future__ import annotations

import weakref
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txtableflip._journal import ProcessLogger
from txtableflip._observers import Deadline, OneShot
from txtableflip._sockets.inventory import Inventory
from txtableflip.errors import NothingListens, NotInheritable
from txtableflip.interfaces import Reactor

UNCLAIMED_TIMEOUT = 10.0
"""
How long to wait for what was inherited to be listened on, when all else is done, in
seconds.
"""

_log = ProcessLogger()


class Readiness:
    """
    Waits until clients will have what they had: every endpoint that has been made listens,
    or has no references left; whatever the application named has happened; and each
    listener that was inherited is claimed.  It waits for those only for a while, because a
    release may listen elsewhere.

    @ivar descriptions: the strings of which endpoints have been made.
    """

    def __init__(self, reactor: Reactor, inventory: Inventory) -> None:
        self.descriptions: list[str] = []
        self._inventory = inventory
        self._expected: set[Any] = set()
        self._settled = OneShot()
        self._unclaimed = Deadline(reactor)
        self._isWaiting = self._isLate = self._asked = False
        inventory.claimed = self._check

    def expect(self, endpoint: object, description: str) -> None:
        """
        An endpoint has been made.
        """
        self.descriptions.append(description)
        self._expected.add(weakref.ref(endpoint, self._done))

    def watch(self, endpoint: object, listening: Deferred[Any]) -> Deferred[Any]:
        """
        An endpoint has been told to listen.

        @return: C{listening}.
        """
        self._expected.discard(weakref.ref(endpoint))
        return self.require(listening)

    def require(self, happening: Deferred[Any]) -> Deferred[Any]:
        """
        Wait for something; if it fails, this process will never be ready.

        @return: C{happening}.
        """
        self._expected.add(happening)

        def done(result: Any) -> Any:
            if isinstance(result, Failure):
                self._settled.error(result.value or NotInheritable(str(result)))
            self._done(happening)
            return result

        return happening.addBoth(done)

    def whenSettled(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when there is nothing left to wait for, or fails with
            the first error of what was waited for.
        """
        self._asked = True
        self._check()
        return self._settled.wait()

    def pending(self) -> list[str]:
        """
        @return: in words, what is waited for.
        """
        made = [each() for each in self._expected if isinstance(each, weakref.ref)]
        waiting = [f"{endpoint!r} to listen" for endpoint in made if endpoint is not None]
        if begun := len(self._expected) - len(made):
            waiting.append(f"{begun} Deferreds, of listen() or for notReadyUntil()")
        inherited = self._inventory.unclaimed()
        return waiting + [f"a listener on the inherited {key}" for key in inherited]

    def _done(self, expected: object) -> None:
        self._expected.discard(expected)
        self._check()

    def _check(self) -> None:
        if not self._asked or self._settled.outcome is not None:
            return
        isUnclaimed = bool(self._inventory.unclaimed()) and not self._isLate
        if self._expected or not isUnclaimed:
            self._unclaimed.stop()
            self._isWaiting = False
        if self._expected:
            return
        if not isUnclaimed:
            self._settled.fire()
        elif not self._isWaiting:
            self._isWaiting = True
            self._unclaimed.after(UNCLAIMED_TIMEOUT, self._goOn)

    def _goOn(self) -> None:
        """
        Continue without the inherited listeners that were not claimed.
        """
        self._isLate = True
        left = ", ".join(self._inventory.unclaimed())
        if self._inventory.used:
            _log.warn(
                "nothing has listened on {left} for {seconds:g} s: continuing without it",
                left=left,
                seconds=UNCLAIMED_TIMEOUT,
            )
            self._check()
        else:
            self._settled.error(
                NothingListens(
                    f"nothing has listened on {left} for {UNCLAIMED_TIMEOUT:g} s, nor on "
                    "anything else that is inheritable: nobody would accept connections"
                )
            )
