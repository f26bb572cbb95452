"""
What a process has to know of the program that started it, and the plain case: an
interpreter, and nothing else.  The other is L{txtableflip._launch.twistd}; which it
is, L{txtableflip._launch.chosen} finds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Protocol

from twisted.logger import ILogObserver, textFileLogObserver

from txtableflip._launch.command import Command, successorCommand
from txtableflip._launch.origin import ARGUMENTS
from txtableflip._launch.preflight import findObstacles


class Launcher(Protocol):
    """
    What is known of how this process was started.
    """

    def command(self, replacement: Sequence[str] | None, envFile: str | None) -> Command:
        """
        @param replacement: the command that the user has given, if any.
        @param envFile: the path of a file with more of the child's environment.
        @return: that; or the command that this process was started with, for a
            child that is not to become a daemon.
        """

    def takePidFile(self) -> str | None:
        """
        Take over what the launcher would do with a pid file.

        @return: the path of the file, if it has one.
        """

    def shareLog(self) -> None:
        """
        Let a successor write to the log file that the launcher has opened.
        """

    def observer(self) -> ILogObserver:
        """
        @return: what the launcher logs to, such that a successor can write there,
            too.
        """

    def obstacles(self, descriptions: Iterable[str]) -> list[str]:
        """
        @param descriptions: the endpoint strings of this process.
        @return: what this user may not do and a successor would have to, in words.
        """


class Plain(Launcher):
    """
    An interpreter that runs a program: nobody else has a hand in it.
    """

    def command(self, replacement: Sequence[str] | None, envFile: str | None) -> Command:
        return successorCommand(ARGUMENTS, replacement, envFile)

    def takePidFile(self) -> str | None:
        return None

    def shareLog(self) -> None:
        pass

    def observer(self) -> ILogObserver:
        return textFileLogObserver(sys.stdout)

    def obstacles(self, descriptions: Iterable[str]) -> list[str]:
        return findObstacles(descriptions)
