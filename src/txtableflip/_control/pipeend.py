"""
The reading end of a pipe to which nothing is written: its end of file says that every
process with the writing end has closed it, or has exited.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.python.failure import Failure

from txtableflip._handover.forks import keepFromForks

_AT_ONCE = 4096


class PipeEnd(FileDescriptor):
    """
    Reports, once, that no process has the writing end any more.
    """

    def __init__(self, reactor: Any, fileno: int, ended: Callable[[], object]) -> None:
        """
        @param fileno: the number of the reading end, which is this object's from now on.
        """
        super().__init__(reactor)
        self._fileno = fileno
        self._ended = ended
        os.set_blocking(fileno, False)
        keepFromForks(self)
        self.startReading()

    def fileno(self) -> int:
        return self._fileno

    def doRead(self) -> None:
        with suppress(BlockingIOError):
            if os.read(self._fileno, _AT_ONCE):
                return
            self._end()

    def connectionLost(self, reason: Failure) -> None:
        # epoll calls this at the end of a pipe, and any reactor does when it shuts down.
        poll = select.poll()
        poll.register(self._fileno, 0)
        if poll.poll(0):
            self._end()
        else:
            self.close()

    def _end(self) -> None:
        self.close()
        self._ended()

    def close(self) -> None:
        """
        Stop watching.
        """
        self.stopReading()
        fileno, self._fileno = self._fileno, -1
        if fileno >= 0:
            os.close(fileno)
