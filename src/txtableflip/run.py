"""
The command C{python -m txtableflip}: upgrades for a program that has its own command, which
is not changed.

Theory: the program runs in this process (L{txtableflip._launch.program}), and its
successor is started by the same command line, ours.  The L{Upgrader
<txtableflip.Upgrader>} is made when the program has chosen its reactor: before it can
listen, and when we can no longer choose for it.  A twistd that the program runs is told
what it must not do before it can do that (L{txtableflip._launch.charge}).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

from twisted.python import usage

from txtableflip._journal import ProcessLogger
from txtableflip._launch.charge import takeCharge
from txtableflip._launch.origin import hasChannel
from txtableflip._launch.pidfile import claim
from txtableflip._launch.program import ProgramError, runProgram
from txtableflip._launch.reactorchoice import whenReactorIsChosen
from txtableflip._launch.unlogged import beHeard
from txtableflip.errors import NotSupported, PidFileError
from txtableflip.log import observer
from txtableflip.options import UpgradeOptions
from txtableflip.service import runUnattended
from txtableflip.upgrader import currentUpgrader

_NAME = "python -m txtableflip"
_USAGE_ERROR = 2

_log = ProcessLogger()


class Options(UpgradeOptions):
    """
    What C{python -m txtableflip} understands before C{--}.
    """

    synopsis = f"Usage: {_NAME} [options] -- PROGRAM [arguments of PROGRAM]"
    longdesc = (
        "Run a program that uses Twisted, so that its next version can take over from it "
        "without an outage. PROGRAM is a script, -m and a module, or a command such as pip "
        "installs. Endpoint strings that begin with tableflip: are inherited; with "
        "--inherit-all, all services are. On SIGHUP the same command line is started again "
        "and takes over when it is ready, and this process drains."
    )
    optParameters: tuple[tuple[object, ...], ...] = (
        ("pidfile", None, None, "The file that names the process that serves."),
    )

    def parseCommandLine(self, words: Sequence[str]) -> list[str]:
        """
        @return: the program and its arguments.
        @raise usage.UsageError: with what is wrong, and what to write instead.
        """
        place = words.index("--") if "--" in words else len(words)
        self.parseOptions(words[:place])
        self.checkUpgradeOptions()
        program = list(words[place + 1 :])
        if not program:
            raise usage.UsageError("say what to run, after --: [options] -- PROGRAM")
        return program

    def parseArgs(self, *arguments: str) -> None:
        """
        Refuse what is neither an option nor after the options.
        """
        if arguments:
            raise usage.UsageError(f"write -- before the program: -- {' '.join(arguments)}")


def main() -> None:
    """
    Run the program that the command line names.
    """
    options = Options()
    try:
        program = options.parseCommandLine(sys.argv[1:])
    except usage.UsageError as error:
        _refuse(error)
    isChild = hasChannel()
    if not isChild:
        _claim(options["pidfile"])
    takeCharge(observer, isChild=isChild, hasPidFile=bool(options["pidfile"]))
    whenReactorIsChosen(lambda reactor: _begin(reactor, options))
    try:
        runProgram(program)
    except ProgramError as error:
        _refuse(error)


def _refuse(error: Exception) -> NoReturn:
    sys.stderr.write(f"{_NAME}: {error}\n(--help says more)\n")
    sys.exit(_USAGE_ERROR)


def _claim(pidFile: str | None) -> None:
    if pidFile:
        try:
            claim(pidFile)
        except PidFileError as error:
            sys.exit(f"{_NAME}: {error}")


def _begin(reactor: Any, options: Options) -> None:
    """
    The program has chosen its reactor.
    """
    if currentUpgrader() is not None:
        _tellThatThereIsNone(
            reactor,
            "this program has replaced its first reactor by another: have it install its own "
            "before it imports one",
        )
        return
    try:
        upgrader = options.makeUpgrader(reactor, options["pidfile"])
    except NotSupported as error:
        _tellThatThereIsNone(reactor, str(error))
    else:
        runUnattended(options.makeUpgradeService(upgrader))


def _tellThatThereIsNone(reactor: Any, why: str) -> None:
    """
    Log that there are no upgrades once the reactor runs: a program that starts logging may
    discard earlier events.
    """
    beHeard(reactor)
    reactor.callWhenRunning(partial(_log.error, "upgrades are disabled: {why}", why=why))
