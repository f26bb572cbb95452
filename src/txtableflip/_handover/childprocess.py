"""
The process of a child, or both: a wrapper may have started it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress

from txtableflip._handover.pidfd import Pidfd
from txtableflip._handover.spawned import Spawned, isOpen
from txtableflip.errors import Phase, UpgradeFailed


class ChildProcess(Spawned):
    """
    The process that this one has started; and the one that greeted it, which is
    another if a wrapper stands between.

    @ivar stderr: a copy of ours, for the child to have when it is final.
    """

    def __init__(self, whenEnded: Callable[[], object]) -> None:
        # Closed with this object at the latest, should the rest not be had.
        self.stderr = open(os.dup(2) if isOpen(2) else os.devnull, "wb", 0)  # noqa: SIM115
        super().__init__(whenEnded)
        self._greeted: Pidfd | None = None

    def greetedBy(self, pid: int) -> None:
        """
        The child has this process id, by its own word.
        """
        self._greeted = Pidfd(pid)

    @property
    def _wrapped(self) -> Pidfd | None:
        """
        The process that greeted us, if it is not the one that we have started.
        """
        greeted = self._greeted
        return None if greeted is None or greeted.pid == self.pid else greeted

    @property
    def isUnwrapped(self) -> bool:
        """
        Whether it is known that what was started is the child.
        """
        return self._greeted is not None and self._wrapped is None

    @property
    def outlives(self) -> bool:
        """
        Whether the child is known to live, whatever became of a wrapper.
        """
        return self._wrapped is not None and self._wrapped.hasEnded is False

    @property
    def isGone(self) -> bool:
        """
        Whether the child is known to have ended, whatever holds its standard error
        open.
        """
        return self._greeted is not None and bool(self._greeted.hasEnded)

    def signalAll(self, name: str, *, isConnected: bool) -> None:
        """
        Send a signal to the process that was started, and to the one that greeted us
        if a wrapper stands between.

        @param name: without C{SIG}.
        @param isConnected: whether the child has the channel still, so that its
            process id is not another's.
        """
        self.signal(name)
        child, number = self._wrapped, getattr(signal, f"SIG{name}")
        if child is None:
            return
        with suppress(ProcessLookupError, PermissionError, OverflowError):
            if child.hasEnded is not None:
                child.send(number)
            elif isConnected:
                os.kill(child.pid, number)

    def failure(self, error: type[UpgradeFailed], what: str, phase: Phase) -> UpgradeFailed:
        """
        @return: the error, with all that is known of how this ended.
        """
        return error(
            what,
            phase=phase,
            pid=self.pid,
            exitStatus=self.exitStatus,
            signal=self.signalNumber,
            stderr=self.lastLines,
        )
