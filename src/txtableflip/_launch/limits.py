"""
Limits that a process may have changed for itself, and that a successor would inherit: if
each generation lowered them once more, little would be left.  A successor starts with those
of the first generation instead, as far as they may be restored.
"""

from __future__ import annotations

import json
import os
import resource
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any

from txtableflip._launch.origin import hasChannel

VARIABLE = "TXTABLEFLIP_LIMITS"
"""
The environment variable by which a successor learns what they were.
"""

_LIMITS = tuple(name for name in vars(resource) if name.startswith("RLIMIT_"))


def current() -> dict[str, Any]:
    """
    @return: what this process has now: how nice it is, on which processors it may run,
        and its soft limits.
    """
    found: dict[str, Any] = {"nice": os.getpriority(os.PRIO_PROCESS, 0), "soft": {}}
    if hasattr(os, "sched_getaffinity"):
        found["processors"] = sorted(os.sched_getaffinity(0))
    for name in _LIMITS:
        with suppress(OSError, ValueError):
            found["soft"][name] = resource.getrlimit(getattr(resource, name))[0]
    return found


def takeLimits(environment: MutableMapping[str, str], *, isSuccessor: bool) -> str:
    """
    Restore what a process before this one has changed.

    @return: what the first generation started with, for the next one.
    """
    said = environment.pop(VARIABLE, None)
    if said is not None and isSuccessor:
        # An invalid value is not worth a failed upgrade.
        with suppress(ValueError, TypeError, KeyError, AttributeError, OverflowError):
            _putBack(json.loads(said))
            return said
    return json.dumps(current())


def _putBack(wanted: dict[str, Any]) -> None:
    if os.getpriority(os.PRIO_PROCESS, 0) != wanted["nice"]:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, wanted["nice"])
    if "processors" in wanted:
        with suppress(OSError):
            os.sched_setaffinity(0, wanted["processors"])
    for name, soft in wanted["soft"].items():
        if name in _LIMITS:
            _raise(getattr(resource, name), soft)


def _raise(number: int, wanted: int) -> None:
    """
    Raise a soft limit, and never lower it: what has been handed over may need it.
    """
    with suppress(OSError, ValueError):
        soft, hard = resource.getrlimit(number)
        if _size(wanted) > _size(soft):
            resource.setrlimit(number, (min(wanted, hard, key=_size), hard))


def _size(limit: int) -> float:
    return float("inf") if limit == resource.RLIM_INFINITY else limit


STARTED_WITH = takeLimits(os.environ, isSuccessor=hasChannel())
"""
What the first generation started with, in the format of the variable.
"""
