"""
The rules: every input in every state, and the stories that they are for.
"""

from inspect import getmembers, isfunction

import pytest
from automat import NoTransition
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

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
            "stepFailed": [OSError("it raised")],
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
        "ready": ("Serving", ["accept", "takePidFile", "settle", "isReady", "parentIsGone"]),
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
        "parentCommitted": (
            "ServingBesideParent",
            ["accept", "takePidFile", "sayServing", "settle", "isReady"],
        ),
        "parentAborted": ("Stopped", ["isReady fails: Abandoned", "isExiting"]),
        "parentExited": (
            "Serving",
            ["accept", "takePidFile", "settle", "isReady", "parentIsGone"],
        ),
        "stepFailed": ("Stopped", ["sayRefused", "isReady fails: OSError", "isExiting"]),
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
        "stepFailed": (
            "Stopped",
            ["park", "sayRefused", "isReady fails: OSError", "isExiting"],
        ),
    },
    "Serving": {
        "stepFailed": ("Stopped", ["park", "isReady fails: OSError", "isExiting"]),
        "upgrade": ("Upgrading", ["startChild"]),
        "redeploy": ("Upgrading", ["startChild"]),
        "stop": ("Stopped", ["isReady fails: Stopping", "isExiting"]),
    },
    "Upgrading": {
        "upgrade": ("Upgrading", ["result fails: UpgradeInProgress"]),
        "redeploy": ("Upgrading", ["wanted"]),
        "stop": ("EndingChild", ["result fails: Stopping", "endChild"]),
        "childReady": ("Committing", ["park", "commitChild"]),
        "childFailed": ("Serving", ["accept", "takePidFile", "result fails: ChildExited"]),
    },
    "Committing": {
        "upgrade": ("Committing", ["result fails: UpgradeInProgress"]),
        "redeploy": ("Committing", ["wanted"]),
        "stop": ("EndingChild", ["result fails: Stopping", "endChild"]),
        "stepFailed": ("Committing", ["killChild"]),
        "childServing": ("Upgraded", ["result", "isExiting"]),
        "childFailed": ("Serving", ["accept", "takePidFile", "result fails: ChildExited"]),
    },
    "Upgraded": {
        "upgrade": ("Upgraded", ["result fails: AlreadyUpgraded"]),
        "redeploy": ("Upgraded", ["forwardRedeploy"]),
    },
    "EndingChild": {
        "stepFailed": ("EndingChild", ["killChild"]),
        "upgrade": ("EndingChild", ["result fails: Stopping"]),
        "childFailed": ("Stopped", ["isReady fails: Stopping", "isExiting"]),
    },
    "Stopped": {
        "stepFailed": ("Stopped", ["die"]),
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
        ["accept", "takePidFile", "settle", "isReady", "parentIsGone", "startChild"],
    ),
    ("AwaitingCommit", "parentExited"): (
        "Upgrading",
        ["accept", "takePidFile", "settle", "isReady", "parentIsGone", "startChild"],
    ),
    ("ServingBesideParent", "parentExited"): ("Upgrading", ["parentIsGone", "startChild"]),
    ("Upgrading", "childFailed"): (
        "Upgrading",
        ["accept", "takePidFile", "result fails: ChildExited", "startChild"],
    ),
    ("Committing", "childFailed"): (
        "Upgrading",
        ["accept", "takePidFile", "result fails: ChildExited", "startChild"],
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
    assert len(INPUTS) == 13


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
    for hasParent, step in ((False, "accept"), (True, "sayReady")):
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
    assert child.tell("parentCommitted") == [
        "accept",
        "takePidFile",
        "sayServing",
        "settle",
        "isReady",
    ]
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
        "accept",
        "takePidFile",
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
        "accept",
        "takePidFile",
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
    assert parent.tell("childFailed") == ["accept", "takePidFile"]
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
    assert child.tell("childFailed") == ["accept", "takePidFile"]


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
    assert process.tell("ready") == [
        "accept",
        "takePidFile",
        "settle",
        "isReady",
        "parentIsGone",
        "startChild",
    ]


def test_a_child_that_cannot_be_started_is_a_failure_like_any_other():
    """
    A step that reports its failure while it runs ends the upgrade, once.
    """
    parent = firstGeneration()

    def fail():
        parent.log.append("startChild")
        parent.lifecycle.childFailed(ChildExited("could not start", phase="start"))

    parent.startChild = fail
    assert parent.tell("upgrade") == [
        "startChild",
        "accept",
        "takePidFile",
        "result fails: ChildExited",
    ]
    assert parent.tell("redeploy") == ["startChild", "accept", "takePidFile"]
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
        ([], ["ready"], ["parentIsGone", "accept", "takePidFile", "settle", "isReady"]),
        (["ready"], [], ["accept", "takePidFile", "settle", "isReady", "parentIsGone"]),
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
    assert child.log.count("accept") == child.log.count("isReady") == 1


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
    assert "accept" not in child.log


def test_a_child_whose_parent_is_silent_leaves_and_says_so():
    """
    The parent may wake up and serve on: after the deadline the child refuses,
    and does not serve whatever comes then.
    """
    child = Process("InitialisingBesideParent")
    child.tell("ready", "parentTimedOut")
    assert child.reasons == ["the parent did not answer Ready in time"]
    assert child.tell("parentCommitted", "parentExited") == []
    assert "accept" not in child.log


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


# -- steps that raise


def stepsUsed():
    """
    Return each step with each state and input that has it done.
    """
    found = []
    for state, name in PAIRS:
        for wanted in (False, True):
            followed = begun(state, wanted=wanted).tell(name)
            found += [(step, state, name, wanted) for step in followed if step in STEPS]
    return sorted(set(found))


STEPS = methodsOf(Steps)


def raising(process, step):
    """
    Have a step of a process raise, from now on.
    """

    def fail(*arguments):
        process.log.append(f"{step} raises")
        raise OSError(f"{step} raised")

    setattr(process, step, fail)


def settled(process):
    """
    Tell a process to stop, and have a child that it ends, or has killed, be gone.
    """
    process.tell("stop")
    for _ in range(3):
        if process.state in ("Upgrading", "Committing", "EndingChild"):
            process.tell("childFailed")
            process.tell("stop")
    return process.state


@pytest.mark.parametrize(("step", "state", "name", "wanted"), stepsUsed())
def test_a_step_that_raises_wedges_nothing(step, state, name, wanted):
    """
    Whichever step raises, in whichever state: the process can be stopped, and
    everybody who waits is told.
    """
    process = begun(state, wanted=wanted)
    raising(process, step)
    process.tell(name)
    assert f"{step} raises" in process.log
    assert settled(process) in ("Stopped", "Upgraded")
    told = [what.partition(" ")[0] for what in process.log]
    if state not in ("Upgraded", "Stopped"):
        assert told.count("isExiting") == 1
        assert "isReady" in told or process.state == "Upgraded"
    if name == "upgrade" or state in ("Upgrading", "Committing"):
        assert told.count("result") == 1


def test_every_step_is_used_by_the_table():
    """
    There is no step that nothing has done, and so none that is not tried above,
    but for the one that comes when another has failed.
    """
    assert {step for step, *_ in stepsUsed()} == set(STEPS)


def test_a_child_is_told_or_killed():
    """
    When this process cannot park, or cannot say Commit, the child is killed
    before anybody is told, for it might serve beside this one.
    """
    for step in ("park", "commitChild"):
        parent = firstGeneration()
        raising(parent, step)
        parent.tell("upgrade", "childReady")
        assert parent.log[-2:] == [f"{step} raises", "killChild"]
        assert parent.tell("childFailed") == [
            "accept",
            "takePidFile",
            "result fails: ChildExited",
        ]


def test_a_child_that_cannot_serve_says_so_after_it_has_parked():
    """
    The parent goes on: so nothing of this process may accept any more.
    """
    for step in ("accept", "sayServing"):
        child = Process("InitialisingBesideParent")
        raising(child, step)
        child.tell("ready", "parentCommitted")
        assert child.log[-4:] == [
            "park",
            "sayRefused",
            "isReady fails: OSError",
            "isExiting",
        ]


def test_what_cannot_be_parked_ends_at_once():
    """
    A process that leaves, and cannot stop accepting, is closed by the kernel.
    """
    child = Process("InitialisingBesideParent")
    raising(child, "accept")
    raising(child, "park")
    child.tell("ready", "parentCommitted")
    assert child.log[-1] == "die"
    assert "sayRefused" not in child.log


def test_what_may_fail_does_not_keep_a_process_from_serving():
    """
    The pid file, and what is tidied up, are in the log if they fail.
    """
    for step in ("takePidFile", "settle"):
        process = Process("Initialising")
        raising(process, step)
        assert process.tell("ready")[-2:] == ["isReady", "parentIsGone"]
        assert process.state == "Serving"
