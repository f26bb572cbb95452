"""
What all generations of a service have counted, together.

The numbers lie in a file in memory (memfd_create(2)), which goes from generation to
generation: so they never decrease, whether by a switch, a rollback or a killed process, and
a process that drains counts where its successor looks.  Each process counts in a row of its
own, which it has locked (fcntl(2)): the kernel unlocks that of one that has ended, and a
later one goes on there.  A total is the sum over all rows.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from contextlib import suppress
from typing import Any

from txtableflip._handover.forks import keepFromForks
from txtableflip._handover.manifest import UnknownEntry
from txtableflip._journal import (
    DrainCancelled,
    Drained,
    Event,
    Failed,
    Final,
    Journal,
    Migrated,
    ProcessLogger,
)
from txtableflip._sockets.inventory import Descriptor, HasDescriptor, Inventory

KIND = "counters"
"""
The kind of the entry of that file.  The inventory does not know it, and passes it on as it
does any unknown kind; so does a release that has no counters.
"""

NAMES = (
    *("accepted", "drained", "aborted", "done", "failed", "rolledBack", "stopped"),
    *("migrated", "returned", "stayed"),
)
"""
What is counted, in the order of a row, which is that of any release: connections that
were accepted, that closed by themselves while their process drained, and that had to be
aborted; upgrades, by their outcome; and connections that were to migrate, by theirs.
"""

_ROWS = 64
_CELLS = 64
_SIZE = 8 * _ROWS * _CELLS

_log = ProcessLogger()


class Counters:
    """
    What this process counts, and all before it and beside it.
    """

    def __init__(self, inventory: Inventory) -> None:
        """
        @param inventory: passes the file on.
        """
        self._inventory = inventory
        self._row: Any = [0] * _CELLS
        self._all: Any = self._row
        self._lock = Descriptor(-1)

    def begin(self) -> None:
        """
        Continue what the others have counted.  Not earlier: a process that becomes a daemon
        loses its locks.
        """
        if self._all is not self._row:
            return
        try:
            file = _inherited(self._inventory) or _make(self._inventory)
            rows = memoryview(mmap.mmap(file.fileno(), _SIZE)).cast("Q")
            self._lock = _reopen(file)
            first = _lockRow(self._lock) * _CELLS
        except (AttributeError, OSError, ValueError) as error:
            _log.warn("the metrics count this process only: {reason}", reason=str(error))
            return
        mine = rows[first : first + _CELLS]
        for cell, count in enumerate(self._row):
            mine[cell] += count
        self._row, self._all = mine, rows
        Journal.listeners.append(self.hear)

    def end(self) -> None:
        """
        Stop listening, and leave the row to others.
        """
        with suppress(ValueError):
            Journal.listeners.remove(self.hear)
        self._lock.close()

    def add(self, name: str, count: int = 1) -> None:
        """
        Count something.

        @param name: one of L{NAMES}.
        """
        self._row[NAMES.index(name)] += count

    def totals(self) -> dict[str, int]:
        """
        @return: what all generations have counted, by name.
        """
        return {name: sum(self._all[cell::_CELLS]) for cell, name in enumerate(NAMES)}

    def hear(self, event: Event) -> None:
        """
        Something has happened.
        """
        if isinstance(event, Final):
            self.add("done")
        elif isinstance(event, Failed):
            self.add(event.outcome)
        elif isinstance(event, Drained):
            self.add("drained", event.finished)
            self.add("aborted", event.cut)
        elif isinstance(event, DrainCancelled):
            self.add("aborted", event.cut)
        elif isinstance(event, Migrated):
            self.add("migrated", event.connections)
            self.add("returned", event.returned)
            self.add("stayed", event.stayed)


def _inherited(inventory: Inventory) -> HasDescriptor | None:
    """
    @raise ValueError: if the file that was inherited has another length.
    """
    for entry, handle in inventory.passedOn:
        if entry["key"]["kind"] == KIND:
            size = os.fstat(handle.fileno()).st_size
            if size != _SIZE:
                raise ValueError(f"the file of the counters has {size} bytes, not {_SIZE}")
            return handle
    return None


def _make(inventory: Inventory) -> HasDescriptor:
    """
    @raise AttributeError: where there are no files in memory.
    @raise OSError: if that fails.
    """
    file = Descriptor(os.memfd_create("txtableflip-counters"))
    os.ftruncate(file.fileno(), _SIZE)
    key = {"kind": KIND, "network": "", "address": "", "ordinal": 0}
    inventory.passedOn.append((UnknownEntry(key=key, unknown="keep"), file))
    return file


def _reopen(file: HasDescriptor) -> Descriptor:
    """
    @return: the file by an open file description of its own.  A lock of the process would
        be released when it closes any descriptor of the file, such as the copy that waits
        for the service manager.
    @raise OSError: if that fails.
    """
    own = Descriptor(os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDWR | os.O_CLOEXEC))
    keepFromForks(own)
    return own


def _lockRow(file: HasDescriptor) -> int:
    """
    @return: the number of the first row that no process counts in; the last one is shared
        by all that find none.
    """
    for row in range(_ROWS - 1):
        place = (os.SEEK_SET, 8 * _CELLS * row, 8 * _CELLS)
        with suppress(BlockingIOError, PermissionError):
            # The layout of struct flock, with off_t of 64 bits.
            lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, *place, 0)
            fcntl.fcntl(file.fileno(), fcntl.F_OFD_SETLK, lock)
            return row
    return _ROWS - 1
