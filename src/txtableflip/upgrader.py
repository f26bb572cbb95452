"""
L{Upgrader}: this process as one in a chain of generations.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorProcess, IReactorSocket, IReactorUNIX
from zope.interface import implementer

from txtableflip import _lifecycle
from txtableflip._control.contact import Contact
from txtableflip._control.restart import findStored
from txtableflip._control.status import statusOf
from txtableflip._draining.connections import OpenConnection
from txtableflip._draining.work import Work
from txtableflip._generation import MAX_GENERATIONS, STOP_TIMEOUT, Exit, Generation
from txtableflip._handover.parent import findParent
from txtableflip._handover.probation import Terms
from txtableflip._journal import ProcessLogger
from txtableflip._launch import origin
from txtableflip._launch.chosen import findLauncher
from txtableflip._launch.healthcheck import HealthCommand
from txtableflip._launch.release import checkRelease, releaseHere
from txtableflip._launch.signals import StopHandler, redeployOn, stopOn
from txtableflip._launch.twistd import stayInForeground
from txtableflip._launch.unlogged import beHeard
from txtableflip._sockets.endpoint import InheritableEndpoint
from txtableflip._sockets.inventory import Changes
from txtableflip._sockets.migrating import checkMigrates
from txtableflip._sockets.reactor import InheritingReactor
from txtableflip._sockets.readiness import Readiness
from txtableflip._steps import Core, Order
from txtableflip.errors import (
    NotOnProbation,
    NotSupported,
    PidFileError,
    RolledBack,
    UpgraderExists,
)
from txtableflip.fds import Fds
from txtableflip.interfaces import IUpgrader, Reactor

_T = TypeVar("_T")

UPGRADE_TIMEOUT = 60.0
"""
How long a child has to become ready by default, in seconds.
"""


class _Inheriting:
    """
    What is inherited, as applications see it.
    """

    def _inherit(self, reactor: Reactor, generation: Generation) -> None:
        """
        Begin with what a generation has inherited.
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
        self,
        description: str,
        drainTimeout: float | None = None,
        migrate: bool | str | None = None,
    ) -> InheritableEndpoint:
        if drainTimeout is not None:
            checkTimeout("drainTimeout", drainTimeout)
        checkMigrates(migrate)
        reactor = InheritingReactor(self._reactor, self._ours.ports, drainTimeout, migrate)
        return InheritableEndpoint(reactor, self._readiness, description)

    def whenListening(self) -> Deferred[None]:
        return self._readiness.whenSettled()

    def notReadyUntil(self, happening: Deferred[Any]) -> Deferred[Any]:
        return self._readiness.require(happening)

    @property
    def work(self) -> list[Work]:
        """
        What there is to finish, besides the connections, before this process ends.
        """
        return self._ours.connections.tasks.describe()

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        task = self._ours.connections.tasks.begin(what)
        try:
            yield
        finally:
            task.finish()

    def busyUntil(self, what: str, happening: Deferred[_T]) -> Deferred[_T]:
        task = self._ours.connections.tasks.begin(what)

        def finished(result: Any) -> Any:
            task.finish()
            return result

        return happening.addBoth(finished)


@implementer(IUpgrader)
class Upgrader(_Inheriting):
    """
    The object by which a process knows its parent and its child.

    Make it before anything listens; let what is to be inherited listen through it
    (L{endpoint}, L{reactor}, or C{tableflip:} endpoint strings); call L{ready}; and exit
    when L{whenExiting} fires.  L{IUpgrader <txtableflip.interfaces.IUpgrader>} describes
    all of that.
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
        directory: str | None = None,
        release: str | None = None,
        migrate: bool | str = False,
    ) -> None:
        """
        If this process was started in an upgrade, read what the parent hands over, which
        has already been sent.

        @param upgradeTimeout: how long a child may take until it is ready, in seconds; then
            it is terminated, and the upgrade has failed.
        @param pidFile: the path of a file that names the process that serves.
        @param command: what to start as the next version, instead of the command by which
            this process was started. It must not daemonise.
        @param envFile: the path of a file with environment variables, C{NAME=value}
            in each line, which is read when the next version is started.
        @param maxGenerations: how many may be alive when an upgrade is final: the oldest are
            terminated then, even if they have connections.
        @param probation: for how long a child that serves may be rolled back, in seconds;
            not at all by default.
        @param healthCheck: called each second while a child is on probation: a function
            that returns, or whose Deferred fires, if the child is healthy, and raises or
            fails if not; or a command, whose exit status is 0 if it is.
        @param directory: where the next version is started, if not where this process
            was: an absolute path.  Each upgrade looks it up, so a link in it may be moved.
        @param release: a label for the release that this process runs, for the log and
            C{tableflip status}; by default the target of a symbolic link in the name of its
            directory.
        @param migrate: whether connections migrate to the next generation, for all
            listeners for which L{endpoint} does not say otherwise.
        @raise NotSupported: if the platform or the reactor cannot do it.
        @raise UpgraderExists: if this process has one.
        @raise ValueError: if C{upgradeTimeout} is not positive, C{maxGenerations} is
            less than 2, C{probation} is negative or infinite, C{directory} is not an
            absolute path, C{release} is not one printable line, C{migrate} is not what
            L{endpoint} takes, or C{command} or C{healthCheck} is not a list of words, of
            which the first names a program.
        @raise ChannelError: if what the parent sent cannot be used.
        """
        checkTimeout("upgradeTimeout", upgradeTimeout)
        if command is not None:
            checkCommand(command)
        checkDirectory(directory)
        if release is not None:
            checkRelease(release)
        checkMaxGenerations(maxGenerations)
        checkMigrates(migrate)
        terms = _makeTerms(reactor, probation, healthCheck)
        checkSupport(reactor)
        if Upgrader._current is not None:
            raise UpgraderExists(
                "this process has an Upgrader: make yours before the first tableflip: "
                "endpoint string, or pass the one there is (txtableflip.currentUpgrader())"
            )
        beHeard(reactor)
        ProcessLogger.release = release or origin.RELEASE or releaseHere(directory or "")
        parent = findParent(origin.takeChannel())
        if parent is not None:
            stayInForeground()
        generation = Generation(
            *(reactor, parent or findStored(), upgradeTimeout, pidFile),
            lambda: findLauncher().command(command, envFile, directory),
        )
        generation.terms = terms
        generation.maxGenerations = maxGenerations
        generation.ports.migrates = migrate
        self._begin(reactor, generation, hasParent=parent is not None)
        generation.connect(self._lifecycle)
        self._contact = Contact(self, generation, self._core, reactor)
        reactor.addSystemEventTrigger("before", "shutdown", self._shutDown)
        reactor.addSystemEventTrigger("after", "shutdown", generation.leave)
        Upgrader._current = self

    def _shutDown(self) -> Deferred[Any]:
        """
        The reactor shuts down: answer callers when it is decided what becomes of a child.
        """
        decided = self._exit.shutDown(self.stop)
        return decided.addBoth(lambda ignored: self._contact.end())

    def _begin(self, reactor: Reactor, generation: Generation, *, hasParent: bool) -> None:
        """
        Connect the rules with the steps that they decide on.
        """
        self.hasParent = hasParent
        self.generation: int = generation.number
        self._inherit(reactor, generation)
        self._exit = Exit(reactor, generation)
        self._core = Core(generation)
        state = "InitialisingBesideParent" if hasParent else "Initialising"
        self._lifecycle = _lifecycle.begin(self._core, state)

    def ready(self) -> Deferred[None]:
        self._whenStarted(self._sayReady)
        return self.whenServing()

    def _whenStarted(self, call: Callable[[], object]) -> None:
        """
        Call something when the reactor has started everything that starts with it.
        """
        if self._reactor.running:
            call()
        else:
            self._reactor.callWhenRunning(self._reactor.callLater, 0, call)

    def _sayReady(self) -> None:
        try:
            self._ours.prepare()
        except PidFileError as error:
            self.refuse(error)
        else:
            self._lifecycle.ready()

    def refuse(self, error: Exception) -> None:
        if self.hasParent or not self.used:
            self._lifecycle.initialisationFailed(error)
        else:
            # It serves some clients, and no other process would.
            self._core.obstruct(error)

    def whenServing(self) -> Deferred[None]:
        return self._core.isReady.wait()

    def whenFinal(self) -> Deferred[None]:
        return self._core.isFinal.wait()

    def upgrade(
        self,
        *,
        dryRun: bool = False,
        expect: str | None = None,
        drainTimeout: float | None = None,
    ) -> Deferred[None]:
        if expect is not None and not os.path.isabs(expect):
            raise ValueError(f"expect must be an absolute path, not {expect!r}")
        if drainTimeout is not None and not 0 <= drainTimeout < math.inf:
            raise ValueError(f"drainTimeout must be 0 or more seconds, not {drainTimeout!r}")
        result: Deferred[None] = Deferred()
        self._core.nextOrder = Order(dryRun, expect, drainTimeout)
        self._lifecycle.upgrade(result)
        # If the upgrade was refused, the next one must not use this order.
        self._core.nextOrder = Order()
        return result

    def status(self) -> dict[str, Any]:
        return statusOf(self._ours, self._core)

    def redeploy(self) -> None:
        self._lifecycle.redeploy()

    def rollback(self, reason: str) -> None:
        _checkState(self._core, "Upgrading", "Committing", "Watching")
        self._lifecycle.rollback(RolledBack(reason, phase="probation"))

    def withdraw(self, reason: str) -> None:
        _checkState(self._core, "OnProbation")
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

    def drain(self, timeout: float, stopTimeout: float = STOP_TIMEOUT) -> Deferred[int]:
        checkTimeout("timeout", timeout)
        checkTimeout("stopTimeout", stopTimeout)
        return self._exit.finish(timeout, stopTimeout)


def _describe() -> None:
    """
    Give the methods the docstrings of the interface, for help().
    """
    for name, described in IUpgrader.namesAndDescriptions(all=True):
        if callable(getattr(Upgrader, name, None)):
            getattr(Upgrader, name).__doc__ = described.__doc__


_describe()


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
    @raise ValueError: if that cannot be started: it is empty, a whole command line in one
        string, or not all strings.
    """
    isText = all(isinstance(word, str) for word in command)
    if isinstance(command, str) or not command or not isText:
        raise ValueError(
            f"command must be a list of strings, a program and its arguments, not {command!r}"
        )


def checkDirectory(directory: str | None) -> None:
    """
    @raise ValueError: if that is relative: the next version would look for it from its own
        directory, which is that one.
    """
    if directory is not None and not os.path.isabs(directory):
        raise ValueError(f"directory must be an absolute path, not {directory!r}")


_WHY_NOT = {
    "OnProbation": "this is the new process: withdraw() asks the old one to serve again",
    "Upgrading": "the new process does not serve yet: rollback() aborts the upgrade",
    "Committing": "the new process does not serve yet: rollback() aborts the upgrade",
    "Watching": "this is the old process: rollback() has it serve again",
    "Withdrawing": "the new process is being rolled back already",
    "Replaced": "too late: it is final that a newer process serves",
}
"""
Why a rollback or a confirmation is refused, by state.
"""


def _checkState(core: Core, *states: str) -> None:
    """
    @raise NotOnProbation: if the rules are in none of these states.
    """
    if core.state not in states:
        raise NotOnProbation(_WHY_NOT.get(core.state, "no process here is on probation"))


def _makeTerms(
    reactor: Any, probation: float, healthCheck: Sequence[str] | Callable[[], Any] | None
) -> Terms:
    """
    @raise ValueError: if the probation or the health check is not valid.
    """
    checkProbation(probation)
    if healthCheck is None or callable(healthCheck):
        return Terms(probation, healthCheck)
    checkCommand(healthCheck)
    return Terms(probation, HealthCommand(reactor, healthCheck).ask)


def checkProbation(seconds: float) -> None:
    """
    @raise ValueError: if that is not a valid time for a probation.
    """
    if not (seconds >= 0 and math.isfinite(seconds)):
        raise ValueError(f"probation must be a number of seconds, not {seconds!r}")


def checkMaxGenerations(count: int) -> None:
    """
    @raise ValueError: if the new process could not live beside the old one.
    """
    if count <= 1:
        raise ValueError(f"maxGenerations must be 2 at least, not {count!r}")


def checkTimeout(name: str, seconds: float) -> None:
    """
    @raise ValueError: if that is not a valid timeout.
    """
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ValueError(f"{name} must be a positive number of seconds, not {seconds!r}")
