"""
Zero-downtime process upgrades for Twisted.

To import this, or any module in it, records how the process was started: it takes
the channel to the parent out of the environment (C{TXTABLEFLIP_CHANNEL}), and
remembers the directory and the arguments (C{txtableflip._launch.origin}).  So
import it before the directory is changed, and only in the process that is to be
upgraded.  Nothing else is done at import.
"""

from txtableflip._launch.signals import StopHandler
from txtableflip.drain import IDrainable, IDrainableFactory, OpenConnection
from txtableflip.endpoints import InheritableEndpoint
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
    NothingListens,
    NotInheritable,
    NotOnProbation,
    NotReady,
    NotSupported,
    OnProbation,
    ParentTimedOut,
    PidFileError,
    Refusal,
    RolledBack,
    Stopping,
    TableflipError,
    UpgradeError,
    UpgradeFailed,
    UpgradeInProgress,
    UpgraderExists,
)
from txtableflip.fds import Changes, Descriptor, Fds
from txtableflip.interfaces import IUpgrader
from txtableflip.service import UpgradeService
from txtableflip.upgrader import Upgrader, currentUpgrader

__all__ = [
    "Abandoned",
    "AlreadyUpgraded",
    "Changes",
    "ChannelError",
    "ChildExited",
    "ChildNotStarted",
    "ChildProtocolError",
    "ChildRefused",
    "ChildTimedOut",
    "Descriptor",
    "EnvironmentFileError",
    "Fds",
    "HandoverFailed",
    "IDrainable",
    "IDrainableFactory",
    "IUpgrader",
    "InheritableEndpoint",
    "InvalidEndpoint",
    "NotInheritable",
    "NotOnProbation",
    "NotReady",
    "NotSupported",
    "NothingListens",
    "OnProbation",
    "OpenConnection",
    "ParentTimedOut",
    "PidFileError",
    "Refusal",
    "RolledBack",
    "StopHandler",
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
