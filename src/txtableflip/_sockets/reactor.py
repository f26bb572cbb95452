"""
A reactor whose listening sockets are inherited.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet import tcp
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
from txtableflip.interfaces import Reactor

_WAYS_TO_LISTEN = (
    "listenTCP",
    "listenSSL",
    "listenUNIX",
    "listenUDP",
    "listenMulticast",
    "listenUNIXDatagram",
)


class InheritingReactor:
    """
    The reactor, but for the ways of listening, which are those of its
    interfaces, and adopt sockets through L{Ports}.

    @ivar ports: those.
    @ivar listened: how often something has listened through this object, by
        which one can tell that an endpoint did.
    """

    def __init__(
        self, reactor: Reactor, ports: Ports, drainTimeout: float | None = None
    ) -> None:
        """
        @param drainTimeout: how long the connections of what listens through
            this object have to finish, in seconds, if not as long as all.
        """
        self.ports = ports
        self.listened = 0
        self._drainTimeout = drainTimeout
        # Twisted's own ports want more of a reactor than we call.
        self._reactor: Any = reactor
        directlyProvides(self, providedBy(reactor))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def __repr__(self) -> str:
        return f"<inheriting {self._reactor!r}>"

    def inheritAll(self) -> None:
        """
        Have the reactor itself listen as this object does, for code that knows
        nothing of it.
        """
        for name in _WAYS_TO_LISTEN:
            if hasattr(self._reactor, name):
                setattr(self._reactor, name, getattr(self, name))

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
        port = self.ports.listenOn(key, create, factory, options, self._drainTimeout)
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
        port = self.ports.open(key, create, lambda sock: startOn(model, sock), options)
        self.listened += 1
        return port

    def _receiveInternet(self, model: Any) -> IListeningPort:
        key = self.ports.nextKey(*nameOf("udp", model))
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

        key = self.ports.nextKey(*nameOf("tcp", model))
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
        return self.listenTCP(port, wrapped, backlog, interface)

    def listenUNIX(
        self, address: Any, factory: Any, backlog: int = 50, mode: int = 0o666, wantPID: int = 0
    ) -> IListeningPort:
        path = unixpaths.canonical(address)
        isLocked = bool(wantPID) and not unixpaths.isAbstract(path)
        return self.listenOn(
            self.ports.nextKey("unix", path),
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
        path = unixpaths.canonical(address)
        return self._receive(
            self.ports.nextKey("unixgram", path),
            lambda: bindUNIX(path, socket.SOCK_DGRAM, mode),
            AdoptedUNIXDatagramPort(path, protocol, maxPacketSize, mode, self._reactor),
            SocketOptions(mode=mode),
        )

    def adoptStreamPort(
        self, fileDescriptor: int, addressFamily: int, factory: Any
    ) -> IListeningPort:
        # The descriptor stays the caller's; its path is nobody's to remove.
        sock = socket.socket(fileno=os.dup(fileDescriptor))
        sock.setblocking(False)
        key = self.ports.nextKey(*_nameOf(sock))
        return self.listenOn(key, lambda: HeldDescriptor(sock), factory)


def _nameOf(sock: socket.socket) -> tuple[str, str]:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return "unix", os.fsdecode(name)
    network = "tcp6" if sock.family == socket.AF_INET6 else "tcp"
    return network, canonicalAddress(*name[:2])
