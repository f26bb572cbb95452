"""
The command C{twistd tableflip}.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.service import IProcess, IService, MultiService
from twisted.logger import ILogObserver
from twisted.python import usage
from twisted.python.components import Componentized
from twisted.python.log import ILogObserver as ILegacyLogObserver

from txtableflip._journal import ProcessLogger
from txtableflip._launch.application import ApplicationError, findApplication
from txtableflip._launch.pidfile import removeStale
from txtableflip._launch.twistd import OBSERVER, checkSignal
from txtableflip.errors import NotSupported, PidFileError
from txtableflip.options import UpgradeOptions
from txtableflip.upgrader import Upgrader

_log = ProcessLogger()


def _removeStale(path: str | None) -> None:
    if path:
        try:
            removeStale(path)
        except PidFileError as error:
            raise usage.UsageError(str(error)) from error


class Options(UpgradeOptions):
    """
    What C{twistd tableflip} understands.
    """

    synopsis = "[options] --app APPLICATION [-- options of APPLICATION]"
    longdesc = (
        "Run an application whose endpoints begin with tableflip: (as in "
        "tableflip:tcp:8080). On SIGHUP its next version is started beside it, takes over "
        "the listening sockets when it is ready, and this one drains. "
        "APPLICATION is module:attribute; or a module with an attribute application, "
        "service or makeService; or a .tac or .py file with one; or another twistd "
        "command, whose own options follow after --."
    )
    optParameters: tuple[tuple[object, ...], ...] = (("app", "a", None, "What to run."),)
    upgrader: Upgrader | None = None
    makeApplication: Callable[[], object]

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
        self.checkUpgradeOptions()
        try:
            if "nodaemon" in twistd:
                # twist rotates nothing.
                checkSignal(self["signal"])
            self.upgrader = self._makeUpgrader()
        except ValueError as error:
            raise usage.UsageError(str(error)) from error
        try:
            # A ValueError here is the application's, and keeps its traceback.
            self.makeApplication = findApplication(self["app"], self["arguments"], twistd)
        except ApplicationError as error:
            if self.upgrader is not None:
                # twistd says it on a standard output that a daemon does not have.
                self.upgrader.refuse(error)
            raise usage.UsageError(str(error)) from error
        _removeStale(twistd.get("pidfile"))
        if not (twistd.get("logger") or twistd.get("syslog")):
            twistd["logger"] = OBSERVER

    def _makeUpgrader(self) -> Upgrader | None:
        """
        Make the L{Upgrader}, before the application is loaded: its first
        C{tableflip:} string would make one that does not know our options.
        """
        from twisted.internet import reactor  # noqa: PLC0415 - twistd has chosen it

        try:
            return self.makeUpgrader(reactor)
        except NotSupported as error:
            _log.warn("upgrades are disabled: {error}", error=str(error))
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
        for interface in (ILogObserver, ILegacyLogObserver, IProcess):
            component = interface(self._application, None)
            if component is not None and isinstance(self._application, Componentized):
                parent.setComponent(interface, component)


def makeService(options: Options) -> IService:
    """
    Make the service that L{Options} describes.
    """
    host = Host(options.makeApplication())
    if options.upgrader is not None:
        options.makeUpgradeService(options.upgrader).setServiceParent(host)
    return host
