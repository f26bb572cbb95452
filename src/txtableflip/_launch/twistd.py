"""
The twistd around this process, if there is one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from twisted.application.app import ApplicationRunner


def findRunner() -> Any:
    """
    @return: the L{ApplicationRunner} that runs this process, or C{None}: twistd
        keeps it nowhere but on the stack.
    """
    frame = sys._getframe()  # noqa: SLF001
    while frame is not None:
        runner = frame.f_locals.get("self")
        if isinstance(runner, ApplicationRunner):
            return runner
        frame = frame.f_back  # type: ignore[assignment]
    return None


def configuration() -> Mapping[str, Any]:
    """
    @return: twistd's options, or none.
    """
    runner = findRunner()
    config: Mapping[str, Any] = runner.config if runner is not None else {}
    return config


def takePidFile() -> str | None:
    """
    Take the pid file out of twistd's hands: it would remove whatever is there
    when it ends, and that may be the successor's by then.

    @return: the path of the pid file, if twistd has one.
    """
    runner = findRunner()
    if runner is None:
        return None
    path: str | None = runner.config.get("pidfile")
    runner.config["pidfile"] = ""
    return path or None
