"""
For the unit tests of applications: an upgrade without a second process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from txtableflip import _steps
from txtableflip._counters import Counters
from txtableflip._draining.connections import Connections
from txtableflip._generation import STOP_TIMEOUT, Exit
from txtableflip._handover.nobody import NoChild
from txtableflip._handover.probation import Terms
from txtableflip._launch.command import Command, successorCommand
from txtableflip._launch.signals import StopHandler, redeploySignal, signalNumber
from txtableflip._migration.migration import Migration
from txtableflip._observers import OneShot
from txtableflip._sockets.endpoint import InheritableEndpoint
from txtableflip._sockets.inventory import Inventory
from txtableflip._sockets.named import Fds
from txtableflip._sockets.ports import Ports
from txtableflip.errors import ChildExited, Rehearsed, RolledBack, UpgradeFailed
from txtableflip.upgrader import Upgrader


class FakeUpgrader(Upgrader):
    """
    An L{Upgrader} with the real rules, so with the real errors, and nothing
    behind them: the test plays the other process.  There may be many of it.

    @ivar reactor: the one it was given, such as
        L{twisted.internet.testing.MemoryReactorClock}: its endpoints listen there.
    @ivar steps: what a real process would have done, by name, in order.
    @ivar signals: the names of the signals that would redeploy.
    """

    def __init__(self, reactor: Any, *, hasParent: bool = False) -> None:
        """
        @param hasParent: whether this process was started in an upgrade.
        """
        self.steps: list[str] = []
        self.signals: list[str] = []
        recorder: Any = Recorder(reactor, self.steps, number=2 if hasParent else 1)
        self._begin(reactor, recorder, hasParent=hasParent)
        self._exit = _Unhurried(reactor, recorder)
        recorder.hurry = self._lifecycle.confirm
        self.reactor = reactor

    def endpoint(
        self,
        description: str,
        drainTimeout: float | None = None,
        migrate: bool | str | None = None,
    ) -> InheritableEndpoint:
        """
        See L{Upgrader.endpoint}.  What it makes listens on the given reactor.
        """
        reactor = _CountingReactor(self.reactor)
        return InheritableEndpoint(reactor, self._readiness, description)

    def _whenStarted(self, call: Callable[[], object]) -> None:
        # The reactor of a test need not run.
        call()

    def rollback(self, reason: str) -> None:
        """
        See L{Upgrader.rollback}.
        """
        super().rollback(reason)
        self._withdrawn = RolledBack(reason, phase="probation")

    def redeployOn(self, name: str) -> None:
        """
        See L{Upgrader.redeployOn}.  No signal is handled: call L{redeploy
        <txtableflip.Upgrader.redeploy>}.
        """
        redeploySignal(name)
        self.signals.append(name)

    def stopOn(self, name: str) -> StopHandler:
        """
        See L{Upgrader.stopOn}.  No signal is handled: call L{stop <txtableflip.Upgrader.stop>}.
        """
        return StopHandler(signalNumber(name), self.stop)

    def drain(self, timeout: float, stopTimeout: float = STOP_TIMEOUT) -> Deferred[int]:
        """
        See L{Upgrader.drain}.  No connection is real, and none is aborted; but work (L{busy
        <txtableflip.Upgrader.busy>}) is waited for.
        """
        finished = self._ours.connections.tasks.whenAllFinished()
        finished.addTimeout(timeout, self.reactor, onTimeoutCancel=lambda result, after: None)
        return finished.addCallback(lambda ignored: 0)

    def childServes(self) -> None:
        """
        The child is ready, and then serves, on probation; or it is sent away, if this
        is a dry run.
        """
        self._mustFollow("startChild")
        if self._core.order.dryRun:
            self._lifecycle.childFailed(Rehearsed("was ready", phase="initialise"))
            return
        self._lifecycle.childReady()
        self._lifecycle.childServing()

    def childTakesOver(self) -> None:
        """
        The child is ready, serves, and that is final: the upgrade succeeds.
        """
        self.childServes()
        self._lifecycle.confirm()

    def childStandsBy(self) -> None:
        """
        The child, which was to be withdrawn, accepts nothing any more: the upgrade
        fails.
        """
        self._mustFollow("withdrawChild")
        self._lifecycle.childReady(self._withdrawn)

    def childFails(self, error: UpgradeFailed | None = None) -> None:
        """
        The child is gone: the upgrade fails; or L{stop <txtableflip.Upgrader.stop>}, which
        ended it, is done.

        @param error: why; if nothing is said, it exited with status 1.
        """
        self._mustFollow("startChild", "endChild", "beginDrain", "withdrawChild")
        exited = ChildExited("exited with status 1", phase="initialise", exitStatus=1)
        self._lifecycle.childFailed(error or exited)

    def parentCommits(self) -> None:
        """
        The parent has stopped accepting: L{ready <txtableflip.Upgrader.ready>} fires.
        """
        self._mustFollow("sayReady")
        self._lifecycle.parentCommitted()

    def parentConfirms(self) -> None:
        """
        The parent never rolls back: L{whenFinal <txtableflip.Upgrader.whenFinal>} fires.
        """
        self._lifecycle.parentConfirmed()

    def parentWithdraws(self) -> None:
        """
        The parent rolls back: this process stands by.
        """
        self._lifecycle.parentWithdrew()

    def parentExits(self) -> None:
        """
        The parent has ended: L{whenParentExits <txtableflip.Upgrader.whenParentExits>} fires;
        L{ready <txtableflip.Upgrader.ready>}, too, if it waits.
        """
        self._lifecycle.parentExited()
        self._ours.olderAreGone.fire()

    def _mustFollow(self, *steps: str) -> None:
        """
        @raise RuntimeError: if none of these steps was the last: a real process
            would not do now what the test has it do.
        """
        if not self.steps or self.steps[-1] not in steps:
            raise RuntimeError(f"nobody waits for that: the steps so far were {self.steps}")


class _Unhurried(Exit):
    """
    The process of a test must not be killed: it runs other tests after this one.
    """

    def endIn(self, seconds: float) -> None:
        """
        Nothing is killed.
        """


class Recorder:
    """
    Records the name of whatever it is told to do, and does nothing.

    @ivar fds: real: descriptors that a test adds by name can be found.
    """

    child = NoChild()
    service: object = None
    terms = Terms()
    isReplaced = False
    drainTimeout: float | None = None
    finalSince = parentPid = None
    olderPids: tuple[int, ...] = ()

    def __init__(self, reactor: Any, steps: list[str], number: int) -> None:
        """
        @param steps: where the names are kept.
        """
        self.number = number
        self.olderAreGone = OneShot()
        if number == 1:
            self.olderAreGone.fire()
        self.connections = Connections()
        self.inventory = Inventory()
        self.migration = Migration(reactor, self.connections)
        self.counters = Counters(self.inventory)
        self.ports = Ports(reactor, self.inventory, self.connections, accepting=True)
        self.fds = Fds(self.inventory, self.ports)
        self._steps = steps

    def command(self) -> Command:
        """
        @return: a command that is never started here.
        """
        return successorCommand(())

    def prepare(self) -> None:
        """
        Nothing can fail here.
        """

    def describeDrain(self) -> None:
        """
        No connection is real.
        """

    def suggestPidFile(self, path: str) -> None:
        """
        No file is written.
        """


def _recording(name: str) -> Callable[..., None]:
    def record(self: Recorder, *arguments: object) -> None:
        self._steps.append(name)

    return record


for _name in vars(_steps.Steps):
    if not _name.startswith("_"):
        setattr(Recorder, _name, _recording(_name))


class _CountingReactor:
    """
    The reactor, seen through an object that counts how often something listens,
    as an L{InheritingReactor <txtableflip._sockets.reactor.InheritingReactor>}
    does.
    """

    def __init__(self, reactor: Any) -> None:
        self.listened = 0
        self._reactor = reactor

    def __getattr__(self, name: str) -> Any:
        self.listened += name.startswith("listen")
        return getattr(self._reactor, name)
