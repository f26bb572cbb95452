"""
Upgrades as a service: the operator's signal redeploys, the process becomes ready by itself,
and exits by itself when it has been replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, inlineCallbacks, maybeDeferred
from twisted.internet.error import ReactorNotRunning
from twisted.logger import LogLevel

from txtableflip._generation import STOP_TIMEOUT
from txtableflip._journal import ProcessLogger
from txtableflip._launch.chosen import findLauncher
from txtableflip._launch.signals import (
    checkThread,
    refuseSignal,
    rememberSignal,
    surviveOthers,
)
from txtableflip._launch.supervised import warnOfWatchers
from txtableflip.errors import NotSupported, PidFileError, SentAway
from txtableflip.interfaces import Reactor
from txtableflip.upgrader import Upgrader, checkTimeout, currentUpgrader

_log = ProcessLogger()

DRAIN_TIMEOUT = 30.0
"""
How long open connections may take to finish after an upgrade, in seconds.
"""

PROBATION = 5.0
"""
How long a new process that serves is on probation, in seconds, unless the application makes
the L{Upgrader}.
"""

REDEPLOY_SIGNAL = "HUP"
"""
The signal that redeploys.
"""

STOP_SIGNAL = "TERM"
"""
The signal that stops the service when its open connections have drained.
"""

REMINDER_AFTER = 10.0
"""
After how long to log what this process waits for before it is ready, in seconds.
"""


class UpgradeService(Service):
    """
    Add this to an application whose endpoints are C{tableflip:} strings.

    It handles the signal; calls ready() when the reactor runs and everything that should
    listen does; and after an upgrade, or on SIGTERM, drains the open connections, and stops
    the reactor. The drain begins as soon as the new process serves, also on probation; if
    that is rolled back, connections whose clients have not been told goodbye continue. A
    second SIGTERM stops it at once, as SIGINT does. An application that has C{tableflip:}
    strings and no such service gets one with these defaults.
    """

    _log = ProcessLogger()

    def __init__(
        self,
        upgrader: Upgrader | None = None,
        drainTimeout: float = DRAIN_TIMEOUT,
        signal: str = REDEPLOY_SIGNAL,
        stopTimeout: float = STOP_TIMEOUT,
    ) -> None:
        """
        @param upgrader: that of this process; if there is none yet, it is made, with a
            probation of 5 seconds. For another probation, or none, pass your own:
            C{Upgrader(reactor, probation=0)}.
        @param drainTimeout: how long open connections may take to finish, in
            seconds from when the new process serves; then they are aborted.
        @param signal: the name of the signal that redeploys.
        @param stopTimeout: how long the process may take to exit after that, with
            C{stopService} of all services and the shutdown triggers, in seconds; then it is
            killed.
        @raise ValueError: if one of the timeouts is not positive, or there is no
            such signal.
        """
        checkTimeout("drainTimeout", drainTimeout)
        checkTimeout("stopTimeout", stopTimeout)
        if upgrader is None:
            # The reactor must not be chosen by an import.
            from twisted.internet import reactor  # noqa: PLC0415

            upgrader = currentUpgrader() or Upgrader(reactor, probation=PROBATION)
        self.upgrader = upgrader
        # Only this service may use these parts of it.
        self._generation = upgrader._ours  # noqa: SLF001
        self._exit = upgrader._exit  # noqa: SLF001
        self._readiness = upgrader._readiness  # noqa: SLF001
        self._generation.service = self
        self.drainTimeout = drainTimeout
        self.stopTimeout = stopTimeout
        self.signal = signal
        # twistd writes its pid file long before this service is started.
        rememberSignal(signal)

    def startService(self) -> None:
        """
        See L{twisted.application.service.IService.startService}.
        """
        super().startService()
        self._generation.drainTimeout = self.drainTimeout
        _handleSignals(self.upgrader, self.signal)
        self.upgrader.whenExiting().addCallback(self._drainAndStop)
        self.upgrader.reactor.callWhenRunning(self._startAnnouncing)
        self._stop = self.upgrader.stopOn(STOP_SIGNAL)

    def _startAnnouncing(self) -> None:
        # A turn later, after all other calls that wait for the reactor to run.
        self.upgrader.reactor.callLater(0, self._announceOrRefuse)

    def _announceOrRefuse(self) -> None:
        maybeDeferred(self._announce).addErrback(self._notListening)

    def _announce(self) -> Deferred[None]:
        """
        Call ready() as soon as there is nothing left to wait for.
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
        Warn of what is waited for: an endpoint that is made and never listens would
        silently keep this process from ever being ready.
        """
        self._log.warn(
            "not ready after {seconds:g} s: waiting for {pending}",
            seconds=REMINDER_AFTER,
            pending="; ".join(self._readiness.pending()),
        )

    def _sayReady(self) -> None:
        if not self.upgrader.hasParent:
            self._sayWhatIsStarted()
            warnOfWatchers()
        if not self.upgrader.used:
            self._log.warn(
                "nothing that listens in this process can be inherited, so its next version "
                "could not listen while it runs: put tableflip: before its endpoints"
            )
        self.upgrader.ready().addErrback(self._notServing)

    def _sayWhatIsStarted(self) -> None:
        """
        Log what an upgrade will start.  Otherwise a link that was resolved at the start
        goes unnoticed until a deployment changes nothing.
        """
        command = self._generation.command()
        self._log.info(
            "an upgrade starts {command} in {where}", command=str(command), where=command.where
        )
        for obstacle in findLauncher().obstacles(self._readiness.descriptions):
            self._log.warn("{obstacle}", obstacle=obstacle)

    def _notListening(self, failure: Any) -> None:
        """
        This process is not ready and never will be. The parent keeps serving, if there is
        one; if not, the rest of this process does, if it listens anywhere.
        """
        self._log.error(
            "not ready, and cannot be upgraded: {reason}", reason=failure.getErrorMessage()
        )
        self.upgrader.refuse(failure.value)

    def _notServing(self, failure: Any) -> None:
        if failure.check(PidFileError) and not self.upgrader.hasParent:
            self._log.error(
                "serving, but cannot be upgraded: {reason}", reason=failure.getErrorMessage()
            )
            return
        level = LogLevel.info if failure.check(SentAway) else LogLevel.critical
        self._log.emit(level, "exiting: {reason}", reason=failure.getErrorMessage())
        self._stopReactor()

    @inlineCallbacks
    def _drainAndStop(self, ignored: None) -> Any:
        if not self._exit.isShuttingDown:
            try:
                yield self.upgrader.drain(self.drainTimeout, self.stopTimeout)
            except Exception:  # noqa: BLE001 - the process has to exit in any case
                self._log.failure("draining failed; aborting what is still open")
            self._stopReactor()

    def _stopReactor(self) -> None:
        if self._stop.wasReceived:
            # For the exit status that the sender of the signal expects.
            self._stop.again()
            return
        # The application may have stopped it already.
        with suppress(ReactorNotRunning):
            self.upgrader.reactor.stop()


def _handleSignals(upgrader: Upgrader, name: str) -> None:
    """
    Make a signal redeploy, or log why it cannot, each time that it comes.

    @raise ValueError: if the signal has another use.
    """
    findLauncher().checkSignal(name)
    surviveOthers(name, upgrader.reactor)
    try:
        upgrader.redeployOn(name)
    except NotSupported as error:
        why = f"upgrades by signal are disabled: {error}"
        _log.warn("{why}", why=why)
        refuse = partial(upgrader._core.refuse, why)  # noqa: SLF001 - as above
        refuseSignal(name, upgrader.reactor, refuse)


def _cancelling(call: Any) -> Callable[[Any], Any]:
    """
    @return: a callback that cancels a delayed call, if that is still pending.
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
        checkThread()
        upgrader = Upgrader(reactor, probation=PROBATION)
        runUnattended(UpgradeService(upgrader))
    return upgrader


def runUnattended(service: UpgradeService) -> None:
    """
    Run a service without a parent service when the reactor runs, unless the application has
    made its own by then.
    """
    reactor = service.upgrader.reactor
    # In a later turn: if the reactor runs already, the endpoint has yet to be made.
    reactor.callWhenRunning(reactor.callLater, 0, _startUnlessReplaced, service)


def _startUnlessReplaced(service: UpgradeService) -> None:
    if service.upgrader._ours.service is not service:  # noqa: SLF001 - as above
        return
    try:
        service.startService()
    except ValueError as error:
        _log.error("upgrades by signal are disabled: {error}", error=str(error))
