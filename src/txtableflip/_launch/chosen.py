"""
What started this process.
"""

from __future__ import annotations

from functools import cache

from txtableflip._launch.charge import isInCharge
from txtableflip._launch.launcher import Launcher
from txtableflip._launch.twistd import Twistd, TwistdInside, findRunner, isItself


@cache
def findLauncher() -> Launcher:
    """
    Find out, once, what started this process.  Do not call this before the log is opened
    or the reactor runs: before that twistd's runner may not be on the stack, and the
    process would count as plain permanently.

    @return: what started this process.
    """
    runner = findRunner()
    if runner is None:
        return Launcher()
    if isInCharge():
        return TwistdInside(runner, looksAtPidFile=False)
    return Twistd(runner) if isItself(runner) else TwistdInside(runner)
