"""
Kills a process that does not exit by itself.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable

from txtableflip._journal import ProcessLogger

LOG_TIMEOUT = 1.0
"""
How long the last entry in the log may take, in seconds.
"""

EXIT_STATUS = 1
"""
The exit status of a process that had to be killed.
"""

_log = ProcessLogger()


class Watchdog:
    """
    Kills this process at a time that may be moved, whatever the process does then, with a
    last entry in the log that says what still runs.
    """

    def __init__(self, unfinished: Callable[[], list[str]]) -> None:
        """
        @param unfinished: returns what the reactor waits for, in words; called in another
            thread.
        """
        self._unfinished = unfinished
        self._moved = threading.Condition()
        self._end = 0.0
        self._thread: threading.Thread | None = None

    def endIn(self, seconds: float) -> None:
        """
        Kill this process in so many seconds, instead of at the time that was set before.
        """
        with self._moved:
            self._end = time.monotonic() + seconds
            self._moved.notify()
        if self._thread is None:
            self._start()

    def _start(self) -> None:
        self._thread = threading.Thread(
            target=self._run, daemon=True, name="txtableflip watchdog"
        )
        try:
            self._thread.start()
        except RuntimeError as error:
            # The successor may have used up the limit on processes.
            _log.error(
                "cannot start the exit watchdog; this process will not be killed if it hangs: "
                "{error}",
                error=str(error),
            )

    def _run(self) -> None:
        with self._moved:
            while (left := self._end - time.monotonic()) > 0:
                self._moved.wait(left)
        try:
            # The thread that hangs may hold a lock that a line in the log needs.
            writer = threading.Thread(target=self._sayWhatRuns, daemon=True)
            writer.start()
            writer.join(LOG_TIMEOUT)
        finally:
            os._exit(EXIT_STATUS)

    def _sayWhatRuns(self) -> None:
        _log.critical(
            "this process did not exit in time and is killed. Still running: {running}",
            running="; ".join([*self._unfinished(), *whatRuns()]),
        )


def whatRuns() -> list[str]:
    """
    @return: what each thread that keeps this process alive is doing.
    """
    frames = sys._current_frames()  # noqa: SLF001 - the documented way to ask
    found = []
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if thread.daemon or frame is None:
            continue
        where = traceback.extract_stack(frame)[-1]
        found.append(f"{thread.name} in {where.name} ({where.filename}:{where.lineno})")
    return found
