"""
The address of a process's control socket: an abstract UNIX name (unix(7)), computed from
what identifies that process, so that there is no file to configure, to own, or to clean up.

Of the standard library only: the C{tableflip} command does not wait for Twisted's import.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from txtableflip._kernel import startedAt
from txtableflip.errors import NobodyThere


def addressOf(pid: int) -> str:
    """
    @param pid: of a process, as this one sees it; in a pid namespace below this one's, it
        has another pid for itself.
    @return: the name at which it listens if it is one of ours.
    @raise NobodyThere: if there is no such process, or it is not ours to ask.
    """
    proc = Path("/proc") / str(pid)
    try:
        namespace = (proc / "ns" / "pid").stat().st_ino
        status = (proc / "status").read_text()
        started = startedAt(pid)
    except (FileNotFoundError, ProcessLookupError):
        raise NobodyThere(f"there is no process {pid}") from None
    except PermissionError:
        raise NobodyThere(f"process {pid} may not be asked: {_whose(proc)}") from None
    return f"\0txtableflip/{namespace}/{_pidToItself(status)}/{started}"


def secondsSince(pid: int) -> float:
    """
    @return: how long ago a process was started.
    @raise OSError: if there is none.
    """
    started = startedAt(pid) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def sharesPids(pid: int) -> bool:
    """
    @return: whether the process ids that a process reports mean the same to this one.
    """
    with suppress(OSError):
        ours, theirs = (os.readlink(f"/proc/{each}/ns/pid") for each in ("self", pid))
        return ours == theirs
    # It has exited meanwhile.
    return True


def whyUnheard(pid: int) -> str:
    """
    @return: why a living process cannot be reached.
    """
    with suppress(OSError):
        ours, theirs = (os.readlink(f"/proc/{each}/ns/net") for each in ("self", pid))
        if ours != theirs:
            return (
                "it runs in a container, or has a network of its own otherwise: ask from "
                f"there, such as by nsenter --target {pid} --all"
            )
    return "it does not run under txtableflip, or is just starting, or is about to exit"


def _whose(proc: Path) -> str:
    """
    @return: why the kernel refuses to tell more about a process.
    """
    with suppress(OSError):
        owner = proc.stat().st_uid
        if owner != os.geteuid():
            return (
                f"it belongs to user {owner}, and this is user {os.geteuid()}: ask as that "
                "user, or as root"
            )
    return "it has privileges that this one has not, or has just ended"


def _pidToItself(status: str) -> str:
    """
    @return: the id that a process has in its own pid namespace (proc_pid_status(5)).
    """
    _, _, behind = status.partition("\nNSpid:")
    return behind.split("\n", 1)[0].split()[-1]
