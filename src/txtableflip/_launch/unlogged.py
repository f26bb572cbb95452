"""
Where our warnings go if nobody has begun to log what Twisted does: to L{logging}, which
writes them to standard error if nobody has configured that, either.
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
Which of ours; what is critical, Twisted writes by itself.
"""

_KEPT = 100


def isLogged() -> bool:
    """
    @return: whether somebody has begun to log.
    """
    return getattr(globalLogBeginner, "_temporaryObserver", None) is None


@implementer(ILogObserver)
class Unlogged:
    """
    Passes on what nobody else hears.  A program that begins to log when its reactor
    runs is given what it has missed, so until then nothing is passed on.
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
        Whoever has not begun to log by now, does not.
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
    Have our warnings heard, as soon as the reactor runs.
    """
    observer = Unlogged()
    globalLogPublisher.addObserver(observer)
    reactor.callWhenRunning(reactor.callLater, 0, observer.begin)
