"""
What a service manager is told about this process: systemd, or C{tableflip run}, which
speaks the same protocol.

B{Only one speaks}: the process that accepts, or is to next if it is the first.  A child
says nothing before it serves, nor when it has been withdrawn and stands by; and a process
that drains says nothing.  A keeper is told which process serves by the one that may roll
back (L{txtableflip._lifecycle}): the parent names the child when it has heard Serving, and
itself when it has rolled back; the child names itself only if its parent has exited.
systemd is not told, because it does not watch well what is not its own child.

What is said when::

    when                            what
    an upgrade is asked for         RELOADING=1, MONOTONIC_USEC
    a child has been started        X_TABLEFLIP_SUCCESSOR=pid; once more at Hello, if
                                    another one greets
    the child serves                by the child READY=1, then by the parent
                                    MAINPID=child; without a keeper READY=1
    it does not, or not any more    READY=1, X_TABLEFLIP_FAILED=reason; and
                                    MAINPID=own if the child had been named
    this process serves alone       MAINPID=own, READY=1
    the parent ends afterwards      MAINPID=own
    it is final that it serves      X_TABLEFLIP_FINAL=1, by it and by its parent
    it is told to stop before that  X_TABLEFLIP_FINAL=1, by its parent, which stops, too
    this process is told to stop    STOPPING=1
    each half WATCHDOG_USEC         WATCHDOG=1, while the reactor turns

Most also have a C{STATUS}, in words.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from txtableflip import _journal
from txtableflip._control.deposit import Deposit, roomOf
from txtableflip._control.notifications import Notifications
from txtableflip._generation import Generation
from txtableflip._journal import Event, Journal
from txtableflip._launch.origin import KEEPER, START
from txtableflip._observers import SteadyClock
from txtableflip._steps import Core
from txtableflip.interfaces import Reactor


class Notifier:
    """
    Tells a service manager what the journal says.

    @ivar speaks: whether this process is the one that speaks.
    """

    def __init__(
        self,
        notifications: Notifications,
        generation: Generation,
        core: Core,
        *,
        isKept: bool,
    ) -> None:
        """
        @param isKept: whether the service manager is a keeper.
        """
        self.speaks = False
        self._say = notifications.say
        self._generation = generation
        self._core = core
        self._isKept = isKept
        self._child: int | None = None
        self._hear: dict[type[Event], Callable[[Any], object]] = {
            _journal.Requested: self._requested,
            _journal.Started: self._started,
            _journal.Greeted: self._greeted,
            _journal.Serving: self._serving,
            _journal.Watching: self._watching,
            _journal.Final: self._final,
            _journal.Failed: self._failed,
            _journal.Rehearsed: self._rehearsed,
            _journal.RehearsalFailed: self._rehearsed,
            _journal.Hearing: self._hearing,
            _journal.ToldToStop: self._toldToStop,
        }

    def begin(self) -> None:
        """
        Tell from now on.
        """
        Journal.listeners.append(self.hear)
        self._generation.whenParentIsGone().addCallback(self._isAlone)
        self._core.isFinal.wait().addCallbacks(self._final, lambda failure: None)

    def hear(self, event: Event) -> None:
        """
        Notify the service manager if it is to know.
        """
        self._hear.get(type(event), lambda event: None)(event)

    def _own(self) -> list[str]:
        return [f"MAINPID={os.getpid()}"] if self._isKept else []

    def _inWords(self) -> str:
        return f"STATUS=generation {self._generation.number} serves"

    def _isAlone(self, ignored: object) -> None:
        if self._core.state == "Initialising":
            self.speaks = True
        elif self.speaks and self._isKept:
            # The parent may have exited before it could say so.
            self._say(*self._own())

    def _final(self, ignored: object) -> None:
        if self._isKept:
            self._say("X_TABLEFLIP_FINAL=1")

    def _requested(self, event: Event) -> None:
        # A service cannot reload before it has been ready.
        if self.speaks and self._core.servingSince is not None:
            self._say(
                *("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"),
                f"{self._inWords()}; an upgrade has been requested",
            )

    def _started(self, event: _journal.Started) -> None:
        self._child = event.child
        self._say(
            f"X_TABLEFLIP_SUCCESSOR={event.child}",
            f"{self._inWords()}; process {event.child} is to replace it, and initialises",
        )

    def _greeted(self, event: _journal.Greeted) -> None:
        if event.child != self._child:
            self._child = event.child
            self._say(f"X_TABLEFLIP_SUCCESSOR={event.child}")

    def _serving(self, event: Event) -> None:
        self.speaks = True
        isAlone = self._core.state == "Serving"
        self._say(*(self._own() if isAlone else ()), "READY=1", self._inWords())

    def _watching(self, event: Event) -> None:
        self.speaks = False
        if self._isKept:
            self._say(f"MAINPID={self._child}")
        else:
            self._say("READY=1", f"STATUS=process {self._child} serves, this one drains")

    def _failed(self, event: _journal.Failed) -> None:
        if self._core.state != "Serving":
            # It has been told to stop meanwhile.
            if not self.speaks:
                self._final(event)
            return
        own = [] if self.speaks else self._own()
        self.speaks = True
        reason = _inOneLine(event.reason)
        failed = (f"X_TABLEFLIP_FAILED={reason}", f"STATUS=upgrade failed: {reason}")
        self._say(*own, "READY=1", *failed)

    def _rehearsed(self, event: Event) -> None:
        self._say("READY=1", self._inWords())

    def _hearing(self, event: _journal.Hearing) -> None:
        if event.message == "Withdraw" and event.peer == "parent":
            self.speaks = False

    def _toldToStop(self, event: Event) -> None:
        if self.speaks:
            self._say("STOPPING=1", f"STATUS=generation {event.generation} stops")


class Pulse:
    """
    Tells a service manager, each half of the time that it waits, that the reactor turns.
    """

    def __init__(
        self, reactor: Reactor, notifier: Notifier, notifications: Notifications, usec: int
    ) -> None:
        """
        @param usec: how long the manager waits, in microseconds.
        """
        self._clock = SteadyClock(reactor)
        self._notifier = notifier
        self._notifications = notifications
        self._interval = usec / 2e6

    def beat(self) -> None:
        """
        Do so now, and then again.
        """
        # One that waits to be sent is as good as two.
        if self._notifier.speaks and self._notifications.isEmpty:
            self._notifications.say("WATCHDOG=1")
        self._clock.callLater(self._interval, self.beat)


def watchdogOf(environment: Mapping[str, str]) -> int | None:
    """
    @return: how long the service manager waits for a sign of life, in microseconds; C{None}
        if it does not expect any.
    """
    usec = environment.get("WATCHDOG_USEC", "")
    return int(usec) or None if usec.isascii() and usec.isdigit() else None


def _inOneLine(reason: str) -> str:
    """
    @return: the reason, and the last line of the last output.
    """
    first, *others = reason.splitlines()
    return f"{first} {others[-1]}" if others else first


def beSupervised(reactor: Reactor, generation: Generation, core: Core) -> Notifications:
    """
    Notify the service manager, if there is one, of what happens from now on.

    @return: what notifies it.
    """
    notifications = Notifications(reactor, START.environment.get("NOTIFY_SOCKET"))
    if notifications.isWanted:
        isKept = KEEPER is not None
        notifier = Notifier(notifications, generation, core, isKept=isKept)
        notifier.begin()
        usec = watchdogOf(START.environment)
        if usec is not None:
            pulse = Pulse(reactor, notifier, notifications, usec)
            reactor.callWhenRunning(pulse.beat)
        room = roomOf(START.environment)
        if room:
            Deposit(notifications, generation, core, reactor, room).begin()
    return notifications
