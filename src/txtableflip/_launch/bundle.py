"""
Programs that are one file, or one folder, with everything in it: what they did before
Python ran the application must not reach a successor.

PyInstaller's loader unpacks such a file into a new directory, and passes its path on in the
environment: a successor would run what the old process has unpacked, and fail once that is
deleted.  PEX unpacks into a cache, and starts Python once more, on what is there: a
successor would run the old release forever.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Start:
    """
    How a process was started.

    @ivar program: the path of what it runs, or the empty string if that is unknown.
    @ivar name: what that is to be called (C{argv[0]}), if not by its path.
    @ivar arguments: what follows.
    @ivar environment: all of it.
    """

    program: str
    name: str | None
    arguments: tuple[str, ...]
    environment: Mapping[str, str]


def isFrozen() -> bool:
    """
    @return: whether C{sys.executable} is the program itself, and runs no other.
    """
    return bool(getattr(sys, "frozen", False))


def beforeBundle(start: Start) -> Start:
    """
    @return: how the user started the program, given how this process was started.
    """
    if isFrozen():
        return replace(start, environment=_beforePyInstaller(start.environment))
    place = next((n for n, each in enumerate(start.arguments) if os.path.isabs(each)), None)
    pex = start.environment.get("PEX", "")
    if place is None or not os.path.isfile(pex) or not _isUnpacked(start.arguments[place]):
        return start
    return _beforePex(start, place)


def _beforePyInstaller(environment: Mapping[str, str]) -> dict[str, str]:
    found = _without(environment, "_PYI_", "_MEIPASS", "LD_LIBRARY_PATH")
    original = environment.get("LD_LIBRARY_PATH_ORIG")
    return found if original is None else {**found, "LD_LIBRARY_PATH": original}


def _beforePex(start: Start, place: int) -> Start:
    """
    @param place: which argument is what PEX has unpacked.
    """
    options: Sequence[str] = start.arguments[:place]
    if sys.prefix != sys.base_prefix and options[-1:] == ("-I",):
        # PEX adds this option where it has made a virtual environment.
        options = options[:-1]
    environment = dict(start.environment)
    pex = environment.pop("PEX")
    # PEX has its links resolved.
    named = environment.get("__PEX_EXE__") or pex
    return Start(
        program=getattr(sys, "_base_executable", None) or start.program,
        name=None,
        arguments=(*options, named, *start.arguments[place + 1 :]),
        # PEX_ROOT and the like are the user's.
        environment=_without(environment, "__PEX_", "_PEX_"),
    )


def _isUnpacked(path: str) -> bool:
    """
    @return: whether that is what PEX runs: a directory with PEX's description, or a program
        beside it.
    """
    return any(
        os.path.isfile(os.path.join(directory, "PEX-INFO"))
        for directory in (path, os.path.dirname(path))
    )


def _without(environment: Mapping[str, str], *prefixes: str) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith(prefixes)}
