"""
The log of a twistd process, which its next version writes to as well.

The name L{observer} is in the command lines of successors (C{--logger=}), and so it is part
of the protocol between releases, and never changes.
"""

from __future__ import annotations

from twisted.logger import ILogObserver

from txtableflip._launch.chosen import findLauncher

__all__ = ["observer"]


def observer() -> ILogObserver:
    """
    The value of C{--logger}: make the log observer that twistd would have made
    (the application's; else C{--logfile}, C{twistd.log}, or standard output),
    with a file that is shared.
    """
    return findLauncher().observer()
