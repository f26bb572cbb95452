"""
A reactor whose listening sockets are inherited.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IListeningPort
from zope.interface import directlyProvides, providedBy

from txtableflip._sockets.ports import Ports

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
    The reactor, but for the ways of listening, which go through L{Ports}.

    @ivar listened: how often something has listened through this object, by
        which one can tell that an endpoint did.
    """

    def __init__(self, reactor: Any, ports: Ports, drainTimeout: float | None = None) -> None:
        """
        @param drainTimeout: how long the connections of what listens through
            this object have to finish, in seconds, if not as long as all.
        """
        self.listened = 0
        self._drainTimeout = drainTimeout
        self._reactor = reactor
        self._ports = ports
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

    def listening(self, port: Any) -> IListeningPort:
        """
        Something listens.

        @return: C{port}.
        """
        self.listened += 1
        if self._drainTimeout is not None:
            port.accepted.drainTimeout = self._drainTimeout
        listening: IListeningPort = port
        return listening

    def listenTCP(
        self, port: Any, factory: Any, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        """
        See L{twisted.internet.interfaces.IReactorTCP.listenTCP}.
        """
        return self.listening(self._ports.listenTCP(port, factory, backlog, interface))

    def listenSSL(
        self,
        port: Any,
        factory: Any,
        contextFactory: Any,
        backlog: int = 50,
        interface: str = "",
    ) -> IListeningPort:
        """
        See L{twisted.internet.interfaces.IReactorSSL.listenSSL}.
        """
        # Here, because it needs pyOpenSSL, which need not be installed.
        from twisted.protocols.tls import TLSMemoryBIOFactory  # noqa: PLC0415

        wrapped = TLSMemoryBIOFactory(contextFactory, False, factory)
        return self.listenTCP(port, wrapped, backlog, interface)

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
        """
        return self.listening(self._ports.listenUNIX(address, factory, backlog, mode, wantPID))

    def listenUDP(
        self, port: int, protocol: Any, interface: str = "", maxPacketSize: int = 8192
    ) -> IListeningPort:
        """
        See L{twisted.internet.interfaces.IReactorUDP.listenUDP}.
        """
        return self.listening(self._ports.listenUDP(port, protocol, interface, maxPacketSize))

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
        """
        return self.listening(
            self._ports.listenMulticast(
                port, protocol, interface, maxPacketSize, listenMultiple
            )
        )

    def listenUNIXDatagram(
        self, address: Any, protocol: Any, maxPacketSize: int = 8192, mode: int = 0o666
    ) -> IListeningPort:
        """
        See L{twisted.internet.interfaces.IReactorUNIXDatagram.listenUNIXDatagram}.
        """
        return self.listening(
            self._ports.listenUNIXDatagram(address, protocol, maxPacketSize, mode)
        )

    def adoptStreamPort(
        self, fileDescriptor: int, addressFamily: int, factory: Any
    ) -> IListeningPort:
        """
        See L{twisted.internet.interfaces.IReactorSocket.adoptStreamPort}.
        """
        return self.listening(
            self._ports.adoptStreamPort(fileDescriptor, addressFamily, factory)
        )
