"""
What is started as the next generation: which command, where, and with what
environment.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from txtableflip._launch.bundle import isFrozen
from txtableflip._launch.envfile import readEnvironment
from txtableflip._launch.origin import (
    CHANNEL_DESCRIPTOR,
    CHANNEL_VARIABLE,
    DIRECTORY,
    START,
    UNDO_VARIABLE,
)

_SYSTEMD = (
    *("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"),
    *("WATCHDOG_PID", "SYSTEMD_EXEC_PID", "MAINPID"),
)
"""
Variables that systemd sets for one process only, see sd_listen_fds(3),
sd_watchdog_enabled(3) and systemd.exec(5).
"""

_CHANGE_DIRECTORY = "import os, sys; os.chdir(sys.argv[1]); os.execv(sys.argv[2], sys.argv[3:])"


@dataclass(frozen=True)
class Command:
    """
    What to start.

    @ivar directory: where it is to run, as a name and not as an inode, so that
        a symbolic link in it leads to the current release.
    @ivar envFile: the path of a file with more of its environment, if there is
        one.
    @ivar name: what the program is to be called (C{argv[0]}), if that is not its
        path.
    """

    executable: str
    arguments: tuple[str, ...]
    directory: str
    envFile: str | None = None
    name: str | None = None

    def __str__(self) -> str:
        return shlex.join([self.executable, *self.arguments])

    @property
    def where(self) -> str:
        """
        In words, where it would run if it were started now.
        """
        real = os.path.realpath(self.directory)
        through = f" (through {self.directory})" if real != self.directory else ""
        return f"{real}{through}"

    def argv(self) -> list[str]:
        """
        @return: the command line that runs this where it is to run.  If that is not our
            working directory, or it is to have another name, an interpreter in between does
            that, or the shell, where there is none: we cannot chdir(2) for a moment, as
            that would move all our threads, and a fork(2) for it would copy the page tables
            of a large process.
        """
        direct = [self.name or self.executable, *self.arguments]
        try:
            if self.name is None and os.path.samefile(self.directory, "."):
                return direct
        except OSError:
            pass
        if isFrozen():
            return ["/bin/sh", "-c", 'cd -- "$0" && exec "$@"', self.directory, *direct]
        code = ["-I", "-S", "-c", _CHANGE_DIRECTORY]
        return [START.program, *code, self.directory, self.executable, *direct]

    def environment(self, first: Mapping[str, str]) -> dict[str, str]:
        """
        @param first: the environment of the first generation.
        @return: that of the child: the first one's, without what is meant for that
            process alone, and what the file says now.
        @raise OSError: if that file cannot be read.
        @raise EnvironmentFileError: if it has an invalid line.
        """
        inherited = {name: value for name, value in first.items() if name not in _SYSTEMD}
        said = readEnvironment(self.envFile) if self.envFile is not None else {}
        own = {"PWD": self.directory, CHANNEL_VARIABLE: str(CHANNEL_DESCRIPTOR)}
        if said:
            own[UNDO_VARIABLE] = json.dumps({name: inherited.get(name) for name in said})
        return {**inherited, **said, **own}


def successorCommand(
    arguments: Sequence[str],
    replacement: Sequence[str] | None = None,
    envFile: str | None = None,
    directory: str | None = None,
) -> Command:
    """
    @param arguments: those with which the interpreter is to be started again.
    @param replacement: the command that the user has given instead of that, if any.
    @param envFile: the path of a file with more of the child's environment, as seen
        from where the child is to run.
    @param directory: where that is, if not where this process was started: an
        absolute path.
    @return: what to start.  The interpreter is named absolutely, since it finds
        its virtual environment by that name.
    """
    where = DIRECTORY if directory is None else os.path.join(DIRECTORY, directory)
    if envFile is not None:
        envFile = os.path.join(where, envFile)
    if replacement:
        program, *others = replacement
        found = shutil.which(program, path=START.environment.get("PATH", os.defpath))
        return Command(found or program, tuple(others), where, envFile)
    return Command(START.program, tuple(arguments), where, envFile, START.name)
