"""
The moment at which a program has chosen its reactor.

To import the reactor before that would choose for the program, and one that installs its
own later would fail; to wait until the reactor runs is too late, because the program has
begun to listen by then.  All reactors are installed by one function of Twisted's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

from twisted.internet import main

_NAME = "twisted.internet.reactor"


def whenReactorIsChosen(chosen: Callable[[Any], object]) -> None:
    """
    @param chosen: is called with the reactor as soon as that is installed; and again if the
        program replaces it by another one.
    """
    install = main.installReactor

    @wraps(install)
    def installReactor(*arguments: Any, **more: Any) -> None:
        install(*arguments, **more)
        chosen(sys.modules[_NAME])

    main.installReactor = installReactor
    if _NAME in sys.modules:
        chosen(sys.modules[_NAME])
