"""
Twisted's datagram ports, on sockets that are bound already.

C{adoptDatagramPort} does that for plain UDP only (Twisted's issues 6594 and
6598): it knows neither UNIX addresses nor multicast groups.  The way in is the
hook in which these ports make and bind their sockets.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet import udp, unix


class AdoptedMulticastPort(udp.MulticastPort):
    """
    Twisted's multicast port.  The groups that the socket has joined are the
    socket's, and outlast any port on it.
    """

    adopted: socket.socket

    def _bindSocket(self) -> None:
        self.socket = self.adopted
        self.fileno = self.adopted.fileno  # type: ignore[method-assign]
        self.connected = True
        self._realPortNumber = self.adopted.getsockname()[1]


class AdoptedUNIXDatagramPort(unix.DatagramPort):
    """
    Twisted's UNIX datagram port, which leaves the path alone.
    """

    adopted: socket.socket

    def _bindSocket(self) -> None:
        self.socket = self.adopted
        self.fileno = self.adopted.fileno  # type: ignore[method-assign]
        self.connected = True


def startOn(port: Any, sock: socket.socket) -> Any:
    """
    Start one of these ports on a copy of a socket.

    @return: the port.
    """
    port.adopted = sock.dup()
    port.startListening()
    return port
