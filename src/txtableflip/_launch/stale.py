"""
A pid file that has outlived its process.

twistd takes any living process of that number for the one that wrote the file,
and does not start.  Numbers are given again: after a crash, in a container,
soon and to much the same processes.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from twisted.logger import Logger

from txtableflip._launch.pidfile import readPid
from txtableflip.errors import PidFileError

_log = Logger()

_RESOLUTION = 0.02
"""
How exactly the start of a process is known, in seconds.
"""


def removeStale(path: str) -> None:
    """
    Remove a pid file if the process that it names began after the file was
    written, and so cannot have written it; or is this one.  A file that names
    no process, twistd removes by itself.

    @raise PidFileError: if there is something that is no file, which twistd
        would try to read all the same; at a named pipe it would wait for ever.
    """
    file = Path(path)
    if os.path.exists(path) and not os.path.isfile(path):
        raise PidFileError(
            f"the pid file {path} is no regular file: remove it, or name another file"
        )
    try:
        pid = int(readPid(path))
        written = file.stat().st_mtime
        if pid != os.getpid() and startOf(pid) <= written + _RESOLUTION:
            return
        file.unlink()
    except (OSError, ValueError):
        # There is none, or we cannot tell: twistd says what it thinks of it.
        return
    _log.warn(
        "removed the stale pid file {path}: process {pid} is younger than the file",
        path=path,
        pid=pid,
    )


def startOf(pid: int) -> float:
    """
    @return: when a process began, as L{time.time} tells it (proc_pid_stat(5)).
    @raise OSError: if there is no such process, or it cannot be told.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    sinceBoot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - sinceBoot
    return time.time() - age
