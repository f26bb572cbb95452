"""
A process that is known by a descriptor, so that nobody is mistaken for it when its
number is given again (pidfd_open(2)).
"""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress


class Pidfd:
    """
    A process.  Where there are no pidfds, nothing is known of it.
    """

    def __init__(self, pid: int) -> None:
        """
        @param pid: of a process that lives, or is a zombie still.
        """
        self.pid = pid
        self._fileno = -1
        with suppress(AttributeError, OSError, OverflowError):
            self._fileno = os.pidfd_open(pid)

    @property
    def hasEnded(self) -> bool | None:
        """
        Whether it has, if that is known: a zombie has.
        """
        if self._fileno < 0:
            return None
        poll = select.poll()
        poll.register(self._fileno, select.POLLIN)
        return bool(poll.poll(0))

    def send(self, number: int) -> None:
        """
        Send it a signal.

        @raise OSError: if that may not be, or it is not known any more.
        """
        signal.pidfd_send_signal(self._fileno, number)

    def kill(self) -> None:
        """
        End it at once.

        @raise OSError: if that may not be, or it is not known any more.
        """
        self.send(signal.SIGKILL)

    def close(self) -> None:
        """
        Nothing is wanted of it any more.
        """
        fileno, self._fileno = self._fileno, -1
        if fileno >= 0:
            os.close(fileno)

    __del__ = close
