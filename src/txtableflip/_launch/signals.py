"""
Signals, as the operator's way to ask for an upgrade.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

from txtableflip._journal import ProcessLogger
from txtableflip._launch.origin import hasChannel
from txtableflip.errors import NotSupported
from txtableflip.interfaces import Reactor

_log = ProcessLogger()

_TAKEN = {"SIGKILL", "SIGSTOP", "SIGCHLD", "SIGPIPE"}
_STOP = {"SIGTERM", "SIGINT"}

LOOK_INTERVAL = 10.0
"""
How often to check that a signal's handler is still ours, in seconds: there is no event.
"""

_REDEPLOYS = (
    "{name} redeploys, and its previous handler, {owner}, is not called any more: let "
    "another signal redeploy (--signal) if both are needed"
)
_DISARMED = (
    "{name} does not redeploy any more: {owner} has replaced the handler. Let another signal "
    "redeploy (--signal), or have the application leave this one alone"
)
_STOPS = (
    "{name} drains open connections first; its previous handler, {owner}, is called after that"
)
_CUTS = "{name} does not drain open connections any more: {owner} has replaced the handler"


def redeploySignal(name: str) -> int:
    """
    @param name: the name of a signal that is to redeploy, with or without C{SIG}.
    @return: its number.
    @raise ValueError: if there is none of that name, or it has another use.
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


def inMainThread() -> bool:
    """
    @return: whether signals can be handled here: only the main thread can.
    """
    return threading.current_thread() is threading.main_thread()


def checkThread() -> None:
    """
    @raise NotSupported: if signals cannot be handled here.
    """
    if not inMainThread():
        raise NotSupported(
            "this is not the main thread, and nobody else can handle the signal that redeploys"
        )


_early: set[int] = set()
_waiting: dict[int, Callable[[], object]] = {}


def rememberSignal(name: str) -> None:
    """
    Remember a signal until its handler is installed: if it came before, it would kill this
    process.  It gets a handler, and is not blocked: processes that this one starts would
    have it blocked permanently.

    @param name: the signal's, with or without C{SIG}: C{"HUP"}.
    @raise ValueError: if there is none of that name.
    """
    _rememberNumber(redeploySignal(name))


def rememberBlocked() -> None:
    """
    Remember the signals that the process which started this one has blocked, because they
    would have killed this one so far.
    """
    for number in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
        name = getattr(number, "name", "")
        if name and name not in _TAKEN | _STOP:
            _rememberNumber(number)


def _rememberNumber(number: int) -> None:
    if not inMainThread():
        return
    if signal.getsignal(number) in (signal.SIG_DFL, signal.SIG_IGN):
        signal.signal(number, _remember)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])


def _remember(number: int, frame: object) -> None:
    _waiting.get(number, lambda: _early.add(number))()


class SignalHandler:
    """
    Calls a function when a signal comes, in the main thread and at any moment: the function
    should do no more than wake the reactor.

    This does not change what the reactor does about signals (it has the wakeup descriptor,
    for SIGCHLD), so it also works where the reactor does nothing.

    @ivar previous: the handler that was there before, if any.
    @ivar isInstalled: whether this one should be in place.
    """

    def __init__(self, number: int, action: Callable[[], object]) -> None:
        self.number = number
        self._action = action
        self.previous: Any = None
        self.isInstalled = False

    def install(self) -> None:
        """
        Start handling the signal, including one that has come while this process was
        starting, and was remembered.
        """
        self.previous = signal.signal(self.number, self._handle)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [self.number])
        if self.previous == _remember:
            self.previous = None
        self.isInstalled = True
        if self.number in _early:
            _early.discard(self.number)
            self.received()

    def _handle(self, number: int, frame: object) -> None:
        self.received()

    @property
    def isReplaced(self) -> bool:
        """
        Whether other code has replaced the handler.
        """
        return signal.getsignal(self.number) != self._handle

    def received(self) -> None:
        """
        The signal has come.
        """
        self._action()

    def restore(self) -> None:
        """
        Restore the handler that was there before; unless that is the default, by which the
        signal would kill a process that is about to exit cleanly.
        """
        self.isInstalled = False
        if self.previous not in (None, signal.SIG_DFL):
            signal.signal(self.number, self.previous)


class StopHandler(SignalHandler):
    """
    Calls a function when a signal comes for the first time.  After that, the
    signal does what it did before.

    @ivar wasReceived: whether it has come.
    """

    wasReceived: bool = False

    def install(self) -> None:
        """
        See L{SignalHandler.install}.  A signal without a handler continues to kill the
        process at once; and in a program whose reactor runs in another thread, it does what
        it did before.
        """
        if callable(signal.getsignal(self.number)) and inMainThread():
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
        Let the signal do what it did before.
        """
        self.restore()
        signal.raise_signal(self.number)


def redeployOn(name: str, reactor: Reactor, redeploy: Callable[[], object]) -> int:
    """
    Call something in the reactor when a signal comes, until the reactor stops.

    @return: the number of the signal.
    @raise ValueError: if there is none of that name.
    @raise NotSupported: if this is not the main thread.
    """
    number = redeploySignal(name)
    checkThread()
    handler = SignalHandler(number, lambda: reactor.callFromThread(redeploy))
    handler.install()
    _watch(reactor, handler, _REDEPLOYS, _DISARMED)
    reactor.addSystemEventTrigger("after", "shutdown", handler.restore)
    return handler.number


def stopOn(name: str, reactor: Reactor, stop: Callable[[], object]) -> StopHandler:
    """
    Call something in the reactor when a signal comes for the first time.  The handler is
    installed when the reactor runs, which has installed its own by then.

    @raise ValueError: if there is none of that name.
    """
    number = signalNumber(name)

    def stopBySignal() -> None:
        _log.info(
            "{name}: stopping once open connections have finished; send it again to stop now",
            name=signal.Signals(number).name,
        )
        stop()

    def install() -> None:
        handler.install()
        if handler.isInstalled:
            _watch(reactor, handler, _STOPS, _CUTS)

    handler = StopHandler(number, lambda: reactor.callFromThread(stopBySignal))
    reactor.callWhenRunning(install)
    return handler


def refuseSignal(name: str, reactor: Reactor, refuse: Callable[[], object]) -> None:
    """
    Refuse a signal that was remembered so far, and can never be obeyed, each time that it
    comes.

    @param refuse: called in the reactor, to say why.
    @raise ValueError: if there is none of that name.
    """
    number = redeploySignal(name)
    _waiting[number] = lambda: reactor.callFromThread(refuse)
    if number in _early:
        _early.discard(number)
        refuse()


def surviveOthers(name: str, reactor: Reactor) -> None:
    """
    Warn instead of dying when the operator sends a signal that usually redeploys, but is
    not the one that does here; unless the application handles it.

    @param name: the one that does.
    """
    ours = signal.Signals(redeploySignal(name))

    def warn(number: int) -> None:
        _log.warn(
            "ignoring {other}: the signal that redeploys is {name}",
            other=signal.Signals(number).name,
            name=ours.name,
        )

    for other in {signal.SIGHUP, signal.SIGUSR2} - {ours}:
        if inMainThread() and signal.getsignal(other) == signal.SIG_DFL:
            signal.signal(other, lambda number, frame: reactor.callFromThread(warn, number))


def _watch(reactor: Reactor, handler: SignalHandler, taken: str, lost: str) -> None:
    """
    Warn if a signal had another owner before; and once, if it gets another.

    @param taken: the warning that it was taken from another owner.
    @param lost: the warning that another owner has taken it.
    """
    name = signal.Signals(handler.number).name
    if _isTheirs(handler.previous):
        _log.warn(taken, name=name, owner=_ownerOf(handler.previous))

    def look() -> None:
        if not handler.isInstalled:
            return
        if handler.isReplaced:
            _log.warn(lost, name=name, owner=_ownerOf(signal.getsignal(handler.number)))
        else:
            reactor.callLater(LOOK_INTERVAL, look)

    reactor.callWhenRunning(reactor.callLater, 0, look)


def _isTheirs(handler: Any) -> bool:
    """
    @return: whether a handler is the application's.
    """
    return callable(handler) and not _ownerOf(handler).startswith(("twisted.", "_signal."))


def _ownerOf(handler: Any) -> str:
    if not callable(handler):
        return "nobody"
    name = getattr(handler, "__qualname__", type(handler).__qualname__)
    return f"{getattr(handler, '__module__', '?')}.{name}"


if hasChannel():
    # The sooner, the fewer processes are started with the signals blocked.
    rememberBlocked()
