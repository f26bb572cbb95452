"""
What we know of other people's libraries, which this process may not have, or not need.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import Any

from txtableflip._journal import ProcessLogger

_log = ProcessLogger()


def loadKnown(modules: Mapping[str, set[str]], message: str) -> list[Any]:
    """
    Load our modules for the libraries that this process has loaded.  That is done before it
    serves: when it exits, another release's files may be where its own were.

    @param modules: which of our modules knows which libraries.
    @param message: what to log if one cannot be loaded, with its C{libraries} and its C{name}.
    @return: our modules.
    """
    found = []
    for name, libraries in modules.items():
        # Each imports its libraries.
        if libraries & sys.modules.keys():
            try:
                found.append(importlib.import_module(name))
            except Exception:  # noqa: BLE001 - another release's module may raise anything
                _log.failure(message, libraries=", ".join(sorted(libraries)), name=name)
    return found
