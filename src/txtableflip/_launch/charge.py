"""
A twistd that is run by a program which we run (C{python -m txtableflip}).

Its options are the program's, and no successor's command line can have others: they are
changed when the program hands them over, before twistd has looked at them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from twisted.application.app import ApplicationRunner
from twisted.logger import ILogObserver

from txtableflip._launch.pidfile import removeStale
from txtableflip._launch.twistd import keepLogFile

_isTaken = False


def isInCharge() -> bool:
    """
    @return: whether this process runs a program of somebody's.
    """
    return _isTaken


def takeCharge(
    observer: Callable[[], ILogObserver], *, isChild: bool, hasPidFile: bool
) -> None:
    """
    Have each twistd of this process do what makes its upgrades possible: its log is
    shared; a stale pid file is not in its way; and it does not start itself once more,
    to change its name, for it would do so without us.  In a child it stays in the
    foreground, and leaves the pid file alone, as it does wherever that is not its own.

    @param observer: makes what a twistd logs to, if nobody else does.
    @param isChild: whether this process was started in an upgrade.
    @param hasPidFile: whether somebody else keeps one.
    """
    global _isTaken  # noqa: PLW0603 - there is one process
    _isTaken = True
    initialise = ApplicationRunner.__init__

    @wraps(initialise)
    def initialiseInCharge(runner: Any, config: Any) -> None:
        config["originalname"] = True
        if not (config.get("logger") or config.get("syslog")):
            keepLogFile(config)
            config["logger"] = observer
        if isChild:
            config["nodaemon"] = True
        if isChild or hasPidFile:
            config["pidfile"] = ""
        if config.get("pidfile"):
            removeStale(config["pidfile"])
        initialise(runner, config)

    ApplicationRunner.__init__ = initialiseInCharge  # type: ignore[method-assign]
