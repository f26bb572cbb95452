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
from weakref import WeakSet

from twisted.internet import tcp
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
        self._second = 0

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
        # In whole seconds, of which all in the same one share the object: what is
        # kept for each connection is to be next to nothing.
        second = int(time.monotonic())
        if second != self._second:
            self._second = second
        transport.since = self._second
        self._open.add(transport)

    def oldest(self) -> tuple[Any, int]:
        """
        @return: the connection that has been open for longest, and for how many
            seconds.
        """
        transport = min(self._open, key=lambda each: each.since)
        return transport, int(time.monotonic()) - transport.since

    def describe(self) -> list[OpenConnection]:
        """
        @return: the connections, for whoever looks at them.
        """
        now = int(time.monotonic())
        return [
            OpenConnection(self.name, transport.getPeer(), now - transport.since)
            for transport in self._open
        ]

    def closed(self, transport: Any) -> None:
        """
        A connection is no more.  Twisted may say so twice: if it is aborted, and
        its protocol raises then.
        """
        if transport in self._open:
            self._open.remove(transport)
            self._connections.closed(transport)


class Connections:
    """
    All open connections of the process.

    @ivar listeners: those that have accepted some.
    @ivar areClosing: whether this process leaves, so that a connection which it
        closes is to be closed with care.
    """

    def __init__(self) -> None:
        # Weakly: each lives as long as its port, or the last of its connections.
        self.listeners: WeakSet[AcceptedConnections] = WeakSet()
        self.areClosing = False
        self._whenClosed: dict[Any, Callable[[], None]] = {}
        self._allClosed: OneShot | None = None

    def __len__(self) -> int:
        return sum(map(len, self.listeners))

    def acceptedBy(self, name: str, drainTimeout: float | None = None) -> AcceptedConnections:
        """
        @return: where the connections of a new listener are counted.
        """
        accepted = AcceptedConnections(self, name, drainTimeout)
        self.listeners.add(accepted)
        return accepted

    def describe(self) -> list[OpenConnection]:
        """
        @return: all of them, for whoever looks at them.
        """
        return [each for accepted in self.listeners for each in accepted.describe()]

    def whenClosed(self, transport: Any, call: Callable[[], None]) -> None:
        """
        Have something done when an open connection is closed.
        """
        self._whenClosed[transport] = call

    def closed(self, transport: Any) -> None:
        """
        A connection is no more.
        """
        if transport in self._whenClosed:
            self._whenClosed.pop(transport)()
        # While nobody waits for the last, to look for it would cost each.
        if self._allClosed is not None and not len(self):
            occasion, self._allClosed = self._allClosed, None
            occasion.fire()

    def whenAllClosed(self) -> OneShot:
        """
        @return: what happens when no connection is open any more.
        """
        if self._allClosed is None:
            self._allClosed = OneShot()
        occasion = self._allClosed
        if not len(self):
            self._allClosed = None
            occasion.fire()
        return occasion


class CountedTransport:
    """
    Mixed into a transport: counts it until it is closed, and closes it with
    care if its process leaves: the client may be sending its next request just
    then.  It is to find the end of the stream, after which it may ask again
    elsewhere, and not the reset that close(2) answers unread data with.
    """

    accepted: AcceptedConnections
    since: int
    _lingering: Any = None

    def shareWithOthers(self) -> None:
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


def countedTransport(transport: type[CountedTransport], accepted: AcceptedConnections) -> Any:
    """
    @return: what a port calls to make the transport of a new connection (the
        C{transport} attribute of L{twisted.internet.tcp.Port}, which is made
        to be replaced).
    """
    # A class, because one attribute more on each connection would cost it more
    # memory than all that is counted here.
    counted = type(transport.__name__, (transport,), {"accepted": accepted})

    def makeTransport(*arguments: Any) -> CountedTransport:
        made: CountedTransport = counted(*arguments)
        accepted.opened(made)
        return made

    return makeTransport
