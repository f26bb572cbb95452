"""
How the connections of a process go to its child, when it is final that the child serves.

They go in moves, one after the other, each of which has its deadline, as have all of them
together.  What does not migrate, for whatever reason, drains as it would have.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks, succeed
from twisted.internet.task import deferLater

from txtableflip._draining.connections import Connections
from txtableflip._journal import Journal, Migrated, ProcessLogger, Returning
from txtableflip._migration.move import Move, Parcel, Say
from txtableflip._migration.moving import Held, Stays, begin, take
from txtableflip._observers import OneShot, SteadyClock
from txtableflip.interfaces import Reactor

BUDGET = 10.0
"""
How long the moves of a process may take, in seconds: what has not begun by then drains.
"""

TOGETHER = "together"
"""
All connections of a listener are to move at once.
"""

ROLLING = 20
"""
How many move at once otherwise: the fewer, the shorter each waits.
"""

_log = ProcessLogger()


class Migration:
    """
    All moves of this process.

    @ivar migrated: how many connections the child has taken over.
    @ivar returned: how many were returned, by the reason.
    @ivar stayed: how many have not been offered, by the reason.
    """

    _journal = Journal()

    def __init__(self, reactor: Reactor, connections: Connections) -> None:
        self.migrated = 0
        self.returned: Counter[str] = Counter()
        self.stayed: Counter[str] = Counter()
        self._reactor: Any = reactor
        self._clock = SteadyClock(reactor)
        self._connections = connections
        self._batches: deque[tuple[Any, list[Any]]] = deque()
        self._say: Say | None = None
        self._running: OneShot | None = None
        self._waiting: set[Any] = set()

    def begin(self, say: Say) -> None:
        """
        The switch is final: move what is to move.

        @param say: offers it to the child.
        """
        self._say = say
        for accepted in list(self._connections.listeners):
            if accepted.migrates:
                isTogether = accepted.migrates == TOGETHER
                self._add(
                    accepted.key, list(accepted), len(accepted) if isTogether else ROLLING
                )

    def arrived(self, listener: Any, transport: Any) -> None:
        """
        A connection has come from the parent, which may have been late.
        """
        if self._say is not None:
            self._add(listener, [transport])

    def whenOver(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when nothing moves; connections that wait for the end
            of a message may still do so.
        """
        return succeed(None) if self._running is None else self._running.wait()

    def describe(self) -> dict[str, Any]:
        """
        @return: what has become of the connections, for display.
        """
        return {
            "migrated": self.migrated,
            "returned": dict(self.returned),
            "stayed": dict(self.stayed),
            "waiting": len(self._waiting),
        }

    def _add(self, listener: Any, transports: list[Any], atOnce: int = 1) -> None:
        for first in range(0, len(transports), atOnce):
            self._batches.append((listener, transports[first : first + atOnce]))
        if self._running is None and self._batches:
            self._running = OneShot()
            running: Any = self._run(self._running)
            running.addErrback(lambda failure: _log.failure("migrating", failure))

    @inlineCallbacks
    def _run(self, isOver: OneShot) -> Any:
        task = self._connections.tasks.begin("the migration of connections")
        before = self.migrated, self.returned.copy(), self.stayed.copy()
        end = self._clock.seconds() + BUDGET
        try:
            while self._batches:
                # In a turn of its own, in which none of their protocols is receiving
                # anything.
                yield deferLater(self._reactor, 0, lambda: None)
                listener, transports = self._batches.popleft()
                if self._clock.seconds() >= end:
                    self._stay(transports, f"not all could migrate within {BUDGET:g} s")
                else:
                    yield self._move(listener, transports)
        finally:
            self._running = None
            self._tell(*before)
            task.finish()
            isOver.fire()

    @inlineCallbacks
    def _move(self, listener: Any, transports: list[Any]) -> Any:
        parcels = [
            parcel for each in transports if (parcel := self._take(listener, each)) is not None
        ]
        move = Move(self._reactor, self._offer, parcels)
        yield move.begin()
        self.migrated += len(move.taken)
        self._connections.migrated += len(move.taken)
        for parcel in move.taken:
            parcel.moving.sock.close()
        if move.returned:
            self._takeBack(move.returned)

    def _offer(self, *arguments: Any) -> None:
        if self._say is not None:
            self._say(*arguments)

    def _take(self, listener: Any, transport: Any) -> Parcel | None:
        self._waiting.discard(transport)
        port = transport.server
        try:
            taken = take(transport)
        except Stays as why:
            if transport.connected:
                self._stay([transport], str(why))
            return None
        if isinstance(taken, Deferred):
            self._waiting.add(transport)
            taken.addCallbacks(
                lambda ignored: self._add(listener, [transport]),
                lambda failure: self._giveUp(transport, failure),
            )
            return None
        return Parcel(listener, port, taken)

    def _giveUp(self, transport: Any, failure: Any) -> None:
        self._waiting.discard(transport)
        _log.failure("waiting until {transport} can migrate", failure, transport=transport)
        self._stay([transport], "the Deferred of its snapshot() has failed")

    def _stay(self, transports: Iterable[Any], why: str) -> None:
        for transport in transports:
            self.stayed[why] += 1
            self._connections.drainOnly(transport)

    def _takeBack(self, parcels: list[Parcel]) -> None:
        self._journal.tell(Returning, connections=len(parcels))
        held = []
        for parcel in parcels:
            self.returned[parcel.why] += 1
            try:
                held.append(Held(parcel.moving, parcel.port))
            except Exception:  # noqa: BLE001 - it is the application's, or a client's
                _log.failure("a connection that was returned cannot continue, and is closed")
                parcel.moving.sock.close()
        begin(held)
        for each in held:
            self._connections.drainOnly(each.transport)

    def _tell(self, migrated: int, returned: Counter[str], stayed: Counter[str]) -> None:
        came, kept = self.returned - returned, self.stayed - stayed
        if self.migrated == migrated and not came and not kept:
            return
        self._journal.tell(
            Migrated,
            connections=self.migrated - migrated,
            returned=came.total(),
            stayed=kept.total(),
            why="".join(f"; {number}: {why}" for why, number in (came + kept).items()),
        )
