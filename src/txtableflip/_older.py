"""
Everybody who was there before this process, and lives.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.abstract import FileDescriptor

from txtableflip._handover.manifest import UnknownEntry
from txtableflip._journal import ProcessLogger
from txtableflip._observers import OneShot
from txtableflip._sockets.inventory import Descriptor, HasDescriptor, Inventory
from txtableflip.interfaces import Reactor

KIND = "generation"
"""
The kind of the entry of a process, whose descriptor is a pidfd (pidfd_open(2)).  It is
none of the inventory's, which passes it on as what only others know.
"""

TERM_INTERVAL = 1.0
"""
How long a generation too many has between one SIGTERM and the next, in seconds.
"""

_SIGNALS = (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL)
"""
The first has no effect on a process that drains; the second has it end at once.
"""

_log = ProcessLogger()


class Older:
    """
    The generations before this one, which drain: each hands to the next what those
    before it are known by, and itself, so that nobody needs to wait for another, and
    one that is killed breaks no chain.

    @ivar areGone: that nobody of them is left.
    @ivar areKnown: whether any were handed to this process.
    """

    def __init__(self, reactor: Reactor, inventory: Inventory) -> None:
        self.areGone = OneShot()
        self._reactor = reactor
        self._inventory = inventory
        self._left: list[_Watched] = []
        for entry, handle in inventory.passedOn:
            if entry["key"]["kind"] == KIND:
                self._left.append(_Watched(reactor, entry, handle, self._ended))
        self.areKnown = bool(self._left)
        self._isIncluded = False

    def watch(self) -> None:
        """
        Learn when they end.
        """
        for each in self._left:
            each.startReading()

    def include(self, generation: int) -> None:
        """
        Have the next generation know this one, too.  Not earlier: a process that
        becomes a daemon is another one by then.
        """
        if self._isIncluded:
            return
        self._isIncluded = True
        with suppress(AttributeError, OSError):
            ourselves = Descriptor(os.pidfd_open(os.getpid()))
            key = {"kind": KIND, "network": "", "address": str(generation), "ordinal": 0}
            entry = UnknownEntry(key=key, unknown="keep", pid=os.getpid())
            self._inventory.passedOn.append((entry, ourselves))

    def limit(self, count: int) -> None:
        """
        Let no more than so many live, this one included: the oldest are ended.
        """
        for each in self._left[: max(0, len(self._left) + 1 - count)]:
            _log.warn(
                "ending process {older}, which still drains: there are {count} generations",
                older=each.pid,
                count=len(self._left) + 1,
            )
            self._end(each, *_SIGNALS)

    def _end(self, watched: _Watched, number: int, *more: int) -> None:
        if watched in self._left:
            watched.signal(number)
            if more:
                self._reactor.callLater(TERM_INTERVAL, self._end, watched, *more)

    def _ended(self, watched: _Watched) -> None:
        self._left.remove(watched)
        self._inventory.passedOn.remove(watched.passedOn)
        watched.passedOn[1].close()
        if not self._left:
            self.areGone.fire()


class _Watched(FileDescriptor):
    """
    A process, whose pidfd can be read when it has ended.
    """

    def __init__(
        self,
        reactor: Any,
        entry: UnknownEntry,
        handle: HasDescriptor,
        tell: Callable[[_Watched], object],
    ) -> None:
        super().__init__(reactor)
        self.passedOn = (entry, handle)
        self.pid = entry.get("pid")
        self._tell = tell

    def fileno(self) -> int:
        return self.passedOn[1].fileno()

    def doRead(self) -> None:
        self.stopReading()
        self._tell(self)

    def signal(self, number: int) -> None:
        """
        Send a signal, if that may be.
        """
        with suppress(OSError):
            signal.pidfd_send_signal(self.fileno(), number)
