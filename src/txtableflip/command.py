"""
The C{tableflip} command: asks the process that serves, and reports the outcome; or becomes
the keeper (L{txtableflip.keeper}).

Of the standard library only, so that an answer does not wait for Twisted.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from txtableflip import __version__
from txtableflip._control.address import sharesPids
from txtableflip._control.client import Patience, ask, untilEnded
from txtableflip._control.overview import gather, serving
from txtableflip._control.report import Report
from txtableflip._control.requests import Request
from txtableflip._control.verdict import Verdict, ofError, ofResult
from txtableflip.errors import NoAnswer, NobodyThere, TableflipError

PID_FILE = "twistd.pid"
"""
The file that names the process, in the current directory, unless the command line does.
"""

WATCH_INTERVAL = 1.0
"""
How often C{status --watch} asks, in seconds.
"""

_KEEPER = (
    "import sys; sys.path.append(sys.argv.pop(1)); import keeper; sys.path.pop(); "
    "sys.exit(keeper.main(sys.argv[1:]))"
)
"""
Runs the keeper as a module: to compile its source would cost it a third of its memory.
"""

MAX_MOVES = 100
"""
How many processes are asked in turn, each of which says that it has been replaced.
"""

_HIGHEST_PID = 2**31 - 1
"""
The largest number that a pid_t can hold.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Do what the command line says.

    @param arguments: used instead of the process's own.
    @return: the exit status (L{STATUSES <txtableflip._control.verdict.STATUSES>}).
    """
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["run"]:
        _run(given[1:])
    options = _parser(given).parse_args(given)
    report = Report(isJson=options.json)
    verdict = _verdict(options, report)
    with suppress(BrokenPipeError, KeyboardInterrupt):
        report.conclude(verdict)
        while options.command == "status" and options.watch and not verdict.status:
            time.sleep(WATCH_INTERVAL)
            verdict = _verdict(options, report)
            report.conclude(verdict)
    return verdict.status


def _run(arguments: Sequence[str]) -> NoReturn:
    """
    Become the keeper, in a Python that has loaded nothing which an installation replaces.
    """
    python = sys.executable or os.readlink("/proc/self/exe")
    words = ["-I", "-S", "-c", _KEEPER, os.path.dirname(__file__), *arguments]
    os.execv(python, [python, *words])  # noqa: S606 - no shell


def _verdict(options: argparse.Namespace, report: Report) -> Verdict:
    began = time.monotonic()
    try:
        pid, patience = _pid(options), Patience.of(options.timeout)
        return _ASKING.get(options.command, _change)(options, pid, patience, report)
    except TableflipError as error:
        return ofError(options.command, error, time.monotonic() - began)
    except KeyboardInterrupt:
        interrupted = NoAnswer(
            "interrupted: what was begun continues; tableflip status shows how"
        )
        return ofError(options.command, interrupted, time.monotonic() - began)


def _change(
    options: argparse.Namespace, pid: int, patience: Patience, report: Report
) -> Verdict:
    began = time.monotonic()
    request = Request(options.command, _given(options))
    result = _follow(options, pid, request, patience, report)
    return ofResult(options.command, result, time.monotonic() - began)


def _stop(options: argparse.Namespace, pid: int, patience: Patience, report: Report) -> Verdict:
    """
    The answer only says that the stop has begun: wait here until the processes exit.
    """
    began = time.monotonic()
    result = _follow(options, pid, Request("stop"), patience, report)
    pids = result.get("processes", ())
    if not sharesPids(pid):
        # Those are ids of another pid namespace.
        pids = [pid][: len(pids)]
    untilEnded(pids, patience.until if patience.isFixed else math.inf)
    if pids:
        words = " and ".join(map(str, pids))
        result["msg"] = f"process {words} {'has' if len(pids) == 1 else 'have'} exited"
    return ofResult(options.command, result, time.monotonic() - began)


def _status(
    options: argparse.Namespace, pid: int, patience: Patience, report: Report
) -> Verdict:
    began = time.monotonic()
    generations = gather(pid, patience)
    details = {"generations": generations, "serving": serving(generations)}
    return Verdict(options.command, "done", "", time.monotonic() - began, details)


_ASKING = {"stop": _stop, "status": _status, "metrics": _status}


def _follow(
    options: argparse.Namespace,
    pid: int,
    request: Request,
    patience: Patience,
    report: Report,
) -> dict[str, Any]:
    """
    Ask a process, or the one that has replaced it.

    @raise NobodyThere: if one of them cannot be asked.
    @raise NoAnswer: if one of them does not answer.
    """
    for _ in range(MAX_MOVES):
        isOurs = sharesPids(pid)
        try:
            result = ask(pid, request, patience, report.hear)
        except (NobodyThere, NoAnswer):
            successor = _successor(options, pid, report)
            if successor is None:
                raise
            result = {"outcome": "moved", "pid": successor}
        if result.get("outcome") == "nobody":
            # A process that says so has not begun anything, and may have been replaced.
            successor = _successor(options, pid, report)
            if successor is not None:
                result = {"outcome": "moved", "pid": successor}
        if result.get("outcome") != "moved":
            return result
        if not isOurs:
            raise NoAnswer(
                f"process {pid} has been replaced by what is process {result['pid']} in its "
                "own pid namespace: ask there, or look up its process id here"
            )
        pid = int(result["pid"])
        report.hear({"name": "Moved", "pid": pid})
    raise NoAnswer(f"process {pid} has been replaced, too: giving up")


def _successor(options: argparse.Namespace, pid: int, report: Report) -> int | None:
    """
    @return: the process that is named now instead of one that exited before it could say by
        which it has been replaced; C{None} if it had begun what was asked.
    """
    if report.hasBegun:
        return None
    with suppress(NobodyThere):
        named = _pid(options)
        return None if named == pid else named
    return None


def _pid(options: argparse.Namespace) -> int:
    """
    @raise NobodyThere: if there is no such file, or it names no process.
    """
    if options.pid is not None:
        return int(options.pid)
    path = Path(options.pidfile or PID_FILE)
    try:
        pid = int(path.read_text())
    except OSError as error:
        hint = "" if options.pidfile else ": say which process, or --pidfile FILE"
        raise NobodyThere(f"{path} cannot be read ({error.strerror}){hint}") from None
    except ValueError:
        raise NobodyThere(f"{path} does not name a process") from None
    if pid <= 0:
        raise NobodyThere(f"{path} does not name a process")
    if not os.path.exists(f"/proc/{pid}"):
        raise NobodyThere(f"there is no process {pid}, which {path} names: it is stale")
    return pid


def _given(options: argparse.Namespace) -> Mapping[str, Any]:
    """
    @return: the command's own options, as many as were given.
    """
    common = {"command", "pid", "pidfile", "json", "timeout"}
    return {
        name: value
        for name, value in vars(options).items()
        if name not in common and value is not None and value is not False
    }


class _Parser(argparse.ArgumentParser):
    """
    Reports errors in JSON if C{--json} is given.
    """

    isJson = False

    def error(self, message: str) -> NoReturn:
        """
        See L{argparse.ArgumentParser.error}.
        """
        if not self.isJson:
            super().error(message)
        wrong = Verdict("", "usage", message, 0.0, {"reason": message})
        print(json.dumps(wrong.asObject()))
        sys.exit(wrong.status)


def _parser(given: Sequence[str]) -> argparse.ArgumentParser:
    """
    @param given: the command line, which says whether errors are to be JSON.
    """
    _Parser.isJson = "--json" in given
    parser = _Parser(
        prog="tableflip", description="Control a service that runs under txtableflip."
    )
    parser.add_argument("--version", action="version", version=f"txtableflip {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, words in _COMMANDS.items():
        description = f"{words[0].upper()}{words[1:]}."
        command = commands.add_parser(
            name, help=words, description=description, allow_abbrev=False
        )
        command.add_argument(
            "pid", nargs="?", type=_processId, metavar="PID", help="the process"
        )
        command.add_argument(
            "--pidfile", metavar="FILE", help=f"a file that names it [{PID_FILE}]"
        )
        command.add_argument("--json", action="store_true", help="print one JSON object")
        command.add_argument(
            *("--timeout", "-t"), type=_seconds, metavar="S", help="how long to wait at most"
        )
        for option, details in _OPTIONS.get(name, {}).items():
            command.add_argument(option, **details)
    commands.add_parser("run", help="run a service under one process id (run --help)")
    return parser


def _seconds(text: str) -> float:
    """
    @raise argparse.ArgumentTypeError: if that is not a time to wait.
    """
    with suppress(ValueError):
        seconds = float(text)
        if 0 <= seconds < math.inf:
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")


def _processId(text: str) -> int:
    """
    @raise argparse.ArgumentTypeError: if no process can have that number.
    """
    with suppress(ValueError):
        pid = int(text)
        if 0 < pid <= _HIGHEST_PID:
            return pid
    raise argparse.ArgumentTypeError(f"{text!r} is not a process id")


_COMMANDS = {
    "upgrade": "replace the process with its next version, and wait until that is final",
    "status": "show every generation",
    "metrics": "print metrics, for Prometheus",
    "rollback": "have the previous release serve again, while the new one is on probation",
    "confirm": "end the probation now: the upgrade is final",
    "stop": "drain open connections, and exit",
}

_OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "upgrade": {
        "--dry-run": {
            "action": "store_true",
            "dest": "dryRun",
            "help": "let the next version initialise, and then exit",
        },
        "--expect": {
            "type": os.path.abspath,
            "metavar": "DIR",
            "help": "fail if the next version runs elsewhere",
        },
        "--drain-timeout": {
            "type": _seconds,
            "dest": "drainTimeout",
            "metavar": "S",
            "help": "how long connections have to drain, this once",
        },
        "--detach": {
            "action": "store_true",
            "help": "do not wait for the outcome",
        },
    },
    "status": {"--watch": {"action": "store_true", "help": "again each second"}},
    "rollback": {"--reason": {"metavar": "TEXT", "help": "why, for the log"}},
}


if __name__ == "__main__":
    sys.exit(main())
