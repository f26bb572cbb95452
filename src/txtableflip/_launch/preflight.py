"""
What would keep the next version from starting, found while this one starts.

A service that root has started as another user (C{twistd --uid}) has opened
files that this user may not open again.  The operator should read of that now,
and not when the first upgrade fails.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from txtableflip._launch.relaunch import DIRECTORY

_KEY = re.compile(
    r"(?:^|:)(?:privateKey|certKey|extraCertChain|dhParameters)=((?:\\.|[^:\\])*)"
)


def findObstacles(config: Mapping[str, Any], descriptions: Iterable[str]) -> list[str]:
    """
    @param config: the options of twistd, if there is one.
    @param descriptions: the endpoint strings of this process.
    @return: what this user may not do, in words.
    """
    return [
        f"{what} {path}"
        for what, path, mode in _needed(config, descriptions)
        if not os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)
    ]


def _needed(
    config: Mapping[str, Any], descriptions: Iterable[str]
) -> Iterator[tuple[str, str, int]]:
    yield "run the interpreter", sys.executable, os.X_OK
    yield "enter the directory", DIRECTORY, os.X_OK
    log = os.path.join(DIRECTORY, config.get("logfile") or "twistd.log")
    if os.path.isfile(log):
        yield "write to the log file", log, os.W_OK
    for description in descriptions:
        for found in _KEY.findall(description):
            path = os.path.join(DIRECTORY, re.sub(r"\\(.)", r"\1", found))
            yield "read the key or certificate", path, os.R_OK
