"""
Zero-downtime process upgrades for Twisted.

To import this, or any module in it, records how the process was started: it takes
the channel to the parent out of the environment (C{TXTABLEFLIP_CHANNEL}), and
remembers the directory and the arguments (C{txtableflip._launch.origin}).  So
import it before the directory is changed, and only in the process that is to be
upgraded.  Nothing else is done at import, but that in the next version the signal that
redeploys, which the old one has blocked for it, is remembered, and that it is as nice,
on as many processors and with such limits as the first generation was
(C{txtableflip._launch.limits}).
"""

from importlib import import_module
from typing import TYPE_CHECKING

from txtableflip._launch import limits as _limits  # noqa: F401 - they act at import
from txtableflip._launch import origin as _origin

if TYPE_CHECKING:
    from txtableflip._launch.signals import StopHandler
    from txtableflip.drain import (
        IDrainable,
        IDrainableFactory,
        IResumable,
        OpenConnection,
        Work,
    )
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
        InvalidRequest,
        NoAnswer,
        NobodyThere,
        NotExpected,
        NothingListens,
        NotInheritable,
        NotOnProbation,
        NotReady,
        NotSupported,
        OnProbation,
        ParentTimedOut,
        PidFileError,
        Refusal,
        Rehearsed,
        RolledBack,
        SentAway,
        Stopping,
        TableflipError,
        UpgradeError,
        UpgradeFailed,
        UpgradeInProgress,
        UpgraderExists,
    )
    from txtableflip.fds import Changes, Descriptor, Fds
    from txtableflip.interfaces import IUpgrader
    from txtableflip.migration import (
        ConnectionMigrated,
        IMigratable,
        IMigratableFactory,
        Snapshot,
    )
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
    "ConnectionMigrated",
    "Descriptor",
    "EnvironmentFileError",
    "Fds",
    "HandoverFailed",
    "IDrainable",
    "IDrainableFactory",
    "IMigratable",
    "IMigratableFactory",
    "IResumable",
    "IUpgrader",
    "InheritableEndpoint",
    "InvalidEndpoint",
    "InvalidRequest",
    "NoAnswer",
    "NobodyThere",
    "NotExpected",
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
    "Rehearsed",
    "RolledBack",
    "SentAway",
    "Snapshot",
    "StopHandler",
    "Stopping",
    "TableflipError",
    "UpgradeError",
    "UpgradeFailed",
    "UpgradeInProgress",
    "UpgradeService",
    "Upgrader",
    "UpgraderExists",
    "Work",
    "currentUpgrader",
]

__version__ = "0.1.0"

_HOMES = (
    *("errors", "interfaces", "drain", "migration"),
    *("fds", "endpoints", "upgrader", "service"),
)

if _origin.hasChannel():
    # What is blocked is to be remembered before the application does anything else.
    import_module("txtableflip._launch.signals")


def __getattr__(name: str) -> object:
    """
    Import what is asked for, and no more: the C{tableflip} command, which needs nothing
    of Twisted, would otherwise take as long to start as a service.
    """
    if name in _HOMES:
        return import_module(f"{__name__}.{name}")
    if name in __all__:
        for home in _HOMES:
            module = import_module(f"{__name__}.{home}")
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
