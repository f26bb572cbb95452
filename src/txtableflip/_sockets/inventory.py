"""
The descriptors that go from generation to generation.

Those that were inherited and not claimed yet are C{inherited}; those that this process has
made or claimed are C{used}, and go to its child: the names are tableflip's (C{Fds}).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from txtableflip._handover.manifest import Entry, Identity, Key, UnknownEntry
from txtableflip._sockets import unixpaths
from txtableflip._sockets.each import forEach
from txtableflip._sockets.ordinals import Ordinals
from txtableflip.errors import ChannelError

_NETWORKS = {
    "tcp": (socket.AF_INET, socket.SOCK_STREAM),
    "tcp6": (socket.AF_INET6, socket.SOCK_STREAM),
    "udp": (socket.AF_INET, socket.SOCK_DGRAM),
    "udp6": (socket.AF_INET6, socket.SOCK_DGRAM),
    "unix": (getattr(socket, "AF_UNIX", None), socket.SOCK_STREAM),
    "unixgram": (getattr(socket, "AF_UNIX", None), socket.SOCK_DGRAM),
}
"""
The family and the type of a socket of each network, where they are fixed.
"""


class HasDescriptor(Protocol):
    """
    Something that has a descriptor: a socket, or a L{Descriptor}.
    """

    def fileno(self) -> int:
        """
        @return: the number of the descriptor.
        """

    def close(self) -> None:
        """
        Close it.
        """

    def detach(self) -> int:
        """
        Forget the descriptor without closing it.
        """


class Descriptor:
    """
    A descriptor that is not a socket.
    """

    def __init__(self, fileno: int) -> None:
        self._fileno = fileno

    def fileno(self) -> int:
        """
        @return: the number of the descriptor, or -1 if it is closed.
        """
        return self._fileno

    def close(self) -> None:
        """
        Close it, once.
        """
        fileno = self.detach()
        if fileno >= 0:
            os.close(fileno)

    def detach(self) -> int:
        """
        Forget the descriptor without closing it.

        @return: its number, or -1 if it is closed.
        """
        fileno, self._fileno = self._fileno, -1
        return fileno


@dataclass(frozen=True)
class SocketOptions:
    """
    The options of a listener's socket that may differ from release to release.

    @ivar backlog: the length of its queue, if that matters.
    @ivar mode: the permissions of its path, if it has one.
    @ivar isLocked: whether there is to be a lock beside its path.
    """

    backlog: int | None = None
    mode: int | None = None
    isLocked: bool = False


@dataclass(eq=False)
class HeldDescriptor:
    """
    One descriptor of the inventory, which owns it.

    @ivar identity: the same in any process.
    @ivar path: the identity of the path that the socket is bound to, if it is ours to
        remove.
    @ivar backlog: the length of the queue that it was given, if any.
    @ivar mode: the permissions that its path was given, if any.
    """

    handle: HasDescriptor
    path: Identity | None = None
    backlog: int | None = None
    mode: int | None = None

    def __post_init__(self) -> None:
        self.identity: Identity = identify(self.handle.fileno())

    @property
    def isOpen(self) -> bool:
        """
        Whether the descriptor is still open.  Other code that knows its number may have
        closed it, such as a file object made from it; then the number is soon another
        file's.
        """
        try:
            return identify(self.handle.fileno()) == self.identity
        except OSError:
            return False

    def close(self) -> None:
        """
        Close the descriptor, if it is open.
        """
        if self.isOpen:
            self.handle.close()
        else:
            self.handle.detach()


@dataclass
class Changes:
    """
    How what this process uses differs from what its parent used, as it was when it was
    final that this one serves.

    @ivar kept: what was inherited and is used.
    @ivar bound: what is new.
    @ivar dropped: what was inherited and is not used any more: closed, and its
        path removed.
    @ivar changed: what is used in another way than by the parent, and how.
    @ivar foreign: addresses at which this process listens outside the
        inventory: the next generation cannot, while this one runs.
    """

    kept: list[str] = field(default_factory=list)
    bound: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)


class Inventory:
    """
    What this process uses, and what it has inherited.

    @ivar isSettled: whether the changes are complete: otherwise a process that opens ports
        all the time would record all of them.
    @ivar isStored: whether a service manager has all of it, too.
    @ivar changed: called when something is used, or is not any more.
    """

    def __init__(self) -> None:
        self.inherited: dict[Key, HeldDescriptor] = {}
        self.used: dict[Key, HeldDescriptor] = {}
        self.changes: Changes = Changes()
        self.claimed: Callable[[], object] = lambda: None
        self.changed: Callable[[], object] = lambda: None
        self.passedOn: list[tuple[UnknownEntry, HasDescriptor]] = []
        self._ordinals = Ordinals()
        self.isSettled = self.isStored = False

    def inherit(
        self, entries: Sequence[Entry | UnknownEntry], descriptors: Sequence[int]
    ) -> None:
        """
        Take in what the parent sent.  What only another version knows is passed on
        to the child as it came, or closed, as its entry says.

        @raise ChannelError: if a descriptor is not what its entry says, or two
            have one name; all are closed then.
        """
        for entry, handle in _openAll(entries, descriptors):
            if not isinstance(entry, UnknownEntry):
                held = HeldDescriptor(handle, entry.path, entry.backlog, entry.mode)
                self.inherited[entry.key] = held
            elif entry.isKept:
                self.passedOn.append((entry, handle))
            else:
                handle.close()

    def nextKey(self, network: str, address: str) -> Key:
        """
        @return: the name of the next listener with this address: the first one that
            is not in use.
        """
        lowest = self._ordinals.lowest(("listener", network, address))
        return Key("listener", network, address, lowest)

    def claim(self, key: Key) -> HeldDescriptor | None:
        """
        Move what was inherited under a name to what is used.

        @return: it, or C{None} if there is nothing of that name: make it, and
            L{add} it.
        """
        held = self.inherited.pop(key, None)
        if held is not None:
            self._use(key, held, self.changes.kept)
            self.claimed()
        return held

    def _use(self, key: Key, held: HeldDescriptor, how: list[str]) -> None:
        self.putBack(key, held)
        if not self.isSettled:
            how.append(str(key))

    def giveBack(self, key: Key, held: HeldDescriptor) -> None:
        """
        Undo a claim, unless the name is used for something else by now.
        """
        if self.used.get(key) is held:
            self.setAside(key)
            self.inherited[key] = held
            self.changes.kept.remove(str(key))

    def unclaimed(self) -> list[str]:
        """
        @return: the inherited listeners that were not claimed, in words.
        """
        return [str(key) for key in self.inherited if key.kind == "listener"]

    def add(self, key: Key, held: HeldDescriptor) -> HeldDescriptor:
        """
        Add a descriptor that this process has made, instead of what had its name.

        @return: C{held}.
        """
        if key in self.used:
            self.remove(key, self.used[key])
        self._use(key, held, self.changes.bound)
        return held

    def remove(self, key: Key, held: HeldDescriptor) -> None:
        """
        Close a descriptor, which no child will get any more, unless that has been done:
        its name may be used for another by now.
        """
        if self.used.get(key) is held:
            self.setAside(key)
            held.close()

    def setAside(self, key: Key) -> None:
        """
        Remove something without closing it.
        """
        del self.used[key]
        self._ordinals.release((key.kind, key.network, key.address), key.ordinal)
        self.changed()

    def putBack(self, key: Key, held: HeldDescriptor) -> None:
        """
        Add again what was L{setAside}.
        """
        self.used[key] = held
        self._ordinals.take((key.kind, key.network, key.address), key.ordinal)
        self.changed()

    def prune(self) -> None:
        """
        Forget what the application has closed: it is not to be inherited.
        """
        for key, held in list(self.used.items()):
            if not held.isOpen:
                self.remove(key, held)

    def dropInherited(self) -> None:
        """
        Close what was inherited and never claimed, and remove its paths.
        """
        forEach("drop", self.inherited, self._drop)
        self.inherited.clear()

    def closeInherited(self) -> None:
        """
        Close what was inherited and not claimed: the parent continues to use it, unless it
        has exited.
        """
        forEach("close", self.inherited.values(), HeldDescriptor.close)
        self.inherited.clear()

    def _drop(self, key: Key) -> None:
        self.changes.dropped.append(str(key))
        endForAll(key, self.inherited[key])

    def names(self) -> list[str]:
        """
        @return: what is in use, in words.
        """
        self.prune()
        return [str(key) for key in self.used]

    def listeners(self) -> list[str]:
        """
        @return: what this process listens on, in words.
        """
        return [str(key) for key in list(self.used) if key.kind == "listener"]

    def entries(self) -> tuple[Entry | UnknownEntry, ...]:
        """
        @return: the child's entries for everything in use, and everything passed on.
        """
        self.prune()
        used = (entryOf(key, held) for key, held in self.used.items())
        return (*used, *(entry for entry, _ in self.passedOn))

    def descriptors(self) -> list[int]:
        """
        @return: the descriptors, in the order of L{entries}.
        """
        handles = [held.handle for held in self.used.values()]
        handles += [handle for _, handle in self.passedOn]
        return [handle.fileno() for handle in handles]

    def inodes(self) -> set[int]:
        """
        @return: the inodes of the sockets in use, which identify them.
        """
        self.prune()
        return {
            held.identity.inode
            for held in self.used.values()
            if not isinstance(held.handle, Descriptor)
        }


def identify(fileno: int) -> Identity:
    """
    @return: what identifies this socket or file, in any process.
    """
    status = os.fstat(fileno)
    return Identity(status.st_dev, status.st_ino)


def endForAll(key: Key, held: HeldDescriptor) -> None:
    """
    Close what is not listened on any more, in all processes that have it, and remove its
    path.
    """
    unixpaths.abandon(key.address, held.path)
    stopForAll(held)
    held.close()


def stopForAll(held: HeldDescriptor) -> None:
    """
    Refuse new connections, even if other processes have the socket.
    """
    if isinstance(held.handle, socket.socket) and held.backlog is not None:
        # The others close it later: clients should not wait that long.  A socket that we
        # have not made, as the backlog shows, is not ours to shut down: systemd's, for
        # example, is to serve the next start.
        with suppress(OSError):
            held.handle.shutdown(socket.SHUT_RDWR)


def _kind(opened: HasDescriptor) -> tuple[int, int]:
    """
    @return: the family and the type of a socket; 0 and 0 for anything else.
    """
    if isinstance(opened, socket.socket):
        return int(opened.family), int(opened.type)
    return 0, 0


def entryOf(key: Key, held: HeldDescriptor) -> Entry:
    """
    @return: the child's entry for a descriptor.
    """
    family, kind = _kind(held.handle)
    return Entry(
        key=key,
        family=family,
        type=kind,
        identity=held.identity,
        path=held.path,
        backlog=held.backlog,
        mode=held.mode,
    )


def _openAll(
    entries: Sequence[Entry | UnknownEntry], descriptors: Sequence[int]
) -> list[tuple[Entry | UnknownEntry, HasDescriptor]]:
    """
    @raise ChannelError: if a descriptor is not what its entry says, or two
        have one name; all are closed then.
    """
    found = [
        (entry, Descriptor(fileno) if isinstance(entry, UnknownEntry) else _open(fileno))
        for entry, fileno in zip(entries, descriptors, strict=True)
    ]
    names: set[Key] = set()
    try:
        for entry, opened in found:
            if isinstance(entry, UnknownEntry):
                continue
            _compare(entry, opened)
            if entry.key in names:
                raise ChannelError(f"two descriptors are inherited as {entry.key}")
            names.add(entry.key)
    except BaseException:
        for _, opened in found:
            opened.close()
        raise
    return found


def _open(fileno: int) -> HasDescriptor:
    try:
        found = socket.socket(fileno=fileno)
    except OSError:
        return Descriptor(fileno)
    # It does not block, but Python assumes that it does, and would make it block in dup():
    # for the parent, too, which would then hang in accept(2).
    found.setblocking(False)
    return found


def _compare(entry: Entry, found: HasDescriptor) -> None:
    """
    Compare a descriptor with its entry.

    @raise ChannelError: if it is another.
    """
    actual = (*_kind(found), identify(found.fileno()))
    said = (entry.family, entry.type, entry.identity)
    if said != actual:
        raise ChannelError(
            f"the descriptor inherited as {entry.key} is another one: its family, type and "
            f"identity should be {said} and are {actual}"
        )
    if _kind(found) != _NETWORKS.get(entry.key.network, _kind(found)):
        raise ChannelError(
            f"the socket inherited as {entry.key} is of family {entry.family} and type "
            f"{entry.type}, which does not suit its name"
        )
