"""
Signals, as the operator's way to ask for an upgrade.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from txtableflip._journal import ProcessLogger
from txtableflip.interfaces import Reactor

_log = ProcessLogger()

_TAKEN = {"SIGKILL", "SIGSTOP", "SIGCHLD", "SIGPIPE"}
_STOP = {"SIGTERM", "SIGINT"}


def redeploySignal(name: str) -> int:
    """
    @param name: the name of a signal that is to redeploy, with or without C{SIG}.
    @return: its number.
    @raise ValueError: if there is none of that name, or it has another job.
    """
    number = signalNumber(name)
    full = signal.Signals(number).name
    if full in _STOP:
        raise ValueError(f"{full} has a meaning of its own: use HUP, USR2 or another signal")
    return number


def signalNumber(name: str) -> int:
    """
    @param name: a signal's name, with or without C{SIG}.
    @raise ValueError: if there is none of that name, or it cannot be handled.
    """
    full = name.upper() if name.upper().startswith("SIG") else f"SIG{name.upper()}"
    number = getattr(signal, full, None)
    if not isinstance(number, signal.Signals):
        raise ValueError(
            f"{name!r} is not a signal: use HUP, USR2 or another name of signal(7)"
        )
    if full in _TAKEN:
        raise ValueError(f"{full} has a meaning of its own: use HUP, USR2 or another signal")
    return number


def blockSignal(name: str) -> None:
    """
    Have a signal wait until it is handled, for it would end this process if it
    came before.

    @param name: the signal's, with or without C{SIG}: C{"HUP"}.
    @raise ValueError: if there is none of that name.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, [redeploySignal(name)])


class SignalHandler:
    """
    Calls a function when a signal comes, in the main thread and at any moment:
    the function should do no more than wake the reactor.

    This leaves alone what the reactor does about signals (it has the wakeup
    descriptor, for SIGCHLD), so it works where the reactor does nothing, too.
    """

    def __init__(self, number: int, action: Callable[[], object]) -> None:
        self.number = number
        self._action = action
        self._previous: Any = None

    def install(self) -> None:
        """
        Begin to listen, also to a signal that has come while this process was
        starting: the parent made it wait.
        """
        self._previous = signal.signal(self.number, lambda number, frame: self.received())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [self.number])

    def received(self) -> None:
        """
        The signal has come.
        """
        self._action()

    def restore(self) -> None:
        """
        Put back what was there before; unless that is the default, which would
        let the signal kill a process that is about to end well.
        """
        if self._previous not in (None, signal.SIG_DFL):
            signal.signal(self.number, self._previous)


class StopHandler(SignalHandler):
    """
    Calls a function when a signal comes for the first time.  After that, the
    signal does what it did before.

    @ivar wasReceived: whether it has come.
    """

    wasReceived: bool = False

    def install(self) -> None:
        """
        See L{SignalHandler.install}.  Where nobody has handled the signal, it
        goes on to end the process at once.
        """
        if callable(signal.getsignal(self.number)):
            super().install()

    def received(self) -> None:
        """
        See L{SignalHandler.received}.
        """
        if self.wasReceived:
            self.again()
        else:
            self.wasReceived = True
            self._action()

    def again(self) -> None:
        """
        Have the signal do what it did before.
        """
        self.restore()
        signal.raise_signal(self.number)


def redeployOn(name: str, reactor: Reactor, redeploy: Callable[[], object]) -> int:
    """
    Have a signal call something in the reactor, until that stops.

    @return: the number of the signal.
    @raise ValueError: if there is none of that name.
    """
    handler = SignalHandler(redeploySignal(name), lambda: reactor.callFromThread(redeploy))
    handler.install()
    reactor.addSystemEventTrigger("after", "shutdown", handler.restore)
    return handler.number


def stopOn(name: str, reactor: Reactor, stop: Callable[[], object]) -> StopHandler:
    """
    Have a signal call something in the reactor the first time that it comes, as
    soon as the reactor runs, which has handlers of its own by then.

    @raise ValueError: if there is none of that name.
    """
    number = signalNumber(name)

    def stopBySignal() -> None:
        _log.info(
            "{name}: stopping once open connections have finished; send it again to stop now",
            name=signal.Signals(number).name,
        )
        stop()

    handler = StopHandler(number, lambda: reactor.callFromThread(stopBySignal))
    reactor.callWhenRunning(handler.install)
    return handler
