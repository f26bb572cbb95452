"""
A reactor whose listening sockets are inherited.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from twisted.internet import tcp
from twisted.internet.error import UnsupportedAddressFamily
from twisted.internet.interfaces import IListeningPort
from zope.interface import directlyProvides, providedBy

from txtableflip._handover.manifest import Key
from txtableflip._sockets import unixpaths
from txtableflip._sockets.datagram import (
    AdoptedMulticastPort,
    AdoptedUDPPort,
    AdoptedUNIXDatagramPort,
    startOn,
)
from txtableflip._sockets.internet import bindInternet, canonicalAddress, nameOf
from txtableflip._sockets.inventory import HeldDescriptor, SocketOptions
from txtableflip._sockets.ports import ANY, Ports
from txtableflip._sockets.unixport import bindUNIX
from txtableflip.errors import NotInheritable
from txtableflip.interfaces import Reactor


class InheritingReactor:
    """
    The reactor, except that its ways of listening, which are those of its interfaces, adopt
    sockets through L{Ports}.

    @ivar ports: those.
    @ivar listened: how often something has listened through this object, which shows
        whether an endpoint did.
    """

    def __init__(
        self,
        reactor: Reactor,
        ports: Ports,
        drainTimeout: float | None = None,
        migrates: bool | str | None = None,
    ) -> None:
        """
        @param drainTimeout: how long the connections of what listens through
            this object have to finish, in seconds, if not as long as all.
        @param migrates: whether they go to the next generation, if that differs from what
            holds for all.
        """
        self.ports = ports
        self.listened = 0
        self._drainTimeout = drainTimeout
        self._migrates = migrates
        # Twisted's own ports call more of a reactor than we do.
        self._reactor: Any = reactor
        directlyProvides(self, providedBy(reactor))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def __repr__(self) -> str:
        return f"<inheriting {self._reactor!r}>"

    def listenOn(
        self,
        key: Key,
        create: Callable[[], HeldDescriptor],
        factory: Any,
        options: SocketOptions = ANY,
    ) -> IListeningPort:
        """
        Accept connections on the socket of a name: see L{Ports.listenOn}.
        """
        port = self.ports.listenOn(
            *(key, create, factory, options, self._drainTimeout), migrates=self._migrates
        )
        self.listened += 1
        return port

    def _receive(
        self,
        key: Key,
        create: Callable[[], HeldDescriptor],
        model: Any,
        options: SocketOptions = ANY,
    ) -> IListeningPort:
        """
        Receive datagrams on the socket of a name.

        @param model: the port, which has not been started.
        """
        receive = partial(startOn, model, self.ports.connections)
        port = self.ports.open(key, create, receive, options)
        self.listened += 1
        return port

    def _receiveInternet(self, model: Any) -> IListeningPort:
        key = self.ports.inventory.nextKey(*nameOf("udp", model))
        return self._receive(key, lambda: HeldDescriptor(bindInternet(model)), model)

    def listenTCP(
        self, port: Any, factory: Any, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        # This port never listens: it knows how Twisted makes the socket.
        model = tcp.Port(port, factory, backlog, interface, self._reactor)

        def create() -> HeldDescriptor:
            sock = bindInternet(model)
            sock.listen(backlog)
            return HeldDescriptor(sock, backlog=backlog)

        key = self.ports.inventory.nextKey(*nameOf("tcp", model))
        return self.listenOn(key, create, factory, SocketOptions(backlog))

    def listenSSL(
        self,
        port: Any,
        factory: Any,
        contextFactory: Any,
        backlog: int = 50,
        interface: str = "",
    ) -> IListeningPort:
        # Here, because it needs pyOpenSSL, which need not be installed.
        from twisted.protocols.tls import TLSMemoryBIOFactory  # noqa: PLC0415

        wrapped = TLSMemoryBIOFactory(contextFactory, False, factory)
        made: Any = self.listenTCP(port, wrapped, backlog, interface)
        made._type = "TLS"  # noqa: SLF001 - as Twisted's listenSSL does
        return cast(IListeningPort, made)

    def listenUNIX(
        self, address: Any, factory: Any, backlog: int = 50, mode: int = 0o666, wantPID: int = 0
    ) -> IListeningPort:
        path = unixpaths.asGiven(address)
        isLocked = bool(wantPID) and not unixpaths.isAbstract(path)
        return self.listenOn(
            self.ports.inventory.nextKey("unix", unixpaths.canonical(path)),
            lambda: bindUNIX(path, socket.SOCK_STREAM, mode, backlog, isLocked=isLocked),
            factory,
            SocketOptions(backlog, mode, isLocked),
        )

    def listenUDP(
        self, port: int, protocol: Any, interface: str = "", maxPacketSize: int = 8192
    ) -> IListeningPort:
        return self._receiveInternet(
            AdoptedUDPPort(port, protocol, interface, maxPacketSize, self._reactor)
        )

    def listenMulticast(
        self,
        port: int,
        protocol: Any,
        interface: str = "",
        maxPacketSize: int = 8192,
        listenMultiple: bool = False,
    ) -> IListeningPort:
        where = (port, protocol, interface, maxPacketSize, self._reactor)
        return self._receiveInternet(AdoptedMulticastPort(*where, listenMultiple))

    def listenUNIXDatagram(
        self, address: Any, protocol: Any, maxPacketSize: int = 8192, mode: int = 0o666
    ) -> IListeningPort:
        path = unixpaths.asGiven(address)
        return self._receive(
            self.ports.inventory.nextKey("unixgram", unixpaths.canonical(path)),
            lambda: bindUNIX(path, socket.SOCK_DGRAM, mode),
            AdoptedUNIXDatagramPort(path, protocol, maxPacketSize, mode, self._reactor),
            SocketOptions(mode=mode),
        )

    def adoptStreamPort(
        self, fileDescriptor: int, addressFamily: int, factory: Any
    ) -> IListeningPort:  # the descriptor stays the caller's; its path is nobody's to remove
        # Twisted does not adopt UNIX sockets, and systemd passes some.
        if addressFamily not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
            raise UnsupportedAddressFamily(addressFamily)
        key = _nameAdopted(self.ports, "tcp", fileDescriptor)
        return self.listenOn(key, lambda: HeldDescriptor(copyOf(fileDescriptor)), factory)

    def adoptDatagramPort(
        self, fileDescriptor: int, addressFamily: int, protocol: Any, maxPacketSize: int = 8192
    ) -> IListeningPort:
        if addressFamily not in (socket.AF_INET, socket.AF_INET6):
            raise UnsupportedAddressFamily(addressFamily)
        key = _nameAdopted(self.ports, "udp", fileDescriptor)
        with copyOf(fileDescriptor) as sock:
            interface, port = sock.getsockname()[:2]
        model = AdoptedUDPPort(port, protocol, interface, maxPacketSize, self._reactor)
        return self._receive(key, lambda: HeldDescriptor(copyOf(fileDescriptor)), model)


def _nameAdopted(ports: Ports, transport: str, fileDescriptor: int) -> Key:
    """
    @raise NotInheritable: if the number is another descriptor's in this process.
    """
    held = [*ports.inventory.used.values(), *ports.inventory.inherited.values()]
    with copyOf(fileDescriptor) as sock:
        if _isConnected(sock) or fileDescriptor in [each.handle.fileno() for each in held]:
            raise NotInheritable(
                f"descriptor {fileDescriptor} is another one in this process than in the "
                f"first, which was given it: write tableflip: right before what names it, "
                f"as in haproxy:tableflip:fd:{fileDescriptor}"
            )
        return ports.inventory.nextKey(*_nameOf(transport, sock))


def copyOf(fileDescriptor: int) -> socket.socket:
    """
    @return: a copy of the caller's socket, which is not blocking.
    @raise OSError: if there is no such descriptor, or it is not a socket.
    """
    sock = socket.socket(fileno=os.dup(fileDescriptor))
    sock.setblocking(False)
    return sock


def _isConnected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _nameOf(transport: str, sock: socket.socket) -> tuple[str, str]:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return "unix", os.fsdecode(name)
    version = "6" if sock.family == socket.AF_INET6 else ""
    return transport + version, canonicalAddress(*name[:2])
