"""
Loops that continue after a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from txtableflip._journal import ProcessLogger

_log = ProcessLogger()

T = TypeVar("T")


def forEach(action: str, things: Iterable[T], do: Callable[[T], object]) -> list[Exception]:
    """
    Do something with each of several things, even after one with which it fails, and log
    each failure.

    @param action: what is done, for the log: C{"park"}.
    @return: the errors, in order.
    """
    errors = []
    for thing in list(things):
        try:
            do(thing)
        except Exception as error:  # noqa: BLE001 - it must not keep the others from their turn
            _log.failure("cannot {action} {thing}", action=action, thing=str(thing))
            errors.append(error)
    return errors


def requireEach(action: str, things: Iterable[T], do: Callable[[T], object]) -> None:
    """
    As L{forEach}, for what must not be left undone.

    @raise Exception: the first error, when all have had their turn.
    """
    for error in forEach(action, things, do):
        raise error
