"""
The rules: what a process may do when.  No I/O.

Theory of operation
===================

A process has a parent (unless it is the first of its chain) and, while an upgrade
runs, a child.  Both conversations share one rule: B{exactly one of the two processes
accepts connections}.  The parent accepts until it has heard that the child is ready;
then it parks its ports, and only then sends Commit; the child accepts only after
that.  In between neither accepts, and clients wait in the kernel's queue, which belongs to
the socket and not to a process.

That can be undone until the parent says that it is B{final}.  While the child is on
probation, the parent watches, keeps its parked sockets, and may roll back: the child
parks, says Ready as it did before, and stands by; or it is killed.  B{The process that may
take back decides}: decisions travel down (Commit, Withdraw, Confirm, Abort), and wishes
travel up under the same names.  What cannot be undone is done when it is final.

Any process may die at any moment, and the other one learns it as the end of the
channel between them.  So each wait has two ends: the answer, or the death of the process
that should give it::

    the parent waits for     answer    death of the child
      Ready                  park      it never stopped serving: nothing to do
      Serving                watch     resume, and serve on
      the probation's end    leave     resume, and serve on
      Ready, once more       resume    resume

    the child waits for      answer    death of the parent
      (initialising)         -         it is alone: it will commit by itself
      Commit                 serve     it is alone: it commits by itself
      Confirm                -         it is alone: it is final

That is symmetrical but for one case: a child which the parent has given up (C{Abort})
must not take the parent's death for a reason to serve.  So a child is either told, or
killed, before the parent serves again.

A process that falls silent without dying is made to exit: deadlines live where the waiting
is done (L{txtableflip._handover}), and arrive here as the same inputs as a death does; what
has come meanwhile is read first.

How this file is read
=====================

L{Lifecycle} lists the inputs, in four groups: what the application and the operator
say, what the parent does, what the child does, what this process fails to do.
L{TABLE} has the next state and the steps of each input in each state.  What is not
listed there changes nothing: it was said twice, too late, or by a peer that has been
given up.  The state changes first; then the steps are done (L{txtableflip._steps}).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

from twisted.internet.defer import Deferred

from txtableflip import _journal
from txtableflip._steps import (
    Core,
    Step,
    accept,
    askToBeConfirmed,
    askToBeWithdrawn,
    beginDrain,
    beginUpgrade,
    cancelDrain,
    catchUp,
    commitChild,
    confirmChild,
    die,
    dismissChild,
    endChild,
    exitWithFailure,
    finalise,
    insistOnPidFile,
    killChild,
    killParent,
    learn,
    leave,
    letGo,
    mourn,
    note,
    park,
    refuse,
    refuseWith,
    remember,
    sayReady,
    sayRefused,
    sayServing,
    sayStopping,
    startChild,
    takeBack,
    takePidFile,
    tellChildToRedeploy,
    tellDone,
    tellExiting,
    tellFailed,
    tellFinal,
    tellParentToRedeploy,
    tellReady,
    tellStopping,
    watchChild,
    withdrawChild,
)
from txtableflip.errors import (
    AlreadyUpgraded,
    NotReady,
    OnProbation,
    Refusal,
    Stopping,
    UpgradeInProgress,
)


class Lifecycle(Protocol):
    """
    Everything that can happen to a process.
    """

    # -- the application and the operator say

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

    def rollback(self, error: Exception) -> None:
        """
        The child is not to serve (any longer), or this process does not want to.
        """

    def confirm(self) -> None:
        """
        The switch is to be final.
        """

    def stop(self) -> None:
        """
        The process is to end without a successor.
        """

    # -- the parent

    def parentCommitted(self) -> None:
        """
        The parent has stopped accepting, so that this process can begin.
        """

    def parentWithdrew(self) -> None:
        """
        The parent is to serve again, and this process to stand by.
        """

    def parentConfirmed(self) -> None:
        """
        The parent never will serve again.
        """

    def parentAborted(self, error: Exception) -> None:
        """
        The parent continues to serve, or both are to stop: this process must exit.
        """

    def parentExited(self) -> None:
        """
        The parent has exited.
        """

    def parentTimedOut(self, error: Exception) -> None:
        """
        The parent has not answered.
        """

    def told(self) -> None:
        """
        The other process was asked for a still newer version.
        """

    # -- the child

    def childReady(self, error: Exception | None = None) -> None:
        """
        The child accepts nothing, but could.

        @param error: why it has been withdrawn, if it has.
        """

    def childServing(self) -> None:
        """
        The child accepts.
        """

    def childStopping(self) -> None:
        """
        The child was told to stop, for both processes.
        """

    def childFailed(self, error: Exception) -> None:
        """
        The child accepts nothing, and never will: it has exited, or has said so, or never
        existed.
        """

    # -- a step has failed

    def quit(self, error: Exception) -> None:
        """
        This process cannot do what its parent expects.
        """

    def handBack(self, error: Exception) -> None:
        """
        This process cannot serve again, and its child stands by.
        """

    def fail(self, error: Exception) -> None:
        """
        This process cannot serve, and no child stands by.
        """


Rows = dict[str, tuple[str, list[Step]]]

_ALONE = [
    accept.orElse("fail"),
    insistOnPidFile,
    finalise,
    note(_journal.Serving),
    tellReady,
    tellFinal,
    catchUp,
]
_FINAL = [finalise, tellFinal, catchUp]
_BACK = [accept.orElse("fail"), cancelDrain, insistOnPidFile, takeBack, tellFailed, catchUp]
_HAND_BACK = [
    accept.orElse("handBack"),
    cancelDrain,
    insistOnPidFile,
    takeBack,
    tellFailed,
    dismissChild,
    catchUp,
]
_PARKED = park.orElse(die)
_START = [beginUpgrade, startChild.orElse("childFailed")]
_STOPPING = note(_journal.ToldToStop)
_END = [_STOPPING, tellStopping, endChild]
_DEFERRED = {
    "Initialising": [],
    "InitialisingBesideParent": [tellParentToRedeploy],
    "AwaitingCommit": [tellParentToRedeploy],
    "OnProbation": [tellParentToRedeploy],
    "Upgrading": [tellChildToRedeploy],
    "Committing": [tellChildToRedeploy],
    "Watching": [tellChildToRedeploy],
    "Withdrawing": [tellChildToRedeploy],
}
"""
Where a redeploy has to wait, and which process is told of it: so both know, and the one
that continues does it.
"""

TABLE: dict[str, Rows] = {
    # Alone, and not ready.
    "Initialising": {
        "ready": ("Serving", _ALONE),
        "initialisationFailed": ("Stopped", [exitWithFailure, leave]),
        "stop": ("Stopped", [_STOPPING, leave]),
    },
    # Beside a parent that serves.
    "InitialisingBesideParent": {
        "ready": ("AwaitingCommit", [sayReady, note(_journal.Ready)]),
        "initialisationFailed": ("Stopped", [sayRefused, leave]),
        "stop": ("Stopped", [sayRefused, leave]),
        "parentAborted": ("Stopped", [leave]),
        "parentExited": ("Initialising", []),
        "quit": ("Stopped", [sayRefused, leave]),
    },
    # Ready, and accepting nothing: before Commit, and again when withdrawn.
    "AwaitingCommit": {
        "parentCommitted": (
            "OnProbation",
            [
                learn.orElse("quit"),
                accept.orElse("quit"),
                takePidFile.orElse("quit"),
                note(_journal.Serving),
                sayServing,
                tellReady,
            ],
        ),
        "parentWithdrew": ("AwaitingCommit", [sayReady]),
        "parentAborted": ("Stopped", [leave]),
        "parentExited": ("Serving", _ALONE),
        "parentTimedOut": ("Stopped", [sayRefused, leave]),
        "quit": ("Stopped", [sayRefused, leave]),
        "stop": ("Stopped", [sayRefused, leave]),
    },
    # Accepting, and not final.
    "OnProbation": {
        "parentConfirmed": ("Serving", _FINAL),
        "parentExited": ("Serving", _FINAL),
        "parentWithdrew": ("AwaitingCommit", [_PARKED, sayReady]),
        "parentAborted": ("Stopped", [_STOPPING, _PARKED, sayStopping, leave]),
        "parentTimedOut": ("OnProbation", [killParent]),
        "quit": ("Stopped", [_PARKED, sayRefused, leave]),
        "stop": ("Stopped", [_STOPPING, _PARKED, sayStopping, leave]),
        "rollback": ("OnProbation", [askToBeWithdrawn]),
        "confirm": ("OnProbation", [askToBeConfirmed]),
    },
    # Accepting, and final.
    "Serving": {
        "upgrade": ("Upgrading", _START),
        "redeploy": ("Upgrading", _START),
        "told": ("Upgrading", _START),
        "stop": ("Stopped", [_STOPPING, _PARKED, leave]),
        "fail": ("Stopped", [_PARKED, exitWithFailure, leave]),
        "handBack": ("Committing", [_PARKED, commitChild.orElse(killChild)]),
    },
    # The child initialises; this process accepts.
    "Upgrading": {
        "childReady": (
            "Committing",
            [
                park.orElse("rollback"),
                commitChild.orElse("rollback"),
                note(_journal.Committed),
            ],
        ),
        "childFailed": ("Serving", [takeBack, tellFailed, catchUp]),
        "rollback": ("Upgrading", [endChild]),
        "stop": ("EndingChild", _END),
    },
    # Neither accepts, so that the child can begin.
    "Committing": {
        "childServing": ("Watching", [watchChild, beginDrain]),
        "childFailed": ("Serving", _BACK),
        "rollback": ("Withdrawing", [withdrawChild]),
        "stop": ("EndingChild", _END),
    },
    # The child accepts, and this process may roll back, but drains already.
    "Watching": {
        "confirm": ("Replaced", [confirmChild, letGo, tellDone, tellExiting]),
        "childFailed": ("Serving", _BACK),
        "childStopping": ("Stopped", [tellStopping, leave]),
        "rollback": ("Withdrawing", [withdrawChild]),
        "stop": ("EndingChild", _END),
    },
    # Neither accepts, so that this process can begin again.
    "Withdrawing": {
        "childReady": ("Serving", _HAND_BACK),
        "childFailed": ("Serving", _BACK),
        "childStopping": ("Stopped", [tellStopping, leave]),
        "stop": ("EndingChild", _END),
    },
    # Told to stop while there was a child.
    "EndingChild": {
        "childFailed": ("Stopped", [_PARKED, leave]),
        "childStopping": ("Stopped", [_PARKED, leave]),
        "redeploy": ("EndingChild", [refuse]),
    },
    # Final: still drains, and exits.
    "Replaced": {
        "redeploy": ("Replaced", [tellChildToRedeploy]),
        "childFailed": ("Replaced", [mourn]),
    },
    "Stopped": {
        "ready": ("Stopped", [leave]),
        "redeploy": ("Stopped", [refuse]),
    },
}
"""
For each state and input the next state, and what is done: all else changes nothing.
"""

for _state, _others in _DEFERRED.items():
    TABLE[_state]["redeploy"] = (_state, [remember, *_others])
    TABLE[_state]["told"] = (_state, [remember])

_UNREADY = (NotReady, "this process has not said ready() yet")
_BUSY = (UpgradeInProgress, "an upgrade is running: wait for its outcome")
_LEAVING = (Stopping, "this process is stopping")
_REFUSED: dict[str, tuple[type[Refusal], str]] = {
    "Initialising": _UNREADY,
    "InitialisingBesideParent": _UNREADY,
    "AwaitingCommit": _UNREADY,
    "OnProbation": (OnProbation, "the parent may still roll back: wait for whenFinal()"),
    "Upgrading": _BUSY,
    "Committing": _BUSY,
    "Watching": _BUSY,
    "Withdrawing": _BUSY,
    "EndingChild": _LEAVING,
    "Replaced": (AlreadyUpgraded, "a newer process has replaced this one"),
    "Stopped": _LEAVING,
}
for _state, _why in _REFUSED.items():
    TABLE[_state]["upgrade"] = (_state, [refuseWith(*_why)])

INPUTS = tuple(name for name in vars(Lifecycle) if not name.startswith("_"))


class _Machine:
    """
    Follows L{TABLE}.  Inputs that come while steps are done are followed after them.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._behind: list[tuple[str, object]] | None = None

    def hear(self, what: str, said: object) -> None:
        """
        Follow an input.

        @param said: what came with it.
        """
        if self._behind is not None:
            self._behind.append((what, said))
            return
        behind = self._behind = []
        try:
            self._follow(what, said)
        finally:
            self._behind = None
        for each in behind:
            self.hear(*each)

    def _follow(self, what: str, said: object) -> None:
        state = self._core.state
        after, steps = TABLE[state].get(what, (state, []))
        self._core.enter(after)
        self._core.follow(steps, said)


def _input(what: str) -> Callable[..., None]:
    def hear(self: _Machine, said: object = None) -> None:
        self.hear(what, said)

    return hear


for _name in INPUTS:
    setattr(_Machine, _name, _input(_name))


def begin(core: Core, state: str) -> Lifecycle:
    """
    Make the lifecycle of a process that is in a state.
    """
    core.enter(state)
    core.rules = lifecycle = cast("Lifecycle", _Machine(core))
    return lifecycle
