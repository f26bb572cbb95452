"""
What is inherited from a program that does not use txtableflip, and listens through the
reactor itself: its services.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet import udp, unix
from twisted.internet.interfaces import IListeningPort, IResolver

from txtableflip._draining.connections import CountedTCPServer, countedTransport
from txtableflip._handover.manifest import Key
from txtableflip._journal import ProcessLogger
from txtableflip._sockets.internet import canonicalAddress
from txtableflip._sockets.ports import Ports, callWhenClosed
from txtableflip._sockets.reactor import InheritingReactor
from txtableflip._sockets.unixport import CountedUNIXServer
from txtableflip.interfaces import Reactor

STARTING = 60.0
"""
How long after its start a program may begin to listen for a service, in seconds, even if it
has not announced that: it may wait for its database.
"""

# The reactor makes a port for TLS as one for TCP, by its own method.
_WAYS_TO_LISTEN = (
    "listenTCP",
    "listenUNIX",
    "listenUDP",
    "listenMulticast",
    "listenUNIXDatagram",
    "adoptStreamPort",
    "adoptDatagramPort",
)

_log = ProcessLogger()


def inheritServices(reactor: Any, ports: Ports) -> None:
    """
    Make the reactor itself listen as an L{InheritingReactor} does, where that is for a
    service.
    """
    services = _ServicesReactor(reactor, ports)
    for name in _WAYS_TO_LISTEN:
        plain = getattr(reactor, name, None)
        if plain is not None:
            inheritable = getattr(services, name)
            setattr(reactor, name, partial(services.listen, inheritable, plain))


class _NotAService(Exception):
    """
    What is about to be listened on is for this process only.
    """

    def __init__(self, key: Key, why: str) -> None:
        super().__init__(why)
        self.key = key


class _ServicesReactor(InheritingReactor):
    """
    Inherits services: what listens at a chosen address from the start of the program on, or
    was inherited.  Anything else that listens, as for the session of one client, gets a
    plain port of Twisted's, stays with the process that has opened it, and receives there
    to the end: the drain waits for that.
    """

    def __init__(self, reactor: Reactor, ports: Ports) -> None:
        super().__init__(reactor, ports)
        self._begin = reactor.seconds()
        self._told: set[tuple[str, str]] = set()

    def listen(
        self,
        inheritable: Callable[..., IListeningPort],
        plain: Callable[..., Any],
        *arguments: Any,
        **more: Any,
    ) -> Any:
        """
        Listen in one of two ways.

        @return: the port.
        """
        try:
            return inheritable(*arguments, **more)
        except _NotAService as error:
            key, why = error.key, str(error)
        port = plain(*arguments, **more)
        self._keep(key, port)
        if (key.network, why) not in self._told:
            self._told.add((key.network, why))
            _log.info("{key} is not inherited: {why}", key=str(key), why=why)
        return port

    def listenOn(self, key: Key, *arguments: Any) -> IListeningPort:
        self._requireService(key)
        return super().listenOn(key, *arguments)

    def _receive(self, key: Key, create: Any, model: Any, *arguments: Any) -> IListeningPort:
        # A resolver picks a random port from which it asks.
        if IResolver.providedBy(getattr(model.protocol, "controller", None)):
            raise _NotAService(key, "it is for a query to a name server")
        self._requireService(key)
        return super()._receive(key, create, model, *arguments)

    def _requireService(self, key: Key) -> None:
        """
        @raise _NotAService: if that is not a service.
        """
        connections = self.ports.connections
        if not key.network.startswith("unix") and key.address.endswith(":0"):
            raise _NotAService(key, "the kernel chose its number (port 0)")
        if key in self.ports.inventory.inherited:
            return
        if connections.areClosing:
            raise _NotAService(key, "this process is exiting")
        if connections.isAnswering:
            raise _NotAService(key, "it was opened for a client (write tableflip: if not)")
        if not self._isStarting():
            raise _NotAService(
                key,
                f"it was opened later than {STARTING:g} s after the start, when this process "
                f"was ready: the next version cannot listen there while this one runs; "
                f"write tableflip:, or have notReadyUntil() wait for it",
            )

    def _isStarting(self) -> bool:
        """
        Whether what listens now may be a service that is late: a program that does not
        listen yet is still starting.
        """
        if not self.ports.isReady or self._reactor.seconds() < self._begin + STARTING:
            return True
        return not any(key.kind == "listener" for key in self.ports.inventory.used)

    def _keep(self, key: Key, port: Any) -> None:
        """
        Make the drain wait for what a plain port accepts; and for the port, if it belongs
        to a session.
        """
        connections = self.ports.connections
        name = _nameOf(key, port)
        if not isinstance(port, (udp.Port, unix.DatagramPort)):
            kind = CountedUNIXServer if isinstance(port, unix.Port) else CountedTCPServer
            port.transport = countedTransport(kind, connections.acceptedBy(name))
        if connections.isAnswering or self.ports.isReady:
            protocol = getattr(port, "protocol", None)
            task = connections.tasks.begin(name, protocol, port.stopListening)
            callWhenClosed(port, task.finish)


def _nameOf(key: Key, port: Any) -> str:
    if isinstance(port, (unix.Port, unix.DatagramPort)):
        return str(key)
    host = port.getHost()
    return f"{key.network} {canonicalAddress(host.host, host.port)}"
