"""
The exit status of a process that could not do what it was started for.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from contextlib import suppress

_failed: list[bool] = []


def fail() -> None:
    """
    Make this process exit with status 1, however the program ends, so that its supervisor
    acts: C{reactor.run} does not return a status.
    """
    _failed.append(True)


@atexit.register
def _exit() -> None:
    if _failed:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(1)
