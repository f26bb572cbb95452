"""
A process that is known by a descriptor, so that no other is mistaken for it when its
process id is reused (pidfd_open(2)).
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.python.failure import Failure


class Pidfd:
    """
    A process.  Where there are no pidfds, nothing is known of it.
    """

    def __init__(self, pid: int) -> None:
        """
        @param pid: of a process that runs, or is still a zombie.
        """
        self.pid = pid
        self._fileno = -1
        with suppress(AttributeError, OSError, OverflowError):
            self._fileno = os.pidfd_open(pid)

    def fileno(self) -> int:
        """
        @return: the number of the descriptor, which is readable once the process has ended;
            or -1 if there is none.
        """
        return self._fileno

    @property
    def isKnown(self) -> bool:
        """
        Whether there is a pidfd of it, which is open.
        """
        return self._fileno >= 0

    @property
    def hasEnded(self) -> bool | None:
        """
        Whether it has ended, if that is known: a zombie has.
        """
        if self._fileno < 0:
            return None
        return isReadable(self._fileno)

    def send(self, number: int) -> None:
        """
        Send it a signal.

        @raise OSError: if that may not be, or it is not known any more.
        """
        signal.pidfd_send_signal(self._fileno, number)

    def kill(self) -> None:
        """
        Kill it.

        @raise OSError: if that may not be, or it is not known any more.
        """
        self.send(signal.SIGKILL)

    def close(self) -> None:
        """
        Close the descriptor: nothing is known of the process after that.
        """
        fileno, self._fileno = self._fileno, -1
        if fileno >= 0:
            os.close(fileno)

    __del__ = close


class Watch(FileDescriptor):
    """
    Reports, once, when a process has ended.  It has its own descriptor, for a reactor
    cannot forget one that has been closed.
    """

    def __init__(self, reactor: Any, process: Pidfd, ended: Callable[[], object]) -> None:
        super().__init__(reactor)
        self._descriptor = os.dup(process.fileno())
        self._ended = ended

    def fileno(self) -> int:
        return self._descriptor

    def doRead(self) -> None:
        self.stop()
        self._ended()

    def stop(self) -> None:
        """
        Stop watching.
        """
        self.stopReading()
        fileno, self._descriptor = self._descriptor, -1
        if fileno >= 0:
            os.close(fileno)

    def connectionLost(self, reason: Failure) -> None:
        self.stop()


def isReadable(fileno: int) -> bool:
    """
    @return: whether a descriptor can be read at once, if only to its end.
    """
    poll = select.poll()
    poll.register(fileno, select.POLLIN)
    return bool(poll.poll(0))
