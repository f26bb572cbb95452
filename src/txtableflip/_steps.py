"""
What the rules of the L{lifecycle <txtableflip._lifecycle>} can ask for, and what follows if
it fails.

L{Steps} is the world, as far as the rules can reach.  Each L{Step} says what follows
if it raises: the transition has been made by then, so that is an input like any other, or
another step.  L{Core.follow} is the only way to the world.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from txtableflip import _journal
from txtableflip._journal import Journal, ProcessLogger
from txtableflip._observers import OneShot
from txtableflip.errors import (
    ChildNotStarted,
    Refusal,
    Rehearsed,
    Stopping,
    UpgradeError,
    UpgradeFailed,
)


@dataclass(frozen=True)
class Order:
    """
    What the caller of an upgrade wants of it, this once.

    @ivar dryRun: whether the child is told to exit when it is ready.
    @ivar expect: the directory in which the child is to run, if that matters.
    @ivar drainTimeout: how long all connections have to finish, in seconds, if not as
        long as usual.
    """

    dryRun: bool = False
    expect: str | None = None
    drainTimeout: float | None = None


@dataclass(frozen=True)
class Account:
    """
    How an upgrade went, or goes.

    @ivar began: when, in seconds since the epoch.
    @ivar outcome: C{"running"}, C{"done"}, C{"failed"}, C{"rolledBack"} or C{"stopped"}.
    @ivar isRehearsal: whether it was to change nothing.
    @ivar ended: when, if it has.
    @ivar reason: why it did not end as it should.
    """

    began: float
    outcome: str = "running"
    isRehearsal: bool = False
    ended: float | None = None
    reason: str | None = None


class Steps(Protocol):
    """
    Everything that the rules can do to the world.
    """

    # -- accepting

    def learn(self) -> None:
        """
        Take in what the parent has opened since this process was started.
        """

    def accept(self) -> None:
        """
        Begin or continue to accept, and do nothing else: clients wait.
        """

    def park(self) -> None:
        """
        Stop accepting, and keep the sockets.
        """

    def takePidFile(self) -> None:
        """
        Be the one that the pid file names.
        """

    def insistOnPidFile(self) -> None:
        """
        The same, and if that fails, try again until it succeeds.
        """

    def beginDrain(self) -> None:
        """
        Say goodbye to the clients of this process: the child serves.
        """

    def cancelDrain(self) -> None:
        """
        Continue to serve them after all, if that has begun: the child does not serve.
        """

    # -- what cannot be undone

    def finalise(self) -> None:
        """
        Turn what was inherited into what this release wants, and close what it does not
        want.
        """

    def letGo(self) -> None:
        """
        Let go of everything that the child has.
        """

    def takeBack(self) -> None:
        """
        No child takes over: let go of what was kept for one.
        """

    # -- the child

    def startChild(self, order: Order) -> None:
        """
        Start the next generation.
        """

    def commitChild(self) -> None:
        """
        Tell the child to serve.
        """

    def watchChild(self) -> None:
        """
        See whether the child serves well: C{confirm} or C{rollback} follows.
        """

    def withdrawChild(self, why: Exception | None) -> None:
        """
        Tell the child to stop accepting, and to stand by.
        """

    def confirmChild(self) -> None:
        """
        Tell the child that it is final.
        """

    def endChild(self, why: Exception | None) -> None:
        """
        Tell the child to exit, and see that it does: C{childFailed} or
        C{childStopping} follows.
        """

    def killChild(self, why: Exception | None) -> None:
        """
        Kill the child; C{childFailed} follows.
        """

    def dismissChild(self) -> None:
        """
        Let a child that stands by exit when it has finished.  Nothing follows.
        """

    def tellChildToRedeploy(self) -> None:
        """
        Tell the child that a still newer version is wanted.
        """

    # -- the parent

    def sayReady(self) -> None:
        """
        Tell the parent that this process accepts nothing, but could.
        """

    def sayServing(self) -> None:
        """
        Tell the parent that this process accepts.
        """

    def sayRefused(self, reason: str) -> None:
        """
        Tell the parent that this process accepts nothing, and exits.
        """

    def sayStopping(self) -> None:
        """
        Tell the parent that this process was told to stop, for both of them.
        """

    def askToBeWithdrawn(self, reason: str) -> None:
        """
        Ask the parent to serve again.
        """

    def askToBeConfirmed(self) -> None:
        """
        Ask the parent to make it final.
        """

    def tellParentToRedeploy(self) -> None:
        """
        Tell the parent that a still newer version is wanted.
        """

    def killParent(self) -> None:
        """
        Kill a parent that no longer answers; C{parentExited} follows.
        """

    # -- the end

    def exitWithFailure(self) -> None:
        """
        Make this process exit with a status that says that it has failed.
        """

    def die(self) -> None:
        """
        End this process at once: the kernel closes what it could not park.
        """


@dataclass(frozen=True)
class Step:
    """
    What is to be done.

    @ivar do: does it, with what came with the input.
    @ivar failed: what follows if that raises: the name of an input, which gets the error,
        or another step instead; the steps after this one are not done then.  If there is
        none, the error is logged, and they are.
    """

    do: Callable[[Core, Any], object]
    failed: str | Step | None = None

    def orElse(self, failed: str | Step) -> Step:
        """
        @return: the same step, with what follows if it raises.
        """
        return replace(self, failed=failed)


@dataclass
class Core:
    """
    What the rules remember besides the state.

    @ivar state: the name of the one that the rules are in.
    @ivar since: when that began, in seconds since the epoch.
    @ivar servingSince: when this process first served, if it has.
    @ivar isReady: that this process serves, or never will.
    @ivar isFinal: that it serves, and no parent can roll that back.
    @ivar isExiting: that it has been replaced, or was told to stop.
    @ivar wanted: whether a redeploy is to follow as soon as one may.
    @ivar result: what the caller of the running upgrade waits for.
    @ivar order: what the upgrade that began last is to be.
    @ivar nextOrder: the same of the one that is being requested.
    @ivar lastUpgrade: how that went, or goes, if there was one.
    @ivar isOver: that it is over; fails as the upgrade did.
    @ivar obstacle: why this process can never be upgraded, if so.
    @ivar rules: L{txtableflip._lifecycle.Lifecycle}, for the inputs that follow
        from steps.
    """

    steps: Steps
    state: str = ""
    since: float = 0.0
    servingSince: float | None = None
    isReady: OneShot = field(default_factory=OneShot)
    isFinal: OneShot = field(default_factory=OneShot)
    isExiting: OneShot = field(default_factory=OneShot)
    journal: Journal = field(default_factory=Journal)
    wanted: bool = False
    result: Deferred[None] | None = None
    order: Order = Order()
    nextOrder: Order = Order()
    lastUpgrade: Account | None = None
    isOver: OneShot = field(default_factory=OneShot)
    obstacle: str | None = None
    rules: Any = None

    _log = ProcessLogger()

    def enter(self, state: str) -> None:
        """
        The rules are in this state now.
        """
        if state != self.state:
            self.state, self.since = state, time.time()

    def follow(self, steps: Sequence[Step], said: object) -> None:
        """
        Do steps, one after the other, up to one that fails.

        @param said: what came with the input.
        """
        for step in steps:
            try:
                step.do(self, said)
            except Exception as error:  # noqa: BLE001 - whatever it is, the rules go on
                if not isinstance(error, UpgradeFailed):
                    self._log.failure("a step of the upgrade failed")
                if isinstance(step.failed, Step):
                    self.follow([step.failed], error)
                elif step.failed is not None:
                    getattr(self.rules, step.failed)(error)
                if step.failed is not None:
                    return

    def end(self, error: UpgradeError | None) -> None:
        """
        The upgrade is over: notify the caller that waits, and the journal.
        """
        result, self.result = self.result, None
        self._account(error)
        if result is not None and not result.called:
            if error is None or isinstance(error, Rehearsed):
                result.callback(None)
            else:
                result.errback(error)
        if error is None:
            self.isOver.fire()
        else:
            self.isOver.error(error)

    def _account(self, error: UpgradeError | None) -> None:
        isWell = error is None or isinstance(error, Rehearsed)
        if self.lastUpgrade is not None:
            self.lastUpgrade = replace(
                self.lastUpgrade,
                outcome=_outcomeOf(error),
                ended=time.time(),
                reason=None if isWell else str(error),
            )
        if error is None:
            self.journal.tell(_journal.Final)
        elif isinstance(error, Rehearsed):
            self.journal.tell(_journal.Rehearsed, child=error.pid)
        elif self.order.dryRun:
            self.journal.tell(_journal.RehearsalFailed, reason=str(error))
        else:
            outcome = _outcomeOf(error)
            self.journal.tell(_journal.Failed, reason=str(error), outcome=outcome)

    def begin(self, result: Deferred[None] | None) -> None:
        """
        An upgrade begins, which may be the one that was remembered.
        """
        # A rehearsal does not meet a request for a new version.
        self.wanted = self.wanted and self.nextOrder.dryRun
        self.result = result
        self.order, self.nextOrder = self.nextOrder, Order()
        self.isOver = OneShot()
        self.lastUpgrade = Account(time.time(), isRehearsal=self.order.dryRun)
        self.journal.tell(_journal.Requested, isDeferred=False)
        if self.order.dryRun:
            self.journal.tell(_journal.Rehearsing)

    def remember(self) -> None:
        """
        A redeploy has to wait.
        """
        if self.obstacle is not None:
            self.refuse(self.obstacle)
            return
        self.wanted = True
        self.journal.tell(_journal.Requested, isDeferred=True)

    def serves(self) -> None:
        """
        This process accepts.
        """
        if self.servingSince is None:
            self.servingSince = time.time()
        self.isReady.fire()

    def refuse(self, why: str) -> None:
        """
        A redeploy is not possible.
        """
        self.wanted = False
        self._log.error("upgrade refused: {why}", why=why)

    def obstruct(self, error: Exception) -> None:
        """
        This process serves, and can never be upgraded.
        """
        self.obstacle = f"this process cannot be upgraded: {error}"
        if self.wanted:
            self.refuse(self.obstacle)
        self.isReady.error(error)

    def leave(self, why: object) -> None:
        """
        This process is not to serve (any longer): notify the callers that still wait.
        """
        error = why if isinstance(why, Exception) else Stopping("this process was told to stop")
        if self.result is not None:
            # Its child has failed, and it could not serve again.
            self.end(Stopping(f"this process exits: {error}"))
        self.isReady.error(error)
        self.isFinal.error(error)
        self.isExiting.fire()


# -- what may be done to the world

learn = Step(lambda core, said: core.steps.learn())
accept = Step(lambda core, said: core.steps.accept())
park = Step(lambda core, said: core.steps.park())
takePidFile = Step(lambda core, said: core.steps.takePidFile())
insistOnPidFile = Step(lambda core, said: core.steps.insistOnPidFile())
beginDrain = Step(lambda core, said: core.steps.beginDrain())
cancelDrain = Step(lambda core, said: core.steps.cancelDrain())
finalise = Step(lambda core, said: core.steps.finalise())
letGo = Step(lambda core, said: core.steps.letGo())
takeBack = Step(lambda core, said: core.steps.takeBack())
die = Step(lambda core, said: core.steps.die())
exitWithFailure = Step(lambda core, said: core.steps.exitWithFailure())

startChild = Step(lambda core, said: _startChild(core))
killChild = Step(lambda core, why: core.steps.killChild(why))
commitChild = Step(lambda core, said: core.steps.commitChild())
watchChild = Step(lambda core, said: core.steps.watchChild(), "rollback")
withdrawChild = Step(lambda core, why: core.steps.withdrawChild(why), killChild)
confirmChild = Step(lambda core, said: core.steps.confirmChild())
endChild = Step(lambda core, why: core.steps.endChild(why), killChild)
dismissChild = Step(lambda core, said: core.steps.dismissChild())
tellChildToRedeploy = Step(lambda core, said: core.steps.tellChildToRedeploy())

sayReady = Step(lambda core, said: core.steps.sayReady(), "quit")
sayServing = Step(lambda core, said: core.steps.sayServing(), "quit")
sayRefused = Step(lambda core, why: core.steps.sayRefused(_inWords(why)))
sayStopping = Step(lambda core, said: core.steps.sayStopping())
askToBeWithdrawn = Step(lambda core, why: core.steps.askToBeWithdrawn(_inWords(why)))
askToBeConfirmed = Step(lambda core, said: core.steps.askToBeConfirmed())
tellParentToRedeploy = Step(lambda core, said: core.steps.tellParentToRedeploy())
killParent = Step(lambda core, said: core.steps.killParent())

# -- what is done to the core

beginUpgrade = Step(lambda core, result: core.begin(result))
remember = Step(lambda core, said: core.remember())
refuse = Step(lambda core, said: core.refuse("this process is stopping"))
catchUp = Step(lambda core, said: core.rules.redeploy() if core.wanted else None)
mourn = Step(lambda core, error: core.journal.tell(_journal.SuccessorExited, child=error.pid))
tellReady = Step(lambda core, said: core.serves())
tellFinal = Step(lambda core, said: core.isFinal.fire())
tellDone = Step(lambda core, said: core.end(None))
tellFailed = Step(lambda core, error: core.end(error))
tellStopping = Step(lambda core, said: core.end(Stopping(_STOPS_BOTH)))
leave = Step(lambda core, why: core.leave(why))
tellExiting = Step(lambda core, said: core.isExiting.fire())

_STOPS_BOTH = "this process was told to stop, and terminates its successor"


def note(kind: type[_journal.Event]) -> Step:
    """
    @return: the step that adds an event without fields of its own to the journal.
    """
    return Step(lambda core, said: core.journal.tell(kind))


def refuseWith(cls: type[Refusal], why: str) -> Step:
    """
    @return: the step that refuses the caller of an upgrade at once.
    """
    return Step(lambda core, result: result.errback(cls(core.obstacle or why)))


def _startChild(core: Core) -> None:
    try:
        core.steps.startChild(core.order)
    except UpgradeFailed:
        raise
    except Exception as error:
        core._log.failure("the new process could not be started")  # noqa: SLF001
        raise ChildNotStarted(f"could not be started: {error}", phase="start") from error


def _outcomeOf(error: UpgradeError | None) -> str:
    if error is None or isinstance(error, Rehearsed):
        return "done"
    if isinstance(error, UpgradeFailed):
        return "rolledBack" if error.phase == "probation" else "failed"
    return "stopped"


def _inWords(why: object) -> str:
    if why is None:
        return "it was told to stop"
    return why.what if isinstance(why, UpgradeFailed) else str(why) or repr(why)
