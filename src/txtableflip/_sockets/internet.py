"""
Sockets, made as Twisted makes them, but bound here: a port that binds its own
socket also shuts it down.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from typing import Any

from twisted.internet.abstract import isIPv6Address
from twisted.internet.error import CannotListenError

_INTERNET = (socket.AF_INET, socket.AF_INET6)


def canonical(interface: str, port: Any) -> str:
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


def bindInternet(model: Any) -> socket.socket:
    """
    Make the socket of a port of Twisted's that has not been started, and bind
    it to the address of that port.

    @raise CannotListenError: if the address cannot be had.
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


def foreignListeners(known: set[int]) -> list[str]:
    """
    Find the sockets on which this process accepts connections or receives
    datagrams from anybody, besides those that are known by their inodes.

    @return: their addresses; none on a platform that does not tell (proc(5)).
    """
    return sorted({_describe(sock) for sock in _ownSockets(known) if _isListener(sock)})


def _ownSockets(known: set[int]) -> Iterator[socket.socket]:
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return
    for name in names:
        try:
            kind, _, inode = os.readlink(f"/proc/self/fd/{name}").partition(":")
            if kind == "socket" and int(inode.strip("[]")) not in known:
                with socket.socket(fileno=os.dup(int(name))) as sock:
                    yield sock
        except OSError:
            # The descriptor by which the directory was read is closed again.
            continue


def _isListener(sock: socket.socket) -> bool:
    if sock.type == socket.SOCK_DGRAM:
        return sock.family in _INTERNET and _isService(sock)
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        # A family that knows nothing of connections.
        return False


def _isService(sock: socket.socket) -> bool:
    """
    @return: whether a datagram socket was bound to a port that somebody chose:
        those that ask others (name servers) have one that the kernel chose.
    """
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range") as limits:
            lowest, highest = map(int, limits.read().split())
    except OSError:
        lowest, highest = 32768, 65535
    port = sock.getsockname()[1]
    return port != 0 and not lowest <= port <= highest


def _describe(sock: socket.socket) -> str:
    if sock.family == socket.AF_UNIX:
        return f"unix {os.fsdecode(sock.getsockname())}"
    if sock.family not in _INTERNET:
        return f"{getattr(sock.family, 'name', sock.family)} {sock.getsockname()}"
    network = "udp" if sock.type == socket.SOCK_DGRAM else "tcp"
    host, port = sock.getsockname()[:2]
    return f"{network} {canonical(host, port)}"
