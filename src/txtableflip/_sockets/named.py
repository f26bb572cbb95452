"""
What an application hands over by name.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.interfaces import IListeningPort

from txtableflip._handover.manifest import Key
from txtableflip._sockets.inventory import Descriptor, HasDescriptor, HeldDescriptor, Inventory
from txtableflip._sockets.ports import Ports


class Fds:
    """
    Files and listening sockets by name (tableflip's C{Fds}); the names of each kind are
    apart from those of the others.  Connections go on in another way: see L{IMigratable
    <txtableflip.IMigratable>}.

    What is added is copied, and the original stays the caller's.  What is found
    is the one that goes to the next generation: it has been inherited, or was
    added here, and whoever closes it takes it out of the inventory.

    What the parent has left must be asked for before C{ready()}, at which it is
    closed otherwise.  Both the parent and the child have a file for a while: the
    parent should stop using it when C{whenExiting()} fires, and the child
    should begin when C{ready()} does.
    """

    def __init__(self, inventory: Inventory, ports: Ports) -> None:
        self._inventory = inventory
        self._ports = ports

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
        key = self._inventory.nextKey("named", name)

        def make() -> HeldDescriptor:
            sock = create()
            sock.setblocking(False)
            return HeldDescriptor(sock)

        return self._ports.listenOn(key, make, factory)

    def _add(self, kind: str, name: str, opened: HasDescriptor) -> None:
        """
        Keep something, instead of what had its name.
        """
        self._inventory.add(Key(kind, "", name, 0), HeldDescriptor(opened))

    def _find(self, kind: str, name: str) -> HasDescriptor | None:
        key = Key(kind, "", name, 0)
        held = self._inventory.used.get(key) or self._inventory.claim(key)
        return held.handle if held is not None and held.isOpen else None


def _share(sock: socket.socket) -> socket.socket:
    """
    @return: a copy, which is not blocking: nor is the original from now on, because that is
        a property of the open socket that they share.
    """
    copy = sock.dup()
    copy.setblocking(False)
    return copy
