"""
What a process reports about itself.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from txtableflip._control.address import secondsSince
from txtableflip._generation import Generation
from txtableflip._journal import ProcessLogger
from txtableflip._steps import Account, Core


def statusOf(generation: Generation, core: Core) -> dict[str, Any]:
    """
    This may be called in any thread: what it reads may change meanwhile.

    @return: what this process is, has open, and knows of others.
    """
    return {
        "pid": os.getpid(),
        "generation": generation.number,
        "state": core.state,
        "since": core.since,
        "servingSince": core.servingSince,
        "uptime": secondsSince(os.getpid()),
        "release": ProcessLogger.release,
        "directory": directoryOf(os.getpid()),
        "command": shlex.join(sys.orig_argv),
        "listeners": _listeners(generation),
        "drain": generation.describeDrain(),
        "migration": generation.migration.describe(),
        "parent": generation.parentPid,
        "child": generation.child.livingPid,
        "older": list(generation.olderPids),
        "lastUpgrade": _lastUpgrade(generation, core),
        "counters": generation.counters.totals(),
    }


def directoryOf(pid: int | None) -> str | None:
    """
    @return: the working directory of a process, with links resolved, if it can be read.
    """
    with suppress(OSError):
        return os.readlink(f"/proc/{pid}/cwd")
    return None


def _listeners(generation: Generation) -> list[dict[str, Any]]:
    """
    @return: the listeners in use, and how many connections each has.
    """
    counts = generation.connections.counts()
    names = dict.fromkeys([*generation.inventory.listeners(), *counts])
    return [{"name": name, "connections": counts.get(name, 0)} for name in names]


def _lastUpgrade(generation: Generation, core: Core) -> dict[str, Any] | None:
    """
    @return: how the last upgrade went that this process began, or else the one that started
        this process.
    """
    final = generation.finalSince
    if core.lastUpgrade is not None:
        return asdict(core.lastUpgrade)
    if generation.number > 1 and final is not None:
        began = time.time() - secondsSince(os.getpid())
        return asdict(Account(began, "done", ended=final))
    return None
