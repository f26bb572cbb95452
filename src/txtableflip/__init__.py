"""
Zero-downtime process upgrades for Twisted.

To import this, or any module in it, records how the process was started: it takes
the channel to the parent out of the environment (C{TXTABLEFLIP_CHANNEL}), and
remembers the directory and the arguments (C{txtableflip._launch.origin}).  So
import it before the directory is changed, and only in the process that is to be
upgraded.  Nothing else is done at import.
"""

from txtableflip.errors import (
    Abandoned,
    AlreadyUpgraded,
    ChannelError,
    ChildExited,
    ChildNotStarted,
    ChildProtocolError,
    ChildRefused,
    ChildTimedOut,
    EnvironmentFileError,
    HandoverFailed,
    InvalidEndpoint,
    NotInheritable,
    NotReady,
    NotSupported,
    ParentStillRunning,
    ParentTimedOut,
    PidFileError,
    Refusal,
    Stopping,
    TableflipError,
    UpgradeError,
    UpgradeFailed,
    UpgradeInProgress,
    UpgraderExists,
)
from txtableflip.fds import Fds
from txtableflip.service import UpgradeService
from txtableflip.upgrader import Upgrader, currentUpgrader

__all__ = [
    "Abandoned",
    "AlreadyUpgraded",
    "ChannelError",
    "ChildExited",
    "ChildNotStarted",
    "ChildProtocolError",
    "ChildRefused",
    "ChildTimedOut",
    "EnvironmentFileError",
    "Fds",
    "HandoverFailed",
    "InvalidEndpoint",
    "NotInheritable",
    "NotReady",
    "NotSupported",
    "ParentStillRunning",
    "ParentTimedOut",
    "PidFileError",
    "Refusal",
    "Stopping",
    "TableflipError",
    "UpgradeError",
    "UpgradeFailed",
    "UpgradeInProgress",
    "UpgradeService",
    "Upgrader",
    "UpgraderExists",
    "currentUpgrader",
]
