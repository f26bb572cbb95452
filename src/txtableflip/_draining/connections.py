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

from txtableflip._observers import OneShot

LINGER = 2.0
"""
How long a connection that this process has closed while it drains may take
until its client has closed it, too, in seconds.
"""

_DISCARDED = 65536


class OpenConnection(NamedTuple):
    """
    One connection, for whoever looks at them.

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
    """

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

    @property
    def isClosing(self) -> bool:
        """
        Whether this process closes its connections, because it leaves.
        """
        return self._connections.areClosing

    def opened(self, transport: Any) -> None:
        """
        A connection has been accepted.
        """
        transport.since = time.monotonic()
        self._open.add(transport)
        self._connections.listeners.add(self)

    def oldest(self) -> tuple[Any, int]:
        """
        @return: the connection that has been open for longest, and for how many
            seconds.
        """
        transport = min(self._open, key=lambda each: each.since)
        return transport, int(time.monotonic() - transport.since)

    def describe(self) -> list[OpenConnection]:
        """
        @return: the connections, for whoever looks at them.
        """
        now = time.monotonic()
        return [
            OpenConnection(self.name, transport.getPeer(), int(now - transport.since))
            for transport in self._open
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
    @ivar areClosing: whether this process leaves, so that a connection which it
        closes is to be closed with care.
    """

    def __init__(self) -> None:
        self.listeners: set[AcceptedConnections] = set()
        self.areClosing = False
        self._whenClosed: dict[Any, list[Callable[[], None]]] = {}
        self._allClosed = OneShot()

    def __len__(self) -> int:
        return sum(map(len, self.listeners))

    def acceptedBy(self, name: str, drainTimeout: float | None = None) -> AcceptedConnections:
        """
        @return: where the connections of a new listener are counted.
        """
        return AcceptedConnections(self, name, drainTimeout)

    def describe(self) -> list[OpenConnection]:
        """
        @return: all of them, for whoever looks at them.
        """
        return [each for accepted in self.listeners for each in accepted.describe()]

    def whenClosed(self, transport: Any, call: Callable[[], None]) -> None:
        """
        Have something done, besides all else, when an open connection is closed.
        """
        self._whenClosed.setdefault(transport, []).append(call)

    def closed(self, transport: Any) -> None:
        """
        A connection is closed.
        """
        for call in self._whenClosed.pop(transport, ()):
            call()
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
    care if its process leaves: the client may be sending its next request just
    then.  It is to find the end of the stream, after which it may ask again
    elsewhere, and not the reset that close(2) answers unread data with.
    """

    accepted: AcceptedConnections
    since: float
    _lingering: Any = None

    def closeWithoutShutdown(self) -> None:
        """
        Close no more than our own descriptor of this connection when it is
        lost here: shutdown(2) would end it in every process that has it.
        """
        self._shouldShutdown = False

    def doWrite(self) -> Any:
        """
        See L{twisted.internet.interfaces.IWriteDescriptor.doWrite}.
        """
        result = super().doWrite()  # type: ignore[misc]
        if result is CONNECTION_DONE and self.accepted.isClosing and self._shouldShutdown:
            return self._linger()
        return result

    def _linger(self) -> None:
        """
        Everything has been sent that was to be: say so to the client, and read
        on until it has closed its side, too.
        """
        transport: Any = self
        with suppress(OSError):
            transport.socket.shutdown(socket.SHUT_WR)
        self._lingering = transport.reactor.callLater(
            LINGER, transport.connectionLost, Failure(CONNECTION_DONE)
        )
        transport.startReading()

    def doRead(self) -> Any:
        """
        See L{twisted.internet.interfaces.IReadDescriptor.doRead}.
        """
        if self._lingering is None:
            return super().doRead()  # type: ignore[misc]
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

    # In the dictionary of each connection they would take more, and may make it grow.
    __slots__ = ("accepted", "since")


def countedTransport(transport: type[CountedTransport], accepted: AcceptedConnections) -> Any:
    """
    @return: what a port calls to make the transport of a new connection (the
        C{transport} attribute of L{twisted.internet.tcp.Port}, which is made
        to be replaced).
    """

    def makeTransport(*arguments: Any) -> CountedTransport:
        made = transport(*arguments)
        made.accepted = accepted
        accepted.opened(made)
        return made

    return makeTransport
