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
How often to look whether a signal is still ours, in seconds: nobody says.
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


def inMainThread() -> bool:
    """
    @return: whether signals can be had here: only the main thread handles them.
    """
    return threading.current_thread() is threading.main_thread()


def checkThread() -> None:
    """
    @raise NotSupported: if signals cannot be had here.
    """
    if not inMainThread():
        raise NotSupported(
            "this is not the main thread, and nobody else can handle the signal that redeploys"
        )


_early: set[int] = set()
_waiting: dict[int, Callable[[], object]] = {}


def rememberSignal(name: str) -> None:
    """
    Have a signal wait until it is handled, for it would end this process if it
    came before.  It has a handler, and is not blocked: what this process starts would
    have it blocked for ever.

    @param name: the signal's, with or without C{SIG}: C{"HUP"}.
    @raise ValueError: if there is none of that name.
    """
    _rememberNumber(redeploySignal(name))


def rememberBlocked() -> None:
    """
    The process that started this one has blocked what would have ended this one so
    far.
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
    Calls a function when a signal comes, in the main thread and at any moment:
    the function should do no more than wake the reactor.

    This leaves alone what the reactor does about signals (it has the wakeup
    descriptor, for SIGCHLD), so it works where the reactor does nothing, too.

    @ivar previous: the handler that was there before, if any.
    @ivar isInstalled: whether this one is to be there.
    """

    def __init__(self, number: int, action: Callable[[], object]) -> None:
        self.number = number
        self._action = action
        self.previous: Any = None
        self.isInstalled = False

    def install(self) -> None:
        """
        Begin to listen, also to a signal that has come while this process was
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
        Whether somebody else handles the signal by now.
        """
        return signal.getsignal(self.number) != self._handle

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
        See L{SignalHandler.install}.  Where nobody has handled the signal, it
        goes on to end the process at once; so it does what it did in a program whose
        reactor runs in another thread.
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
        Have the signal do what it did before.
        """
        self.restore()
        signal.raise_signal(self.number)


def redeployOn(name: str, reactor: Reactor, redeploy: Callable[[], object]) -> int:
    """
    Have a signal call something in the reactor, until that stops.

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

    def install() -> None:
        handler.install()
        if handler.isInstalled:
            _watch(reactor, handler, _STOPS, _CUTS)

    handler = StopHandler(number, lambda: reactor.callFromThread(stopBySignal))
    reactor.callWhenRunning(install)
    return handler


def refuseSignal(name: str, reactor: Reactor, refuse: Callable[[], object]) -> None:
    """
    Have a signal that was remembered so far, and never can be heeded, answered each
    time that it comes.

    @param refuse: says why, in the reactor.
    @raise ValueError: if there is none of that name.
    """
    number = redeploySignal(name)
    _waiting[number] = lambda: reactor.callFromThread(refuse)
    if number in _early:
        _early.discard(number)
        refuse()


def surviveOthers(name: str, reactor: Reactor) -> None:
    """
    Have the signals that redeploy elsewhere, and are not the one that does here, not
    end this process, which the operator takes for another; unless they have a meaning.

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
    Warn if a signal has had another owner; and once, if it gets one.

    @param taken: the warning that it was taken from somebody.
    @param lost: the warning that somebody has taken it.
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
    # The sooner, the fewer processes are started with what the parent has blocked.
    rememberBlocked()
