"""
The listening sockets of this process, and the ports on them.

Each socket is made here and then adopted by the reactor, in the first
generation as in any other: a port that the reactor makes itself calls
shutdown(2) when it closes, which ends the listening in every process that
shares the socket.  Nothing here may make a socket blocking, either: that flag
is shared, too.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from itertools import chain
from typing import Any

from twisted.internet import tcp, udp
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from zope.interface import implementer

from txtableflip._draining.connections import (
    AcceptedConnections,
    Connections,
    CountedTCPServer,
    countedTransport,
)
from txtableflip._handover.manifest import Identity, Key
from txtableflip._launch.logfile import shareAccessLog
from txtableflip._sockets import unixpaths
from txtableflip._sockets.datagram import AdoptedMulticastPort, AdoptedUNIXDatagramPort, startOn
from txtableflip._sockets.internet import bindInternet, canonical
from txtableflip._sockets.inventory import HeldDescriptor, Inventory
from txtableflip._sockets.unixport import UNIXPort

_LONGEST_QUEUE = 2**31 - 1
"""
What listen(2) takes at most, which shortens it as the system is configured.
"""


class Ports:
    """
    Makes and adopts listening sockets, and parks and resumes them all.

    @ivar accepting: whether this is the generation that accepts.
    """

    _log = Logger()

    def __init__(
        self, reactor: Any, inventory: Inventory, connections: Connections, *, accepting: bool
    ) -> None:
        self.accepting = accepting
        self._reactor = reactor
        self._inventory = inventory
        self._connections = connections
        self._ports: dict[Key, Any] = {}
        self._locked: set[Key] = set()
        self._whenAccepting: dict[Key, list[Callable[[], object]]] = {}
        # Whose paths and locks are ours to remove: what we have made, until a
        # child takes over; and everything, from when we take over.
        self._owned: set[Key] = set()

    def listenTCP(
        self, port: Any, factory: Any, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        """
        See L{twisted.internet.interfaces.IReactorTCP.listenTCP}.

        @raise CannotListenError: if the address cannot be had.
        """
        # This port never listens: it knows how Twisted makes the socket.
        model = tcp.Port(port, factory, backlog, interface, self._reactor)
        network = "tcp6" if model.addressFamily == socket.AF_INET6 else "tcp"
        key = self.nextKey(network, canonical(model.interface, model.port))

        def create() -> HeldDescriptor:
            sock = bindInternet(model)
            sock.listen(backlog)
            return HeldDescriptor(sock, backlog=backlog)

        return self.listenOn(key, create, factory, backlog)

    def listenUDP(
        self, port: int, protocol: Any, interface: str = "", maxPacketSize: int = 8192
    ) -> IListeningPort:
        """
        See L{twisted.internet.interfaces.IReactorUDP.listenUDP}.

        @raise CannotListenError: if the address cannot be had.
        """
        model = udp.Port(port, protocol, interface, maxPacketSize, self._reactor)

        def adopt(sock: socket.socket) -> Any:
            return self._reactor.adoptDatagramPort(
                sock.fileno(), sock.family, protocol, maxPacketSize
            )

        return self._receive(model, adopt)

    def listenMulticast(
        self,
        port: int,
        protocol: Any,
        interface: str = "",
        maxPacketSize: int = 8192,
        listenMultiple: bool = False,
    ) -> IListeningPort:
        """
        See L{twisted.internet.interfaces.IReactorMulticast.listenMulticast}.

        @raise CannotListenError: if the address cannot be had.
        """
        model = AdoptedMulticastPort(
            port, protocol, interface, maxPacketSize, self._reactor, listenMultiple
        )
        return self._receive(model, lambda sock: startOn(model, sock))

    def listenUNIX(
        self,
        address: Any,
        factory: Any,
        backlog: int = 50,
        mode: int = 0o666,
        wantPID: int = 0,
    ) -> IListeningPort:
        """
        See L{twisted.internet.interfaces.IReactorUNIX.listenUNIX}.

        @raise CannotListenError: if the path cannot be had.
        """
        key = self.nextKey("unix", unixpaths.canonical(address))
        if wantPID and not unixpaths.isAbstract(key.address):
            self._lock(key)

        def create() -> HeldDescriptor:
            sock, identity = self._bindUNIX(key, socket.SOCK_STREAM, mode)
            sock.listen(backlog)
            return HeldDescriptor(sock, identity, backlog, mode)

        try:
            return self.listenOn(key, create, factory, backlog, mode)
        except BaseException:
            self.forget(key)
            raise

    def listenUNIXDatagram(
        self, address: Any, protocol: Any, maxPacketSize: int = 8192, mode: int = 0o666
    ) -> IListeningPort:
        """
        See L{twisted.internet.interfaces.IReactorUNIXDatagram.listenUNIXDatagram}.

        @raise CannotListenError: if the path cannot be had.
        """
        key = self.nextKey("unixgram", unixpaths.canonical(address))
        model = AdoptedUNIXDatagramPort(
            key.address, protocol, maxPacketSize, mode, self._reactor
        )
        return _ListeningPort(
            self,
            key,
            self._open(
                key,
                lambda: HeldDescriptor(
                    *self._bindUNIX(key, socket.SOCK_DGRAM, mode), mode=mode
                ),
                lambda sock: startOn(model, sock),
                mode=mode,
            ),
        )

    def adoptStreamPort(self, fileno: int, family: int, factory: Any) -> IListeningPort:
        """
        See L{twisted.internet.interfaces.IReactorSocket.adoptStreamPort}.  The
        descriptor stays the caller's; its path is nobody's to remove.
        """
        sock = socket.socket(fileno=os.dup(fileno))
        sock.setblocking(False)
        network = {socket.AF_INET: "tcp", socket.AF_INET6: "tcp6"}.get(sock.family, "unix")
        name = sock.getsockname()
        address = os.fsdecode(name) if network == "unix" else canonical(*name[:2])
        return self.listenOn(
            self.nextKey(network, address), lambda: HeldDescriptor(sock), factory
        )

    def listenOn(
        self,
        key: Key,
        create: Callable[[], HeldDescriptor],
        factory: Any,
        backlog: int | None = None,
        mode: int | None = None,
    ) -> IListeningPort:
        """
        Accept connections on the socket of a name.

        @param create: makes the socket if none was inherited.
        @param backlog: what the length of its queue is to be, if that matters.
        @param mode: what the permissions of its path are to be, if it has one.
        @raise ValueError: if the backlog is none that listen(2) would take.
        """
        if backlog is not None and abs(backlog) > _LONGEST_QUEUE:
            raise ValueError(f"{key}: the backlog must be {_LONGEST_QUEUE} at most")
        shareAccessLog(factory)

        def adopt(sock: socket.socket) -> Any:
            accepted = self._connections.acceptedBy(str(key))
            if sock.family == socket.AF_UNIX:
                adopted = self._adoptUNIX(key, sock, factory, accepted)
            else:
                adopted = self._reactor.adoptStreamPort(sock.fileno(), sock.family, factory)
                adopted.transport = countedTransport(CountedTCPServer, accepted)
            adopted.accepted = accepted
            return adopted

        return _ListeningPort(self, key, self._open(key, create, adopt, backlog, mode))

    def park(self) -> None:
        """
        Stop accepting, everywhere and at once, and keep the sockets.
        """
        self.accepting = False
        self._owned.clear()
        for port in self._ports.values():
            port.stopReading()

    def resume(self) -> None:
        """
        Accept, everywhere; and own what there is one of.
        """
        self.accepting = True
        self._owned.update(self._ports)
        pending, self._whenAccepting = self._whenAccepting, {}
        for change in chain.from_iterable(pending.values()):
            change()
        for port in self._ports.values():
            port.startReading()
        for key in self._locked:
            unixpaths.takeLock(key.address)

    def hold(self) -> list[Any]:
        """
        Keep the factories from being stopped when their ports are closed,
        which is before their last connections are.

        @return: the factories, whose C{doStop} is to be called when they are.
        """
        factories = [port.factory for port in self._ports.values() if hasattr(port, "factory")]
        for factory in factories:
            factory.doStart()
        return factories

    def stop(self) -> Deferred[Any]:
        """
        Close all ports.

        @return: a Deferred that fires when they are closed.
        """
        return DeferredList(
            [maybeDeferred(port.stopListening) for port in self._ports.values()]
        )

    def forget(self, key: Key) -> None:
        """
        The application has stopped a port: no child is to inherit it.
        """
        self._ports.pop(key, None)
        self._whenAccepting.pop(key, None)
        held = self._inventory.remove(key)
        if key in self._owned:
            self._owned.remove(key)
            if held is not None:
                unixpaths.remove(key.address, held.path)
            if key in self._locked:
                unixpaths.releaseLock(key.address)
        self._locked.discard(key)

    def forgetAll(self) -> None:
        """
        This process ends: close all sockets, and remove the names that are ours.
        """
        for key in [*self._ports, *self._locked]:
            self.forget(key)

    def nextKey(self, network: str, address: str) -> Key:
        """
        @return: the name of the next listener with this address.
        """
        return self._inventory.nextKey("listener", network, address)

    def inherits(self, key: Key) -> bool:
        """
        @return: whether the parent has left a listener of this name.
        """
        return key in self._inventory.inherited

    def _open(
        self,
        key: Key,
        create: Callable[[], HeldDescriptor],
        adopt: Callable[[socket.socket], Any],
        backlog: int | None = None,
        mode: int | None = None,
    ) -> Any:
        """
        Find the socket among what was inherited, or create it; and make a port
        of it, parked if this is not the generation that accepts.
        """
        held = self._inventory.claim(key)
        how = "inherited"
        if held is None:
            held = create()
            how = "new"
            self._inventory.add(key, held)
            self._owned.add(key)
        else:
            self._reconsider(key, held, backlog, mode)
        sock: Any = held.handle
        try:
            port = adopt(sock)
        except BaseException:
            self.forget(key)
            raise
        if not self.accepting:
            port.stopReading()
        self._ports[key] = port
        self._forgetWhenClosed(key, port)
        self._log.info("listening on {key} ({how} socket)", key=key, how=how)
        return port

    def _forgetWhenClosed(self, key: Key, port: Any) -> None:
        """
        Forget a port whoever closes it: a datagram protocol may, as it has the
        port for its transport.
        """
        closed = port.connectionLost

        def connectionLost(*reason: Any) -> None:
            del port.connectionLost
            # Not if somebody has listened there again in the meantime.
            if self._ports.get(key) is port:
                self.forget(key)
            closed(*reason)

        port.connectionLost = connectionLost

    def _reconsider(
        self, key: Key, held: HeldDescriptor, backlog: int | None, mode: int | None
    ) -> None:
        """
        Give an inherited socket the options of this release, if they are
        others than those of the last; not before it is ours.
        """
        changed = self._inventory.changes.changed
        pending = self._whenAccepting.setdefault(key, [])
        sock: Any = held.handle
        if backlog is not None and held.backlog not in (None, backlog):
            changed.append(f"{key}: backlog {held.backlog}, now {backlog}")
            pending.append(lambda: sock.listen(backlog))
            held.backlog = backlog
        if mode is not None and held.mode not in (None, mode):
            changed.append(f"{key}: mode {held.mode:o}, now {mode:o}")
            pending.append(lambda: unixpaths.change(key.address, held.path, mode))
            held.mode = mode

    def _receive(self, model: Any, adopt: Callable[[socket.socket], Any]) -> IListeningPort:
        """
        Receive the datagrams that Twisted's port, which is not started, would.
        """
        network = "udp6" if model.addressFamily == socket.AF_INET6 else "udp"
        key = self.nextKey(network, canonical(model.interface, model.port))
        return _ListeningPort(
            self, key, self._open(key, lambda: HeldDescriptor(bindInternet(model)), adopt)
        )

    def _bindUNIX(
        self, key: Key, kind: int, mode: int
    ) -> tuple[socket.socket, Identity | None]:
        sock = socket.socket(socket.AF_UNIX, kind)
        try:
            identity = unixpaths.bind(sock, key.address, mode)
        except BaseException:
            sock.close()
            raise
        sock.setblocking(False)
        return sock, identity

    def _adoptUNIX(
        self, key: Key, sock: socket.socket, factory: Any, accepted: AcceptedConnections
    ) -> Any:
        port = UNIXPort(self._reactor, sock.dup(), factory, accepted)
        port.startListening()
        return port

    def _lock(self, key: Key) -> None:
        """
        Take the lock of a path, unless the parent has it and will leave it.
        """
        if not self.inherits(key):
            unixpaths.lock(key.address)
            self._owned.add(key)
        self._locked.add(key)


@implementer(IListeningPort)
class _ListeningPort:
    """
    A port of the reactor's, which leaves the inventory when it is stopped.
    """

    def __init__(self, ports: Ports, key: Key, port: Any) -> None:
        self._ports = ports
        self._key = key
        self._port = port

    def __repr__(self) -> str:
        return f"<inheritable {self._port!r}>"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)

    def startListening(self) -> None:
        """
        @raise CannotListenError: always, because this port listens already, or
            is closed: to listen again, listen on its endpoint.
        """
        raise CannotListenError(None, str(self._key), "a port cannot be started twice")

    def stopListening(self) -> Any:
        """
        Close the port.

        @return: a Deferred that fires when that has been done, or C{None} if
            there was nothing to do.
        """
        self._ports.forget(self._key)
        return self._port.stopListening()

    def getHost(self) -> Any:
        """
        @return: the address that clients connect to.
        """
        return self._port.getHost()
