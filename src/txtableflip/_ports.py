"""
The listening sockets of this process, and the ports on them.

Each socket is made here and then adopted by the reactor, in the first
generation as in any other: a port that the reactor makes itself calls
shutdown(2) when it closes, which ends the listening in every process that
shares the socket.  Nothing here may make a socket blocking, either: that flag
is shared, too.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet import tcp, udp
from twisted.internet.abstract import isIPv6Address
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from zope.interface import implementer

from txtableflip import _paths
from txtableflip._handover import Key
from txtableflip._inventory import Held, Inventory
from txtableflip._unixport import UNIXPort
from txtableflip.drain import Connections, CountedTCPServer, countedTransport


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
        key = self._nextKey(network, _canonical(model.interface, model.port))

        def create() -> Held:
            sock = _bindInternet(model)
            sock.listen(backlog)
            return Held(sock)

        def adopt(sock: socket.socket) -> Any:
            adopted = self._reactor.adoptStreamPort(sock.fileno(), sock.family, factory)
            adopted.transport = countedTransport(CountedTCPServer, self._connections)
            return adopted

        return _ListeningPort(self, key, self._open(key, create, adopt))

    def listenUDP(
        self, port: int, protocol: Any, interface: str = "", maxPacketSize: int = 8192
    ) -> IListeningPort:
        """
        See L{twisted.internet.interfaces.IReactorUDP.listenUDP}.

        @raise CannotListenError: if the address cannot be had.
        """
        model = udp.Port(port, protocol, interface, maxPacketSize, self._reactor)
        network = "udp6" if model.addressFamily == socket.AF_INET6 else "udp"
        key = self._nextKey(network, _canonical(interface, port))

        def adopt(sock: socket.socket) -> Any:
            return self._reactor.adoptDatagramPort(
                sock.fileno(), sock.family, protocol, maxPacketSize
            )

        return _ListeningPort(
            self, key, self._open(key, lambda: Held(_bindInternet(model)), adopt)
        )

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
        path = os.fsdecode(getattr(address, "path", address))
        if not _paths.isAbstract(path):
            path = os.path.abspath(path)
        key = self._nextKey("unix", path)
        if wantPID and not _paths.isAbstract(path):
            self._lock(key)

        def create() -> Held:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                identity = _paths.bind(sock, path, mode)
            except BaseException:
                sock.close()
                raise
            sock.listen(backlog)
            sock.setblocking(False)
            return Held(sock, identity)

        try:
            port: IListeningPort = self._open(
                key, create, lambda sock: self._adoptUNIX(key, sock, factory)
            )
        except BaseException:
            self.forget(key)
            raise
        return port

    def adoptStreamPort(self, fileno: int, family: int, factory: Any) -> IListeningPort:
        """
        See L{twisted.internet.interfaces.IReactorSocket.adoptStreamPort}.  The
        descriptor stays the caller's; its path is nobody's to remove.
        """
        sock = socket.socket(fileno=os.dup(fileno))
        sock.setblocking(False)
        network = {socket.AF_INET: "tcp", socket.AF_INET6: "tcp6"}.get(sock.family, "unix")
        if network == "unix":
            key = self._nextKey(network, os.fsdecode(sock.getsockname()))
            port: IListeningPort = self._open(
                key, lambda: Held(sock), lambda mine: self._adoptUNIX(key, mine, factory)
            )
            return port
        key = self._nextKey(network, _canonical(*sock.getsockname()[:2]))
        adopted = self._open(
            key,
            lambda: Held(sock),
            lambda mine: self._reactor.adoptStreamPort(mine.fileno(), family, factory),
        )
        adopted.transport = countedTransport(CountedTCPServer, self._connections)
        return _ListeningPort(self, key, adopted)

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
        for port in self._ports.values():
            port.startReading()
        for key in self._locked:
            _paths.takeLock(key.address)

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
        held = self._inventory.remove(key)
        if key in self._owned:
            self._owned.remove(key)
            if held is not None:
                _paths.remove(key.address, held.path)
            if key in self._locked:
                _paths.releaseLock(key.address)
        self._locked.discard(key)

    def forgetAll(self) -> None:
        """
        This process ends: close all sockets, and remove the names that are ours.
        """
        for key in [*self._ports, *self._locked]:
            self.forget(key)

    def _nextKey(self, network: str, address: str) -> Key:
        return self._inventory.nextKey("listener", network, address)

    def _open(
        self, key: Key, create: Callable[[], Held], adopt: Callable[[socket.socket], Any]
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
        try:
            port = adopt(held.socket)
        except BaseException:
            self.forget(key)
            raise
        if not self.accepting:
            port.stopReading()
        self._ports[key] = port
        self._log.info("listening on {key} ({how} socket)", key=key, how=how)
        return port

    def _adoptUNIX(self, key: Key, sock: socket.socket, factory: Any) -> UNIXPort:
        port = UNIXPort(
            self._reactor, sock.dup(), factory, self._connections, lambda: self.forget(key)
        )
        port.startListening()
        return port

    def _lock(self, key: Key) -> None:
        """
        Take the lock of a path, unless the parent has it and will leave it.
        """
        if key not in self._inventory.inherited:
            _paths.lock(key.address)
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


def _canonical(interface: str, port: Any) -> str:
    """
    @return: an address in the one way in which we write it, as bind(2) would
        understand it: C{localhost} is C{127.0.0.1}, and no interface is all.
    """
    if isIPv6Address(interface):
        host, scope, zone = interface.partition("%")
        return f"[{ipaddress.IPv6Address(host)}{scope}{zone}]:{port}"
    try:
        return f"{socket.gethostbyname(interface or '0.0.0.0')}:{port}"  # noqa: S104
    except OSError:
        # The attempt to bind will fail in the same way, and with a better message.
        return f"{interface}:{port}"


def _bindInternet(model: Any) -> socket.socket:
    """
    Make the socket of a port as Twisted does, and bind it.
    """
    sock: socket.socket = model.createInternetSocket()
    try:
        if model.addressFamily == socket.AF_INET6:
            flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
            found = socket.getaddrinfo(model.interface, 1, sock.family, sock.type, 0, flags)
            resolved: Any = found[0][4]
            sock.bind((resolved[0], model.port, *resolved[2:]))
        else:
            sock.bind((model.interface, model.port))
    except OSError as error:
        sock.close()
        raise CannotListenError(model.interface, model.port, error) from error
    except OverflowError:
        sock.close()
        raise
    return sock
