"""
How a process that leaves ends the connections which it still has.

Each protocol is told once, through L{IDrainable}, and then has until its
deadline to finish what is under way.  What is known of HTTP and WebSocket is in
the modules beside this one; whatever else an application speaks, lives until it
closes or its time is over.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.components import getAdapterFactory, registerAdapter
from twisted.python.failure import Failure

from txtableflip._draining.connections import AcceptedConnections, Connections
from txtableflip._journal import Drained, Draining, Journal, ProcessLogger
from txtableflip.interfaces import IDrainable, IDrainableFactory, Reactor

LAST_BYTES_TIMEOUT = 0.5
"""
How long a connection that is closed at its deadline has to send what it has
been given to send, in seconds.  Then it is aborted.
"""

TICK = 0.2
"""
How often the open connections are looked at, in seconds, if there are few: a
protocol may have become another one, with a deadline of its own.
"""

AT_ONCE = 100
"""
How many connections are looked at in one turn of the reactor.
"""

REST = 10
"""
So many times as long as it took to look at all, nothing is looked at: what is
under way has the processor.
"""

PROGRESS = 5.0
"""
How often the log says what is left, in seconds.
"""

_KNOWN = {
    "txtableflip._draining.http1": {"twisted.web.http"},
    "txtableflip._draining.http2": {"twisted.web._http2"},
    "txtableflip._draining.websocket": {
        "twisted.web._websocket_impl",
        "autobahn.twisted.websocket",
    },
}
"""
Which module of ours knows how connections of which libraries end.
"""

_log = ProcessLogger()


@dataclass
class Outcome:
    """
    What has become of the connections that were open.

    @ivar finished: how many closed by themselves.
    @ivar told: how many had a protocol that could be told.
    @ivar cut: how many were closed at their deadline.
    """

    finished: int = 0
    told: int = 0
    cut: int = 0


class Drain:
    """
    One drain of all connections: made when it begins.
    """

    def __init__(
        self,
        reactor: Reactor,
        connections: Connections,
        timeout: float,
        journal: Journal,
        isReplaced: bool,
    ) -> None:
        """
        @param timeout: how long the connections have, in seconds, but for those
            of a listener with a time of its own.
        @param journal: is told of the begin and the end.
        @param isReplaced: whether a child has taken over, for the journal.
        """
        for known in loadKnownProtocols():
            _register(known.adapters())
        self._reactor: Any = reactor
        self._connections = connections
        self._timeout = timeout
        self._journal = journal
        self._isReplaced = isReplaced
        self._begin = reactor.seconds()
        self._told: dict[Any, type] = {}
        self._late: set[Any] = set()
        self._broken: set[Any] = set()
        self._initial = len(connections)
        self._nextProgress = self._begin + PROGRESS

    @inlineCallbacks
    def run(self) -> Any:
        """
        @return: a Deferred that fires with an L{Outcome}, when no connection is
            left.
        """
        self._connections.areClosing = True
        self._journal.tell(
            Draining,
            connections=self._initial,
            seconds=self._timeout,
            isReplaced=self._isReplaced,
        )
        while len(self._connections):
            began = self._reactor.seconds()
            for accepted in list(self._connections.listeners):
                yield self._attend(accepted)
            self._tellProgress()
            yield self._wait(self._reactor.seconds() - began)
        # An abort takes effect in the next turn of the reactor.
        yield deferLater(self._reactor, 0, lambda: None)
        outcome = Outcome(self._initial - len(self._late), len(self._told), len(self._late))
        self._journal.tell(Drained, **asdict(outcome))
        return outcome

    @inlineCallbacks
    def _attend(self, accepted: AcceptedConnections) -> Any:
        """
        Do with each connection of one listener what it is time for, a few in each
        turn of the reactor: with thousands, others would wait for all of them.
        """
        for number, transport in enumerate(accepted, 1):
            left = self._left(accepted)
            if not transport.connected:
                continue
            if left > 0:
                self._tell(transport, left)
            elif transport not in self._late:
                self._late.add(transport)
                self._close(transport)
            elif left <= -LAST_BYTES_TIMEOUT:
                transport.abortConnection()
            if number % AT_ONCE == 0:
                yield deferLater(self._reactor, 0, lambda: None)

    def _left(self, accepted: AcceptedConnections) -> float:
        """
        @return: how long the connections of a listener still have, in seconds.
        """
        timeout = accepted.drainTimeout
        if timeout is None:
            timeout = self._timeout
        return float(self._begin + timeout - self._reactor.seconds())

    def _tell(self, transport: Any, seconds: float) -> None:
        """
        Tell a connection's protocol that its process leaves, unless it has been
        told: it may have become another one meanwhile.
        """
        if transport in self._broken:
            return
        try:
            drainable = findDrainable(transport)
            if drainable is not None and self._told.get(transport) is not type(drainable):
                self._told[transport] = type(drainable)
                done = drainable.drain(seconds)
                if isinstance(done, Deferred):
                    done.addCallback(lambda ignored: self._close(transport))
                    done.addErrback(_failed, str(transport))
        except Exception:  # noqa: BLE001 - it is no reason to cut the others
            self._broken.add(transport)
            _log.failure("telling {transport} to drain", transport=str(transport))

    def _close(self, transport: Any) -> None:
        try:
            _close(transport)
        except Exception:  # noqa: BLE001 - it will be aborted soon
            _log.failure("closing {transport}", transport=str(transport))

    def _tellProgress(self) -> None:
        now = self._reactor.seconds()
        if now < self._nextProgress:
            return
        self._nextProgress = now + PROGRESS
        for accepted in self._connections.listeners:
            oldest, age = accepted.oldest()
            _log.info(
                "draining: {count} connections left on {listener}, the oldest of "
                "{age} s from {peer}; they have {left:.0f} s",
                count=len(accepted),
                listener=accepted.name,
                age=age,
                peer=str(oldest.getPeer()),
                left=max(0.0, self._left(accepted)),
            )

    def _wait(self, looked: float) -> Deferred[None]:
        """
        @param looked: how long it took to look at all, in seconds.
        @return: a Deferred that fires when all are closed, or it is time to look
            again.
        """
        times = [
            time
            for accepted in self._connections.listeners
            for time in (self._left(accepted), self._left(accepted) + LAST_BYTES_TIMEOUT)
            if time > 0
        ]
        waiter = self._connections.whenAllClosed()
        waiter.addTimeout(
            min([max(TICK, looked * REST), *times]),
            self._reactor,
            onTimeoutCancel=lambda result, after: None,
        )
        return waiter


def _failed(failure: Failure, transport: str) -> None:
    _log.failure("draining {transport}", failure=failure, transport=transport)


def findDrainable(transport: Any) -> Any:
    """
    @return: who knows how to drain a connection, or C{None}: its protocol, the
        factory of that, an adapter, or any of these for a protocol that is
        wrapped in another.
    """
    protocol = transport.protocol
    while protocol is not None:
        factory = getattr(protocol, "factory", None)
        if IDrainableFactory.providedBy(factory):
            drainable = factory.drainable(protocol)
        else:
            drainable = IDrainable(protocol, None)
        if drainable is not None:
            return drainable
        protocol = protocol.wrappedProtocol if isinstance(protocol, ProtocolWrapper) else None
    return None


def _close(transport: Any) -> None:
    """
    Close a connection as its own protocol would: above TLS, which has an end of
    its own to send.  What is received from now on would not be answered, so the
    protocol must not act upon it.
    """
    if not transport.connected:
        return
    top, protocol = transport, transport.protocol
    while isinstance(protocol, ProtocolWrapper):
        top, protocol = protocol, protocol.wrappedProtocol
    with suppress(AttributeError):
        protocol.dataReceived = lambda data: None
    top.unregisterProducer()
    top.loseConnection()


def loadKnownProtocols() -> list[Any]:
    """
    Load what is known of those libraries that this process has loaded: before it
    serves, for when it leaves, another release may be where its own was.

    @return: the modules, each of which has C{adapters()}.
    """
    found = []
    for name, libraries in _KNOWN.items():
        # Each imports its libraries, which this process may not have, or not need.
        if libraries & sys.modules.keys():
            try:
                found.append(importlib.import_module(name))
            except Exception:  # noqa: BLE001 - another release's module may raise anything
                _log.failure(
                    "connections of {libraries} cannot be told to finish, and may take "
                    "until their deadline: {name} cannot be loaded",
                    libraries=", ".join(sorted(libraries)),
                    name=name,
                )
    return found


def _register(adapters: dict[type, Any]) -> None:
    """
    Register what makes an L{IDrainable} of the objects of some classes, unless
    the application has registered something else.
    """
    for cls, adapter in adapters.items():
        if getAdapterFactory(cls, IDrainable, None) is None:
            registerAdapter(adapter, cls, IDrainable)
