"""
What changes between the manifest and the commit: the parent continues to listen and to stop
listening while its child starts.

What the parent has opened since goes to the child with Commit.  What it has stopped is not
taken from the child, whose release decides by itself where it listens: until it is final
which process serves, the socket stays open, with its path and its lock; then the child
serves on it or drops it; or if no child takes over, it is closed as if it had been stopped
only then.  It could not be closed before anyway, as the child has it, too: an address that
is stopped and listened on again has the same socket as before.
"""

from __future__ import annotations

from dataclasses import replace

from txtableflip._handover.manifest import Key, News
from txtableflip._sockets import unixpaths
from txtableflip._sockets.each import forEach
from txtableflip._sockets.inventory import HeldDescriptor, Inventory, endForAll, entryOf
from txtableflip.errors import ChannelError


class Shared:
    """
    What a child has been told about, and may come to serve on.
    """

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._told: set[HeldDescriptor] = set()
        self._stopped: dict[Key, HeldDescriptor] = {}

    def tell(self) -> None:
        """
        A child has been told about everything that is in use.
        """
        self._told.update(self._inventory.used.values())

    def isTold(self, held: HeldDescriptor) -> bool:
        """
        @return: whether a child has this, too.
        """
        return held in self._told

    def news(self) -> News:
        """
        @return: what no child has been told about yet.
        """
        self._inventory.prune()
        used = self._inventory.used.items()
        came = [(key, held) for key, held in used if held not in self._told]
        return News(
            tuple(entryOf(key, held) for key, held in came),
            [held.handle.fileno() for _, held in came],
        )

    def stop(self, key: Key, held: HeldDescriptor) -> bool:
        """
        This process does not listen on a socket any more.

        @return: whether it stays as it is, because a child has it.
        """
        isKept = held in self._told and self._inventory.used.get(key) is held
        if isKept:
            self._inventory.setAside(key)
            self._stopped[key] = held
        return isKept

    def claim(self, key: Key) -> HeldDescriptor | None:
        """
        Listen again on what was stopped.

        @return: it, or C{None} if there is nothing of that name.
        """
        held = self._stopped.pop(key, None)
        if held is not None:
            self._inventory.putBack(key, held)
        return held

    def takeBack(self) -> None:
        """
        No child takes over: close what was stopped.
        """
        self._told.clear()
        stopped, self._stopped = self._stopped, {}
        forEach("end", stopped.items(), lambda item: endForAll(*item))

    def leave(self) -> None:
        """
        This process exits, and no child takes over.  Sockets that a service manager has,
        too, are for the next start.
        """
        if self._inventory.isStored:
            for key, held in self._stopped.items():
                unixpaths.abandon(key.address, held.path)
            self.letGo()
        else:
            self.takeBack()

    def letGo(self) -> None:
        """
        A child has everything permanently.
        """
        self._told.clear()
        stopped, self._stopped = self._stopped, {}
        forEach("close", stopped.values(), HeldDescriptor.close)


def learn(inventory: Inventory, news: News) -> None:
    """
    Take in, as inherited, what the parent has opened since its manifest.

    @raise ChannelError: if it is not what it should be, or replaces what this process uses
        already: all of it is closed then.
    """
    came = Inventory()
    came.inherit(*news)
    try:
        for key in came.inherited:
            _checkUse(inventory, key)
    except ChannelError:
        for held in came.inherited.values():
            held.close()
        raise
    inventory.passedOn += came.passedOn
    taken = {*inventory.used, *inventory.inherited, *came.inherited}
    for key, held in came.inherited.items():
        name = key
        if key in inventory.used and key.kind == "listener":
            # As of two whose port the kernel chose: both have clients.
            name = _nextAfter(key, taken)
            taken.add(name)
        elif key in inventory.inherited:
            # The parent has replaced it.
            inventory.inherited[key].close()
        inventory.inherited[name] = held


def _nextAfter(key: Key, taken: set[Key]) -> Key:
    while key in taken:
        key = replace(key, ordinal=key.ordinal + 1)
    return key


def _checkUse(inventory: Inventory, key: Key) -> None:
    """
    @raise ChannelError: if this process would continue with what the parent has replaced.
        Not for a connection: the one that it has is over, and its peer connects again.
    """
    if key in inventory.used and key.kind in ("file", "socket"):
        raise ChannelError(
            f"the old process has replaced the {key}, which this one was using already"
        )
