"""
Twisted's datagram ports, on sockets that are bound already.

C{adoptDatagramPort} does that for plain UDP only (Twisted's issues 6594 and 6598): it knows
neither UNIX addresses nor multicast groups.  We override the hook in which these ports make
and bind their sockets.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet import udp, unix
from twisted.python import log

from txtableflip._draining.connections import Connections


class AdoptedPort:
    """
    Mixed into a port that is given its socket.

    @ivar connections: those of the process, which know what it is just answering.
    @ivar hasReceived: whether anything was received, which may have to be answered.
    """

    adopted: socket.socket
    connections: Connections
    hasReceived = False
    protocol: Any

    def doRead(self) -> Any:
        """
        See L{twisted.internet.interfaces.IReadDescriptor.doRead}.
        """
        self.hasReceived = True
        return self.connections.answer(super().doRead)  # type: ignore[misc]

    def _bindSocket(self) -> None:
        self.socket = self.adopted
        self.fileno = self.adopted.fileno
        self.connected = 1


class _AdoptedInternet(AdoptedPort):
    """
    Mixed into a port with a number.
    """

    def _bindSocket(self) -> None:
        super()._bindSocket()
        self._realPortNumber = self.adopted.getsockname()[1]
        prefix = self._getLogPrefix(self.protocol)  # type: ignore[attr-defined]
        log.msg(f"{prefix} starting on {self._realPortNumber}")


class AdoptedUDPPort(_AdoptedInternet, udp.Port):
    """
    Twisted's UDP port.
    """


class AdoptedMulticastPort(_AdoptedInternet, udp.MulticastPort):
    """
    Twisted's multicast port.  The groups that the socket has joined are the
    socket's, and outlast any port on it.
    """


class AdoptedUNIXDatagramPort(AdoptedPort, unix.DatagramPort):
    """
    Twisted's UNIX datagram port, which does not touch the path.
    """

    def _bindSocket(self) -> None:
        super()._bindSocket()
        log.msg(f"{self.protocol.__class__} starting on {self.port!r}")


def startOn(port: Any, connections: Connections, sock: socket.socket) -> Any:
    """
    Start one of these ports on a copy of a socket.

    @return: the port.
    """
    port.adopted = sock.dup()
    port.connections = connections
    port.startListening()
    return port
