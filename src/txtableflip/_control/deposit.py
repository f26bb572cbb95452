"""
What this process deposits with the service manager, so that no connection is refused if it
is killed: what it would hand to a child (L{txtableflip._handover.store}).

B{When}: as soon as it is final that it serves, because before that what the parent has
deposited counts; and again when a listener has come or gone.  Not while there is a child:
that one deposits its own in its turn, and what is there serves for a restart before that.

B{In which order}: store the new descriptors, then the new list; remove the old list, then
what is not on the new one.  Whenever this process is killed, one list is complete; unless
there is no room for both.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from txtableflip._control.notifications import Notifications
from txtableflip._generation import Generation
from txtableflip._handover.manifest import Entry, UnknownEntry
from txtableflip._handover.messages import Manifest
from txtableflip._handover.store import listNames, nameOf, writeList
from txtableflip._journal import Event, Failed, Journal, ProcessLogger, Starting
from txtableflip._steps import Core

MOST = 3000
"""
How many descriptors are deposited at most: their names come back in one environment
variable, and the kernel takes 128 KiB of that (execve(2)).
"""

LISTS = 2
"""
How many lists there are at a time, besides the descriptors.
"""

_log = ProcessLogger()


class Deposit:
    """
    Keeps what is deposited up to date.
    """

    def __init__(
        self,
        notifications: Notifications,
        generation: Generation,
        core: Core,
        reactor: Any,
        room: int,
    ) -> None:
        """
        @param room: how many descriptors there is room for.
        """
        self._say = notifications.say
        self._generation = generation
        self._inventory = generation.inventory
        self._core = core
        self._reactor = reactor
        self._room = min(room - LISTS, MOST)
        inherited = map(nameOf, generation.manifest.entries)
        self._stored = set(generation.stored)
        self._old = {*inherited, *listNames(generation.number - 1), *self._stored}
        self._lists = listNames(generation.number)
        self._entries: tuple[Entry | UnknownEntry, ...] | None = None
        self._isFinal = self._isDue = self._isTold = False

    def begin(self) -> None:
        """
        Deposit when it is due, from now on.
        """
        Journal.listeners.append(self._hear)
        self._inventory.changed = self._soon
        self._inventory.isStored = True
        self._core.isFinal.wait().addCallbacks(self._final, lambda failure: None)

    def _final(self, ignored: object) -> None:
        self._isFinal = True
        self._deposit()

    def _hear(self, event: Event) -> None:
        if isinstance(event, Starting) and self._isDue:
            self._deposit()
        elif isinstance(event, Failed):
            self._soon()

    def _soon(self) -> None:
        if self._isFinal and not self._isDue:
            self._isDue = True
            # Several may come or go at once.
            self._reactor.callLater(0, self._depositIfServing)

    def _depositIfServing(self) -> None:
        if self._isDue and self._core.state == "Serving":
            self._deposit()
        self._isDue = False

    def _deposit(self) -> None:
        self._isDue = False
        entries = self._inventory.entries()
        if len(entries) > self._room:
            self._warn(len(entries))
            entries = ()
        if entries == self._entries:
            return
        self._entries = entries
        names = [nameOf(entry) for entry in entries]
        self._lists = self._lists[::-1]
        before = self._old | self._stored
        gone = [self._lists[1], *sorted(before - {*names, *self._lists})]
        # Better incomplete for a moment than forever.
        isTight = len(before.union(names)) > self._room
        if isTight:
            self._remove(gone)
        self._storeNew(names)
        self._storeList(names)
        if not isTight:
            self._remove(gone)
        self._stored, self._old = set(names), set()

    def _storeNew(self, names: list[str]) -> None:
        for name, fileno in zip(names, self._inventory.descriptors(), strict=False):
            if name not in self._stored:
                self._store(name, fileno)

    def _storeList(self, names: list[str]) -> None:
        manifest = Manifest(
            generation=self._generation.number + 1,
            upgradeTimeout=self._generation.upgradeTimeout,
            pidFile=self._generation.pidFile,
            entries=self._entries or (),
            stderr=False,
        )
        if names:
            fileno = os.memfd_create("txtableflip")
            with open(fileno, "wb") as file:
                file.write(writeList(names, manifest))
                file.flush()
                self._store(self._lists[0], fileno)

    def _store(self, name: str, fileno: int) -> None:
        self._say("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", descriptors=[fileno])

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            self._say("FDSTOREREMOVE=1", f"FDNAME={name}")

    def _warn(self, count: int) -> None:
        if not self._isTold:
            self._isTold = True
            _log.warn(
                "descriptors are not stored: there are {count}, and room for {room} "
                "(FileDescriptorStoreMax= of systemd)",
                count=count,
                room=self._room,
            )


def roomOf(environment: Mapping[str, str]) -> int:
    """
    @return: how many descriptors the service manager takes: systemd sets it from version
        254 on, and a unit may set it for an older one.
    """
    room = environment.get("FDSTORE", "")
    return int(room) if room.isascii() and room.isdigit() else 0
