"""
What C{tableflip} prints.

Of the standard library only, as L{address <txtableflip._control.address>}.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from txtableflip._control.metrics import exposition
from txtableflip._control.overview import describe
from txtableflip._control.verdict import Verdict

_LINES = {
    "Waiting": "waiting: {reason}",
    "Starting": "starting the next version",
    "Started": "generation {childGeneration} is process {child}: {command}",
    "Greeted": "process {child} initialises",
    "Committed": "the new process takes over",
    "Watching": "process {child} serves, on probation for {seconds:g} s",
    "Moved": "process {pid} serves now",
}
"""
What is shown of an event, if anything.
"""

_SHOWING = {"status": describe, "metrics": exposition}


class Report:
    """
    On a terminal, one line that shows what happens now, and then the verdict; elsewhere, a
    line for each event; with C{--json}, one object at the end.

    @ivar hasBegun: whether a process has begun to do what was asked.
    """

    def __init__(self, *, isJson: bool) -> None:
        self.hasBegun = False
        self._isJson = isJson
        self._isLive = not isJson and sys.stderr.isatty()

    def hear(self, event: Mapping[str, Any]) -> None:
        """
        Show an event.
        """
        self.hasBegun = self.hasBegun or event.get("name") in ("Starting", "Deciding")
        line = _LINES.get(str(event.get("name")))
        if line is None or self._isJson or event.get("seconds") == 0:
            return
        before, after = ("\r\x1b[K", "") if self._isLive else ("", "\n")
        print(before + line.format_map(_Blank(event)), end=after, file=sys.stderr, flush=True)

    def conclude(self, verdict: Verdict) -> None:
        """
        Print the outcome of the command, or what it shows.
        """
        if self._isJson:
            print(json.dumps(verdict.asObject()), flush=True)
            return
        if self._isLive:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        said: Iterable[str] = [verdict.msg]
        if not verdict.msg:
            said = _SHOWING[verdict.command](verdict.details["generations"])
        print(*said, sep="\n", file=sys.stderr if verdict.status else sys.stdout)
        for line in verdict.details.get("lastOutput", ()):
            print(f"  {line}", file=sys.stderr)


class _Blank(dict[str, Any]):
    """
    An event of another version may lack something.
    """

    def __missing__(self, key: str) -> str:
        return "?"
