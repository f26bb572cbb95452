"""
The older processes that still run.
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
from txtableflip._observers import OneShot, SteadyClock
from txtableflip._sockets.inventory import Descriptor, HasDescriptor, Inventory
from txtableflip.interfaces import Reactor

KIND = "generation"
"""
The kind of the entry of a process, whose descriptor is a pidfd (pidfd_open(2)).  The
inventory does not know it, and passes it on as it does any unknown kind.
"""

TERM_INTERVAL = 1.0
"""
How long a surplus generation has between one SIGTERM and the next, in seconds.
"""

_SIGNALS = (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL)
"""
The first has no effect on a process that drains; the second makes it exit at once.
"""

_log = ProcessLogger()


class Older:
    """
    The generations before this one, which drain: each hands the pidfds of those before it,
    and its own, to the next, so that none needs to wait for another, and one that is killed
    does not break the chain.

    @ivar areGone: that none of them is left.
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

    @property
    def pids(self) -> list[int]:
        """
        Their process ids, as they have said, the oldest first.
        """
        return [each.pid for each in self._left if isinstance(each.pid, int)]

    def watch(self) -> None:
        """
        Learn when they end.
        """
        for each in self._left:
            each.startReading()

    def include(self, generation: int) -> None:
        """
        Let the next generation know this one, too.  Not earlier: a process that becomes a
        daemon is another one by then.
        """
        if not self._isIncluded:
            self._isIncluded = True
            self._handOn(generation, os.getpid())

    def includeFailed(self, generation: int, pid: int) -> None:
        """
        Let the next generation know a child that has not replaced this process, and may
        have connections to finish.
        """
        passedOn = self._handOn(generation, pid)
        if passedOn is not None:
            _Watched(self._reactor, *passedOn, self._ended).startReading()

    def _handOn(self, generation: int, pid: int) -> tuple[UnknownEntry, HasDescriptor] | None:
        with suppress(AttributeError, OSError):
            handle = Descriptor(os.pidfd_open(pid))
            key = {"kind": KIND, "network": "", "address": str(generation), "ordinal": 0}
            passedOn = UnknownEntry(key=key, unknown="keep", pid=pid), handle
            self._inventory.passedOn.append(passedOn)
            return passedOn
        return None

    def limit(self, count: int) -> None:
        """
        Let no more than so many run, this one included: the oldest are terminated.
        """
        for each in self._left[: max(0, len(self._left) + 1 - count)]:
            _log.warn(
                "terminating process {older}, which still drains: there are {count} "
                "generations",
                older=each.pid,
                count=len(self._left) + 1,
            )
            self._end(each, *_SIGNALS)

    def _end(self, watched: _Watched, number: int, *more: int) -> None:
        if watched in self._left:
            watched.signal(number)
            if more:
                SteadyClock(self._reactor).callLater(TERM_INTERVAL, self._end, watched, *more)

    def _ended(self, watched: _Watched) -> None:
        self._inventory.passedOn.remove(watched.passedOn)
        watched.passedOn[1].close()
        self._inventory.changed()
        if watched not in self._left:
            # It was younger than this process.
            return
        self._left.remove(watched)
        if not self._left:
            self.areGone.fire()


class _Watched(FileDescriptor):
    """
    A process, whose pidfd is readable once it has ended.
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
        Send a signal, if that is permitted.
        """
        with suppress(OSError):
            signal.pidfd_send_signal(self.fileno(), number)
