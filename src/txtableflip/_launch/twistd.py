"""
The twistd around this process, if there is one.

Theory of twistd: what it does, in this order, and what we do about it.

  1. It parses its options.  Each plugin is imported, ours too, which records how
     this process was started (L{txtableflip._launch.origin}).  The options of the
     subcommand C{tableflip} are complete before twistd's own are: their
     C{postOptions} makes the L{Upgrader <txtableflip.Upgrader>}, which knows them,
     before the application's first C{tableflip:} string would make one which does
     not; loads the application; deletes a stale pid file, because twistd checks that
     next; and names our log observer in twistd's options, which twistd looks up
     after that.
  2. It makes its runner (L{ApplicationRunner}).  From here on it can be
     found (L{txtableflip._launch.chosen}): in the main thread, on the stack, and
     nowhere else.
  3. The runner checks the pid file: it refuses to start if that names a living
     process.
  4. It makes the application: C{makeService} of a subcommand, or the C{.tac} file.
     There an application that has not called us before makes its endpoints.
  5. It opens the log, by the name in its options and in the directory that is
     current: L{Twistd.observer}.
  6. It changes its process.  To change its name it starts itself once more, and all
     that was inherited is lost, so a child has C{--originalname}.  It becomes a
     daemon, which its parent would take for its death, so a child has
     C{--nodaemon}.  It writes the pid file, which still names the parent, so a child
     has C{--pidfile=} (L{keepInForeground}).
  7. It starts the services, the privileged ones first, and becomes another user
     in between.
  8. It runs the reactor.  In its first turn the L{UpgradeService
     <txtableflip.UpgradeService>} makes the log a shared one (L{Twistd.shareLog})
     and takes over the pid file (L{Twistd.takePidFile}): it edits the runner's
     options, in which twistd will look when it exits.
  9. It removes the pid file that these options name, whatever that contains.
"""

from __future__ import annotations

import getopt
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from twisted.application.app import ApplicationRunner, run
from twisted.logger import ILogObserver, textFileLogObserver
from twisted.python.components import Componentized
from twisted.python.log import ILogObserver as ILegacyLogObserver

from txtableflip._launch.launcher import Launcher
from txtableflip._launch.logfile import SharedLogFile, appendOnly
from txtableflip._launch.origin import ARGUMENTS, DIRECTORY, PROGRAM_ARGUMENTS
from txtableflip._launch.preflight import findObstacles
from txtableflip._launch.signals import redeploySignal

OBSERVER = "txtableflip.log.observer"
"""
The value of C{--logger} by which twistd makes a shared log.  It is in the command lines of
successors, and never changes.
"""

_MOST_DESCRIPTORS = 1024
"""
The log file's descriptor is below this, because it is opened early.
"""

_FOREGROUND = ("--nodaemon", "--pidfile=", "--originalname")


def findRunner() -> Any:
    """
    @return: the L{ApplicationRunner} that runs this process, or C{None}: twistd keeps it
        only on the stack.
    """
    frame = sys._getframe()  # noqa: SLF001
    while frame is not None:
        runner = frame.f_locals.get("self")
        if isinstance(runner, ApplicationRunner):
            return runner
        frame = frame.f_back  # type: ignore[assignment]
    return None


def isItself(runner: Any) -> bool:
    """
    @return: whether twistd is the program that runs, and has read its options from the
        command line.  If not, another program has made them.
    """
    if ARGUMENTS[len(ARGUMENTS) - len(PROGRAM_ARGUMENTS) :] != PROGRAM_ARGUMENTS:
        return False
    return _isRunAsProgram() and (
        tuple(sys.argv[1:]) == PROGRAM_ARGUMENTS or _isNamedInArguments(runner.config)
    )


def _isRunAsProgram() -> bool:
    """
    @return: whether the function by which twistd reads C{sys.argv} is on the stack.
    """
    frame = sys._getframe()  # noqa: SLF001
    while frame is not None:
        if frame.f_code is run.__code__:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _isNamedInArguments(config: Any) -> bool:
    """
    @return: whether the command line says what twistd runs.  If C{sys.argv} differs by now,
        the application has changed it in that case, and otherwise the caller of twistd.
    """
    named = getattr(config, "subCommand", None) or config.get("python") or config.get("file")
    return bool(named) and any(word.endswith(named) for word in PROGRAM_ARGUMENTS)


class Twistd(Launcher):
    """
    twistd, as it runs.
    """

    def __init__(self, runner: Any) -> None:
        self._runner = runner

    def arguments(self) -> Sequence[str]:
        own = len(ARGUMENTS) - len(PROGRAM_ARGUMENTS)
        return [*ARGUMENTS[:own], *keepInForeground(PROGRAM_ARGUMENTS)]

    def takePidFile(self) -> str | None:
        # twistd would remove any file there when it exits, which may be the successor's by
        # then.
        path: str | None = self._runner.config.get("pidfile")
        self._runner.config["pidfile"] = ""
        return path or None

    def checkSignal(self, name: str) -> None:
        checkSignal(name)

    def shareLog(self) -> None:
        path = self._logPath()
        if not os.path.isfile(path):
            return
        for fileno in _openDescriptors():
            # One is closed: that by which the directory was read.
            with suppress(OSError):
                if os.path.samestat(os.fstat(int(fileno)), os.stat(path)):
                    appendOnly(int(fileno))

    def observer(self) -> ILogObserver:
        # A .tac file may ask before the runner has its application.
        application = getattr(self._runner, "application", Componentized())
        for interface in (ILogObserver, ILegacyLogObserver):
            # The older kind, too: twistd wraps it.
            its: ILogObserver | None = application.getComponent(interface)
            if its is not None:
                return its
        config = self._runner.config
        path = config.get("logfile")
        if path == "-" and not config["nodaemon"]:
            sys.exit("Daemons cannot log to stdout, exiting!")
        if path == "-" or (config["nodaemon"] and not path):
            return super().observer()
        log = SharedLogFile.fromFullPath(path or "twistd.log")
        _rotateOnSignal(log)
        return textFileLogObserver(log)

    def obstacles(self, descriptions: Iterable[str]) -> list[str]:
        return findObstacles(descriptions, self._logPath())

    def _logPath(self) -> str:
        """
        @return: where the log file is, if there is one.  twistd opened it by this name, and
            may have changed its directory since.
        """
        return os.path.join(DIRECTORY, self._runner.config.get("logfile") or "twistd.log")


class TwistdInside(Twistd):
    """
    twistd, run by a program with its own command line, such as C{tahoe run}: that is
    started again as it was, and L{stayInForeground} or, earlier,
    L{txtableflip._launch.charge} tells twistd what it must not do.
    """

    def __init__(self, runner: Any, *, looksAtPidFile: bool = True) -> None:
        """
        @param looksAtPidFile: whether a successor would check the pid file in its options.
        """
        super().__init__(runner)
        self._pidFile = looksAtPidFile and runner.config.get("pidfile")

    def arguments(self) -> Sequence[str]:
        return ARGUMENTS

    def obstacles(self, descriptions: Iterable[str]) -> list[str]:
        found = super().obstacles(descriptions)
        if self._pidFile:
            found.append(
                f"upgrades will fail, because this program has twistd look at the pid file "
                f"{self._pidFile}, where the next "
                "version would find this process, and exit: give twistd --pidfile= there, and "
                "name the file in Upgrader(pidFile=...), or start twistd itself"
            )
        return found


def stayInForeground() -> None:
    """
    Make a twistd whose options are not on the command line do what L{keepInForeground} asks
    of one: in a child, before its runner continues with the application that is just being
    made.
    """
    runner = findRunner()
    if runner is None:
        return
    config = runner.config
    if not (config.get("logger") or config.get("syslog")):
        keepLogFile(config)
        # It has looked for one in the options already.
        runner.logger._observerFactory = Twistd(runner).observer  # noqa: SLF001
    config.update(nodaemon=True, pidfile="", originalname=True)


def keepLogFile(config: Any) -> None:
    """
    Name the log file, as a twistd that stays in the foreground would log to standard output.
    """
    if not (config.get("nodaemon") or config.get("logfile")):
        config["logfile"] = "twistd.log"


def _openDescriptors() -> Iterable[str | int]:
    """
    @return: the numbers of all open descriptors, at least; where they are not listed, as in
        some chroots, all possible numbers.
    """
    for directory in ("/proc/self/fd", "/dev/fd"):
        with suppress(OSError):
            return os.listdir(directory)
    return range(_MOST_DESCRIPTORS)


def checkSignal(name: str) -> None:
    """
    @raise ValueError: if that signal has a meaning under twistd.
    """
    if redeploySignal(name) == signal.SIGUSR1:
        raise ValueError("SIGUSR1 has twistd rotate its log: use HUP, USR2 or another signal")


def _rotateOnSignal(log: SharedLogFile) -> None:
    """
    Rotate on SIGUSR1, as twistd does, unless the application uses that signal.
    """

    def rotate(number: int, frame: object) -> None:
        # The reactor must not be chosen by an import.
        from twisted.internet import reactor  # noqa: PLC0415

        theReactor: Any = reactor
        theReactor.callFromThread(log.rotate)

    if not signal.getsignal(signal.SIGUSR1):
        signal.signal(signal.SIGUSR1, rotate)


def keepInForeground(arguments: Sequence[str]) -> list[str]:
    """
    Make twistd's arguments those of a child: it must not become a daemon, which would look
    as if it had died; nor touch the pid file, which names its parent; nor change its name,
    for which it would start itself once more and lose the channel; nor write to the log
    file as if it were its only writer.  All that is inserted after the user's own options,
    because the last one counts.

    @param arguments: what follows C{twistd} on the command line.
    """
    # Here, because it imports much, and only twistd's processes need it.
    from twisted.scripts._twistd_unix import ServerOptions  # noqa: PLC0415

    options = ServerOptions()

    def parse(some: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
        return getopt.getopt(list(some), options.shortOpt, options.longOpt)

    try:
        given, rest = parse(arguments)
    except getopt.GetoptError:
        # twistd would not have started with these.
        return list(arguments)
    place = len(arguments) - len(rest)
    if place and arguments[place - 1] == "--" and _isWhole(parse, arguments[: place - 1]):
        place -= 1
    before, after = arguments[:place], arguments[place:]
    # Compared as twistd reads them: the first might be another option's value.
    if given[-len(_FOREGROUND) :] == parse(_FOREGROUND)[0]:
        return list(arguments)
    names = {name for name, _ in given}
    log = []
    if not names & {"--logger", "--syslog"}:
        log.append(f"--logger={OBSERVER}")
        if not names & {"-n", "--nodaemon", "-b", "--debug", "-l", "--logfile"}:
            log.append("--logfile=twistd.log")
    return [*before, *log, *_FOREGROUND, *after]


def _isWhole(parse: Callable[[Sequence[str]], object], some: Sequence[str]) -> bool:
    """
    @return: whether no value is missing from these options, so that C{--} after them ends
        the options and is not the value of the last one.
    """
    try:
        parse(some)
    except getopt.GetoptError:
        return False
    return True
