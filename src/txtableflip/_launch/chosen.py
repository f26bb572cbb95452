"""
What started this process.
"""

from __future__ import annotations

from functools import cache

from txtableflip._launch.launcher import Launcher
from txtableflip._launch.twistd import Twistd, findRunner


@cache
def findLauncher() -> Launcher:
    """
    Find out, once, what started this process.  Do not ask before the log is opened
    or the reactor runs: until then nothing may lead to twistd's runner, and the
    process would count as plain for ever.

    @return: what started this process.
    """
    runner = findRunner()
    return Launcher() if runner is None else Twistd(runner)
