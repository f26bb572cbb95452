"""
What a process has to know of the program that started it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from twisted.logger import ILogObserver, textFileLogObserver

from txtableflip._launch.command import Command, successorCommand
from txtableflip._launch.origin import ARGUMENTS
from txtableflip._launch.preflight import findObstacles


class Launcher:
    """
    The plain case: an interpreter runs a program, without twistd.
    L{txtableflip._launch.twistd} is the other case; L{txtableflip._launch.chosen} finds
    which it is.
    """

    def arguments(self) -> Sequence[str]:
        """
        @return: those of the interpreter that make a successor of this process,
            which is not to become a daemon.
        """
        return ARGUMENTS

    def command(
        self,
        replacement: Sequence[str] | None = None,
        envFile: str | None = None,
        directory: str | None = None,
    ) -> Command:
        """
        @param replacement: the command that the user has given, if any.
        @param envFile: the path of a file with more of the child's environment.
        @param directory: where the child is to run, if the user has said so.
        @return: the replacement, or the command that this process was started with.
        """
        return successorCommand(self.arguments(), replacement, envFile, directory)

    def takePidFile(self) -> str | None:
        """
        Take over what the launcher would do with a pid file.

        @return: the path of the file, if it has one.
        """
        return None

    def checkSignal(self, name: str) -> None:
        """
        @param name: of the signal that is to redeploy, with or without C{SIG}.
        @raise ValueError: if the launcher has another use for it.
        """

    def shareLog(self) -> None:
        """
        Let a successor write to the log file that the launcher has opened.
        """

    def observer(self) -> ILogObserver:
        """
        @return: what the launcher logs to, made so that a successor can write there, too.
        """
        return textFileLogObserver(sys.stdout)

    def obstacles(self, descriptions: Iterable[str]) -> list[str]:
        """
        @param descriptions: the endpoint strings of this process.
        @return: what would keep a successor from starting, in words.
        """
        return findObstacles(descriptions)
