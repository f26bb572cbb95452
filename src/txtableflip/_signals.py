"""
Signals, as the operator's way to ask for an upgrade.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

_TAKEN = {"SIGKILL", "SIGSTOP", "SIGCHLD", "SIGTERM", "SIGINT", "SIGPIPE"}


def signalNumber(name: str) -> int:
    """
    @param name: a signal's name, with or without C{SIG}.
    @raise ValueError: if there is none of that name, or it has another job.
    """
    full = name.upper() if name.upper().startswith("SIG") else f"SIG{name.upper()}"
    number = getattr(signal, full, None)
    if not isinstance(number, signal.Signals):
        raise ValueError(f"{name!r} is no signal: use HUP, USR2 or another name of signal(7)")
    if full in _TAKEN:
        raise ValueError(f"{full} has a meaning of its own: use HUP, USR2 or another signal")
    return number


class SignalHandler:
    """
    Calls a function when a signal comes, in the main thread and at any moment:
    the function should do no more than wake the reactor.

    This leaves alone what the reactor does about signals (it has the wakeup
    descriptor, for SIGCHLD), so it works where the reactor does nothing, too.
    """

    def __init__(self, name: str, action: Callable[[], object]) -> None:
        self.number = signalNumber(name)
        self._action = action
        self._previous: Any = None

    def install(self) -> None:
        """
        Begin to listen, also to a signal that has come while this process was
        starting: the parent made it wait.
        """
        self._previous = signal.signal(self.number, lambda number, frame: self._action())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [self.number])

    def restore(self) -> None:
        """
        Put back what was there before; unless that is the default, which would
        let the signal kill a process that is about to end well.
        """
        if self._previous not in (None, signal.SIG_DFL):
            signal.signal(self.number, self._previous)
