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


class _Adopted:
    """
    Mixed into a port: has its socket given.
    """

    adopted: socket.socket

    def _bindSocket(self) -> None:
        self.socket = self.adopted
        self.fileno = self.adopted.fileno
        self.connected = 1


class _AdoptedInternet(_Adopted):
    """
    Mixed into a port with a number.
    """

    def _bindSocket(self) -> None:
        super()._bindSocket()
        self._realPortNumber = self.adopted.getsockname()[1]


class AdoptedUDPPort(_AdoptedInternet, udp.Port):
    """
    Twisted's UDP port.
    """


class AdoptedMulticastPort(_AdoptedInternet, udp.MulticastPort):
    """
    Twisted's multicast port.  The groups that the socket has joined are the
    socket's, and outlast any port on it.
    """


class AdoptedUNIXDatagramPort(_Adopted, unix.DatagramPort):
    """
    Twisted's UNIX datagram port, which leaves the path alone.
    """


def startOn(port: Any, sock: socket.socket) -> Any:
    """
    Start one of these ports on a copy of a socket.

    @return: the port.
    """
    port.adopted = sock.dup()
    port.startListening()
    return port
