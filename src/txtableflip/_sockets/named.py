"""
What an application hands over by name.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IListeningPort, IProtocol

from txtableflip._draining.connections import Connections, CountedTCPServer, countedTransport
from txtableflip._handover.manifest import Key
from txtableflip._sockets.each import forEach, requireEach
from txtableflip._sockets.inventory import Descriptor, HasDescriptor, HeldDescriptor, Inventory
from txtableflip._sockets.ports import Ports
from txtableflip._sockets.unixport import CountedUNIXServer
from txtableflip.interfaces import Reactor


class _Named:
    """
    What has a name, of which the connections are parked and resumed with all
    others.
    """

    def __init__(self, inventory: Inventory, connections: Connections) -> None:
        self._inventory = inventory
        self._connections = connections
        self._kept: dict[Key, Any] = {}

    def park(self) -> None:
        """
        Read nothing more from the connections.

        @raise Exception: the first error, when all have had their turn.
        """
        requireEach("park", self._kept.values(), lambda transport: transport.stopReading())

    def resume(self) -> None:
        """
        Read from the connections.

        @raise Exception: the first error, when all have had their turn.
        """
        requireEach("resume", self._kept.values(), lambda transport: transport.startReading())

    def closeHandedOver(self) -> None:
        """
        The child has the connections: send what is left to send, and close
        them here.
        """
        forEach("close", self._kept.values(), lambda transport: transport.loseConnection())

    def _add(self, kind: str, name: str, opened: HasDescriptor) -> None:
        """
        Keep something, in the place of what had its name.
        """
        self._inventory.add(Key(kind, "", name, 0), HeldDescriptor(opened))

    def _find(self, kind: str, name: str) -> HasDescriptor | None:
        key = Key(kind, "", name, 0)
        held = self._inventory.used.get(key) or self._inventory.claim(key)
        return held.handle if held is not None and held.isOpen else None

    def _keep(self, name: str, transport: Any) -> None:
        """
        Park and resume a connection with all others; and forget it when it is
        closed, which must not close it for other processes.
        """
        key = Key("connection", "", name, 0)
        held = self._inventory.used[key]
        transport.closeWithoutShutdown()
        self._kept[key] = transport

        def forget() -> None:
            # Another connection may have the name by now.
            if self._kept.get(key) is transport:
                del self._kept[key]
            self._inventory.remove(key, held)

        self._connections.whenClosed(transport, forget)


class Fds(_Named):
    """
    Files, connections and listening sockets by name (tableflip's C{Fds}); the
    names of each kind are apart from those of the others.

    What is added is copied, and the original stays the caller's.  What is found
    is the one that goes to the next generation: it has been inherited, or was
    added here, and whoever closes it takes it out of the inventory.

    What the parent has left must be asked for before C{ready()}, at which it is
    closed otherwise.  Both the parent and the child have a file for a while: the
    parent should stop using it when C{whenExiting()} fires, and the child
    should begin when C{ready()} does.
    """

    def __init__(
        self, reactor: Reactor, inventory: Inventory, ports: Ports, connections: Connections
    ) -> None:
        super().__init__(inventory, connections)
        self._reactor = reactor
        self._ports = ports
        self._accepted = connections.acceptedBy("connections by name")

    def addFile(self, name: str, fileno: int) -> None:
        """
        Hand over a copy of an open file, a pipe, or whatever has a descriptor.

        @raise OSError: if the descriptor is not open.
        """
        self._add("file", name, Descriptor(os.dup(fileno)))

    def file(self, name: str) -> Descriptor | None:
        """
        @return: the file of a name, with C{fileno()} and C{close()}; or C{None}
            if there is none.  To read or write it, and still hand it on, open
            its number with C{closefd=False}, or a copy (L{os.dup}).
        """
        return cast(Descriptor, self._find("file", name))

    def files(self) -> list[str]:
        """
        @return: the names that L{file} can find.
        """
        self._inventory.prune()
        keys = [*self._inventory.used, *self._inventory.inherited]
        return [key.address for key in keys if key.kind == "file"]

    def addConnection(self, name: str, transport: Any) -> None:
        """
        Hand over an established TCP or UNIX connection, below any TLS: what the
        peer has sent and this process has not read is read by the next.  When
        that has taken over, this process sends what it has still to send, and
        its protocol loses the connection; the peer does not.

        @param transport: of a connection that an inheritable listener has
            accepted, or that L{connection} has found.
        """
        self._add("connection", name, _share(transport.getHandle()))
        self._keep(name, transport)

    def connection(self, name: str, factory: Any) -> IProtocol | None:
        """
        Go on with a connection.  It is read from when this process serves, and
        goes to the next generation in its turn, until it is closed.

        @param factory: builds the protocol for it.
        @return: the protocol, or C{None} if there is no such connection or the
            factory does not want it.
        """
        sock: Any = self._find("connection", name)
        if sock is None:
            return None
        peer = sock.getpeername()
        isUNIX = sock.family == socket.AF_UNIX
        address = UNIXAddress(peer) if isUNIX else _internetAddress(peer)
        protocol: IProtocol | None = factory.buildProtocol(address)
        if protocol is None:
            sock.close()
            return None
        make = countedTransport(
            CountedUNIXServer if isUNIX else CountedTCPServer, self._accepted
        )
        transport = make(sock.dup(), protocol, peer, None, 0, self._reactor)
        transport.repstr = f"<{type(protocol).__name__} on the connection {name}>"
        self._keep(name, transport)
        protocol.makeConnection(transport)
        if not self._ports.accepting:
            transport.stopReading()
        return protocol

    def addListener(self, name: str, sock: socket.socket) -> None:
        """
        Hand over a copy of a socket on which the application accepts or
        receives by itself, of whatever family and type.
        """
        self._add("socket", name, _share(sock))

    def listener(self, name: str) -> socket.socket | None:
        """
        @return: the socket of a name; or C{None} if there is none.
        """
        return cast(socket.socket, self._find("socket", name))

    def listenWith(
        self, name: str, create: Callable[[], socket.socket], factory: Any
    ) -> IListeningPort:
        """
        Accept connections on a stream socket that the application has made,
        with whatever options it needs (tableflip's C{ListenWithCallback}).  The
        port is as any inheritable one: it accepts in one generation at a time.

        @param create: makes a listening socket, which is then ours.  It is
            called if none of this name was inherited.
        @return: the port.
        """
        key = self._inventory.nextKey("listener", "named", name)

        def make() -> HeldDescriptor:
            sock = create()
            sock.setblocking(False)
            return HeldDescriptor(sock)

        return self._ports.listenOn(key, make, factory)


def _internetAddress(peer: Any) -> IPv4Address | IPv6Address:
    kind = IPv4Address if len(peer) == 2 else IPv6Address  # noqa: PLR2004 - see socket(7)
    return kind("TCP", *peer)


def _share(sock: socket.socket) -> socket.socket:
    """
    @return: a copy, which is not blocking: nor is the original, from now on,
        because that is a property of what they share.
    """
    copy = sock.dup()
    copy.setblocking(False)
    return copy
