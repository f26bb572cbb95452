"""
Sockets, made as Twisted makes them, but bound here: a port that binds its own
socket also shuts it down.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from twisted.internet.abstract import isIPv6Address
from twisted.internet.error import CannotListenError


def canonicalAddress(interface: str, port: Any) -> str:
    """
    @return: an address in its canonical form, as bind(2) would understand it:
        C{localhost} is C{127.0.0.1}, and no interface means all.
    """
    if isIPv6Address(interface):
        host, scope, zone = interface.partition("%")
        return f"[{ipaddress.IPv6Address(host)}{scope}{zone}]:{port}"
    try:
        return f"{socket.gethostbyname(interface or '0.0.0.0')}:{port}"  # noqa: S104
    except OSError:
        # The attempt to bind will fail in the same way, and with a better message.
        return f"{interface}:{port}"


def nameOf(transport: str, model: Any) -> tuple[str, str]:
    """
    @param transport: C{tcp} or C{udp}.
    @param model: a port of Twisted's that has not been started.
    @return: the network and the address by which its socket is known.
    """
    version = "6" if model.addressFamily == socket.AF_INET6 else ""
    return transport + version, canonicalAddress(model.interface, model.port)


def bindInternet(model: Any) -> socket.socket:
    """
    Make the socket of a port of Twisted's that has not been started, and bind
    it to the address of that port.

    @raise CannotListenError: if the address cannot be bound.
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
