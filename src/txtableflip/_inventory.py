"""
The descriptors that go from generation to generation.

Those that were inherited and not asked for yet are C{inherited}; those that
this process has made or claimed are C{used}, and go to its child: the names are
tableflip's (C{Fds}).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from txtableflip import _paths
from txtableflip._handover import Entry, Identity, Key
from txtableflip.errors import ChannelError

_NETWORKS = {
    "tcp": (socket.AF_INET, socket.SOCK_STREAM),
    "tcp6": (socket.AF_INET6, socket.SOCK_STREAM),
    "udp": (socket.AF_INET, socket.SOCK_DGRAM),
    "udp6": (socket.AF_INET6, socket.SOCK_DGRAM),
    "unix": (getattr(socket, "AF_UNIX", None), socket.SOCK_STREAM),
}
"""
The family and the type of a socket of each network.
"""


@dataclass(frozen=True)
class Held:
    """
    One descriptor of the inventory, which owns it.

    @ivar path: the identity of the path the socket is bound to, if it is ours
        to remove.
    """

    socket: socket.socket
    path: Identity | None = None


class Inventory:
    """
    What this process holds, and what it has been left.
    """

    def __init__(self) -> None:
        self.inherited: dict[Key, Held] = {}
        self.used: dict[Key, Held] = {}

    def inherit(self, entries: Sequence[Entry], sockets: Sequence[socket.socket]) -> None:
        """
        Take in what the parent sent.

        @raise ChannelError: if a socket is not what its entry says.
        """
        for entry, sock in zip(entries, sockets, strict=True):
            _check(entry, sock)
            self.inherited[entry.key] = Held(sock, entry.path)

    def nextKey(self, kind: str, network: str, address: str) -> Key:
        """
        @return: the name of the next descriptor with this address: the first
            one that is not in use.
        """
        ordinal = 0
        while (key := Key(kind, network, address, ordinal)) in self.used:
            ordinal += 1
        return key

    def claim(self, key: Key) -> Held | None:
        """
        Move what was inherited under a name among what is used.

        @return: it, or C{None} if there is nothing of that name: make it, and
            L{add} it.
        """
        held = self.inherited.pop(key, None)
        if held is not None:
            self.used[key] = held
        return held

    def add(self, key: Key, held: Held) -> None:
        """
        Take in a descriptor that this process has made.
        """
        self.used[key] = held

    def remove(self, key: Key) -> Held | None:
        """
        Close a descriptor, which no child will get any more.

        @return: what it was, closed; or C{None} if it has been removed before.
        """
        held = self.used.pop(key, None)
        if held is not None:
            held.socket.close()
        return held

    def dropInherited(self) -> list[Key]:
        """
        Close what was inherited and never claimed, and remove its paths.

        @return: the names of what that was.
        """
        dropped = list(self.inherited)
        for key, held in self.inherited.items():
            held.socket.close()
            _paths.abandon(key.address, held.path)
        self.inherited.clear()
        return dropped

    def names(self) -> list[str]:
        """
        @return: what is in use, in words.
        """
        return [str(key) for key in self.used]

    def entries(self) -> tuple[Entry, ...]:
        """
        @return: what a child is to be told about everything in use.
        """
        return tuple(
            Entry(
                key=key,
                family=int(held.socket.family),
                type=int(held.socket.type),
                socket=_identify(held.socket),
                path=held.path,
            )
            for key, held in self.used.items()
        )

    def descriptors(self) -> list[int]:
        """
        @return: the descriptors, in the order of L{entries}.
        """
        return [held.socket.fileno() for held in self.used.values()]


def _identify(sock: socket.socket) -> Identity:
    """
    @return: what tells this socket from any other, in whichever process.
    """
    status = os.fstat(sock.fileno())
    return Identity(status.st_dev, status.st_ino)


def _check(entry: Entry, sock: socket.socket) -> None:
    """
    Compare a socket with what its entry says that it is.

    @raise ChannelError: if it is another.
    """
    said = (entry.family, entry.type, entry.socket)
    found = (int(sock.family), int(sock.type), _identify(sock))
    if said != found:
        raise ChannelError(
            f"the socket inherited as {entry.key} is another one: its family, type and "
            f"identity should be {said} and are {found}"
        )
    if (sock.family, sock.type) != _NETWORKS.get(entry.key.network):
        raise ChannelError(
            f"the socket inherited as {entry.key} is of family {entry.family} and type "
            f"{entry.type}, which does not suit its name"
        )
