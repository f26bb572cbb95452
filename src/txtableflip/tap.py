"""
The command C{twistd tableflip}.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from typing import Any

from twisted.application.service import IProcess, IService, MultiService
from twisted.logger import ILogObserver
from twisted.python import usage
from twisted.python.components import Componentized

from txtableflip._generation import MAX_GENERATIONS
from txtableflip._journal import ProcessLogger
from txtableflip._launch.application import ApplicationError, findApplication
from txtableflip._launch.envfile import readEnvironment
from txtableflip._launch.pidfile import removeStale
from txtableflip._launch.signals import redeploySignal
from txtableflip._launch.twistd import OBSERVER
from txtableflip.errors import NotSupported, PidFileError
from txtableflip.service import DRAIN_TIMEOUT, REDEPLOY_SIGNAL, UpgradeService
from txtableflip.upgrader import UPGRADE_TIMEOUT, Upgrader, checkTimeout

_log = ProcessLogger()


def _seconds(value: str) -> float:
    seconds = float(value)
    checkTimeout("a timeout", seconds)
    return seconds


def _command(value: str) -> list[str]:
    words = shlex.split(value)
    if not words:
        raise ValueError("a command names a program")
    return words


class Options(usage.Options):
    """
    What C{twistd tableflip} understands.
    """

    synopsis = "[options] --app APPLICATION [-- options of APPLICATION]"
    longdesc = (
        "Run an application whose endpoints begin with tableflip: (as in "
        "tableflip:tcp:8080). On SIGHUP its next version is started beside it, takes over "
        "the listening sockets when it is ready, and this one finishes what it began. "
        "APPLICATION is module:attribute; or a module with an attribute application, "
        "service or makeService; or a .tac or .py file with one; or another twistd "
        "command, whose own options follow after --."
    )
    optParameters: tuple[tuple[object, ...], ...] = (
        ("app", "a", None, "What to run."),
        (
            "upgrade-timeout",
            None,
            UPGRADE_TIMEOUT,
            "Seconds that a new process may take until it is ready.",
            _seconds,
        ),
        (
            "drain-timeout",
            None,
            DRAIN_TIMEOUT,
            "Seconds that open connections may take to finish after an upgrade.",
            _seconds,
        ),
        (
            "probation",
            None,
            0.0,
            "Seconds after it took over in which a new process may be taken back.",
            float,
        ),
        (
            "health-check",
            None,
            None,
            "Ask this command while on probation: if it fails thrice, the old process serves.",
            _command,
        ),
        (
            "max-generations",
            None,
            MAX_GENERATIONS,
            "How many processes may live, of which all but one drain.",
            int,
        ),
        ("signal", "s", REDEPLOY_SIGNAL, "The signal that redeploys."),
        (
            "command",
            None,
            None,
            "Start this as the next version, and not what this one was started as.",
            _command,
        ),
    )
    optFlags: tuple[tuple[object, ...], ...] = (
        (
            "inherit-all",
            None,
            "Make all that listens inheritable, with or without tableflip: before it.",
        ),
    )
    upgrader: Upgrader | None = None
    envFile: str | None = None
    makeApplication: Callable[[], object]

    def opt_env_file(self, path: str) -> None:
        """
        Set the environment variables in this file (NAME=value), now and for each
        next version.
        """
        try:
            os.environ.update(readEnvironment(path))
        except (OSError, ValueError) as error:
            raise usage.UsageError(f"--env-file: {error}") from error
        self.envFile = path

    def parseArgs(self, *arguments: str) -> None:
        """
        Keep the options of the application.
        """
        self["arguments"] = arguments

    def postOptions(self) -> None:
        """
        Refuse what cannot work, and load the application.

        @raise usage.UsageError: with what is wrong, and what to write instead.
        """
        twistd: Any = self.parent
        if not self["app"]:
            raise usage.UsageError("--app is missing: say what to run, as in --app web")
        if twistd.get("chroot"):
            raise usage.UsageError(
                "--chroot cannot be used: the next version could not be started from "
                "inside, where there is no Python"
            )
        try:
            redeploySignal(self["signal"])
            self.upgrader = self._makeUpgrader()
            if self["inherit-all"] and self.upgrader is not None:
                self.upgrader.reactor.inheritAll()
            self.makeApplication = findApplication(self["app"], self["arguments"], twistd)
        except (ValueError, ApplicationError) as error:
            if self.upgrader is not None:
                # twistd says it on a standard output that a daemon does not have.
                self.upgrader.refuse(error)
            raise usage.UsageError(str(error)) from error
        if twistd.get("pidfile"):
            try:
                removeStale(twistd["pidfile"])
            except PidFileError as error:
                raise usage.UsageError(str(error)) from error
        if not (twistd.get("logger") or twistd.get("syslog")):
            twistd["logger"] = OBSERVER

    def _makeUpgrader(self) -> Upgrader | None:
        """
        Make the L{Upgrader}, before the application is loaded: its first
        C{tableflip:} string would make one that does not know our options.
        """
        from twisted.internet import reactor  # noqa: PLC0415 - twistd has chosen it

        try:
            return Upgrader(
                reactor,
                self["upgrade-timeout"],
                command=self["command"],
                envFile=self.envFile,
                maxGenerations=self["max-generations"],
                probation=self["probation"],
                healthCheck=self["health-check"],
            )
        except NotSupported as error:
            _log.warn("there will be no upgrades: {error}", error=str(error))
            return None


class Host(MultiService):
    """
    The application and what upgrades it.
    """

    def __init__(self, application: Any) -> None:
        super().__init__()
        self._application = application
        IService(application).setServiceParent(self)

    def setServiceParent(self, parent: Any) -> None:
        """
        Become twistd's application, with what the user's may have decided: its
        log, its user and its name.
        """
        super().setServiceParent(parent)
        for interface in (ILogObserver, IProcess):
            component = interface(self._application, None)
            if component is not None and isinstance(self._application, Componentized):
                parent.setComponent(interface, component)


def makeService(options: Options) -> IService:
    """
    Make the service that L{Options} describes.
    """
    host = Host(options.makeApplication())
    if options.upgrader is not None:
        UpgradeService(
            options.upgrader, options["drain-timeout"], options["signal"]
        ).setServiceParent(host)
    return host
