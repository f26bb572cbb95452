"""
How a command went: the object that C{tableflip --json} prints, the text that people read,
and the exit status.

Of the standard library only, as L{address <txtableflip._control.address>}.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from txtableflip.errors import NobodyThere, TableflipError

STATUSES = {
    "done": 0,
    "begun": 0,
    "failed": 1,
    "refused": 1,
    "usage": 2,
    "nobody": 3,
    "unknown": 4,
    "rolledBack": 5,
}
"""
For each outcome the exit status: it was done; it was begun, and the caller does not wait;
it failed or was refused, and the old process still serves; the command line was wrong; no
process could be asked; the outcome is unknown; the new process took over and was rolled
back.
"""


@dataclass(frozen=True)
class Verdict:
    """
    How a command ended.

    @ivar command: which one.
    @ivar outcome: a key of L{STATUSES}.
    @ivar msg: the outcome in a sentence.
    @ivar seconds: how long it took.
    @ivar details: what else the process has answered.
    """

    command: str
    outcome: str
    msg: str
    seconds: float
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> int:
        """
        The exit status.
        """
        return STATUSES.get(self.outcome, STATUSES["unknown"])

    def asObject(self) -> dict[str, Any]:
        """
        @return: what C{--json} prints.
        """
        blank = dict.fromkeys(("phase", "reason", "serving", "other"))
        return {
            "command": self.command,
            "outcome": self.outcome,
            "changed": bool(self.details.get("changed")),
            "failed": self.status != 0,
            "msg": self.msg,
            "seconds": round(self.seconds, 3),
            "lastOutput": [],
            **blank,
            **self.details,
        }


def ofResult(command: str, result: Mapping[str, Any], seconds: float) -> Verdict:
    """
    @return: the verdict that a process has answered.
    """
    outcome = str(result.get("outcome", "unknown"))
    msg = str(result.get("msg") or result.get("reason") or outcome)
    return Verdict(command, outcome, msg, seconds, result)


def ofError(command: str, error: TableflipError, seconds: float) -> Verdict:
    """
    @return: the verdict without an answer.
    """
    outcome = "nobody" if isinstance(error, NobodyThere) else "unknown"
    return Verdict(command, outcome, str(error), seconds, {"reason": str(error)})
