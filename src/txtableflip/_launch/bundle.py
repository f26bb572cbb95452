"""
Programs that are one file, or one folder, with everything in it: of what they have
done before Python came to run the application, a successor must know nothing.

PyInstaller's loader unpacks such a file into a directory of its own, and passes that
on in the environment: a successor would run what the old process has unpacked, until
that is deleted.  PEX unpacks into a cache, and starts Python once more, on what is
there: that is the old release for ever.
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

    @ivar program: the path of what it runs, or the empty string, if nobody knows.
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
    @return: how the user has started a process that was started like this.
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
        # Where PEX has made a virtual environment, it has added this one.
        options = options[:-1]
    environment = dict(start.environment)
    pex = environment.pop("PEX")
    # That one has its links resolved.
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
    @return: whether that is what PEX runs: a directory, or a program beside which its
        description lies.
    """
    return any(
        os.path.isfile(os.path.join(directory, "PEX-INFO"))
        for directory in (path, os.path.dirname(path))
    )


def _without(environment: Mapping[str, str], *prefixes: str) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith(prefixes)}
