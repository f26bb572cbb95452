"""
Carries out the commands that this process receives.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater

from txtableflip._control.hearing import Caller, Hearing
from txtableflip._control.requests import Request
from txtableflip._control.results import Result, begun, describe, failed, refused, served
from txtableflip._control.status import statusOf
from txtableflip._generation import Generation
from txtableflip._journal import ProcessLogger
from txtableflip._steps import Core
from txtableflip.errors import (
    AlreadyUpgraded,
    NotOnProbation,
    NotReady,
    OnProbation,
    Refusal,
    Stopping,
    TableflipError,
    UpgradeFailed,
    UpgradeInProgress,
)
from txtableflip.interfaces import IUpgrader, Reactor

_SHARED = ("Committing", "Watching", "Withdrawing", "Upgrading", "EndingChild")
"""
The states in which a stop is for the child, too.
"""


_LATER = (NotReady, OnProbation, UpgradeInProgress)
"""
What prevents an upgrade only for a while.
"""


class Commands:
    """
    One method for each command: it returns the result, or a Deferred of it.
    """

    def __init__(
        self, upgrader: IUpgrader, generation: Generation, core: Core, reactor: Reactor
    ) -> None:
        self._upgrader = upgrader
        self._generation = generation
        self._core = core
        self._reactor: Any = reactor
        self._isStopping = False

    def answer(self, request: Request, caller: Caller) -> Any:
        """
        Carry out a request.
        """
        return getattr(self, request.command)(caller, **request.options)

    def status(self, caller: Caller) -> Result:
        """
        Describe this process, and the processes that it knows.
        """
        return {"outcome": "done", "status": statusOf(self._generation, self._core)}

    def rollback(self, caller: Caller, reason: str = "an operator asked for it") -> Any:
        """
        Let the older process serve again, whichever of the two this is.
        """
        if self._core.state == "OnProbation":
            return self._decided(
                caller, lambda: self._upgrader.withdraw(reason), isForNewer=False
            )
        return self._decided(caller, lambda: self._upgrader.rollback(reason), isForNewer=False)

    def confirm(self, caller: Caller) -> Any:
        """
        Make it final that the newer process serves.
        """
        return self._decided(caller, self._upgrader.confirm, isForNewer=True)

    @inlineCallbacks
    def _decided(self, caller: Caller, act: Callable[[], object], *, isForNewer: bool) -> Any:
        """
        End the probation, and wait until it has ended.

        @param isForNewer: whether the newer process is to serve then.
        """
        older, newer = self._both()
        isOnProbation = self._core.state == "OnProbation"
        decision = self._core.isFinal if isOnProbation else self._core.isOver
        hearing = Hearing(caller, self._generation)
        try:
            with hearing:
                act()
                hearing.tell("Deciding")
                isNewer = yield _whether(decision.wait())
        except NotOnProbation as error:
            return refused(error)
        except Stopping as error:
            return self._undone(error)
        if isNewer != isForNewer:
            return refused("it has been decided otherwise meanwhile: see the log")
        return served(newer, older) if isNewer else served(older, newer)

    def stop(self, caller: Caller) -> Any:
        """
        Do what a first SIGTERM does, and answer when it has been handled.
        """
        state, ours = self._core.state, os.getpid()
        if state == "Replaced":
            return self._moved()
        others = []
        if state == "OnProbation":
            others = [self._generation.parentPid]
        elif state in _SHARED:
            others = [self._generation.child.livingPid]
        if not self._isStopping and state not in ("Stopped", "EndingChild"):
            # A second one would abort the connections.
            self._isStopping = True
            os.kill(ours, signal.SIGTERM)
        pids = [ours, *(pid for pid in others if pid is not None)]
        result = {"outcome": "done", "changed": True, "processes": pids}
        return deferLater(self._reactor, 0, lambda: result)

    def upgrade(self, caller: Caller, *, detach: bool = False, **options: Any) -> Any:
        """
        Replace this process.

        @param detach: whether to answer as soon as it begins.
        """
        return self._begin(options) if detach else self._upgrade(caller, options)

    def _begin(self, options: Mapping[str, Any]) -> Result:
        outcome: list[Any] = []
        self._upgrader.upgrade(**options).addBoth(outcome.append)
        if not outcome:
            return begun("the upgrade has begun")
        error = outcome[0].value
        if not isinstance(error, _LATER) or self._core.obstacle is not None or options:
            return self._undone(error)
        self._upgrader.redeploy()
        return begun(f"the upgrade is deferred: {error}")

    @inlineCallbacks
    def _upgrade(self, caller: Caller, options: Mapping[str, Any]) -> Any:
        """
        Wait for an upgrade that runs already, and then begin another: what is on the disk
        may have changed since.
        """
        while caller.isThere:
            hearing = Hearing(caller, self._generation)
            try:
                with hearing:
                    yield self._upgrader.upgrade(**options)
                return self._done(hearing, **options)
            except _LATER as refusal:
                hearing.tell("Waiting", reason=str(refusal))
                instead = yield self._turn(refusal)
            except (TableflipError, ValueError) as error:
                instead = self._undone(error)
            if instead is not None:
                return instead
        return {}

    @inlineCallbacks
    def _turn(self, refusal: Refusal) -> Any:
        """
        Wait until it is worth another try.

        @return: a Deferred of the answer if it never will be, else of C{None}.
        """
        if self._core.obstacle is not None:
            return refused(refusal)
        if isinstance(refusal, UpgradeInProgress):
            yield self._core.isOver.wait().addErrback(lambda failure: None)
            # After everything else that follows from it.
            yield deferLater(self._reactor, 0, lambda: None)
            return None
        try:
            yield self._upgrader.whenFinal()
        except Exception as error:  # noqa: BLE001 - whatever has kept it from serving
            parent = self._generation.parentPid
            return self._undone(error) if parent is None else _moved(parent)
        return None

    def _undone(self, error: Exception) -> Result:
        if isinstance(error, AlreadyUpgraded):
            return self._moved()
        if isinstance(error, UpgradeFailed):
            return failed(error, self._both()[0], self._generation.child.release)
        outcome = "nobody" if isinstance(error, Stopping) else "refused"
        return {"outcome": outcome, "reason": str(error)}

    def _moved(self) -> Result:
        pid = self._generation.child.livingPid
        if pid is None:
            reason = f"process {os.getpid()} has been replaced, and its successor has exited"
            return {"outcome": "nobody", "reason": reason}
        return _moved(pid)

    def _done(self, hearing: Hearing, *, dryRun: bool = False, **others: Any) -> Result:
        older, newer = self._both()
        if not dryRun:
            newer["since"] = hearing.servingSince
            return served(newer, older)
        msg = "the next version was ready, and nothing has changed"
        return {"outcome": "done", "msg": msg, "serving": older}

    def _both(self) -> tuple[Result, Result]:
        """
        @return: the two processes of which one is to serve, the older one first.
        """
        generation, number = self._generation, self._generation.number
        ours = describe(os.getpid(), number, ProcessLogger.release, self._core.servingSince)
        if self._core.state == "OnProbation":
            return describe(generation.parentPid, number - 1, generation.parentRelease), ours
        child = generation.child
        return ours, describe(child.livingPid, number + 1, child.release)


def _moved(pid: int) -> Result:
    return {"outcome": "moved", "pid": pid}


def _whether(happening: Deferred[None]) -> Deferred[bool]:
    """
    @return: a Deferred that fires with C{True} if something happens, with C{False} once it
        cannot any more; it fails if that is because this process stops.
    """
    return happening.addCallbacks(
        lambda ignored: True, lambda failure: failure if failure.check(Stopping) else False
    )
