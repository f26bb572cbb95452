"""
What this process does besides its connections, and should finish before it exits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, succeed

from txtableflip._observers import OneShot


class Work(NamedTuple):
    """
    Something that is not finished, for display.

    @ivar what: what it is, in words.
    @ivar seconds: for how long it has been going on.
    """

    what: str
    seconds: int


class Task:
    """
    Something that is not finished: a job, or a port without connections.

    @ivar what: what it is, in words.
    @ivar protocol: of a port, which is asked how it ends (L{IDrainable
        <txtableflip.IDrainable>}).
    @ivar close: finishes it, if it has been told to end and has.
    """

    def __init__(
        self, tasks: Tasks, what: str, protocol: Any, close: Callable[[], object]
    ) -> None:
        self.what = what
        self.protocol = protocol
        self.close = close
        self._tasks = tasks
        self._began = time.monotonic()

    def __str__(self) -> str:
        return self.what

    def describe(self) -> Work:
        """
        @return: it, for display.
        """
        return Work(self.what, int(time.monotonic() - self._began))

    def finish(self) -> None:
        """
        Report it as finished, in one way or another; only the first time counts.
        """
        self._tasks.finished(self)


class Tasks:
    """
    All that is not finished.
    """

    def __init__(self) -> None:
        self._open: dict[Task, None] = {}
        self._allFinished = OneShot()

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Task]:
        return iter(list(self._open))

    def begin(
        self, what: str, protocol: Any = None, close: Callable[[], object] = lambda: None
    ) -> Task:
        """
        @return: what has begun.
        """
        task = Task(self, what, protocol, close)
        self._open[task] = None
        return task

    def finished(self, task: Task) -> None:
        """
        One of them is finished.
        """
        if task not in self._open:
            return
        del self._open[task]
        if not self._open:
            self._allFinished.fire()
            self._allFinished = OneShot()

    def describe(self) -> list[Work]:
        """
        @return: all of them, for display.
        """
        return [task.describe() for task in self]

    def names(self) -> str:
        """
        @return: all of them, in words.
        """
        return ", ".join(map(str, self._open))

    def whenAllFinished(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when nothing is left.
        """
        return self._allFinished.wait() if self._open else succeed(None)
