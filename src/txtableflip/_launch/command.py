"""
What is started as the next generation: which command, where, and with what
environment.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from txtableflip._launch.envfile import readEnvironment
from txtableflip._launch.origin import CHANNEL_DESCRIPTOR, CHANNEL_VARIABLE, DIRECTORY

_SYSTEMD = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID")
"""
What systemd says to one process only, see sd_listen_fds(3) and
sd_watchdog_enabled(3).
"""

_CHANGE_DIRECTORY = "import os, sys; os.chdir(sys.argv[1]); os.execv(sys.argv[2], sys.argv[2:])"


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

    def argv(self) -> list[str]:
        """
        @return: the command line that runs this where it is to run.  If that is
            not where we are, an interpreter in between goes there: we cannot
            for a moment, because our threads would go with us, and to fork(2)
            for it would copy the page tables of a large process.
        """
        direct = [self.executable, *self.arguments]
        try:
            if os.path.samefile(self.directory, "."):
                return direct
        except OSError:
            pass
        return [sys.executable, "-I", "-S", "-c", _CHANGE_DIRECTORY, self.directory, *direct]

    def environment(self, ours: Mapping[str, str]) -> dict[str, str]:
        """
        @param ours: the environment of this process.
        @return: that of the child: ours, without what is meant for this process
            alone, and what the file says now.
        @raise OSError: if that file cannot be read.
        @raise EnvironmentFileError: if it has a line that cannot be understood.
        """
        inherited = {name: value for name, value in ours.items() if name not in _SYSTEMD}
        said = readEnvironment(self.envFile) if self.envFile is not None else {}
        own = {"PWD": self.directory, CHANNEL_VARIABLE: str(CHANNEL_DESCRIPTOR)}
        return {**inherited, **said, **own}


def successorCommand(
    arguments: Sequence[str],
    replacement: Sequence[str] | None = None,
    envFile: str | None = None,
) -> Command:
    """
    @param arguments: those with which the interpreter is to be started again.
    @param replacement: the command that the user has given in the place of
        that, if any.
    @param envFile: the path of a file with more of the child's environment.
    @return: what to start.  The interpreter is named absolutely, since it finds
        its virtual environment by that name.
    """
    if envFile is not None:
        envFile = os.path.join(DIRECTORY, envFile)
    if not replacement:
        return Command(sys.executable, tuple(arguments), DIRECTORY, envFile)
    program, *others = replacement
    return Command(shutil.which(program) or program, tuple(others), DIRECTORY, envFile)
