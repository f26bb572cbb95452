"""
Every generation, as each reports itself, for C{tableflip status}.

Of the standard library only, as L{address <txtableflip._control.address>}.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from txtableflip._control.address import sharesPids
from txtableflip._control.client import Patience, ask
from txtableflip._control.requests import Request
from txtableflip.errors import TableflipError

Status = Mapping[str, Any]

_WORDS = {
    "Initialising": "initialising",
    "InitialisingBesideParent": "initialising",
    "AwaitingCommit": "standing by",
    "OnProbation": "serving, on probation",
    "Serving": "serving",
    "Upgrading": "serving, upgrading",
    "Committing": "handing over",
    "Watching": "parked, may roll back",
    "Withdrawing": "taking back",
    "EndingChild": "stopping",
    "Replaced": "draining",
    "Stopped": "stopping",
    "Keeping": "keeps",
}

_COLUMNS = ("generation", "pid", "state", "since", "uptime", "release", "directory", "command")

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def gather(pid: int, patience: Patience) -> list[dict[str, Any]]:
    """
    Ask a process, those that it knows, and so on.

    @return: what each has reported, the oldest first; or why one has not, as C{error}.
    @raise TableflipError: if the first one cannot be asked.
    """
    found = {pid: _statusOf(pid, patience)}
    todo = _relativesOf(found[pid])
    while todo:
        other = todo.pop()
        if other not in found:
            try:
                found[other] = _statusOf(other, patience)
            except TableflipError as error:
                if not os.path.exists(f"/proc/{other}"):
                    # It has exited meanwhile.
                    found[other] = {}
                    continue
                found[other] = {"pid": other, "error": str(error)}
            todo |= _relativesOf(found[other])
    return sorted(filter(None, found.values()), key=lambda each: each.get("generation", 0))


def _statusOf(pid: int, patience: Patience) -> dict[str, Any]:
    isOurs = sharesPids(pid)
    status: dict[str, Any] = ask(pid, Request("status"), patience, id)["status"]
    # It knows others by ids that mean nothing here.
    return status if isOurs else {**status, "parent": None, "child": None, "older": []}


def _relativesOf(status: Status) -> set[int]:
    others = (status.get("parent"), status.get("child"), *status.get("older", ()))
    return {each for each in others if each is not None}


def serving(generations: Sequence[Status]) -> dict[str, Any] | None:
    """
    @return: the process that accepts, as results have it; C{None} if none has said so.
    """
    for each in reversed(generations):
        if _WORDS.get(each.get("state", ""), "").startswith("serving"):
            shown = {name: each[name] for name in ("pid", "generation", "release", "directory")}
            return {**shown, "since": each["servingSince"]}
    return None


def describe(generations: Sequence[Status]) -> Iterator[str]:
    """
    @return: the lines of a table.
    """
    rows = [_COLUMNS, *map(_row, generations)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    # A command line may be of any length.
    widths[-1] = 0
    for row, status in zip(rows, [{}, *generations], strict=True):
        cells = zip(row, widths, strict=True)
        yield "  ".join(cell.ljust(width) for cell, width in cells).rstrip()
        yield from (f"    {line}" for line in _below(status))
    yield from _lastUpgrade(generations)


def _row(status: Status) -> tuple[str, ...]:
    if "error" in status:
        return "?", str(status["pid"]), "?", "", "", "", "", status["error"]
    return (
        "keeper" if "keeper" in status else str(status["generation"]),
        str(status["pid"]),
        str(_WORDS.get(status["state"], status["state"])),
        duration(time.time() - status["since"]),
        duration(status["uptime"]),
        status.get("release") or "",
        str(status["directory"]),
        status["command"],
    )


def _below(status: Status) -> Iterator[str]:
    if "keeper" in status:
        yield _keeper(status["keeper"])
    drain = status.get("drain")
    for each in status.get("listeners", ()):
        # A process that drains has closed its listeners: only their connections matter.
        if drain is None or each["connections"]:
            yield f"{each['name']}: {each['connections']} open connections"
    if drain is not None:
        yield f"{drain['connections']} open connections have {drain['left']:.0f} s left"
        oldest = drain["oldest"]
        if oldest is not None:
            yield f"the oldest, of {duration(oldest['seconds'])}: {oldest['peer']}"
        yield from (f"not finished: {what}" for what in drain["work"])


def _keeper(keeper: Mapping[str, Any]) -> str:
    main, stored, restarts = (keeper.get(each) for each in ("main", "stored", "restarts"))
    who = "no main process" if main is None else f"process {main} is main"
    return f"{who}; {stored} descriptors are stored; restarts: {restarts}"


def _lastUpgrade(generations: Sequence[Status]) -> Iterator[str]:
    accounts = [each["lastUpgrade"] for each in generations if each.get("lastUpgrade")]
    last = max(accounts, key=lambda account: account["began"], default=None)
    if last is None:
        return
    what = "rehearsal" if last["isRehearsal"] else "upgrade"
    since = last["began"] if last["ended"] is None else last["ended"]
    how = f"the last {what}: {last['outcome']}, {duration(time.time() - since)} ago"
    yield how if last["reason"] is None else f"{how}: {last['reason']}"


def duration(seconds: float) -> str:
    """
    @return: how long that is, roughly.
    """
    for size, unit in _UNITS:
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
