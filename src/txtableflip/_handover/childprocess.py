"""
The process of a child, or both: a wrapper may have started it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from io import FileIO

from twisted.python.failure import Failure

from txtableflip._handover.lastoutput import outputEntry, stdoutEntry, writeAll
from txtableflip._handover.messages import Manifest
from txtableflip._handover.pidfd import Pidfd
from txtableflip._handover.spawned import Spawned, isOpen
from txtableflip.errors import Phase, UpgradeFailed


class ChildProcess(Spawned):
    """
    The process that this one has started; and the one that greeted it, which is
    another if a wrapper stands between.

    @ivar stderr: a copy of ours, for the child to use once it is final.
    @ivar stdout: the same; and what this process reads of the child's goes there.
    """

    def __init__(self, whenEnded: Callable[[], object]) -> None:
        self.stderr = _copyOf(2)
        self.stdout = _copyOf(1)
        super().__init__(whenEnded)
        self._greeted: Pidfd | None = None

    def withStreams(
        self, manifest: Manifest, descriptors: Sequence[int]
    ) -> tuple[Manifest, list[int]]:
        """
        @return: what the child inherits, with our standard streams and the reading ends of
            its own, which it reads once this process no longer does.
        """
        ends = self.readingEnds()
        read = [outputEntry(stream, fileno, "close") for stream, fileno in ends.items()]
        entries = (*manifest.entries, stdoutEntry(), *read)
        stderr, stdout = self.stderr.fileno(), self.stdout.fileno()
        sent = [stderr, *descriptors, stdout, *ends.values()]
        return replace(manifest, entries=entries), sent

    def outReceived(self, data: bytes) -> None:
        super().outReceived(data)
        writeAll(self.stdout.fileno(), data)

    def processEnded(self, reason: Failure) -> None:
        self.stdout.close()
        super().processEnded(reason)

    def greetedBy(self, pid: int) -> Pidfd:
        """
        The child has this process id, as the kernel reports it where it can.

        @return: the child.
        """
        self._greeted = Pidfd(pid)
        return self._greeted

    def close(self) -> None:
        """
        Close what this process holds open for it: nothing more is wanted of it.
        """
        self.stderr.close()
        if self.pid is None:
            # It never started: no event will say that it has ended.
            self.stdout.close()
        if self._greeted is not None:
            self._greeted.close()

    @property
    def childPid(self) -> int | None:
        """
        The process that greeted us; before that, the one that we have started.
        """
        return self.pid if self._greeted is None else self._greeted.pid

    @property
    def maySignal(self) -> bool:
        """
        Whether this process may signal the child: it may not if that is another user's.
        """
        try:
            if self._greeted is not None and self._greeted.isKnown:
                self._greeted.send(0)
        except PermissionError:
            return False
        except OSError:
            pass
        return True

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
        Whether the process that we have started is known to be the child.
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


def _copyOf(stream: int) -> FileIO:
    """
    @return: a copy of one of our standard streams.  If the other copy cannot be made, this
        one is closed when it is collected.
    """
    return FileIO(os.dup(stream) if isOpen(stream) else os.devnull, "wb")
