"""
A twistd that is run by a program which we run (C{python -m txtableflip}).

Its options come from the program, so a successor's command line cannot change them: they
are changed when the program passes them on, before twistd reads them.
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
    @return: whether this process runs a program as C{python -m txtableflip} does.
    """
    return _isTaken


def takeCharge(
    observer: Callable[[], ILogObserver], *, isChild: bool, hasPidFile: bool
) -> None:
    """
    Make each twistd of this process do what its upgrades need: its log is shared; a stale
    pid file does not stop it; and it does not start itself once more to change its name,
    because that would be without us.  In a child it stays in the foreground, and does not
    touch the pid file; nor does it where the upgrader keeps that.

    @param observer: makes the log observer, if the options do not name one.
    @param isChild: whether this process was started in an upgrade.
    @param hasPidFile: whether the upgrader keeps the pid file.
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
