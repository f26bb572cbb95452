"""
How the next generation is started: which command, where, and with what
environment.
"""

from __future__ import annotations

import getopt
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from txtableflip._launch.envfile import readEnvironment
from txtableflip._launch.twistd import findRunner

CHANNEL_VARIABLE = "TXTABLEFLIP_CHANNEL"
"""
The environment variable by which a child learns the number of the descriptor
that connects it with its parent.
"""

CHANNEL_DESCRIPTOR = 3
"""
That number: the first behind the standard ones, which is where nothing else is
in a process that has just been started.
"""

_SYSTEMD = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID")
"""
What systemd says to one process only, see sd_listen_fds(3) and
sd_watchdog_enabled(3).
"""


@dataclass(frozen=True)
class Command:
    """
    What to start.

    @ivar directory: where it is to run, as a name and not as an inode, so that
        a symbolic link in it leads to the release of the day.
    @ivar envFile: the path of a file with more of its environment, if there is
        one.
    """

    executable: str
    arguments: tuple[str, ...]
    directory: str
    envFile: str | None = None

    def __str__(self) -> str:
        return shlex.join([self.executable, *self.arguments])


def recordDirectory(environment: Mapping[str, str]) -> str:
    """
    @return: the working directory by the name that the user's shell gave it
        (C{PWD}), if that is true; else by its own; the root directory if it has
        been removed.
    """
    named = environment.get("PWD", "")
    try:
        if os.path.isabs(named) and os.path.samefile(named, "."):
            return named
    except OSError:
        pass
    try:
        return os.getcwd()
    except FileNotFoundError:
        return os.sep


DIRECTORY = recordDirectory(os.environ)
"""
Where this process was started.
"""

_ARGUMENTS = tuple(sys.orig_argv[1:])
_TWISTD_ARGUMENTS = tuple(sys.argv[1:])


def successorCommand(
    replacement: Sequence[str] | None = None, envFile: str | None = None
) -> Command:
    """
    @param replacement: the command that the user has given, if any.
    @param envFile: the path of a file with more of the child's environment.
    @return: that; or the command that this process was started with, for a
        child that is not to become a daemon.  The interpreter is named
        absolutely, since it finds its virtual environment by that name.
    """
    if envFile is not None:
        envFile = os.path.join(DIRECTORY, envFile)
    if replacement:
        program, *others = replacement
        return Command(shutil.which(program) or program, tuple(others), DIRECTORY, envFile)
    arguments = _ARGUMENTS
    own = len(arguments) - len(_TWISTD_ARGUMENTS)
    if findRunner() is not None and arguments[own:] == _TWISTD_ARGUMENTS:
        arguments = (*arguments[:own], *keepInForeground(_TWISTD_ARGUMENTS))
    return Command(sys.executable, arguments, DIRECTORY, envFile)


def keepInForeground(arguments: Sequence[str]) -> list[str]:
    """
    Make twistd's arguments those of a child: it must not become a daemon,
    which would look as if it had died; nor touch the pid file, which names its
    parent; nor change its name, for which it would start itself once more and
    lose the channel; nor write to the log file as if it were alone.  All that
    is inserted behind the user's own options, because the last one counts.

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
        log.append("--logger=txtableflip.log.observer")
        if not names & {"-n", "--nodaemon", "-b", "--debug", "-l", "--logfile"}:
            log.append("--logfile=twistd.log")
    return [*before, *log, *_FOREGROUND, *after]


_FOREGROUND = ("--nodaemon", "--pidfile=", "--originalname")


def _isWhole(parse: Callable[[Sequence[str]], object], some: Sequence[str]) -> bool:
    """
    @return: whether these options lack no value, so that C{--} after them is
        the end of the options and not the value of the last one.
    """
    try:
        parse(some)
    except getopt.GetoptError:
        return False
    return True


def successorEnvironment(environment: Mapping[str, str], command: Command) -> dict[str, str]:
    """
    @return: the environment of a child: ours, without what is meant for this
        process alone, and what the command's file says now.
    @raise OSError: if that file cannot be read.
    @raise EnvironmentFileError: if it has a line that cannot be understood.
    """
    inherited = {name: value for name, value in environment.items() if name not in _SYSTEMD}
    said = readEnvironment(command.envFile) if command.envFile is not None else {}
    ours = {"PWD": command.directory, CHANNEL_VARIABLE: str(CHANNEL_DESCRIPTOR)}
    return {**inherited, **said, **ours}


_CHANGE_DIRECTORY = "import os, sys; os.chdir(sys.argv[1]); os.execv(sys.argv[2], sys.argv[2:])"


def inDirectory(command: Command) -> list[str]:
    """
    @return: the command line that runs the command where it is to run.  If
        that is not where we are, an interpreter in between goes there: we
        cannot for a moment, because our threads would go with us, and to
        fork(2) for it would copy the page tables of a large process.
    """
    direct = [command.executable, *command.arguments]
    try:
        if os.path.samefile(command.directory, "."):
            return direct
    except OSError:
        pass
    return [sys.executable, "-I", "-S", "-c", _CHANGE_DIRECTORY, command.directory, *direct]
