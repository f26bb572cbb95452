"""
The moment at which a program has chosen its reactor.

Whoever imports the reactor before that chooses for the program, and one that installs
its own later fails; whoever waits until the reactor runs is too late, for the program
has begun to listen.  All reactors are installed by one function of Twisted's.
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
    @param chosen: is called with the reactor as soon as that is installed; and again
        if the program puts another one in its place.
    """
    install = main.installReactor

    @wraps(install)
    def installReactor(*arguments: Any, **more: Any) -> None:
        install(*arguments, **more)
        chosen(sys.modules[_NAME])

    main.installReactor = installReactor
    if _NAME in sys.modules:
        chosen(sys.modules[_NAME])
