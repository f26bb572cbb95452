"""
L{Upgrader}: this process as one in a chain of generations.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorProcess, IReactorSocket, IReactorUNIX
from zope.interface import implementer

from txtableflip import _lifecycle
from txtableflip._draining.connections import OpenConnection
from txtableflip._generation import MAX_GENERATIONS, Exit, Generation
from txtableflip._handover.parent import findParent
from txtableflip._handover.probation import Terms
from txtableflip._launch import origin
from txtableflip._launch.chosen import findLauncher
from txtableflip._launch.healthcheck import HealthCommand
from txtableflip._launch.signals import StopHandler, redeployOn, stopOn
from txtableflip._sockets.endpoint import InheritableEndpoint
from txtableflip._sockets.inventory import Changes
from txtableflip._sockets.reactor import InheritingReactor
from txtableflip._sockets.readiness import Readiness
from txtableflip._steps import Core
from txtableflip.errors import (
    NotOnProbation,
    NotSupported,
    PidFileError,
    RolledBack,
    UpgraderExists,
)
from txtableflip.fds import Fds
from txtableflip.interfaces import IUpgrader, Reactor

UPGRADE_TIMEOUT = 60.0
"""
How long a child has to become ready if nothing else is said, in seconds.
"""


class _Inheriting:
    """
    What is inherited, as applications see it.
    """

    def _inherit(self, reactor: Reactor, generation: Generation) -> None:
        """
        Begin with what a generation has been left.
        """
        self.reactor: Any = InheritingReactor(reactor, generation.ports)
        self.fds: Fds = generation.fds
        self.changes: Changes = generation.inventory.changes
        self._reactor = reactor
        self._ours = generation
        self._readiness = Readiness(reactor, generation.inventory)

    @property
    def used(self) -> list[str]:
        """
        What a child would inherit, in words.
        """
        return self._ours.inventory.names()

    @property
    def connections(self) -> list[OpenConnection]:
        """
        The open connections that inheritable listeners have accepted.
        """
        return self._ours.connections.describe()

    def endpoint(
        self, description: str, drainTimeout: float | None = None
    ) -> InheritableEndpoint:
        if drainTimeout is not None:
            checkTimeout("drainTimeout", drainTimeout)
        reactor = InheritingReactor(self._reactor, self._ours.ports, drainTimeout)
        return InheritableEndpoint(reactor, self._readiness, description)

    def whenListening(self) -> Deferred[None]:
        return self._readiness.whenSettled()

    def notReadyUntil(self, happening: Deferred[Any]) -> Deferred[Any]:
        return self._readiness.require(happening)


@implementer(IUpgrader)
class Upgrader(_Inheriting):
    """
    The one object of a process that knows of its parent and its child.

    Make it before anything listens; let what is to be inherited listen through
    it (L{endpoint}, L{reactor}, or C{tableflip:} endpoint strings); say
    L{ready}; and leave when L{whenExiting} fires.  L{IUpgrader
    <txtableflip.interfaces.IUpgrader>} describes all of that.
    """

    _current: ClassVar[Upgrader | None] = None

    def __init__(
        self,
        reactor: Any,
        upgradeTimeout: float = UPGRADE_TIMEOUT,
        pidFile: str | None = None,
        command: Sequence[str] | None = None,
        envFile: str | None = None,
        *,
        maxGenerations: int = MAX_GENERATIONS,
        probation: float = 0.0,
        healthCheck: Sequence[str] | Callable[[], Any] | None = None,
    ) -> None:
        """
        If this process was started in an upgrade, wait for what the parent has
        to hand over; that is there already.

        @param upgradeTimeout: how long a child may take until it is ready, in
            seconds; then it is ended, and the upgrade has failed.
        @param pidFile: the path of a file that is to name the process that
            serves.
        @param command: what to start as the next version, in the place of the
            command by which this process was started.  It must not become a
            daemon.
        @param envFile: the path of a file with environment variables, C{NAME=value}
            in each line, which is read when the next version is started.
        @param maxGenerations: how many may live when one serves for good: the oldest
            are ended then, though they may have connections.
        @param probation: for how long a child that serves may be taken back, in
            seconds.
        @param healthCheck: asks each second how a child on probation is: a function
            that returns, or has its Deferred fire, if that serves well, and raises
            or fails if not; or a command, which exits with status 0 or another.
        @raise NotSupported: if the platform or the reactor cannot do it.
        @raise UpgraderExists: if this process has one.
        @raise ValueError: if C{upgradeTimeout} is not positive, C{maxGenerations} is
            less than 2, C{probation} is negative or infinite, or C{command} or
            C{healthCheck} is not a list of words, of which the first names a program.
        @raise ChannelError: if what the parent sent cannot be used.
        """
        checkTimeout("upgradeTimeout", upgradeTimeout)
        if command is not None:
            checkCommand(command)
        if maxGenerations <= 1:
            raise ValueError(f"maxGenerations must be 2 at least, not {maxGenerations!r}")
        terms = _makeTerms(reactor, probation, healthCheck)
        checkSupport(reactor)
        if Upgrader._current is not None:
            raise UpgraderExists(
                "this process has an Upgrader: make yours before the first tableflip: "
                "endpoint string, or pass the one there is (txtableflip.currentUpgrader())"
            )
        parent = findParent(origin.takeChannel())
        generation = Generation(
            *(reactor, parent, upgradeTimeout, pidFile),
            lambda: findLauncher().command(command, envFile),
        )
        generation.terms = terms
        generation.maxGenerations = maxGenerations
        self._begin(reactor, generation, hasParent=parent is not None)
        generation.connect(self._lifecycle)
        reactor.addSystemEventTrigger("before", "shutdown", self._exit.shutDown, self.stop)
        reactor.addSystemEventTrigger("after", "shutdown", generation.leave)
        Upgrader._current = self

    def _begin(self, reactor: Reactor, generation: Generation, *, hasParent: bool) -> None:
        """
        Join the rules, and what they can have done.
        """
        self.hasParent = hasParent
        self.generation: int = generation.number
        self._inherit(reactor, generation)
        self._exit = Exit(reactor, generation)
        self._core = Core(generation)
        state = "InitialisingBesideParent" if hasParent else "Initialising"
        self._lifecycle = _lifecycle.begin(self._core, state)

    def ready(self) -> Deferred[None]:
        try:
            self._ours.prepare()
        except PidFileError as error:
            self.refuse(error)
        else:
            self._lifecycle.ready()
        return self.whenServing()

    def refuse(self, error: Exception) -> None:
        if self.hasParent or not self.used:
            self._lifecycle.initialisationFailed(error)
        else:
            # It serves some clients, and nobody else would.
            self._core.obstacle = f"this process is not to be upgraded: {error}"
            self._core.isReady.error(error)

    def whenServing(self) -> Deferred[None]:
        return self._core.isReady.wait()

    def whenFinal(self) -> Deferred[None]:
        return self._core.isFinal.wait()

    def upgrade(self) -> Deferred[None]:
        result: Deferred[None] = Deferred()
        self._lifecycle.upgrade(result)
        return result

    def redeploy(self) -> None:
        self._lifecycle.redeploy()

    def rollback(self, reason: str) -> None:
        _checkState(self._core, "OnProbation", "Upgrading", "Committing", "Watching")
        self._lifecycle.rollback(RolledBack(reason, phase="probation"))

    def confirm(self) -> None:
        _checkState(self._core, "OnProbation", "Watching")
        if self._core.state == "Watching":
            self._ours.hurry()
        else:
            self._lifecycle.confirm()

    def redeployOn(self, name: str) -> None:
        self._ours.signals.append(redeployOn(name, self._reactor, self.redeploy))

    def stopOn(self, name: str) -> StopHandler:
        return stopOn(name, self._reactor, self.stop)

    def whenExiting(self) -> Deferred[None]:
        return self._core.isExiting.wait()

    def whenParentExits(self) -> Deferred[None]:
        return self._ours.olderAreGone.wait()

    def stop(self) -> Deferred[None]:
        self._lifecycle.stop()
        return self._core.isExiting.wait()

    def drain(self, timeout: float) -> Deferred[int]:
        checkTimeout("timeout", timeout)
        drained: Deferred[Any] = self._exit.drain(timeout)
        return drained.addCallback(lambda outcome: outcome.cut)


for _name, _described in IUpgrader.namesAndDescriptions(all=True):
    # So that help(), too, has what the interface says.
    if callable(getattr(Upgrader, _name, None)):
        getattr(Upgrader, _name).__doc__ = _described.__doc__


def currentUpgrader() -> Upgrader | None:
    """
    @return: the L{Upgrader} of this process, if there is one.
    """
    return Upgrader._current  # noqa: SLF001 - it is of this module


def checkSupport(reactor: Any) -> None:
    """
    @raise NotSupported: if there can be no upgrades here.
    """
    if os.name != "posix":
        raise NotSupported("this platform cannot hand sockets to a new process")
    for interface in (IReactorSocket, IReactorUNIX, IReactorProcess):
        if not interface.providedBy(reactor):
            raise NotSupported(
                f"{type(reactor).__name__} cannot hand sockets to a new process: it does not "
                f"provide {interface.__name__}"
            )


def checkCommand(command: Sequence[str]) -> None:
    """
    @raise ValueError: if that cannot be started: it is empty, a whole command
        line in one string, or some of it no string.
    """
    isText = all(isinstance(word, str) for word in command)
    if isinstance(command, str) or not command or not isText:
        raise ValueError(
            f"command must be a list of strings, a program and its arguments, not {command!r}"
        )


def _checkState(core: Core, *states: str) -> None:
    """
    @raise NotOnProbation: if the rules are in none of these states.
    """
    if core.state not in states:
        raise NotOnProbation(f"there is nothing to take back or confirm: {core.state}")


def _makeTerms(
    reactor: Any, probation: float, healthCheck: Sequence[str] | Callable[[], Any] | None
) -> Terms:
    """
    @raise ValueError: if there is no such probation, or no such health check.
    """
    if not (probation >= 0 and math.isfinite(probation)):
        raise ValueError(f"probation must be a number of seconds, not {probation!r}")
    if healthCheck is None or callable(healthCheck):
        return Terms(probation, healthCheck)
    checkCommand(healthCheck)
    return Terms(probation, HealthCommand(reactor, healthCheck).ask)


def checkTimeout(name: str, seconds: float) -> None:
    """
    @raise ValueError: if that is no time to wait.
    """
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ValueError(f"{name} must be a positive number of seconds, not {seconds!r}")
