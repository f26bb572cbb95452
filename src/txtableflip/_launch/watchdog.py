"""
What ends a process that does not end by itself.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback

from txtableflip._journal import ProcessLogger

LOG_TIMEOUT = 1.0
"""
How long the last entry in the log may take, in seconds.
"""

_log = ProcessLogger()


def endIn(seconds: float, exitStatus: int) -> None:
    """
    End this process after some time, whatever it does then, with a last entry
    in the log that says what held it: a thread that never returns, or
    something that L{reactor.run} waits for before it does.

    @param exitStatus: of the process, if it comes to that.
    """
    timer = threading.Timer(seconds, _end, [exitStatus])
    timer.daemon = True
    timer.name = "txtableflip watchdog"
    try:
        timer.start()
    except RuntimeError as error:
        # The successor may have been the last process that there could be.
        _log.error(
            "cannot start the exit watchdog; this process will not be killed if it hangs: "
            "{error}",
            error=str(error),
        )


def _end(exitStatus: int) -> None:
    try:
        # Whoever holds this process may hold a lock that a line in the log needs.
        writer = threading.Thread(target=_sayWhatRuns, daemon=True)
        writer.start()
        writer.join(LOG_TIMEOUT)
    finally:
        os._exit(exitStatus)


def _sayWhatRuns() -> None:
    _log.critical(
        "this process did not exit in time and is killed. Still running: {running}",
        running="; ".join(whatRuns()),
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
