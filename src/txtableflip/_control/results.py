"""
What a process answers.
"""

from __future__ import annotations

from typing import Any

from txtableflip._control.status import directoryOf
from txtableflip.errors import UpgradeFailed

Result = dict[str, Any]


def describe(
    pid: int | None, generation: int, release: str | None, since: float | None = None
) -> Result:
    """
    @param since: when it began to serve, in seconds since the epoch, if that is known.
    @return: a process, in the form that results have.
    """
    who = {"pid": pid, "generation": generation, "release": release}
    return {**who, "directory": directoryOf(pid), "since": since}


def served(serving: Result, other: Result) -> Result:
    """
    @return: it was done, and this process serves permanently.
    """
    release = f" (release {serving['release']})" if serving["release"] is not None else ""
    msg = f"generation {serving['generation']}{release} serves: process {serving['pid']} in "
    msg += str(serving["directory"])
    details = {"msg": msg, "serving": serving, "other": other}
    return {"outcome": "done", "changed": True, **details}


def begun(how: str) -> Result:
    """
    @return: an upgrade runs, or will, and the caller does not wait.
    """
    return {"outcome": "begun", "msg": f"{how}; tableflip status shows its progress"}


def refused(reason: object) -> Result:
    """
    @return: nothing was done.
    """
    return {"outcome": "refused", "reason": str(reason)}


def failed(error: UpgradeFailed, serving: Result, release: str | None) -> Result:
    """
    @param serving: the process that still serves, or serves again.
    @param release: what the one that failed calls its release, if it got that far.
    @return: an upgrade failed, or was rolled back.
    """
    isUndone = error.phase == "probation"
    return {
        "outcome": "rolledBack" if isUndone else "failed",
        "changed": isUndone,
        "msg": error.headline,
        "phase": error.phase,
        "reason": error.what,
        "lastOutput": error.stderr.splitlines(),
        "serving": serving,
        "other": {
            "pid": error.pid,
            "generation": serving["generation"] + 1,
            "release": release,
            "exitStatus": error.exitStatus,
            "signal": error.signal,
        },
    }
