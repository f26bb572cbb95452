"""
The one drain of a process: begun by the rules when its child serves, or when it exits.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from txtableflip._draining.connections import Connections
from txtableflip._draining.drain import Drain, Outcome
from txtableflip._journal import Journal
from txtableflip.interfaces import Reactor


class Leaving:
    """
    The part of L{txtableflip._steps.Steps} that deals with open connections.

    @ivar connections: those.
    @ivar drainTimeout: how long they may take to finish, in seconds from when a child
        serves; C{None} if they are not told before this process exits.
    @ivar timeoutOnce: how long all of them may take instead of that, and of any listener's
        own time, if the caller of the upgrade says so.
    """

    connections: Connections
    drainTimeout: float | None = None
    timeoutOnce: float | None = None
    _drain: Drain | None = None
    _reactor: Reactor
    _journal: Journal

    def drain(self, timeout: float, *, isReplaced: bool) -> Deferred[Outcome]:
        """
        Begin to drain, if that has not begun: this process exits.

        @param timeout: how long there is, in seconds from when that has begun.
        @param isReplaced: whether a child serves, for the journal.
        @return: a Deferred that fires when nothing is left.
        """
        once = self.timeoutOnce if isReplaced else None
        drain = self._begin(timeout, once, isReplaced=isReplaced)
        return drain.conclude(timeout if once is None else once)

    def describeDrain(self) -> dict[str, Any] | None:
        """
        @return: what is finishing and how long it has, if that has begun.
        """
        return None if self._drain is None else self._drain.describe()

    def _begin(self, timeout: float, once: float | None, *, isReplaced: bool) -> Drain:
        if self._drain is None:
            seconds = timeout if once is None else once
            self._drain = Drain(
                *(self._reactor, self.connections, seconds, self._journal, isReplaced),
                isForAll=once is not None,
            )
            self._drain.run()
        return self._drain

    # -- txtableflip._steps.Steps

    def beginDrain(self) -> None:
        if self.drainTimeout is not None:
            self._begin(self.drainTimeout, self.timeoutOnce, isReplaced=True)

    def cancelDrain(self) -> None:
        drain, self._drain = self._drain, None
        if drain is not None:
            drain.cancel()
