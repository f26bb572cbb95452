"""
The connections that this process has accepted and that are open.

They are counted by their own transports, below TLS: nothing is wrapped around
the application's protocols, and no byte takes a longer way.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from twisted.internet import tcp
from twisted.internet.defer import Deferred, succeed
from twisted.internet.main import CONNECTION_DONE
from twisted.python.failure import Failure

from txtableflip._draining.work import Tasks
from txtableflip._observers import OneShot, SteadyClock

LINGER = 2.0
"""
How long the client has to close its side of a connection that this process has closed while
it drains, in seconds.
"""

_DISCARDED = 65536


class OpenConnection(NamedTuple):
    """
    One connection, for display.

    @ivar listener: which one has accepted it, in words.
    @ivar peer: the address of the client.
    @ivar seconds: for how long it has been open.
    """

    listener: str
    peer: Any
    seconds: int


class AcceptedConnections:
    """
    The open connections of one listener.

    @ivar name: the listener's, in words.
    @ivar drainTimeout: how long they may take to finish, in seconds, if that is
        another time than for all.
    @ivar key: what the listener is known by, in every generation.
    @ivar migrates: whether they go to the next one, and if so, whether together.
    """

    key: object = None
    migrates: bool | str = False

    def __init__(
        self, connections: Connections, name: str, drainTimeout: float | None = None
    ) -> None:
        self.name = name
        self.drainTimeout = drainTimeout
        self._connections = connections
        self._open: set[Any] = set()

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Any]:
        """
        @return: the transports.
        """
        return iter(list(self._open))

    def isLeaving(self, transport: Any) -> bool:
        """
        @return: whether a connection is to end because its process exits, or was
            about to.
        """
        return self._connections.areClosing or transport in self._connections.leaving

    def mayDrain(self, transport: Any) -> bool:
        """
        @return: whether a connection is to be told to finish, and not to migrate.
        """
        drainOnly = self._connections.stays
        return drainOnly is None or not self.migrates or transport in drainOnly

    def answer(self, receive: Callable[[], Any]) -> Any:
        """
        See L{Connections.answer}.
        """
        return self._connections.answer(receive)

    def opened(self, transport: Any) -> None:
        """
        A connection has been accepted.
        """
        transport.since = time.monotonic()
        self._open.add(transport)
        self._connections.listeners.add(self)
        self._connections.tellAccepted()

    def oldest(self) -> tuple[Any, int]:
        """
        @return: the connection that has been open for longest, and for how many
            seconds.
        """
        transport = min(self._open, key=lambda each: each.since)
        return transport, int(time.monotonic() - transport.since)

    def describe(self) -> list[OpenConnection]:
        """
        @return: the connections, for display.
        """
        now = time.monotonic()
        return [
            OpenConnection(self.name, transport.getPeer(), int(now - transport.since))
            for transport in self
        ]

    def closed(self, transport: Any) -> None:
        """
        A connection is closed.  Twisted may say so twice: if it is aborted, and
        its protocol raises then.
        """
        if transport in self._open:
            self._open.remove(transport)
            if not self._open:
                self._connections.listeners.discard(self)
            self._connections.closed(transport)


class Connections:
    """
    All open connections of the process.

    @ivar listeners: those of which some are open.
    @ivar areClosing: whether this process exits, so that a connection which it
        closes is to be closed with care.
    @ivar leaving: the connections that were told so by a process that then continued to
        serve: they end all the same.
    @ivar stays: if there is a child to which connections are to migrate, those that do
        not, though others of their listener do.
    @ivar migrated: how many have gone to a child.
    @ivar isAnswering: whether what a client has sent is just being acted upon.
    @ivar tasks: what there is to finish besides them.
    @ivar tellAccepted: is called when there is one more.
    """

    def __init__(self) -> None:
        self.tellAccepted: Callable[[], object] = lambda: None
        self.isAnswering = False
        self.tasks = Tasks()
        self.listeners: set[AcceptedConnections] = set()
        self.areClosing = False
        self.leaving: set[Any] = set()
        self.stays: set[Any] | None = None
        self.migrated = 0
        self._allClosed = OneShot()
        self._longest = 0.0

    def __len__(self) -> int:
        return sum(map(len, self.listeners))

    def acceptedBy(self, name: str, drainTimeout: float | None = None) -> AcceptedConnections:
        """
        @return: where the connections of a new listener are counted.
        """
        self._longest = max(self._longest, drainTimeout or 0.0)
        return AcceptedConnections(self, name, drainTimeout)

    def answer(self, receive: Callable[[], Any]) -> Any:
        """
        Receive something, and act upon it.
        """
        self.isAnswering = True
        try:
            return receive()
        finally:
            self.isAnswering = False

    def longestTimeout(self, timeout: float) -> float:
        """
        @param timeout: how long connections have to finish, in seconds, but for those
            of a listener with a time of its own.
        @return: how long the last of them may have.
        """
        return max(timeout, self._longest)

    def describe(self) -> list[OpenConnection]:
        """
        @return: all of them, for display.
        """
        return [each for accepted in list(self.listeners) for each in accepted.describe()]

    def counts(self) -> dict[str, int]:
        """
        @return: how many each listener has, by its name.
        """
        counts: dict[str, int] = {}
        for each in list(self.listeners):
            counts[each.name] = counts.get(each.name, 0) + len(each)
        return counts

    def drainOnly(self, transport: Any) -> None:
        """
        A connection does not migrate.
        """
        if self.stays is not None:
            self.stays.add(transport)

    def closed(self, transport: Any) -> None:
        """
        A connection is closed.
        """
        self.leaving.discard(transport)
        if self.stays is not None:
            self.stays.discard(transport)
        if not self.listeners:
            self._allClosed.fire()
            self._allClosed = OneShot()

    def whenAllClosed(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when no connection is open any more.
        """
        return self._allClosed.wait() if self.listeners else succeed(None)


class CountedTransport:
    """
    Mixed into a transport: counts it until it is closed, and closes it with
    care if its process exits: the client may be sending its next request just
    then.  It should find the end of the stream, after which it may ask again elsewhere, and
    not the reset with which close(2) answers unread data.

    @ivar isAnswered: whether something has been sent after all that was received.
    """

    accepted: AcceptedConnections
    since: float
    isAnswered: bool
    _lingering: Any = None

    def doWrite(self) -> Any:
        """
        See L{twisted.internet.interfaces.IWriteDescriptor.doWrite}.
        """
        self.isAnswered = True
        result = super().doWrite()  # type: ignore[misc]
        if result is CONNECTION_DONE and self.accepted.isLeaving(self):
            return self._linger()
        return result

    def _linger(self) -> None:
        """
        Everything has been sent: shut down the sending side, and read on until the client
        has closed its side, too.
        """
        transport: Any = self
        with suppress(OSError):
            transport.socket.shutdown(socket.SHUT_WR)
        self._lingering = SteadyClock(transport.reactor).callLater(
            LINGER, transport.connectionLost, Failure(CONNECTION_DONE)
        )
        transport.startReading()

    def doRead(self) -> Any:
        """
        See L{twisted.internet.interfaces.IReadDescriptor.doRead}.
        """
        self.isAnswered = False
        if self._lingering is None:
            return self.accepted.answer(super().doRead)  # type: ignore[misc]
        transport: Any = self
        try:
            ended = not transport.socket.recv(_DISCARDED)
        except BlockingIOError:
            return None
        except OSError:
            ended = True
        return CONNECTION_DONE if ended else None

    def connectionLost(self, reason: Failure) -> None:
        """
        See L{twisted.internet.interfaces.IReadDescriptor.connectionLost}.
        """
        if self._lingering is not None and self._lingering.active():
            self._lingering.cancel()
        try:
            super().connectionLost(reason)  # type: ignore[misc]
        finally:
            self.accepted.closed(self)


class CountedTCPServer(CountedTransport, tcp.Server):
    """
    Twisted's transport of an accepted TCP connection, counted.
    """

    # In each connection's dictionary they would take more memory, and might make it grow.
    __slots__ = ("accepted", "isAnswered", "since")


def countedTransport(transport: type[CountedTransport], accepted: AcceptedConnections) -> Any:
    """
    @return: what a port calls to make the transport of a new connection (the
        C{transport} attribute of L{twisted.internet.tcp.Port}, which is made
        to be replaced).
    """

    def makeTransport(*arguments: Any) -> CountedTransport:
        made = transport(*arguments)
        made.accepted = accepted
        made.isAnswered = True
        accepted.opened(made)
        return made

    return makeTransport
