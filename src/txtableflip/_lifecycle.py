"""
The rules: what a process may do when.  No I/O.

Theory of operation
===================

A process has a parent (unless it is the first of its chain) and, while an
upgrade runs, a child.  Both conversations share one rule: B{exactly one of the
two processes accepts connections}.  The parent accepts until it has heard that
the child is ready; then it parks its ports, and only then sends Commit; the
child accepts only after that.  In between nobody accepts, and clients wait in
the kernel's queue, which belongs to the socket and not to a process.

Any process may die at any moment, and the other one learns it as the end of
the channel between them.  So each wait has two ends: the answer, or the death
of who should give it::

    the parent waits for     answer    death of the child
      Ready                  park      it never stopped serving: nothing to do
      Serving                leave     un-park, and serve on

    the child waits for      answer    death of the parent
      (initialising)         -         it is alone: it will commit by itself
      Commit                 serve     it is alone: it commits by itself

That is symmetrical but for one case: a child which the parent has given up
(C{Abort}, sent before the parent lets go of it) must not take the parent's
death for a reason to serve.

A process that falls silent without dying is made to die: deadlines live where
the waiting is done (L{txtableflip._handover.child} and C{parent}), and arrive
here as the same inputs as a death does.

How this file is read
=====================

L{Lifecycle} lists the inputs, in four groups: what the application says, what
the parent does, what the child does, what this process fails to do.  L{Steps}
lists everything that the rules can have done to the world, and each L{Step} says
what follows if that raises: the transition has been made by then, so it has to be
an input as any other.  L{Core.do} is the only way to the world.  L{_build} is the
table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from automat import TypeMachineBuilder
from twisted.internet.defer import Deferred

from txtableflip._journal import (
    Committed,
    Failed,
    Final,
    Journal,
    ProcessLogger,
    Ready,
    Requested,
    Serving,
    SuccessorExited,
)
from txtableflip._observers import OneShot
from txtableflip.errors import (
    Abandoned,
    AlreadyUpgraded,
    ChildNotStarted,
    HandoverFailed,
    NotReady,
    ParentStillRunning,
    ParentTimedOut,
    Refusal,
    Stopping,
    UpgradeError,
    UpgradeFailed,
    UpgradeInProgress,
)

if TYPE_CHECKING:
    from automat._typed import TypedState, TypeMachine


class Lifecycle(Protocol):
    """
    Everything that can happen to a process.
    """

    def ready(self) -> None:
        """
        The application has initialised.
        """

    def initialisationFailed(self, error: Exception) -> None:
        """
        The application never will be ready.
        """

    def upgrade(self, result: Deferred[None]) -> None:
        """
        The application wants to be replaced now, or to hear why not.
        """

    def redeploy(self) -> None:
        """
        The operator wants a new version, as soon as that may be.
        """

    def stop(self) -> None:
        """
        The process is to end without a successor.
        """

    def parentCommitted(self) -> None:
        """
        The parent has stopped accepting, for this process to go on.
        """

    def parentAborted(self, reason: str) -> None:
        """
        The parent serves on, and this process is to leave.
        """

    def parentExited(self) -> None:
        """
        The parent is no more.
        """

    def parentTimedOut(self) -> None:
        """
        The parent has not answered that this process is ready.
        """

    def childReady(self) -> None:
        """
        The child has initialised.
        """

    def childServing(self) -> None:
        """
        The child has taken over.
        """

    def childFailed(self, error: UpgradeFailed) -> None:
        """
        The child is no more, or was not there ever.
        """

    def stepFailed(self, error: Exception) -> None:
        """
        This process could not do what it was to.
        """


class Steps(Protocol):
    """
    Everything that the rules can have done.
    """

    def startChild(self) -> None:
        """
        Start the next generation.
        """

    def commitChild(self) -> None:
        """
        Tell the child to serve.
        """

    def endChild(self) -> None:
        """
        Make the child leave; C{childFailed} follows when it has.
        """

    def killChild(self, reason: str) -> None:
        """
        End the child at once; C{childFailed} follows.
        """

    def forwardRedeploy(self) -> None:
        """
        Tell the child that somebody wants a newer version still.
        """

    def sayReady(self) -> None:
        """
        Ask the parent to commit.
        """

    def sayServing(self) -> None:
        """
        Tell the parent that this process has taken over.
        """

    def sayRefused(self, reason: str) -> None:
        """
        Tell the parent that this process will not take over.
        """

    def park(self) -> None:
        """
        Stop accepting, and keep the sockets.
        """

    def accept(self) -> None:
        """
        Begin to accept, or go on with it, and nothing else: clients wait.
        """

    def takePidFile(self) -> None:
        """
        Be the one that the pid file names.
        """

    def settle(self) -> None:
        """
        Let go of what was inherited and is not wanted.
        """

    def die(self) -> None:
        """
        End this process at once: the kernel closes what it could not park.
        """


@dataclass(frozen=True)
class Step:
    """
    What is to be done.

    @ivar do: does it.
    @ivar failed: tells the rules that it could not be done, by one of their
        inputs.
    """

    do: Callable[[Steps], object]
    failed: Callable[[Lifecycle, Exception], object]


def _stepFailed(rules: Lifecycle, error: Exception) -> None:
    rules.stepFailed(error)


def _childNotStarted(rules: Lifecycle, error: Exception) -> None:
    if not isinstance(error, UpgradeFailed):
        error = ChildNotStarted(f"could not be started: {error}", phase="start")
    rules.childFailed(error)


def _childNotKilled(rules: Lifecycle, error: Exception) -> None:
    rules.childFailed(HandoverFailed(f"could not be killed: {error}", phase="commit"))


def _nothing(rules: Lifecycle, error: Exception) -> None:
    """
    It is in the log, and the rest goes on.
    """


startChild = Step(lambda steps: steps.startChild(), _childNotStarted)
commitChild = Step(lambda steps: steps.commitChild(), _stepFailed)
endChild = Step(lambda steps: steps.endChild(), _stepFailed)
forwardRedeploy = Step(lambda steps: steps.forwardRedeploy(), _nothing)
sayReady = Step(lambda steps: steps.sayReady(), _stepFailed)
sayServing = Step(lambda steps: steps.sayServing(), _stepFailed)
park = Step(lambda steps: steps.park(), _stepFailed)
accept = Step(lambda steps: steps.accept(), _stepFailed)
takePidFile = Step(lambda steps: steps.takePidFile(), _nothing)
settle = Step(lambda steps: steps.settle(), _nothing)
die = Step(lambda steps: steps.die(), _nothing)


def killChild(reason: object) -> Step:
    """
    @return: the step that ends the child at once.
    """
    return Step(lambda steps: steps.killChild(_inWords(reason)), _childNotKilled)


def sayRefused(reason: object) -> Step:
    """
    @return: the step that tells the parent why it goes on.
    """
    return Step(lambda steps: steps.sayRefused(_inWords(reason)), _nothing)


def _inWords(reason: object) -> str:
    return str(reason) or repr(reason)


@dataclass
class Core:
    """
    What the rules remember besides the state.

    @ivar wanted: whether a redeploy is to follow as soon as one may.
    @ivar result: what the caller of the running upgrade waits for.
    """

    steps: Steps
    isReady: OneShot = field(default_factory=OneShot)
    isExiting: OneShot = field(default_factory=OneShot)
    parentIsGone: OneShot = field(default_factory=OneShot)
    journal: Journal = field(default_factory=Journal)
    wanted: bool = False
    result: Deferred[None] | None = None

    _log = ProcessLogger()

    def do(self, rules: Lifecycle, *steps: Step) -> bool:
        """
        Have steps done: the only way to the world.  What cannot be done becomes
        an input; unless that changes nothing, the steps behind it are skipped.

        @return: whether all was done that the rest rests on.
        """
        for step in steps:
            try:
                step.do(self.steps)
            except Exception as error:  # noqa: BLE001 - whatever it is, the rules go on
                if not isinstance(error, UpgradeFailed):
                    self._log.failure("a step of the upgrade failed")
                step.failed(rules, error)
                if step.failed is not _nothing:
                    return False
        return True

    def begin(self, rules: Lifecycle, result: Deferred[None] | None) -> None:
        """
        Start the upgrade that C{result} waits for.
        """
        self.wanted = False
        self.result = result
        self.journal.tell(Requested, isDeferred=False)
        self.do(rules, startChild)

    def end(self, error: UpgradeError | None) -> None:
        """
        The upgrade is over: tell who waits, and the journal.
        """
        result, self.result = self.result, None
        if error is None:
            self.journal.tell(Final)
        else:
            self.journal.tell(Failed, reason=str(error))
        if result is not None and not result.called:
            if error is None:
                result.callback(None)
            else:
                result.errback(error)

    def remember(self) -> None:
        """
        A redeploy has to wait.
        """
        self.wanted = True
        self.journal.tell(Requested, isDeferred=True)

    def leave(self, error: Exception) -> None:
        """
        This process is not to serve (any longer).
        """
        self.isReady.error(error)
        self.isExiting.fire()


def _build() -> tuple[  # noqa: C901, PLR0915 - a table, written as code
    TypeMachine[Lifecycle, Core], dict[str, TypedState[Lifecycle, Core]]
]:
    """
    Make the machine, and its states by name.
    """
    builder = TypeMachineBuilder(Lifecycle, Core)

    initialising = builder.state("Initialising")
    besideParent = builder.state("InitialisingBesideParent")
    awaiting = builder.state("AwaitingCommit")
    newlyServing = builder.state("ServingBesideParent")
    serving = builder.state("Serving")
    upgrading = builder.state("Upgrading")
    committing = builder.state("Committing")
    upgraded = builder.state("Upgraded")
    ending = builder.state("EndingChild")
    stopped = builder.state("Stopped")

    # -- the application says that it is ready

    @initialising.upon(Lifecycle.ready).to(serving)
    @awaiting.upon(Lifecycle.parentExited).to(serving)
    def serveAlone(machine: Lifecycle, core: Core) -> None:
        if core.do(machine, accept, takePidFile, settle):
            core.journal.tell(Serving)
            core.isReady.fire()
        core.parentIsGone.fire()
        catchUp(machine, core)

    @besideParent.upon(Lifecycle.ready).to(awaiting)
    def ask(machine: Lifecycle, core: Core) -> None:
        if core.do(machine, sayReady):
            core.journal.tell(Ready)

    @awaiting.upon(Lifecycle.parentCommitted).to(newlyServing)
    def serveBesideParent(machine: Lifecycle, core: Core) -> None:
        if core.do(machine, accept, takePidFile, sayServing, settle):
            core.journal.tell(Serving)
            core.isReady.fire()

    # -- it never will be ready, or is not wanted

    @initialising.upon(Lifecycle.initialisationFailed).loop()
    def stayUnready(machine: Lifecycle, core: Core, error: Exception) -> None:
        core.isReady.error(error)

    @besideParent.upon(Lifecycle.initialisationFailed).to(stopped)
    @awaiting.upon(Lifecycle.stepFailed).to(stopped)
    def refuse(machine: Lifecycle, core: Core, error: Exception) -> None:
        core.do(machine, sayRefused(error))
        core.leave(error)

    @besideParent.upon(Lifecycle.parentAborted).to(stopped)
    @awaiting.upon(Lifecycle.parentAborted).to(stopped)
    def abandon(machine: Lifecycle, core: Core, reason: str) -> None:
        core.leave(Abandoned(f"the parent gave this process up: {reason}"))

    @awaiting.upon(Lifecycle.parentTimedOut).to(stopped)
    def despair(machine: Lifecycle, core: Core) -> None:
        refuse(machine, core, ParentTimedOut("the parent did not answer Ready in time"))

    # -- it cannot serve after all: somebody else is to, or to start it again

    @newlyServing.upon(Lifecycle.stepFailed).to(stopped)
    def handBack(machine: Lifecycle, core: Core, error: Exception) -> None:
        core.do(machine, park, sayRefused(error))
        core.leave(error)

    @serving.upon(Lifecycle.stepFailed).to(stopped)
    def fail(machine: Lifecycle, core: Core, error: Exception) -> None:
        core.do(machine, park)
        core.leave(error)

    @stopped.upon(Lifecycle.stepFailed).loop()
    def dieUnparked(machine: Lifecycle, core: Core, error: Exception) -> None:
        core.do(machine, die)

    # -- the parent goes

    @besideParent.upon(Lifecycle.parentExited).to(initialising)
    def goOnAlone(machine: Lifecycle, core: Core) -> None:
        core.parentIsGone.fire()

    @newlyServing.upon(Lifecycle.parentExited).to(serving)
    def succeed(machine: Lifecycle, core: Core) -> None:
        core.parentIsGone.fire()
        catchUp(machine, core)

    # -- an upgrade, from beginning to end

    @serving.upon(Lifecycle.upgrade).to(upgrading)
    def start(machine: Lifecycle, core: Core, result: Deferred[None]) -> None:
        core.begin(machine, result)

    @serving.upon(Lifecycle.redeploy).to(upgrading)
    def startUnattended(machine: Lifecycle, core: Core) -> None:
        core.begin(machine, None)

    @upgrading.upon(Lifecycle.childReady).to(committing)
    def commit(machine: Lifecycle, core: Core) -> None:
        if core.do(machine, park, commitChild):
            core.journal.tell(Committed)

    @committing.upon(Lifecycle.stepFailed).loop()
    @ending.upon(Lifecycle.stepFailed).loop()
    def killUntold(machine: Lifecycle, core: Core, error: Exception) -> None:
        core.do(machine, killChild(error))

    @committing.upon(Lifecycle.childServing).to(upgraded)
    def handOver(machine: Lifecycle, core: Core) -> None:
        core.end(None)
        if core.wanted:
            core.do(machine, forwardRedeploy)
        core.isExiting.fire()

    @upgrading.upon(Lifecycle.childFailed).to(serving)
    @committing.upon(Lifecycle.childFailed).to(serving)
    def serveOn(machine: Lifecycle, core: Core, error: UpgradeFailed) -> None:
        core.do(machine, accept, takePidFile)
        core.end(error)
        catchUp(machine, core)

    @upgraded.upon(Lifecycle.redeploy).loop()
    def forward(machine: Lifecycle, core: Core) -> None:
        core.do(machine, forwardRedeploy)

    @upgraded.upon(Lifecycle.childFailed).loop()
    def mourn(machine: Lifecycle, core: Core, error: UpgradeFailed) -> None:
        core.journal.tell(SuccessorExited, child=error.pid)

    # -- a redeploy that has to wait

    def remember(machine: Lifecycle, core: Core) -> None:
        core.remember()

    for state in (initialising, besideParent, awaiting, newlyServing, upgrading, committing):
        state.upon(Lifecycle.redeploy).loop()(remember)

    def catchUp(machine: Lifecycle, core: Core) -> None:
        if core.wanted:
            machine.redeploy()

    # -- an upgrade that is refused

    def refuseWith(cls: type[Refusal], why: str) -> object:
        def refuseUpgrade(machine: Lifecycle, core: Core, result: Deferred[None]) -> None:
            result.errback(cls(why))

        return refuseUpgrade

    unready = refuseWith(NotReady, "this process has not said ready() yet")
    leaving = refuseWith(Stopping, "this process is stopping")
    busy = refuseWith(UpgradeInProgress, "an upgrade is running: wait for its outcome")
    for state, refusal in (
        (initialising, unready),
        (besideParent, unready),
        (awaiting, unready),
        (
            newlyServing,
            refuseWith(
                ParentStillRunning,
                "the parent still finishes its connections: wait for whenParentExits()",
            ),
        ),
        (upgrading, busy),
        (committing, busy),
        (upgraded, refuseWith(AlreadyUpgraded, "a newer process has replaced this one")),
        (ending, leaving),
        (stopped, leaving),
    ):
        state.upon(Lifecycle.upgrade).loop()(refusal)  # type: ignore[arg-type]

    # -- the end

    @initialising.upon(Lifecycle.stop).to(stopped)
    @newlyServing.upon(Lifecycle.stop).to(stopped)
    @serving.upon(Lifecycle.stop).to(stopped)
    def leave(machine: Lifecycle, core: Core) -> None:
        core.leave(Stopping("this process was told to stop"))

    @besideParent.upon(Lifecycle.stop).to(stopped)
    @awaiting.upon(Lifecycle.stop).to(stopped)
    def leaveUnready(machine: Lifecycle, core: Core) -> None:
        core.do(machine, sayRefused("it was told to stop"))
        core.leave(Stopping("this process was told to stop"))

    @upgrading.upon(Lifecycle.stop).to(ending)
    @committing.upon(Lifecycle.stop).to(ending)
    def stopUpgrading(machine: Lifecycle, core: Core) -> None:
        core.end(Stopping("this process was told to stop, and ends the one it started"))
        core.do(machine, endChild)

    @ending.upon(Lifecycle.childFailed).to(stopped)
    def leaveLast(machine: Lifecycle, core: Core, error: UpgradeFailed) -> None:
        core.leave(Stopping("this process was told to stop"))

    @stopped.upon(Lifecycle.ready).loop()
    def tooLate(machine: Lifecycle, core: Core) -> None:
        core.isReady.error(Stopping("this process was told to stop"))

    # -- what changes nothing: said twice, too late, or by a peer that has been given up

    fromApplication = (Lifecycle.ready, Lifecycle.initialisationFailed)
    fromParent = (
        Lifecycle.parentCommitted,
        Lifecycle.parentAborted,
        Lifecycle.parentExited,
        Lifecycle.parentTimedOut,
    )
    fromChild = (Lifecycle.childReady, Lifecycle.childServing, Lifecycle.childFailed)
    failed = Lifecycle.stepFailed
    for state, inputs in (
        (initialising, (*fromParent, *fromChild, failed)),
        (besideParent, (Lifecycle.parentCommitted, Lifecycle.parentTimedOut)),
        (besideParent, (*fromChild, failed)),
        (awaiting, (*fromApplication, *fromChild)),
        (newlyServing, (*fromApplication, *fromParent[:2], fromParent[3], *fromChild)),
        (serving, (*fromApplication, *fromParent, *fromChild)),
        (upgrading, (*fromApplication, *fromParent, Lifecycle.childServing, failed)),
        (committing, (*fromApplication, *fromParent, Lifecycle.childReady)),
        (upgraded, (*fromApplication, *fromParent, *fromChild[:2], Lifecycle.stop, failed)),
        (ending, (*fromApplication, *fromParent, *fromChild[:2])),
        (ending, (Lifecycle.redeploy, Lifecycle.stop)),
        (stopped, (Lifecycle.initialisationFailed, *fromParent, *fromChild)),
        (stopped, (Lifecycle.redeploy, Lifecycle.stop)),
    ):
        for ignored in inputs:
            state.upon(ignored).loop().returns(None)

    states = (
        initialising,
        besideParent,
        awaiting,
        newlyServing,
        serving,
        upgrading,
        committing,
        upgraded,
        ending,
        stopped,
    )
    return builder.build(), {state.name: state for state in states}


machine, STATES = _build()
"""
The machine, for C{automat-visualize} and L{begin}, and its states by name.
"""


def begin(core: Core, *, hasParent: bool) -> Lifecycle:
    """
    Make the lifecycle of a process that has just started.
    """
    return machine(core, STATES["InitialisingBesideParent" if hasParent else "Initialising"])
