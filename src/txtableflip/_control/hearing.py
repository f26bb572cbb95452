"""
What a caller is told while it waits.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

from txtableflip._generation import Generation
from txtableflip._handover.ending import STATUS_TIMEOUT, TERM_GRACE
from txtableflip._handover.probation import CHECK_TIMEOUT, EXTENSION
from txtableflip._journal import (
    Committed,
    Event,
    Final,
    Greeted,
    Journal,
    Started,
    Starting,
    Watching,
)

_TOLD = (Starting, Started, Greeted, Committed, Watching, Final)


class Caller(Protocol):
    """
    The client that has sent a request.
    """

    @property
    def isThere(self) -> bool:
        """
        Whether it still waits for the answer.
        """

    def tell(self, event: Mapping[str, Any]) -> None:
        """
        Send it an event.
        """


class Hearing:
    """
    Tells a caller what the journal says, while this is entered.

    @ivar servingSince: when the child has begun to serve, in seconds since the epoch.
    """

    def __init__(self, caller: Caller, generation: Generation) -> None:
        self.servingSince: float | None = None
        self._caller = caller
        ready = generation.upgradeTimeout + TERM_GRACE + STATUS_TIMEOUT
        final = generation.terms.seconds + CHECK_TIMEOUT + EXTENSION
        self._longest = {
            "Starting": ready,
            "Committed": EXTENSION,
            "Watching": final,
            "Deciding": final,
            "Waiting": ready + EXTENSION + final,
        }

    def __enter__(self) -> None:
        Journal.listeners.append(self.hear)

    def __exit__(self, *error: object) -> None:
        Journal.listeners.remove(self.hear)

    def hear(self, event: Event) -> None:
        """
        Pass on what the caller is to know.
        """
        if isinstance(event, Watching):
            self.servingSince = event.time
        if isinstance(event, _TOLD):
            self.tell(type(event).__name__, **vars(event))

    def tell(self, name: str, **fields: Any) -> None:
        """
        Tell the caller, and how long it may take from now on, in seconds.
        """
        within = {"within": self._longest[name]} if name in self._longest else {}
        self._caller.tell({"time": time.time(), **fields, "name": name, **within})
