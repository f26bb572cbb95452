"""
How a process takes over connections that its parent offers.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from txtableflip._handover.forks import keepFromForks
from txtableflip._handover.frames import closeAll
from txtableflip._handover.manifest import Key
from txtableflip._handover.messages import Offer, Offered, Refusal, Taken
from txtableflip._journal import Journal, ProcessLogger, TakenOver
from txtableflip._migration.lane import answer, isRevoked
from txtableflip._migration.moving import Held, Moving, Stays, begin
from txtableflip.errors import ChannelError
from txtableflip.interfaces import Snapshot

LONGEST_REASON = 200
"""
How much of a reason goes over the wire, in characters.
"""

NO_DESCRIPTOR = "its descriptor was dropped: raise the limit on open files (RLIMIT_NOFILE)"

_log = ProcessLogger()


class Taking:
    """
    Receives what the parent offers.
    """

    _journal = Journal()

    def __init__(
        self, portOf: Callable[[Key], Any], arrived: Callable[[Key, Any], object]
    ) -> None:
        """
        @param portOf: returns the reactor's port on a listener of which connections
            migrate, or C{None}.
        @param arrived: is called with the listener and the transport of each connection
            that continues here.
        """
        self._portOf = portOf
        self._arrived = arrived
        self._moves: dict[int, _Intake] = {}

    def offered(self, offer: Offer, descriptors: Sequence[int]) -> None:
        """
        The parent offers connections.  A move that has begun survives its death.

        @param descriptors: what has come with that, to be closed here.
        @raise ChannelError: if it cannot be what it says.
        """
        found = {os.fstat(fileno).st_ino: fileno for fileno in descriptors}
        lane = found.pop(offer.lane, None)
        if lane is not None and offer.move not in self._moves:
            self._moves[offer.move] = _Intake(socket.socket(fileno=lane))
        move = self._moves.get(offer.move)
        try:
            bodies = list(_divideBody(offer))
            if move is None:
                _log.warn("cannot answer an offer of connections: " + NO_DESCRIPTOR)
                return
            refused = [
                Refusal(each.inode, why[:LONGEST_REASON])
                for each, body in zip(offer.connections, bodies, strict=True)
                if (why := self._hold(move, each, body, found.pop(each.inode, None)))
            ]
        finally:
            closeAll(found.values())
        isOurs = answer(move.lane, Taken(tuple(refused)))
        move.refused += len(refused)
        if offer.isLast:
            self._conclude(self._moves.pop(offer.move), isOurs=isOurs)

    def _hold(
        self,
        move: _Intake,
        offered: Offered,
        body: tuple[Snapshot, bytes],
        fileno: int | None,
    ) -> str | None:
        """
        @return: why a connection is refused, if it is.
        """
        if fileno is None:
            return NO_DESCRIPTOR
        sock = socket.socket(fileno=fileno)
        port = self._portOf(offered.listener)
        try:
            if port is None:
                raise Stays(
                    f"connections of {offered.listener} do not migrate in the new release"
                )
            move.held.append((offered.listener, Held(Moving(sock, *body), port)))
        except Exception as error:  # noqa: BLE001 - it is the application's, or a client's
            sock.close()
            return str(error) or repr(error)
        return None

    def parentIsGone(self) -> None:
        """
        Continue what is held, unless the parent took it back before it died.
        """
        for number in list(self._moves):
            move = self._moves.pop(number)
            self._conclude(move, isOurs=not isRevoked(move.lane))

    def _conclude(self, move: _Intake, *, isOurs: bool) -> None:
        move.lane.close()
        if not isOurs:
            _log.warn(
                "the parent keeps {count} connections that it has offered: it got "
                "no answer in time",
                count=len(move.held),
            )
            for _, held in move.held:
                held.moving.sock.close()
            return
        begin([held for _, held in move.held])
        self._journal.tell(
            TakenOver,
            connections=len(move.held),
            refused=move.refused,
        )
        for listener, held in move.held:
            if held.transport.connected:
                self._arrived(listener, held.transport)


class _Intake:
    """
    One move, as the child sees it.
    """

    def __init__(self, lane: socket.socket) -> None:
        lane.setblocking(False)
        keepFromForks(lane)
        self.lane = lane
        self.held: list[tuple[Key, Held]] = []
        self.refused = 0


def _divideBody(offer: Offer) -> Iterator[tuple[Snapshot, bytes]]:
    """
    @return: of each connection the snapshot, and what is unsent.
    @raise ChannelError: if its lengths are not those of the body.
    """
    at, body = 0, offer.body
    for each in offer.connections:
        lengths = (each.state, each.unread, each.unsent)
        parts = []
        for length in lengths:
            if not 0 <= length <= len(body) - at:
                raise ChannelError("an Offer is shorter than it says")
            parts.append(body[at : at + length])
            at += length
        state, unread, unsent = parts
        yield Snapshot(state, unread), unsent
    if at < len(body):
        raise ChannelError("an Offer is longer than it says")
