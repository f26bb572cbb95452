"""
Finds what would keep the next version from starting, while this one starts.

A service that root has started as another user (C{twistd --uid}) has opened files that this
user may not open again.  The operator should read about that now, and not when the first
upgrade fails.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from txtableflip._launch.origin import DIRECTORY, START

_KEY = re.compile(
    r"(?:^|:)(?:privateKey|certKey|extraCertChain|dhParameters)=((?:\\.|[^:\\])*)"
)


_UNKNOWN = "upgrades will fail, because the path of this Python is unknown: give --command"


def findObstacles(descriptions: Iterable[str], logFile: str | None = None) -> list[str]:
    """
    @param descriptions: the endpoint strings of this process.
    @param logFile: the path of a file that the next version will write to, if it
        is there.
    @return: what keeps the next version from starting, in words.
    """
    found = [] if START.program else [_UNKNOWN]
    forbidden = [
        f"{what} {path}"
        for what, path, mode in _needed(descriptions, logFile)
        if not os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)
    ]
    if forbidden:
        what = ", nor ".join(forbidden)
        found.append(f"upgrades will fail, because user {os.geteuid()} may not {what}")
    return found


def _needed(descriptions: Iterable[str], logFile: str | None) -> Iterator[tuple[str, str, int]]:
    if START.program:
        yield "run the interpreter", START.program, os.X_OK
    yield "enter the directory", DIRECTORY, os.X_OK
    if logFile is not None and os.path.isfile(logFile):
        yield "write to the log file", logFile, os.W_OK
    for description in descriptions:
        for found in _KEY.findall(description):
            path = os.path.join(DIRECTORY, re.sub(r"\\(.)", r"\1", found))
            yield "read the key or certificate", path, os.R_OK
