"""
Zero-downtime process upgrades for Twisted.
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
