"""
What both commands understand: C{twistd tableflip}, and C{python -m txtableflip}.
"""

from __future__ import annotations

import os
import shlex
import sys
from typing import Any, NoReturn

from twisted.python import usage

from txtableflip import __version__
from txtableflip._generation import MAX_GENERATIONS, STOP_TIMEOUT
from txtableflip._launch.envfile import readEnvironment
from txtableflip._launch.release import checkRelease, readRelease
from txtableflip._launch.signals import redeploySignal
from txtableflip._sockets.services import inheritServices
from txtableflip.service import DRAIN_TIMEOUT, PROBATION, REDEPLOY_SIGNAL, UpgradeService
from txtableflip.upgrader import (
    UPGRADE_TIMEOUT,
    Upgrader,
    checkDirectory,
    checkMaxGenerations,
    checkProbation,
    checkTimeout,
)


def _seconds(value: str) -> float:
    seconds = float(value)
    checkTimeout("a timeout", seconds)
    return seconds


def _command(value: str) -> list[str]:
    words = shlex.split(value)
    if not words:
        raise ValueError("a command names a program")
    return words


def _directory(value: str) -> str:
    if not os.path.isdir(value):
        raise ValueError(f"--directory: {value} is not a directory")
    return value


def _release(value: str) -> str:
    checkRelease(value)
    return value


class UpgradeOptions(usage.Options):
    """
    The options that say how a program is upgraded.

    @ivar envFile: the path of the file with environment variables, if one was given.
    """

    optParameters: tuple[tuple[object, ...], ...] = (
        (
            "upgrade-timeout",
            None,
            UPGRADE_TIMEOUT,
            "Seconds that a new process may take to become ready.",
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
            "stop-timeout",
            None,
            STOP_TIMEOUT,
            "Seconds that the application may take to stop after that.",
            _seconds,
        ),
        (
            "probation",
            None,
            PROBATION,
            "Seconds of probation, in which a new process may be rolled back; 0: none.",
            float,
        ),
        (
            "health-check",
            None,
            None,
            "Run this command while on probation: three failures in a row roll back.",
            _command,
        ),
        (
            "max-generations",
            None,
            MAX_GENERATIONS,
            "How many processes may be alive, of which all but one drain.",
            int,
        ),
        (
            "directory",
            None,
            None,
            "Start the next version in this directory, which may be a link.",
            _directory,
        ),
        (
            "release",
            None,
            None,
            "A label for this release, in the log and in tableflip status.",
            _release,
        ),
        (
            "release-file",
            None,
            None,
            "The same, read from this file when a process starts.",
            readRelease,
        ),
        ("signal", "s", REDEPLOY_SIGNAL, "The signal that redeploys."),
        (
            "command",
            None,
            None,
            "Start this as the next version, instead of the command of this one.",
            _command,
        ),
    )
    optFlags: tuple[tuple[object, ...], ...] = (
        (
            "inherit-all",
            None,
            "Make all services inheritable, with or without tableflip: before them.",
        ),
        (
            "migrate",
            None,
            "Migrate open connections to the next version, if their protocols can.",
        ),
    )
    envFile: str | None = None

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

    def opt_version(self) -> NoReturn:
        """
        Print the version of txtableflip, and exit.
        """
        sys.stdout.write(f"txtableflip {__version__}\n")
        sys.exit(0)

    def checkUpgradeOptions(self) -> None:
        """
        Refuse what cannot work, before there is a reactor.

        @raise usage.UsageError: with what is wrong, and what to write instead.
        """
        if self["release"] and self["release-file"]:
            raise usage.UsageError("--release or --release-file, but not both")
        try:
            redeploySignal(self["signal"])
            checkProbation(self["probation"])
            checkMaxGenerations(self["max-generations"])
            checkDirectory(self["directory"])
        except ValueError as error:
            raise usage.UsageError(str(error)) from error

    def makeUpgrader(self, reactor: Any, pidFile: str | None = None) -> Upgrader:
        """
        @param pidFile: the path of a file that is to name the process that serves.
        @return: this process's.
        @raise NotSupported: if there can be no upgrades here.
        @raise ValueError: if one of the options is not valid.
        """
        upgrader = Upgrader(
            reactor,
            self["upgrade-timeout"],
            pidFile,
            command=self["command"],
            envFile=self.envFile,
            maxGenerations=self["max-generations"],
            probation=self["probation"],
            healthCheck=self["health-check"],
            directory=self["directory"],
            release=self["release"] or self["release-file"],
            migrate=bool(self["migrate"]),
        )
        if self["inherit-all"]:
            inheritServices(reactor, upgrader.reactor.ports)
        return upgrader

    def makeUpgradeService(self, upgrader: Upgrader) -> UpgradeService:
        """
        @return: the service that upgrades this process as these options say.
        """
        return UpgradeService(
            upgrader, self["drain-timeout"], self["signal"], self["stop-timeout"]
        )
