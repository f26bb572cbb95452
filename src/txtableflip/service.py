"""
Upgrades as a service: the operator's signal redeploys, the process says by
itself when it is ready, and exits by itself when it has been replaced.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, inlineCallbacks, maybeDeferred
from twisted.internet.error import ReactorNotRunning

from txtableflip._journal import ProcessLogger
from txtableflip._launch.chosen import findLauncher
from txtableflip._launch.signals import blockSignal
from txtableflip.errors import PidFileError
from txtableflip.interfaces import Reactor
from txtableflip.upgrader import Upgrader, checkTimeout, currentUpgrader

DRAIN_TIMEOUT = 30.0
"""
How long open connections may take to finish after an upgrade, in seconds.
"""

REDEPLOY_SIGNAL = "HUP"
"""
The signal that redeploys.
"""

STOP_SIGNAL = "TERM"
"""
The signal that stops the service when it has finished what is open.
"""

REMINDER_AFTER = 10.0
"""
After how long to say what is waited for before this process is ready, in
seconds.
"""

WATCHDOG_GRACE = 0.9
"""
How much longer than the drain timeout a process may take to end, in seconds.
"""


class UpgradeService(Service):
    """
    Add this to an application whose endpoints are C{tableflip:} strings.

    It handles the signal; says ready when the reactor runs and everything
    listens that is to; and after an upgrade, or on SIGTERM, lets the open
    connections finish, and stops the reactor.  A second SIGTERM stops it at
    once, as SIGINT does.  An application that has C{tableflip:} strings and no
    such service gets one with these defaults.
    """

    _log = ProcessLogger()

    def __init__(
        self,
        upgrader: Upgrader | None = None,
        drainTimeout: float = DRAIN_TIMEOUT,
        signal: str = REDEPLOY_SIGNAL,
    ) -> None:
        """
        @param upgrader: this process's; if there is none yet, it is made.
        @param drainTimeout: how long open connections may take to finish after
            an upgrade, in seconds; then they are cut, and a process that does
            not end is ended.
        @param signal: the name of the signal that redeploys.
        @raise ValueError: if C{drainTimeout} is not positive, or there is no
            such signal.
        """
        checkTimeout("drainTimeout", drainTimeout)
        if upgrader is None:
            # The reactor must not be chosen by an import.
            from twisted.internet import reactor  # noqa: PLC0415

            upgrader = currentUpgrader() or Upgrader(reactor)
        self.upgrader = upgrader
        # Nobody else is to use these parts of it.
        self._generation = upgrader._ours  # noqa: SLF001
        self._exit = upgrader._exit  # noqa: SLF001
        self._readiness = upgrader._readiness  # noqa: SLF001
        self._generation.service = self
        self.drainTimeout = drainTimeout
        self.signal = signal
        # twistd writes its pid file long before this service is started.
        blockSignal(signal)

    def startService(self) -> None:
        """
        See L{twisted.application.service.IService.startService}.
        """
        super().startService()
        self.upgrader.redeployOn(self.signal)
        self.upgrader.whenExiting().addCallback(self._drainAndStop)
        self.upgrader.reactor.callWhenRunning(self._startAnnouncing)
        self._stop = self.upgrader.stopOn(STOP_SIGNAL)

    def _startAnnouncing(self) -> None:
        # A turn later, when all who wait for the reactor to run have had theirs.
        self.upgrader.reactor.callLater(0, self._announceOrRefuse)

    def _announceOrRefuse(self) -> None:
        maybeDeferred(self._announce).addErrback(self._notListening)

    def _announce(self) -> Deferred[None]:
        """
        Say ready, as soon as there is nothing left to wait for.
        """
        launcher = findLauncher()
        launcher.shareLog()
        pidFile = launcher.takePidFile()
        if pidFile is not None:
            self._generation.suggestPidFile(pidFile)
        reminder = self.upgrader.reactor.callLater(REMINDER_AFTER, self._remind)
        listening = self.upgrader.whenListening()
        listening.addBoth(_cancelling(reminder))
        return listening.addCallback(lambda ignored: self._sayReady())

    def _remind(self) -> None:
        """
        An endpoint that is made and never listens would keep this process from
        being ready for ever, and without a word.
        """
        self._log.warn(
            "not ready after {seconds:g} s: waiting for {pending}",
            seconds=REMINDER_AFTER,
            pending="; ".join(self._readiness.pending()),
        )

    def _sayReady(self) -> None:
        if not self.upgrader.hasParent:
            self._warnOfObstacles()
        if not self.upgrader.used:
            self._log.warn(
                "nothing that listens in this process can be inherited, so its next version "
                "could not listen while it runs: put tableflip: before its endpoints"
            )
        self.upgrader.ready().addErrback(self._notServing)

    def _warnOfObstacles(self) -> None:
        found = findLauncher().obstacles(self._readiness.descriptions)
        if found:
            self._log.warn(
                "upgrades will fail, because user {user} may not {obstacles}",
                user=os.geteuid(),
                obstacles=", nor ".join(found),
            )

    def _notListening(self, failure: Any) -> None:
        """
        This process is not ready and never will be.  The parent serves on, if there
        is one; if not, the rest of this process does, if it listens anywhere.
        """
        self._log.error(
            "not ready, and not to be upgraded: {reason}", reason=failure.getErrorMessage()
        )
        self.upgrader.refuse(failure.value)

    def _notServing(self, failure: Any) -> None:
        if failure.check(PidFileError) and not self.upgrader.hasParent:
            self._log.error(
                "serving, and not to be upgraded: {reason}", reason=failure.getErrorMessage()
            )
            return
        self._log.critical("exiting: {reason}", reason=failure.getErrorMessage())
        self._stopReactor()

    @inlineCallbacks
    def _drainAndStop(self, ignored: None) -> Any:
        if not self._exit.isShuttingDown:
            self._exit.endIn(self.drainTimeout + WATCHDOG_GRACE)
            try:
                yield self.upgrader.drain(self.drainTimeout)
            except Exception:  # noqa: BLE001 - the process has to end in any case
                self._log.failure("draining failed, and what is still open is cut")
            self._stopReactor()

    def _stopReactor(self) -> None:
        if self._stop.wasReceived:
            # For the status by which whoever sent the signal knows its end.
            self._stop.again()
            return
        # Somebody else may have been faster.
        with suppress(ReactorNotRunning):
            self.upgrader.reactor.stop()


def _cancelling(call: Any) -> Callable[[Any], Any]:
    """
    @return: a callback that cancels a delayed call, unless it is late.
    """

    def callback(result: Any) -> Any:
        if call.active():
            call.cancel()
        return result

    return callback


def automaticUpgrader(reactor: Reactor) -> Upgrader:
    """
    @return: the L{Upgrader} of this process.  If there was none, it has been
        made, and an L{UpgradeService} will run it, unless the application adds
        its own before the reactor runs.
    @raise NotSupported: if there can be no upgrades here.
    """
    upgrader = currentUpgrader()
    if upgrader is None:
        upgrader = Upgrader(reactor)
        blockSignal(REDEPLOY_SIGNAL)
        # In a turn of its own: if the reactor runs, the endpoint is still to be made.
        reactor.callWhenRunning(reactor.callLater, 0, _runUnattended, upgrader)
    return upgrader


def _runUnattended(upgrader: Upgrader) -> None:
    if upgrader._ours.service is None:  # noqa: SLF001 - as above
        UpgradeService(upgrader).startService()
