"""
Where this process listens without txtableflip.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

from txtableflip._sockets.internet import canonicalAddress

_INTERNET = (socket.AF_INET, socket.AF_INET6)


def foreignListeners(known: set[int]) -> list[str]:
    """
    Find the sockets on which this process accepts connections, or receives datagrams from
    any client, besides those that are known by their inodes.

    @return: their addresses; none on a platform without proc(5).
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
            # The descriptor by which the directory was read is closed by now.
            continue


def _isListener(sock: socket.socket) -> bool:
    if sock.type == socket.SOCK_DGRAM:
        return sock.family in _INTERNET and _isService(sock)
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        # A family without connections.
        return False


def _isService(sock: socket.socket) -> bool:
    """
    @return: whether a datagram socket was bound to a chosen port: those of clients (of name
        servers) have one that the kernel chose.
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
    return f"{network} {canonicalAddress(host, port)}"
