"""
The connections that a leaving process still has, and how it ends them.

They are counted by their own transports, below TLS: nothing is wrapped around
the application's protocols, and no byte takes a longer way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import tcp
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from txtableflip._occasion import Occasion

LAST_WORDS = 1.0
"""
How long a connection that is closed at the deadline has to send what it has
been given to send, in seconds.  Then it is aborted.
"""


class Connections:
    """
    The connections that were accepted by inheritable listeners and are open.
    """

    _log = Logger()

    def __init__(self) -> None:
        # With what is to be called when it is closed.
        self._open: dict[Any, Callable[[], None]] = {}
        self._allClosed = Occasion()

    def __len__(self) -> int:
        return len(self._open)

    def opened(self, transport: Any) -> None:
        """
        A connection has been accepted.
        """
        self._open[transport] = lambda: None

    def whenClosed(self, transport: Any, call: Callable[[], None]) -> None:
        """
        Have something done when an open connection is closed.
        """
        self._open[transport] = call

    def closed(self, transport: Any) -> None:
        """
        A connection is no more.
        """
        self._open.pop(transport)()
        if not self._open:
            occasion, self._allClosed = self._allClosed, Occasion()
            occasion.happen()

    @inlineCallbacks
    def drain(self, reactor: Any, timeout: float) -> Any:
        """
        Let the open connections finish, and end those that have not when the
        time is over: first by C{loseConnection}, then by C{abortConnection}.

        @param timeout: how long they have, in seconds.
        @return: a Deferred that fires with how many did not finish by
            themselves, when no connection is left.
        """
        self._log.info(
            "draining: {count} open connections have {timeout} s to finish",
            count=len(self),
            timeout=timeout,
        )
        yield self._whenAllClosed(reactor, timeout)
        late = list(self._open)
        for transport in late:
            transport.loseConnection()
        if late:
            yield self._whenAllClosed(reactor, LAST_WORDS)
        for transport in list(self._open):
            transport.abortConnection()
        # An abort takes effect in the next turn of the reactor.
        yield deferLater(reactor, 0, lambda: None)
        self._log.info("drained: {late} connections were cut", late=len(late))
        return len(late)

    def _whenAllClosed(self, reactor: Any, timeout: float) -> Deferred[None]:
        """
        @return: a Deferred that fires when no connection is open, or after
            C{timeout} seconds.
        """
        occasion = self._allClosed
        if not self._open:
            occasion = Occasion()
            occasion.happen()
        waiter = occasion.wait()
        waiter.addTimeout(timeout, reactor, onTimeoutCancel=lambda result, after: None)
        return waiter


class Counted:
    """
    Mixed into a transport: counts it until it is closed.
    """

    connections: Connections

    def shareWithOthers(self) -> None:
        """
        Close no more than our own descriptor of this connection when it is
        lost here: shutdown(2) would end it in every process that has it.
        """
        self._shouldShutdown = False

    def connectionLost(self, reason: Failure) -> None:
        super().connectionLost(reason)  # type: ignore[misc]
        self.connections.closed(self)


class CountedTCPServer(Counted, tcp.Server):
    """
    Twisted's transport of an accepted TCP connection, counted.
    """


def countedTransport(transport: type[Counted], connections: Connections) -> Any:
    """
    @return: what a port calls to make the transport of a new connection (the
        C{transport} attribute of L{twisted.internet.tcp.Port}, which is made
        to be replaced).
    """

    def makeTransport(*arguments: Any) -> Counted:
        made = transport(*arguments)
        made.connections = connections
        connections.opened(made)
        return made

    return makeTransport
