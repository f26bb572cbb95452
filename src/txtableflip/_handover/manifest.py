"""
What is said of each descriptor that goes from generation to generation.

All of these are JSON objects on the wire, which may have more fields in other
versions (L{txtableflip._handover.messages}).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

KINDS = frozenset({"listener", "socket", "file"})
"""
The kinds of descriptors that this version knows.
"""


@dataclass(frozen=True)
class Key:
    """
    What a descriptor is known by, in every generation.

    @ivar kind: C{listener}, for sockets on which this process serves clients
        by itself; C{socket}, C{connection} and C{file}, for what the
        application has named.
    @ivar network: for a listener, C{tcp}, C{tcp6}, C{udp}, C{udp6}, C{unix},
        C{unixgram}, C{systemd}, or C{named}; else nothing.
    @ivar address: as it was asked for, in canonical form: C{127.0.0.1:0}
        stays that whichever port the kernel chose.  Or the application's name.
    @ivar ordinal: tells two with the same address apart, in the order in which
        they were asked for.
    """

    kind: str
    network: str
    address: str
    ordinal: int

    def __str__(self) -> str:
        number = f" (number {self.ordinal + 1})" if self.ordinal else ""
        return f"{self.network or self.kind} {self.address}{number}"


@dataclass(frozen=True)
class Identity:
    """
    Which file a name stood for: the device and the inode of L{os.stat_result}.
    """

    device: int
    inode: int


@dataclass(frozen=True)
class Entry:
    """
    One descriptor that is handed over.

    @ivar family: a socket's, or 0 for what is not a socket.
    @ivar type: a socket's, or 0 for what is not a socket.
    @ivar identity: the same in any process.
    @ivar path: the identity of the path it is bound to, if that is ours to
        remove.
    @ivar backlog: the length of the queue that it was given, if any.
    @ivar mode: the permissions that its path was given, if any.
    """

    key: Key
    family: int
    type: int
    identity: Identity
    path: Identity | None = None
    backlog: int | None = None
    mode: int | None = None


class UnknownEntry(dict[str, Any]):
    """
    The entry of a descriptor of a kind that this version does not know, as it
    came.  Only C{kind} in its C{key}, and C{unknown}, are for us.
    """

    @property
    def isKept(self) -> bool:
        """
        Whether its descriptor goes to the next generation, untouched and with
        this entry, rather than being closed.
        """
        return self.get("unknown") == "keep"


class News(NamedTuple):
    """
    What is handed over besides the manifest.

    @ivar descriptors: one for each of the entries, in their order.
    """

    entries: tuple[Entry | UnknownEntry, ...] = ()
    descriptors: Sequence[int] = ()


NO_NEWS = News()
"""
Nothing has changed.
"""
