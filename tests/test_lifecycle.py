"""
The rules: every input in every state, the stories that they are for, and two
processes that hold on to each other while either may die at any step.
"""

from collections import deque
from inspect import getmembers, isfunction

import pytest
from automat import NoTransition
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txtableflip import _handover
from txtableflip._lifecycle import STATES, Core, Lifecycle, Steps, begin, machine
from txtableflip.errors import (
    Abandoned,
    AlreadyUpgraded,
    ChildExited,
    NotReady,
    ParentStillRunning,
    ParentTimedOut,
    PidFileError,
    Stopping,
    UpgradeInProgress,
)


def methodsOf(protocol):
    """
    Return the names of what a Protocol asks for.
    """
    return [name for name, _ in getmembers(protocol, isfunction) if name[0] != "_"]


INPUTS = methodsOf(Lifecycle)


class Process:
    """
    A process whose steps and outcomes are written down, in order, and do
    nothing.

    @ivar reasons: what was said with C{sayRefused}.
    """

    def __init__(self, state, *, wanted=False):
        self.log = []
        self.reasons = []
        self.core = Core(self, wanted=wanted)
        for name in ("isReady", "isExiting", "parentIsGone"):
            self._note(name, getattr(self.core, name).wait())
        self.lifecycle = machine(self.core, STATES[state])

    def _note(self, name, deferred):
        def write(outcome):
            failed = isinstance(outcome, Failure)
            self.log.append(f"{name} fails: {outcome.type.__name__}" if failed else name)

        deferred.addBoth(write)

    @property
    def state(self):
        """
        The name of the state that the rules are in.
        """
        return self.lifecycle.__automat_transitioner__._state.name

    def tell(self, *inputs):
        """
        Give inputs, and return what follows: steps, outcomes and what is
        remembered, in order.
        """
        before, wanted = len(self.log), self.core.wanted
        for name in inputs:
            getattr(self.lifecycle, name)(*self._arguments(name))
        if self.core.wanted and not wanted:
            self.log.append("wanted")
        return self.log[before:]

    def _arguments(self, name):
        if name == "upgrade":
            result = Deferred()
            self._note("result", result)
            return [result]
        return {
            "initialisationFailed": [PidFileError("it cannot be written")],
            "parentAborted": ["it was too slow"],
            "childFailed": [ChildExited("exited", phase="initialise")],
        }.get(name, [])


def _writer(name):
    def write(self, *arguments):
        self.log.append(name)
        self.reasons.extend(arguments)

    return write


for _name in methodsOf(Steps):
    setattr(Process, _name, _writer(_name))


def begun(state, *, wanted=False):
    """
    Make a process in a state, with an upgrade somebody waits for in the states
    that have one.
    """
    process = Process(state, wanted=wanted)
    if state in ("Upgrading", "Committing"):
        process.core.result = process._arguments("upgrade")[0]
    return process


# -- the table

TABLE = {
    "Initialising": {
        "ready": ("Serving", ["takeOver", "isReady", "parentIsGone"]),
        "initialisationFailed": ("Initialising", ["isReady fails: PidFileError"]),
        "upgrade": ("Initialising", ["result fails: NotReady"]),
        "redeploy": ("Initialising", ["wanted"]),
        "stop": ("Stopped", ["isReady fails: Stopping", "isExiting"]),
    },
    "InitialisingBesideParent": {
        "ready": ("AwaitingCommit", ["sayReady"]),
        "initialisationFailed": (
            "Stopped",
            ["sayRefused", "isReady fails: PidFileError", "isExiting"],
        ),
        "upgrade": ("InitialisingBesideParent", ["result fails: NotReady"]),
        "redeploy": ("InitialisingBesideParent", ["wanted"]),
        "stop": ("Stopped", ["sayRefused", "isReady fails: Stopping", "isExiting"]),
        "parentAborted": ("Stopped", ["isReady fails: Abandoned", "isExiting"]),
        "parentExited": ("Initialising", ["parentIsGone"]),
    },
    "AwaitingCommit": {
        "upgrade": ("AwaitingCommit", ["result fails: NotReady"]),
        "redeploy": ("AwaitingCommit", ["wanted"]),
        "stop": ("Stopped", ["sayRefused", "isReady fails: Stopping", "isExiting"]),
        "parentCommitted": ("ServingBesideParent", ["takeOver", "sayServing", "isReady"]),
        "parentAborted": ("Stopped", ["isReady fails: Abandoned", "isExiting"]),
        "parentExited": ("Serving", ["takeOver", "isReady", "parentIsGone"]),
        "parentTimedOut": (
            "Stopped",
            ["sayRefused", "isReady fails: ParentTimedOut", "isExiting"],
        ),
    },
    "ServingBesideParent": {
        "upgrade": ("ServingBesideParent", ["result fails: ParentStillRunning"]),
        "redeploy": ("ServingBesideParent", ["wanted"]),
        "stop": ("Stopped", ["isReady fails: Stopping", "isExiting"]),
        "parentExited": ("Serving", ["parentIsGone"]),
    },
    "Serving": {
        "upgrade": ("Upgrading", ["startChild"]),
        "redeploy": ("Upgrading", ["startChild"]),
        "stop": ("Stopped", ["isReady fails: Stopping", "isExiting"]),
    },
    "Upgrading": {
        "upgrade": ("Upgrading", ["result fails: UpgradeInProgress"]),
        "redeploy": ("Upgrading", ["wanted"]),
        "stop": ("EndingChild", ["result fails: Stopping", "endChild"]),
        "childReady": ("Committing", ["park", "commitChild"]),
        "childFailed": ("Serving", ["resume", "result fails: ChildExited"]),
    },
    "Committing": {
        "upgrade": ("Committing", ["result fails: UpgradeInProgress"]),
        "redeploy": ("Committing", ["wanted"]),
        "stop": ("EndingChild", ["result fails: Stopping", "endChild"]),
        "childServing": ("Upgraded", ["result", "isExiting"]),
        "childFailed": ("Serving", ["resume", "result fails: ChildExited"]),
    },
    "Upgraded": {
        "upgrade": ("Upgraded", ["result fails: AlreadyUpgraded"]),
        "redeploy": ("Upgraded", ["forwardRedeploy"]),
    },
    "EndingChild": {
        "upgrade": ("EndingChild", ["result fails: Stopping"]),
        "childFailed": ("Stopped", ["isReady fails: Stopping", "isExiting"]),
    },
    "Stopped": {
        "upgrade": ("Stopped", ["result fails: Stopping"]),
        "ready": ("Stopped", ["isReady fails: Stopping"]),
    },
}
"""
What each input does in each state: the next state, and what follows in order.
The occasions of such a process are all still to come.  What is not here changes
nothing and has nothing done.
"""

WHEN_WANTED = {
    ("Initialising", "ready"): (
        "Upgrading",
        ["takeOver", "isReady", "parentIsGone", "startChild"],
    ),
    ("AwaitingCommit", "parentExited"): (
        "Upgrading",
        ["takeOver", "isReady", "parentIsGone", "startChild"],
    ),
    ("ServingBesideParent", "parentExited"): ("Upgrading", ["parentIsGone", "startChild"]),
    ("Upgrading", "childFailed"): (
        "Upgrading",
        ["resume", "result fails: ChildExited", "startChild"],
    ),
    ("Committing", "childFailed"): (
        "Upgrading",
        ["resume", "result fails: ChildExited", "startChild"],
    ),
    ("Committing", "childServing"): ("Upgraded", ["result", "forwardRedeploy", "isExiting"]),
}
"""
Where a redeploy that is remembered makes a difference.
"""

PAIRS = [(state, name) for state in STATES for name in INPUTS]


def test_the_table_names_every_state_and_no_input_that_there_is_not():
    """
    The table of this test is about the states and inputs that there are.
    """
    assert TABLE.keys() == STATES.keys()
    assert {name for row in TABLE.values() for name in row} <= set(INPUTS)
    assert len(INPUTS) == 12


@pytest.mark.parametrize(("state", "name"), PAIRS)
def test_every_input_in_every_state(state, name):
    """
    An input leads to the state, the steps and the outcomes of the table, and
    to none if it is not listed there.
    """
    process = begun(state)
    try:
        followed = process.tell(name)
    except NoTransition:
        pytest.fail(f"{name} cannot happen in {state}")
    assert (process.state, followed) == TABLE[state].get(name, (state, []))


@pytest.mark.parametrize(("state", "name"), PAIRS)
def test_every_input_in_every_state_while_a_redeploy_is_remembered(state, name):
    """
    A remembered redeploy is acted on as soon as it may be, once, and makes no
    other difference.
    """
    process = begun(state, wanted=True)
    followed = process.tell(name)
    after, expected = TABLE[state].get(name, (state, []))
    expected = [what for what in expected if what != "wanted"]
    assert (process.state, followed) == WHEN_WANTED.get((state, name), (after, expected))
    assert process.core.wanted == ("startChild" not in followed)


def test_the_first_generation_initialises_alone_and_others_beside_a_parent():
    """
    Where a process begins depends on whether it has a parent.
    """
    for hasParent, step in ((False, "takeOver"), (True, "sayReady")):
        process = Process("Stopped")
        process.lifecycle = begin(process.core, hasParent=hasParent)
        assert process.tell("ready")[0] == step


# -- the stories


def firstGeneration():
    """
    Make a process that serves and has no parent.
    """
    process = Process("Initialising")
    process.tell("ready")
    return process


def nextGeneration():
    """
    Make a process that has taken over from a parent which still drains.
    """
    process = Process("InitialisingBesideParent")
    process.tell("ready", "parentCommitted")
    return process


def test_an_upgrade_that_succeeds():
    """
    The parent parks before it commits, and leaves when the child serves.
    """
    parent = firstGeneration()
    assert parent.tell("upgrade") == ["startChild"]
    assert parent.tell("childReady") == ["park", "commitChild"]
    assert parent.tell("childServing") == ["result", "isExiting"]
    assert parent.state == "Upgraded"


def test_the_childs_side_of_an_upgrade_that_succeeds():
    """
    The child accepts after Commit and not before, says so, and may be
    upgraded in turn when the parent has exited.
    """
    child = Process("InitialisingBesideParent")
    assert child.tell("ready") == ["sayReady"]
    assert child.tell("parentCommitted") == ["takeOver", "sayServing", "isReady"]
    assert child.tell("upgrade") == ["result fails: ParentStillRunning"]
    assert child.tell("parentExited") == ["parentIsGone"]
    assert child.tell("upgrade") == ["startChild"]


def test_a_child_that_fails_before_ready_leaves_the_parent_serving():
    """
    The parent never stopped serving; it makes sure that it is the one, and may
    try again.
    """
    parent = firstGeneration()
    assert parent.tell("upgrade", "childFailed") == [
        "startChild",
        "resume",
        "result fails: ChildExited",
    ]
    assert parent.tell("upgrade") == ["startChild"]


def test_a_child_that_fails_after_ready_has_the_parent_resume():
    """
    The parent un-parks before it tells anybody, and may try again.
    """
    parent = firstGeneration()
    assert parent.tell("upgrade", "childReady", "childFailed") == [
        "startChild",
        "park",
        "commitChild",
        "resume",
        "result fails: ChildExited",
    ]
    assert parent.tell("redeploy") == ["startChild"]


def test_a_caller_who_cancelled_does_not_disturb_the_upgrade():
    """
    The upgrade of a caller who has cancelled goes on, and its end is not told
    to a Deferred that has fired already.
    """
    for outcome in ("childServing", "childFailed"):
        parent = firstGeneration()
        result = Deferred()
        parent._note("result", result)
        parent.lifecycle.upgrade(result)
        result.cancel()
        parent.tell("childReady", outcome)
        assert parent.log.count("result fails: CancelledError") == 1
        assert "result" not in parent.log


def test_the_outcome_of_one_upgrade_is_not_told_twice():
    """
    An upgrade that an operator asked for has nobody waiting, whoever waited
    for the one before.
    """
    parent = firstGeneration()
    parent.tell("upgrade", "childFailed")
    assert parent.tell("redeploy", "childReady", "childServing") == [
        "startChild",
        "park",
        "commitChild",
        "isExiting",
    ]


@pytest.mark.parametrize("failsAt", [[], ["childReady"]])
def test_a_redeploy_during_an_upgrade_is_retried_once_after_a_failure(failsAt):
    """
    However many come, one more child is started when the upgrade has failed,
    and none when that has failed, too.
    """
    parent = firstGeneration()
    parent.tell("redeploy", *failsAt)
    assert parent.tell("redeploy", "redeploy", "redeploy") == ["wanted"]
    assert parent.tell("childFailed")[-1] == "startChild"
    assert parent.tell("childFailed") == ["resume"]
    assert parent.state == "Serving"
    assert parent.log.count("startChild") == 2


@pytest.mark.parametrize("when", [["redeploy", "childReady"], ["childReady", "redeploy"]])
def test_a_redeploy_during_an_upgrade_is_forwarded_after_success(when):
    """
    The child hears of it before this process begins to leave, once.
    """
    parent = firstGeneration()
    parent.tell("upgrade", *when, "redeploy")
    assert parent.tell("childServing") == ["result", "forwardRedeploy", "isExiting"]


def test_every_redeploy_after_success_is_forwarded():
    """
    A process that drains passes each request on: its child remembers once.
    """
    parent = firstGeneration()
    parent.tell("upgrade", "childReady", "childServing")
    assert parent.tell("redeploy", "redeploy") == ["forwardRedeploy", "forwardRedeploy"]


def test_a_redeploy_while_the_parent_drains_waits_for_its_exit():
    """
    It is remembered, once, and runs as soon as the parent has exited.
    """
    child = nextGeneration()
    assert child.tell("redeploy", "redeploy") == ["wanted"]
    assert child.tell("parentExited") == ["parentIsGone", "startChild"]
    assert child.tell("childFailed") == ["resume"]


def test_a_redeploy_before_a_child_serves_waits_for_the_parents_exit():
    """
    A child that is asked while it initialises acts on it when it is alone.
    """
    child = Process("InitialisingBesideParent")
    assert child.tell("redeploy") == ["wanted"]
    child.tell("ready", "parentCommitted")
    assert child.tell("parentExited") == ["parentIsGone", "startChild"]


def test_a_redeploy_before_ready_waits_for_it():
    """
    In the first generation it runs as soon as the process serves.
    """
    process = Process("Initialising")
    assert process.tell("redeploy") == ["wanted"]
    assert process.tell("ready") == ["takeOver", "isReady", "parentIsGone", "startChild"]


def test_a_child_that_cannot_be_started_is_a_failure_like_any_other():
    """
    A step that reports its failure while it runs ends the upgrade, once.
    """
    parent = firstGeneration()

    def fail():
        parent.log.append("startChild")
        parent.lifecycle.childFailed(ChildExited("could not start", phase="start"))

    parent.startChild = fail
    assert parent.tell("upgrade") == ["startChild", "resume", "result fails: ChildExited"]
    assert parent.tell("redeploy") == ["startChild", "resume"]
    assert parent.state == "Serving"


@pytest.mark.parametrize("step", [[], ["childReady"]])
def test_stop_during_an_upgrade_ends_the_child_first(step):
    """
    The upgrade fails with Stopping at once; the parent leaves when the child
    is no more, and neither resumes nor listens to the child meanwhile.
    """
    parent = firstGeneration()
    parent.tell("upgrade", *step, "redeploy")
    assert parent.tell("stop") == ["result fails: Stopping", "endChild"]
    assert parent.tell("childReady", "childServing", "stop", "redeploy") == []
    assert parent.tell("childFailed") == ["isExiting"]
    assert parent.state == "Stopped"
    assert parent.tell("redeploy", "childFailed") == []


def test_a_child_that_was_told_to_stop_refuses_and_the_parent_serves_on():
    """
    Before it serves, the child says why it leaves; after that, the parent has
    no part in it.
    """
    for inputs, reasons in (
        ([], ["it was told to stop"]),
        (["ready"], ["it was told to stop"]),
        (["ready", "parentCommitted"], []),
    ):
        child = Process("InitialisingBesideParent")
        child.tell(*inputs, "stop")
        assert (child.state, child.reasons) == ("Stopped", reasons)


def test_what_a_child_refuses_with_is_the_reason():
    """
    The parent is told what went wrong, by its message, or by its name if it
    has none.
    """
    child = Process("InitialisingBesideParent")
    child.lifecycle.initialisationFailed(OSError("the disk is full"))
    nameless = Process("InitialisingBesideParent")
    nameless.lifecycle.initialisationFailed(KeyError())
    assert child.reasons + nameless.reasons == ["the disk is full", "KeyError()"]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([], ["ready"], ["parentIsGone", "takeOver", "isReady"]),
        (["ready"], [], ["takeOver", "isReady", "parentIsGone"]),
        (["ready", "parentCommitted"], [], ["parentIsGone"]),
    ],
)
def test_a_child_whose_parent_dies_serves(before, after, expected):
    """
    At whichever step the parent dies, the child takes over exactly once, when
    it has initialised.
    """
    child = Process("InitialisingBesideParent")
    child.tell(*before)
    assert child.tell("parentExited", *after) == expected
    assert child.state == "Serving"
    assert child.log.count("takeOver") == child.log.count("isReady") == 1


def test_an_orphan_that_cannot_initialise_says_so_to_nobody():
    """
    There is no parent to refuse to: ready() fails, and the process stays for
    the application to end.
    """
    child = Process("InitialisingBesideParent")
    assert child.tell("parentExited", "initialisationFailed") == [
        "parentIsGone",
        "isReady fails: PidFileError",
    ]


@pytest.mark.parametrize("before", [[], ["ready"]])
def test_a_child_that_was_given_up_does_not_serve_when_the_parent_dies(before):
    """
    After Abort the end of the parent is no reason to serve, nor is anything
    that the application says.
    """
    child = Process("InitialisingBesideParent")
    child.tell(*before)
    assert child.tell("parentAborted") == ["isReady fails: Abandoned", "isExiting"]
    assert child.tell("parentExited", "ready", "parentCommitted", "parentExited") == []
    assert "takeOver" not in child.log


def test_a_child_whose_parent_is_silent_leaves_and_says_so():
    """
    The parent may wake up and serve on: after the deadline the child refuses,
    and does not serve whatever comes then.
    """
    child = Process("InitialisingBesideParent")
    child.tell("ready", "parentTimedOut")
    assert child.reasons == ["the parent did not answer that this process is ready"]
    assert child.tell("parentCommitted", "parentExited") == []
    assert "takeOver" not in child.log


def test_why_a_child_was_given_up_is_in_the_error():
    """
    Whoever waits for ready() reads the parent's reason.
    """
    child = Process("InitialisingBesideParent")
    failures = []
    child.core.isReady.wait().addErrback(failures.append)
    child.tell("parentAborted")
    assert failures[0].check(Abandoned)
    assert "it was too slow" in failures[0].getErrorMessage()


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ("Initialising", NotReady),
        ("InitialisingBesideParent", NotReady),
        ("AwaitingCommit", NotReady),
        ("ServingBesideParent", ParentStillRunning),
        ("Upgrading", UpgradeInProgress),
        ("Committing", UpgradeInProgress),
        ("Upgraded", AlreadyUpgraded),
        ("EndingChild", Stopping),
        ("Stopped", Stopping),
    ],
)
def test_a_refusal_has_a_name_and_a_message(state, error):
    """
    Where no upgrade may begin, the caller hears why, in a class and in words;
    and the upgrade that runs goes on unharmed.
    """
    process = begun(state)
    running = process.core.result
    result = Deferred()
    failures = []
    process.lifecycle.upgrade(result.addErrback(failures.append))
    assert failures[0].check(error)
    assert failures[0].getErrorMessage()
    assert process.core.result is running


def test_whoever_asks_late_hears_the_same():
    """
    ready() of a process that has left fails as it did for those who waited.
    """
    child = Process("InitialisingBesideParent")
    child.tell("ready", "parentTimedOut", "ready")
    failures = []
    child.core.isReady.wait().addErrback(failures.append)
    assert failures[0].check(ParentTimedOut)


# -- processes that hold on to each other


class Generation:
    """
    One process of a chain: the rules, the least that carries them out, and the
    messages on their way, as the bytes that they are sent as.

    @ivar isAble: whether nothing has happened to this process itself that
        keeps it from serving.
    @ivar stepsLeft: after how many more steps it dies, if it does, in the
        middle of a transition.
    """

    def __init__(self, world, parent=None):
        self.world = world
        self.parent = parent
        self.child = None
        self.stepsLeft = None
        self.isAlive = True
        self.isAble = True
        self.accepts = False
        self.hasInitialised = False
        self.awaitsAnswer = False
        self.heardAbort = False
        self.hasTerm = False
        self.givesUp = False
        self.hasSuccessor = False
        self.toChild = deque()
        self.toParent = deque()
        self.core = Core(self)
        self.lifecycle = begin(self.core, hasParent=parent is not None)
        world.generations.append(self)

    @property
    def situation(self):
        """
        Everything that may make a difference to what happens next.
        """
        return (
            self.state,
            self.core.wanted,
            self.core.isExiting.outcome,
            self.parent is not None,
            self.child is not None,
            tuple(self.toChild),
            tuple(self.toParent),
            *(value for value in vars(self).values() if isinstance(value, bool)),
        )

    @property
    def state(self):
        """
        The name of the state that the rules are in.
        """
        return self.lifecycle.__automat_transitioner__._state.name

    @property
    def isLeaving(self):
        """
        Whether the application was told to end this process.
        """
        return self.core.isExiting.outcome is not None

    # -- Steps

    def startChild(self):
        if self._step():
            self.givesUp = False
            self.toChild.clear()
            self.child = Generation(self.world, self)

    def commitChild(self):
        self._send(self.toChild, _handover.Commit())

    def endChild(self):
        if self._step():
            self.giveUp()

    def forwardRedeploy(self):
        self._send(self.toChild, _handover.Redeploy())

    def sayReady(self):
        self.awaitsAnswer = True
        self._send(self.toParent, _handover.Ready())

    def sayServing(self):
        self._send(self.toParent, _handover.Serving())

    def sayRefused(self, reason):
        self._send(self.toParent, _handover.Refused(reason))

    def park(self):
        if self._step():
            self.accepts = False

    def resume(self):
        if self._step():
            self._accept()

    def takeOver(self):
        assert not self.heardAbort, "a child that was given up takes over"
        if self._step():
            self._accept()

    def _step(self):
        if self.stepsLeft == 0:
            self.die()
        elif self.stepsLeft is not None:
            self.stepsLeft -= 1
        return self.isAlive

    def _send(self, queue, message):
        if self._step():
            queue.append(_handover.encode(message))

    def _accept(self):
        self.accepts = True
        assert self.world.accepting == [self], "two processes accept"

    # -- what carries them out, in as few words as possible

    def die(self):
        """
        End, at once: what was sent is still on its way, and the end after it.
        """
        self.isAlive = self.isAble = self.accepts = False

    def leave(self):
        """
        End, as the application was told to.
        """
        assert not self.isAble, "a process leaves for no reason"
        self.die()

    def giveUp(self):
        """
        Make the child leave: a message, and a signal, which may overtake it.
        """
        self.givesUp = True
        self.toChild.append(_handover.encode(_handover.Abort("it is not wanted")))
        self.child.hasTerm = True

    def initialise(self):
        self.hasInitialised = True
        self.lifecycle.ready()

    def failToInitialise(self):
        self.hasInitialised = True
        self.isAble = False
        self.lifecycle.initialisationFailed(OSError("the disk is full"))

    def stop(self):
        self.hasTerm = self.isAble = False
        self.lifecycle.stop()

    def redeploy(self):
        self.lifecycle.redeploy()

    def upgrade(self):
        self.lifecycle.upgrade(Deferred().addErrback(lambda failure: None))

    def findParentSilent(self):
        """
        Be without an answer to Ready for too long.
        """
        self.awaitsAnswer = self.isAble = False
        self.lifecycle.parentTimedOut()

    def findChildSilent(self):
        """
        Be without Ready, or without Serving, or without the end of a child
        that was told to leave, for too long.
        """
        if self.givesUp or not self.accepts:
            self.givesUp = True
            self.child.die()
        else:
            self.giveUp()

    def hearParent(self):
        """
        Take in what the parent has said next, if it is only that it has ended.
        """
        if not self.parent.toChild:
            self.awaitsAnswer = False
            self.parent = None
            self.lifecycle.parentExited()
            return
        message = _handover.decode(self.parent.toChild.popleft())
        if isinstance(message, _handover.Redeploy):
            self.lifecycle.redeploy()
            return
        self.awaitsAnswer = False
        if isinstance(message, _handover.Commit):
            self.lifecycle.parentCommitted()
        else:
            # One that serves already does not mind.
            self.heardAbort = not self.accepts
            self.isAble = self.isAble and self.accepts
            self.lifecycle.parentAborted(message.reason)

    def hearChild(self):
        """
        Take in what the child has said next, if it is only that it has ended.
        """
        if not self.child.toParent:
            self.child = None
            if not self.hasSuccessor:
                self.lifecycle.childFailed(ChildExited("ended", phase="commit"))
            return
        message = _handover.decode(self.child.toParent.popleft())
        if self.givesUp:
            return
        if isinstance(message, _handover.Ready):
            self.lifecycle.childReady()
        elif isinstance(message, _handover.Serving):
            self.hasSuccessor = True
            self.isAble = False
            self.lifecycle.childServing()
        else:
            self.giveUp()


class World:
    """
    A service, and everything that can happen to it next.

    @ivar isFaultless: whether nothing has, but upgrades.
    @ivar asked: how many processes there had been when a new version was asked
        for last.
    """

    def __init__(self):
        self.generations = []
        self.isFaultless = True
        self.asked = 0
        Generation(self).initialise()

    @property
    def accepting(self):
        """
        The processes that accept connections.
        """
        return [one for one in self.generations if one.accepts]

    @property
    def alive(self):
        """
        The processes that there are, the oldest first.
        """
        return [one for one in self.generations if one.isAlive]

    @property
    def situation(self):
        """
        Everything that may make a difference to what happens next.
        """
        alive = self.alive
        parents = [one.parent for one in alive if one.parent not in (None, *alive)]
        children = [one.child for one in alive if one.child not in (None, *alive)]
        return tuple(one.situation for one in (*parents, *alive, *children))

    def duties(self):
        """
        Return what is bound to happen, by name.
        """
        found = {}
        for number, one in enumerate(self.alive):
            if one.child is not None and (one.child.toParent or not one.child.isAlive):
                found[f"{number} hears its child"] = one.hearChild
            if one.parent is not None and (one.parent.toChild or not one.parent.isAlive):
                found[f"{number} hears its parent"] = one.hearParent
            if one.hasTerm:
                found[f"{number} hears SIGTERM"] = one.stop
            if one.isLeaving:
                found[f"{number} leaves"] = one.leave
            if one.isAble and not one.hasInitialised:
                found[f"{number} initialises"] = one.initialise
        return found

    def wishes(self):
        """
        Return what somebody may ask for, by name.
        """
        found = {}
        for number, one in enumerate(self.alive):
            found[f"{number} is to redeploy"] = one.redeploy
            found[f"{number} is to upgrade"] = one.upgrade
        return found

    def faults(self):
        """
        Return what may go wrong, by name.
        """
        found = {}
        for number, one in enumerate(self.alive):
            found[f"{number} dies"] = one.die
            found[f"{number} is told to stop"] = one.stop
            if one.isAble and not one.hasInitialised:
                found[f"{number} cannot initialise"] = one.failToInitialise
            if one.awaitsAnswer:
                found[f"{number} finds its parent silent"] = one.findParentSilent
            if one.child is not None and not one.hasSuccessor:
                found[f"{number} finds its child silent"] = one.findChildSilent
        for name, act in self.duties().items():
            if "hears its" in name:
                found[f"{name} and dies after one step"] = lambda act=act: self._die(act)
        return found

    def _die(self, act):
        one = act.__self__
        one.stepsLeft = 1
        act()
        one.die()

    def do(self, name):
        """
        Have something happen, by its name.
        """
        faults = self.faults()
        if name in faults:
            self.isFaultless = False
        elif name.endswith("redeploy"):
            self.asked = len(self.generations)
        {**self.duties(), **self.wishes(), **faults}[name]()
        self.check()

    def check(self):
        """
        Never do two processes accept; never are there more than two; and while
        nothing goes wrong nobody accepts only when a child is ready to.
        """
        assert len(self.accepting) <= 1
        assert len(self.alive) <= 2
        if self.isFaultless and not self.accepting:
            assert self.alive[1].hasInitialised

    def comeToRest(self):
        """
        When everything has arrived that was on its way, everyone who is able
        serves and may be upgraded, which is one process; nobody else is left
        but who has no parent to tell that it cannot initialise.  Unless
        something went wrong, it is there, and was started after the last one
        who asked for a new version did so.
        """
        for _ in range(100):
            if not (duties := self.duties()):
                break
            self.do(next(iter(duties)))
        else:
            raise AssertionError("this never comes to rest")
        able = [one for one in self.generations if one.isAble]
        assert self.accepting == able
        assert all(one.state == "Serving" for one in able)
        assert all(one.state == "Initialising" for one in self.alive if one not in able)
        if self.isFaultless:
            assert self.generations.index(able[0]) >= self.asked


def explored(faults, redeploys):
    """
    Find every situation that one upgrade can lead to, and the shortest way
    there.

    @param faults: how many things may go wrong.
    @param redeploys: how many more requests there may be.
    """
    seen = {}
    ways = deque([(["0 is to redeploy"], faults, redeploys)])
    while ways:
        way, faults, redeploys = ways.popleft()
        world = World()
        for name in way:
            world.do(name)
        situation = (world.situation, faults, redeploys)
        if situation in seen:
            continue
        seen[situation] = way
        ways.extend(([*way, name], faults, redeploys) for name in world.duties())
        if faults:
            ways.extend(([*way, name], faults - 1, redeploys) for name in world.faults())
        if redeploys:
            ways.extend(([*way, name], faults, redeploys - 1) for name in world.wishes())
    return seen.values()


def test_one_upgrade_in_every_order_with_up_to_two_faults():
    """
    Wherever up to two faults and another request come in, and in whichever
    order everything is heard of, two processes never accept, and in the end
    everyone who is able to serve does.
    """
    for way in explored(faults=2, redeploys=1):
        world = World()
        for name in way:
            world.do(name)
        try:
            world.comeToRest()
        except AssertionError as error:
            raise AssertionError(f"after: {', '.join(way)}") from error


@settings(max_examples=200, deadline=None)
@given(
    choices=st.lists(st.integers(0, 2**16), min_size=20, max_size=120), isFaulty=st.booleans()
)
def test_any_number_of_upgrades_in_any_order(choices, isFaulty):
    """
    The same holds over a long life, with any number of faults, or with none;
    and a service that has ended can be started again.
    """
    world = World()
    for choice in choices:
        if not world.alive:
            assert not world.isFaultless
            Generation(world).initialise()
        # What is bound to happen happens most of the time.
        duties, wishes = sorted(world.duties()), sorted(world.wishes())
        kinds = [duties, duties, duties, wishes]
        if isFaulty:
            kinds.append(sorted(world.faults()))
        names = kinds[choice % len(kinds)] or wishes
        world.do(names[choice // len(kinds) % len(names)])
    world.comeToRest()
