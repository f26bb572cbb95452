"""
Endpoints whose listening sockets are inherited.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks, maybeDeferred
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from zope.interface import implementer

from txtableflip._sockets.inventory import HeldDescriptor
from txtableflip._sockets.reactor import InheritingReactor
from txtableflip._sockets.readiness import Readiness
from txtableflip.errors import InvalidEndpoint, NotInheritable


@implementer(IStreamServerEndpoint)
class InheritableEndpoint:
    """
    An endpoint made from a string, with a reactor that inherits.
    """

    def __init__(self, reactor: Any, readiness: Readiness, description: str) -> None:
        """
        @param reactor: an L{InheritingReactor}, for this endpoint only.
        @raise ValueError: if the string does not describe an endpoint.
        """
        self._reactor = reactor
        self._readiness = readiness
        self._description = description
        self._inner: Any = _endpointOf(reactor, description)
        readiness.expect(self, description)

    def __repr__(self) -> str:
        return f"<inheritable {self._description}>"

    def listen(self, protocolFactory: Any) -> Deferred[IListeningPort]:
        """
        See L{twisted.internet.interfaces.IStreamServerEndpoint.listen}.

        @return: a Deferred that fails with L{NotInheritable} if the endpoint
            has no listening socket.
        """
        listening: Deferred[Any] = self._listen(protocolFactory)
        return self._readiness.watch(self, listening)

    @inlineCallbacks
    def _listen(self, protocolFactory: Any) -> Any:
        before = self._reactor.listened
        port = yield maybeDeferred(self._inner.listen, protocolFactory)
        if self._reactor.listened == before:
            stop = getattr(port, "stopListening", None) or port.loseConnection
            yield maybeDeferred(stop)
            raise NotInheritable(
                f"tableflip:{self._description} does not listen through its reactor, so a "
                f"new process could not inherit it: use it without tableflip:"
            )
        return port


def _endpointOf(reactor: InheritingReactor, description: str) -> Any:
    """
    @raise ValueError: if the string does not describe an endpoint.
    """
    if description.startswith("systemd:"):
        return ActivatedEndpoint(reactor, description)
    made = serverFromString(reactor, description)
    if isinstance(made, AdoptedStreamServerEndpoint):
        return GivenEndpoint(reactor, description, made.fileno)
    return made


@implementer(IStreamServerEndpoint)
class GivenEndpoint:
    """
    An endpoint whose socket was opened for the first generation, which knows it by the
    number of its descriptor; any other has it from its parent, and uses that number only as
    a name.
    """

    def __init__(self, reactor: InheritingReactor, description: str, fileno: int) -> None:
        """
        @raise InvalidEndpoint: if the first generation was given no such socket, and this
            is a later one.
        """
        self._reactor = reactor
        self._description = description
        self._fileno = fileno
        self._name = ("fd", str(fileno))
        left = [(key.network, key.address) for key in reactor.ports.inventory.inherited]
        if self._name not in left and not reactor.ports.isFirst:
            raise self._missing("was given to the first process, nor has a parent left any")

    def listen(self, protocolFactory: Any) -> Deferred[IListeningPort]:
        """
        See L{twisted.internet.interfaces.IStreamServerEndpoint.listen}.
        """
        key = self._reactor.ports.inventory.nextKey(*self._name)
        return maybeDeferred(self._reactor.listenOn, key, self._take, protocolFactory)

    def _take(self) -> HeldDescriptor:
        if not self._reactor.ports.isFirst:
            # Other endpoints have claimed all that was inherited with this name.
            raise self._missing("is left")
        try:
            sock = socket.socket(fileno=self._fileno)
        except OSError as error:
            raise self._missing(f"is open in this process ({error.strerror})") from error
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.detach()
            raise self._missing("listens")
        return _own(sock)

    def _missing(self, what: str) -> InvalidEndpoint:
        return InvalidEndpoint(
            f"tableflip:{self._description}: no socket with the number {self._fileno} {what}: "
            f"look at what opens it, and restart the service, as it is given at start only"
        )


@implementer(IStreamServerEndpoint)
class ActivatedEndpoint:
    """
    A C{systemd:} endpoint, whose socket the first generation has from systemd
    (sd_listen_fds(3)), and any other from its parent: C{LISTEN_FDS} is for one process
    only.
    """

    def __init__(self, reactor: InheritingReactor, description: str) -> None:
        """
        @raise InvalidEndpoint: if systemd has passed no such socket to the first
            generation, and this is a later one.
        """
        self._reactor = reactor
        self._description = description
        self._name = ("systemd", description.partition(":")[2])
        self._given = None
        left = [(key.network, key.address) for key in reactor.ports.inventory.inherited]
        if self._name not in left:
            try:
                self._given = serverFromString(reactor, description)
            except LookupError as error:
                raise self._missing() from error

    def listen(self, protocolFactory: Any) -> Deferred[IListeningPort]:
        """
        See L{twisted.internet.interfaces.IStreamServerEndpoint.listen}.
        """
        key = self._reactor.ports.inventory.nextKey(*self._name)
        return maybeDeferred(
            self._reactor.listenOn, key, self._takeFromSystemd, protocolFactory
        )

    def _takeFromSystemd(self) -> HeldDescriptor:
        endpoint: Any = self._given
        if endpoint is None:
            # Other endpoints have claimed all that was inherited with this name.
            raise self._missing()
        return _own(socket.socket(fileno=endpoint.fileno))

    def _missing(self) -> InvalidEndpoint:
        return InvalidEndpoint(
            f"tableflip:{self._description}: systemd has passed no such socket to this "
            f"process, nor did a parent: check the .socket unit; a new socket of it "
            f"needs a restart of the service, as systemd passes them at start only"
        )


def _own(sock: socket.socket) -> HeldDescriptor:
    """
    Take what this process was given when it was started.
    """
    sock.setblocking(False)
    os.set_inheritable(sock.fileno(), False)
    return HeldDescriptor(sock)
