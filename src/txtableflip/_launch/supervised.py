"""
Supervisors that watch the process id of this process, and would take an upgrade for its
exit.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from txtableflip._journal import ProcessLogger
from txtableflip._launch.origin import KEEPER

_log = ProcessLogger()

PROCESS_1 = (
    "this is process 1, which exits with the first upgrade, and its container with it: start "
    "it by tableflip run -- COMMAND, whose process id stays the same"
)
SUPERVISORD = (
    "supervisord takes the exit of this process, which an upgrade brings, for the exit of "
    "the service. Have it start tableflip run -- COMMAND, whose process id stays the same"
)
SYSTEMD = (
    "systemd takes the exit of this process, which an upgrade brings, for the exit of the "
    "service. Have ExecStart=tableflip run -- COMMAND and Type=notify in its unit; or make "
    "it "
    "a daemon, with Type=forking and PIDFile="
)


def warnOfWatchers() -> None:
    """
    Warn if a supervisor watches this process, a first generation.
    """
    if KEEPER is not None:
        return
    watcher = watchedBy(os.environ, os.getpid(), os.getsid(0), os.getppid())
    if watcher is not None:
        _log.warn("{watcher}", watcher=watcher)


def watchedBy(
    environment: Mapping[str, str], pid: int, session: int, parent: int
) -> str | None:
    """
    @param session: the session of that process: systemd gives one to each process that
        it starts, and a daemon is not the leader of its own.
    @param parent: the parent of that process.
    @return: what watches a first generation, and what to do about it; C{None} if nothing
        does.
    """
    if pid == 1:
        return PROCESS_1
    if "SUPERVISOR_ENABLED" in environment:
        return SUPERVISORD
    isSystemds = "INVOCATION_ID" in environment or "NOTIFY_SOCKET" in environment
    if isSystemds and pid == session and parent == 1:
        return SYSTEMD
    return None
