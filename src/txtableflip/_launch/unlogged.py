"""
Where our warnings go if the program has not started Twisted's logging: to L{logging}, which
writes them to standard error if that is not configured, either.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

from twisted.logger import (
    ILogObserver,
    LogLevel,
    formatEvent,
    globalLogBeginner,
    globalLogPublisher,
)
from zope.interface import implementer

from txtableflip.interfaces import Reactor

_LEVELS = {LogLevel.warn: logging.WARNING, LogLevel.error: logging.ERROR}
"""
Which of ours are passed on; Twisted itself writes critical ones.
"""

_KEPT = 100


def isLogged() -> bool:
    """
    @return: whether Twisted's logging has been started.
    """
    return getattr(globalLogBeginner, "_temporaryObserver", None) is None


@implementer(ILogObserver)
class Unlogged:
    """
    Passes on events that no other observer gets.  A program that starts logging when its
    reactor runs gets what it has missed, so nothing is passed on before that.
    """

    def __init__(self) -> None:
        self._early: deque[Any] | None = deque(maxlen=_KEPT)

    def __call__(self, event: Any) -> None:
        isOurs = str(event.get("log_namespace", "")).startswith("txtableflip")
        if not isOurs or event.get("log_level") not in _LEVELS or isLogged():
            return
        if self._early is not None:
            self._early.append(event)
        else:
            _pass(event)

    def begin(self) -> None:
        """
        A program that has not started logging by now does not: pass on what has come.
        """
        early, self._early = self._early or (), None
        if not isLogged():
            for event in early:
                _pass(event)


def _pass(event: Any) -> None:
    level = _LEVELS[event["log_level"]]
    logging.getLogger("txtableflip").log(level, "%s", formatEvent(event))


def beHeard(reactor: Reactor) -> None:
    """
    Pass on our warnings as soon as the reactor runs, if they are not logged.
    """
    observer = Unlogged()
    globalLogPublisher.addObserver(observer)
    reactor.callWhenRunning(reactor.callLater, 0, observer.begin)
