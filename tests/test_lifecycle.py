"""
The rules: the form of the table, each of its steps raising, and the stories that it
is for.
"""

import inspect
from inspect import getmembers, isfunction

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txtableflip._lifecycle import INPUTS, TABLE, Lifecycle, begin
from txtableflip._steps import Core, Step, Steps, leave
from txtableflip.errors import (
    Abandoned,
    AlreadyUpgraded,
    ChildExited,
    ChildNotStarted,
    NotReady,
    OnProbation,
    ParentTimedOut,
    PidFileError,
    RolledBack,
    Stopping,
    UpgradeInProgress,
)

STEPS = [name for name, _ in getmembers(Steps, isfunction) if name[0] != "_"]
ERRORS = {
    "initialisationFailed": PidFileError("it cannot be written"),
    "rollback": RolledBack("was not wanted", phase="probation"),
    "parentAborted": Abandoned("it was too slow"),
    "parentTimedOut": ParentTimedOut("no answer"),
    "childReady": RolledBack("failed its health check", phase="probation"),
    "childFailed": ChildExited("exited", phase="initialise"),
    "quit": OSError("it raised"),
    "handBack": OSError("it raised"),
    "fail": OSError("it raised"),
}
"""
What an input comes with, if it says why.
"""

ALONE = "Initialising"
BESIDE = "InitialisingBesideParent"


class Process:
    """
    A process whose steps and outcomes are written down, in order, and do nothing;
    or raise.

    @ivar log: what happened.
    @ivar said: what steps were given to pass on, and why outcomes failed.
    @ivar callers: how many have asked for an upgrade.
    @ivar raising: the names of steps that raise.
    """

    def __init__(self, state, raising=()):
        self.log = []
        self.said = []
        self.callers = 0
        self.raising = raising
        self.core = Core(self)
        for name in ("isReady", "isFinal", "isExiting"):
            self.note(name, getattr(self.core, name).wait())
        self.lifecycle = begin(self.core, state)

    def note(self, name, deferred):
        """
        Write down the outcome of a Deferred.
        """

        def write(outcome):
            failed = isinstance(outcome, Failure)
            self.log.append(f"{name} fails: {outcome.type.__name__}" if failed else name)
            if failed:
                self.said.append(outcome.value)

        deferred.addBoth(write)

    @property
    def state(self):
        """
        The name of the state that the rules are in.
        """
        return self.core.state

    def tell(self, *inputs):
        """
        Give inputs, and return what follows: steps and outcomes, in order.
        """
        before = len(self.log)
        for name in inputs:
            # In the real one, nothing comes after this.
            if "die" not in self.log:
                getattr(self.lifecycle, name)(*self._arguments(name))
        return self.log[before:]

    def _arguments(self, name):
        if name == "upgrade":
            result = Deferred()
            self.callers += 1
            self.note("result", result)
            return [result]
        if name == "childReady" and self.state != "Withdrawing":
            return []
        return [ERRORS[name]] if name in ERRORS else []

    def told(self, name):
        """
        Return how often somebody who waits for something was told.
        """
        return [what.partition(" ")[0] for what in self.log].count(name)


def _writer(name):
    def write(self, *arguments):
        self.log.append(name)
        self.said.extend(arguments)
        if name in self.raising:
            raise OSError(f"{name} raised")

    return write


for _name in STEPS:
    setattr(Process, _name, _writer(_name))


WAYS = {
    "Initialising": (ALONE, []),
    "InitialisingBesideParent": (BESIDE, []),
    "AwaitingCommit": (BESIDE, ["ready"]),
    "OnProbation": (BESIDE, ["ready", "parentCommitted"]),
    "Serving": (ALONE, ["ready"]),
    "Upgrading": (ALONE, ["ready", "upgrade"]),
    "Committing": (ALONE, ["ready", "upgrade", "childReady"]),
    "Watching": (ALONE, ["ready", "upgrade", "childReady", "childServing"]),
    "Withdrawing": (ALONE, ["ready", "upgrade", "childReady", "childServing", "rollback"]),
    "EndingChild": (ALONE, ["ready", "upgrade", "stop"]),
    "Replaced": (ALONE, ["ready", "upgrade", "childReady", "childServing", "confirm"]),
    "Stopped": (ALONE, ["stop"]),
}
"""
How a process comes into each state.
"""


def process(state, *, wanted=False):
    """
    Make a process that has come into a state.
    """
    first, inputs = WAYS[state]
    made = Process(first)
    made.tell(*inputs)
    assert made.state == state
    made.core.wanted = wanted
    return made


# -- the table

ROWS = [(state, name) for state, rows in TABLE.items() for name in rows]


def test_the_table_speaks_of_states_inputs_and_steps_that_there_are():
    """
    Each next state has rows of its own, each input is one of the rules', and what
    follows from a step that raises is an input that is listed in the state that the
    process is in by then, or a step.
    """
    assert TABLE.keys() == WAYS.keys()
    for state, rows in TABLE.items():
        assert rows.keys() <= set(INPUTS)
        for name, (after, steps) in rows.items():
            assert after in TABLE
            for step in steps:
                assert isinstance(step, Step)
                assert (
                    step.failed is None
                    or isinstance(step.failed, Step)
                    or step.failed in TABLE[after]
                ), f"{state}.{name}"


def test_each_input_is_listed_somewhere_and_each_step_done():
    """
    There is nothing that can happen and never matters, and nothing that could be
    done and never is.
    """
    assert {name for _, name in ROWS} == set(INPUTS)
    done = {step for state, name in ROWS for step in followed(state, name)}
    # What stands in the place of another step.
    assert {*STEPS} - done == {"die", "killChild"}


def followed(state, name, *, wanted=False):
    """
    Return what an input has done in a state.
    """
    return process(state, wanted=wanted).tell(name)


@pytest.mark.parametrize("state", TABLE)
def test_what_is_not_listed_changes_nothing(state):
    """
    Whatever happens, in whichever state, the rules know of it; and if the table does
    not, it has no effect.
    """
    for name in INPUTS:
        found = process(state)
        before = len(found.log), found.core.wanted, found.core.result
        found.tell(name)
        if name not in TABLE[state]:
            assert found.state == state
            assert (len(found.log), found.core.wanted, found.core.result) == before


@pytest.mark.parametrize(("state", "name"), ROWS)
def test_what_is_listed_leads_to_the_next_state(state, name):
    """
    If nothing raises, and no redeploy is remembered, the state is the one of the
    table.
    """
    found = process(state)
    found.tell(name)
    assert found.state == TABLE[state][name][0]


def test_every_way_to_stopped_ends_with_telling_everybody():
    """
    No process stops without that whoever waits for it hears so, when all is done.
    """
    ways = [
        steps
        for state, rows in TABLE.items()
        for after, steps in rows.values()
        if after == "Stopped" != state
    ]
    assert len(ways) > 10
    for steps in ways:
        assert steps[-1] == leave


def test_each_input_that_brings_an_error_is_known_to_these_tests():
    """
    So each is looked at below.
    """
    brings = {
        name
        for name in INPUTS
        if "error" in inspect.signature(getattr(Lifecycle, name)).parameters
    }
    assert brings == ERRORS.keys()


@pytest.mark.parametrize(("state", "name"), [row for row in ROWS if row[1] in ERRORS])
def test_an_error_is_passed_on(state, name):
    """
    What has come with an input is what steps are told, and who waits; or its words.
    """
    found = process(state)
    found.said.clear()
    found.tell(name)
    for what in found.said:
        words = getattr(ERRORS[name], "what", str(ERRORS[name]))
        assert what is ERRORS[name] or what == words


def test_what_an_error_without_words_is_called():
    """
    The peer is told the name of an error, if that is all that there is.
    """
    child = Process(BESIDE)
    child.lifecycle.initialisationFailed(KeyError())
    assert child.said[0] == "KeyError()"


REFUSALS = {
    "Initialising": NotReady,
    "InitialisingBesideParent": NotReady,
    "AwaitingCommit": NotReady,
    "OnProbation": OnProbation,
    "Upgrading": UpgradeInProgress,
    "Committing": UpgradeInProgress,
    "Watching": UpgradeInProgress,
    "Withdrawing": UpgradeInProgress,
    "EndingChild": Stopping,
    "Replaced": AlreadyUpgraded,
    "Stopped": Stopping,
}


@pytest.mark.parametrize("state", TABLE)
def test_a_refusal_has_a_name_and_a_message(state):
    """
    Where no upgrade may begin, the caller hears why at once, in a class and in
    words; and the upgrade that runs goes on unharmed.
    """
    if state == "Serving":
        assert state not in REFUSALS
        return
    found = process(state)
    running, result, failures = found.core.result, Deferred(), []
    found.lifecycle.upgrade(result.addErrback(failures.append))
    assert failures[0].type is REFUSALS[state]
    assert failures[0].getErrorMessage()
    assert found.core.result is running
    assert found.state == state


def test_an_obstacle_is_the_reason_of_a_refusal():
    """
    What keeps a process from ever being upgraded is what a caller hears, and a
    redeploy is not remembered.
    """
    first = Process(ALONE)
    first.core.obstacle = "a port is missing"
    failures = []
    first.lifecycle.upgrade(Deferred().addErrback(failures.append))
    assert failures[0].type is NotReady
    assert failures[0].getErrorMessage() == "a port is missing"
    assert first.tell("redeploy", "told") == []
    assert not first.core.wanted
    assert "startChild" not in first.tell("ready")


# -- steps that raise


def faults(state, name, wanted):
    """
    Yield each set of steps that may raise, one behind the other, when an input comes
    in a state; with the process in which they did.
    """
    tried, sets = set(), [frozenset()]
    while sets:
        raising = sets.pop()
        found = process(state, wanted=wanted)
        found.raising = raising
        done = found.tell(name)
        if raising and raising <= {*done}:
            yield raising, found
        for step in done:
            more = raising | {step}
            if step in STEPS and len(more) <= 4 and more not in tried:
                tried.add(more)
                sets.append(more)


def settle(found):
    """
    Give what may be needed still: the end of the child, and stop().
    """
    found.tell("childFailed", "stop", "childFailed")


@pytest.mark.parametrize(("state", "name"), ROWS)
@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("isForever", [False, True])
def test_steps_that_raise_wedge_nothing(state, name, wanted, isForever):
    """
    Whichever steps raise, once or for ever, in whichever row: the process can be
    stopped, and everybody who waits is told, once.
    """
    for raising, found in faults(state, name, wanted):
        where = f"{sorted(raising)}: {found.log}"
        if not isForever:
            found.raising = ()
        settle(found)
        if "die" in found.log:
            # Whoever waited has ended with it.
            continue
        assert found.state in ("Stopped", "Replaced"), where
        for occasion in ("isReady", "isFinal", "isExiting"):
            assert found.told(occasion) == 1, where
        assert found.told("result") == found.callers, where


def test_a_step_that_raises_is_replaced_by_what_follows_and_no_more_is_done():
    """
    If nothing follows, the rest goes on.
    """
    first = Process(ALONE, raising=["accept"])
    assert first.tell("ready") == [
        *("accept", "park", "exitWithFailure"),
        *("isReady fails: OSError", "isFinal fails: OSError", "isExiting"),
    ]
    first = Process(ALONE, raising=["insistOnPidFile", "finalise"])
    assert first.tell("ready") == SERVES


def test_what_is_said_while_steps_are_done_is_heard_behind_them():
    """
    An input that a step leads to finds all steps done, and what that one leads to in
    turn comes before what was said after it.
    """
    parent = process("Upgrading")

    def park():
        parent.log.append("park")
        parent.lifecycle.childServing()
        parent.lifecycle.confirm()

    def beginDrain():
        parent.log.append("beginDrain")
        parent.lifecycle.rollback(ERRORS["rollback"])

    parent.park, parent.beginDrain = park, beginDrain
    assert parent.tell("childReady") == [
        *("park", "commitChild"),
        *("watchChild", "beginDrain"),
        "withdrawChild",
    ]
    assert parent.state == "Withdrawing"


# -- the stories

SERVES = ["accept", "insistOnPidFile", "finalise", "isReady", "isFinal"]
RESUMES = ["accept", "cancelDrain", "insistOnPidFile", "takeBack"]


def test_the_parents_side_of_an_upgrade_that_succeeds():
    """
    The parent parks before it commits, begins to drain and keeps its sockets while
    the child is on probation, and leaves when that is final.
    """
    parent = process("Serving")
    assert parent.tell("upgrade") == ["startChild"]
    assert parent.tell("childReady") == ["park", "commitChild"]
    assert parent.tell("childServing") == ["watchChild", "beginDrain"]
    assert parent.tell("confirm") == ["confirmChild", "letGo", "result", "isExiting"]
    assert parent.state == "Replaced"
    assert parent.tell("stop", "rollback", "confirm", "childServing", "childStopping") == []


def test_the_childs_side_of_an_upgrade_that_succeeds():
    """
    The child accepts after Commit and not before, says so, does what cannot be undone
    when that is final, and may be upgraded in turn.
    """
    child = Process(BESIDE)
    assert child.tell("ready") == ["sayReady"]
    assert child.tell("parentCommitted") == [
        *("learn", "accept", "takePidFile", "sayServing", "isReady")
    ]
    assert child.tell("upgrade") == ["result fails: OnProbation"]
    assert child.tell("parentConfirmed") == ["finalise", "isFinal"]
    assert child.tell("parentExited", "parentTimedOut") == []
    assert child.tell("upgrade") == ["startChild"]


def test_a_child_that_fails_before_ready_leaves_the_parent_serving():
    """
    The parent never stopped serving, and may try again.
    """
    parent = process("Upgrading")
    assert parent.tell("childFailed") == ["takeBack", "result fails: ChildExited"]
    assert parent.tell("upgrade") == ["startChild"]


@pytest.mark.parametrize("phase", ["Committing", "Watching", "Withdrawing"])
def test_a_child_that_dies_when_nobody_else_accepts_has_the_parent_resume(phase):
    """
    The parent accepts, and has the pid file, before it tells anybody, and may try
    again.
    """
    parent = process(phase)
    assert parent.tell("childFailed") == [*RESUMES, "result fails: ChildExited"]
    assert parent.tell("childFailed") == []
    assert parent.tell("redeploy") == ["startChild"]


@pytest.mark.parametrize("phase", ["Committing", "Watching"])
def test_a_roll_back_withdraws_the_child_before_the_parent_resumes(phase):
    """
    An operator, a health check, or the child's own wish: the parent serves when the
    child stands by, and that one is told to leave after that.
    """
    parent = process(phase)
    assert parent.tell("rollback") == ["withdrawChild"]
    assert parent.said[-1] is ERRORS["rollback"]
    assert parent.tell("rollback", "confirm", "childServing") == []
    assert parent.tell("childReady") == [*RESUMES, "result fails: RolledBack", "dismissChild"]
    assert parent.state == "Serving"
    assert parent.tell("childFailed") == []
    assert parent.tell("upgrade") == ["startChild"]


def test_a_roll_back_before_the_child_is_ready_ends_it():
    """
    The parent serves all the time, and tells its caller when the child is no more.
    """
    parent = process("Upgrading")
    assert parent.tell("rollback", "confirm") == ["endChild"]
    assert parent.state == "Upgrading"
    assert parent.tell("childFailed") == ["takeBack", "result fails: ChildExited"]


def test_a_child_that_is_withdrawn_stands_by_and_may_serve_again():
    """
    It parks before it says so; then it is committed again, serves because the parent
    dies, or leaves.
    """
    ends = {
        "parentCommitted": ["learn", "accept", "takePidFile", "sayServing"],
        "parentExited": [*SERVES[:3], "isFinal"],
        "parentAborted": ["isFinal fails: Abandoned", "isExiting"],
        "parentTimedOut": ["sayRefused", "isFinal fails: ParentTimedOut", "isExiting"],
        "stop": ["sayRefused", "isFinal fails: Stopping", "isExiting"],
    }
    for what, expected in ends.items():
        child = process("OnProbation")
        assert child.tell("parentWithdrew") == ["park", "sayReady"]
        assert child.state == "AwaitingCommit"
        assert child.tell(what) == expected


def test_a_child_that_is_withdrawn_before_it_was_committed_says_so():
    """
    The parent could not say Commit, or park: it hears Ready all the same.
    """
    child = process("AwaitingCommit")
    assert child.tell("parentWithdrew") == ["sayReady"]
    assert child.tell("parentAborted")[-1] == "isExiting"


def test_what_a_child_on_probation_wants_is_a_wish():
    """
    It changes nothing until the parent has decided.
    """
    child = process("OnProbation")
    assert child.tell("rollback", "confirm") == ["askToBeWithdrawn", "askToBeConfirmed"]
    assert child.said[0] == ERRORS["rollback"].what
    assert child.state == "OnProbation"


def test_a_child_whose_parent_is_overdue_has_it_end_and_is_final_then():
    """
    It never makes itself final beside a parent that may roll back.
    """
    child = process("OnProbation")
    assert child.tell("parentTimedOut") == ["killParent"]
    assert child.state == "OnProbation"
    assert child.tell("parentExited") == ["finalise", "isFinal"]


def test_a_parent_that_cannot_resume_hands_back():
    """
    The child stands by, and is committed again; the caller hears how that ends.
    """
    ends = {
        "childServing": ["watchChild", "beginDrain"],
        "childFailed": [*RESUMES, "result fails: ChildExited"],
    }
    for what, expected in ends.items():
        parent = process("Withdrawing")
        parent.raising = ["accept"]
        assert parent.tell("childReady") == ["accept", "park", "commitChild"]
        parent.raising = []
        assert parent.state == "Committing"
        assert parent.tell(what) == expected
    assert parent.state == "Serving"


def test_a_parent_that_can_neither_resume_nor_hand_back_fails():
    """
    Its child is killed, for it cannot be told; and when the parent cannot serve then
    either, it leaves with a status that says so, and its caller is told.
    """
    parent = process("Withdrawing")
    parent.raising = ["accept", "commitChild"]
    assert parent.tell("childReady") == ["accept", "park", "commitChild", "killChild"]
    assert parent.tell("childFailed") == [
        *("accept", "park", "exitWithFailure"),
        *("result fails: Stopping", "isExiting"),
    ]


@pytest.mark.parametrize("step", ["park", "commitChild"])
def test_a_parent_that_cannot_hand_over_takes_back(step):
    """
    The child may have heard Commit, so it is withdrawn before the parent resumes; and
    the reason is why.
    """
    parent = process("Upgrading")
    parent.raising = [step]
    assert parent.tell("childReady")[-2:] == [step, "withdrawChild"]
    assert str(parent.said[-1]) == f"{step} raised"
    assert parent.tell("childReady")[: len(RESUMES)] == RESUMES


@pytest.mark.parametrize(
    ("phase", "step"),
    [
        *((phase, "withdrawChild") for phase in ("Committing", "Watching")),
        *((phase, "endChild") for phase in ("Upgrading", "Committing", "Watching")),
    ],
)
def test_a_child_that_cannot_be_told_is_killed(phase, step):
    """
    For it might serve beside this process, when that dies or before.
    """
    inputs = {"withdrawChild": "rollback", "endChild": "stop"}
    parent = process(phase)
    parent.raising = [step]
    assert parent.tell(inputs[step])[-2:] == [step, "killChild"]


def test_a_child_that_cannot_serve_says_so_after_it_has_parked():
    """
    The parent goes on: so nothing of this process may accept any more.
    """
    for step in ("learn", "accept", "takePidFile", "sayServing"):
        child = Process(BESIDE, raising=[step])
        assert child.tell("ready", "parentCommitted")[-6:] == [
            *(step, "park", "sayRefused"),
            *("isReady fails: OSError", "isFinal fails: OSError", "isExiting"),
        ]


@pytest.mark.parametrize(
    ("state", "name"),
    [
        ("OnProbation", "parentWithdrew"),
        ("OnProbation", "parentAborted"),
        ("OnProbation", "quit"),
        ("OnProbation", "stop"),
        ("Serving", "stop"),
        ("EndingChild", "childFailed"),
    ],
)
def test_what_cannot_be_parked_ends_at_once(state, name):
    """
    Nothing is said before, and the kernel closes what accepts.
    """
    found = process(state)
    found.raising = ["park"]
    assert found.tell(name) == ["park", "die"]


@pytest.mark.parametrize(
    ("phase", "ends"),
    [
        ("Upgrading", ["childFailed"]),
        ("Committing", ["childFailed"]),
        ("Watching", ["childFailed", "childStopping"]),
        ("Withdrawing", ["childFailed", "childStopping"]),
    ],
)
def test_a_stop_of_the_parent_is_for_both(phase, ends):
    """
    The caller hears at once; the parent leaves when its child accepts nothing any
    more, and heeds nothing else of it meanwhile.
    """
    for end in ends:
        parent = process(phase)
        assert parent.tell("stop") == ["result fails: Stopping", "endChild"]
        others = [
            "childReady",
            "childServing",
            "rollback",
            "confirm",
            "stop",
            "redeploy",
            "told",
        ]
        assert parent.tell(*others) == []
        assert parent.tell(end) == ["park", "isExiting"]
        assert parent.state == "Stopped"
        assert parent.tell("redeploy", "childFailed") == []


def test_a_stop_of_the_child_is_for_both_if_it_serves():
    """
    Before that the child says why it leaves, and the parent keeps serving.
    """
    for state in (BESIDE, "AwaitingCommit"):
        child = process(state)
        assert child.tell("stop")[0] == "sayRefused"
        assert child.said[0] == "it was told to stop"
    child = process("OnProbation")
    assert child.tell("stop") == ["park", "sayStopping", "isFinal fails: Stopping", "isExiting"]
    for phase in ("Watching", "Withdrawing"):
        parent = process(phase)
        assert parent.tell("childStopping") == ["result fails: Stopping", "isExiting"]
        assert parent.state == "Stopped"


def test_a_stop_of_one_whose_parent_is_gone_or_final_concerns_it_alone():
    """
    There is nobody to tell.
    """
    for what in ("parentConfirmed", "parentExited"):
        child = process("OnProbation")
        child.tell(what)
        assert child.tell("stop") == ["park", "isExiting"]


def test_a_child_that_parked_because_it_was_aborted_says_so():
    """
    The parent was told to stop: it leaves when it has heard that.
    """
    child = process("OnProbation")
    assert child.tell("parentAborted") == [
        *("park", "sayStopping", "isFinal fails: Abandoned", "isExiting"),
    ]
    assert child.said[-1] is ERRORS["parentAborted"]


@pytest.mark.parametrize("state", [BESIDE, "AwaitingCommit", "OnProbation"])
def test_a_child_that_was_given_up_does_not_serve_when_the_parent_dies(state):
    """
    After Abort the end of the parent is no reason to serve, nor is anything
    that the application says.
    """
    child = process(state)
    child.tell("parentAborted")
    assert child.tell("parentExited", "ready", "parentCommitted", "parentWithdrew") == []
    assert child.state == "Stopped"


def test_a_child_whose_parent_is_silent_leaves_and_says_so():
    """
    The parent may wake up and serve on: after the deadline the child refuses,
    and does not serve whatever comes then.
    """
    child = process("AwaitingCommit")
    assert child.tell("parentTimedOut")[0] == "sayRefused"
    assert child.said[0] == "no answer"
    assert child.tell("parentCommitted", "parentExited") == []


@pytest.mark.parametrize(
    ("state", "after", "expected"),
    [
        (BESIDE, ["ready"], SERVES),
        ("AwaitingCommit", [], SERVES),
        ("OnProbation", [], ["finalise", "isFinal"]),
    ],
)
def test_a_child_whose_parent_dies_serves(state, after, expected):
    """
    At whichever step the parent dies, the child takes over exactly once, when
    it has initialised.
    """
    child = process(state)
    assert child.tell("parentExited", *after) == expected
    assert child.state == "Serving"
    assert child.log.count("accept") == child.told("isReady") == child.told("isFinal") == 1


def test_an_orphan_that_cannot_initialise_exits_with_failure():
    """
    There is no parent to refuse to, and nobody serves.
    """
    child = Process(BESIDE)
    assert child.tell("parentExited", "initialisationFailed") == [
        *("exitWithFailure", "isReady fails: PidFileError"),
        *("isFinal fails: PidFileError", "isExiting"),
    ]


def test_whoever_asks_late_hears_the_same():
    """
    ready() of a process that has left fails as it did for those who waited.
    """
    child = Process(BESIDE)
    child.tell("ready", "parentTimedOut", "ready")
    for occasion in (child.core.isReady, child.core.isFinal):
        failures = []
        occasion.wait().addErrback(failures.append)
        assert failures[0].value is ERRORS["parentTimedOut"]


# -- callers


@pytest.mark.parametrize("outcome", ["confirm", "childFailed", "childStopping"])
def test_a_caller_who_cancelled_does_not_disturb_the_upgrade(outcome):
    """
    The upgrade of a caller who has cancelled goes on, and its end is not told
    to a Deferred that has fired already.
    """
    parent = process("Serving")
    result = Deferred()
    parent.note("result", result)
    parent.lifecycle.upgrade(result)
    result.cancel()
    parent.tell("childReady", "childServing", outcome)
    assert parent.state == TABLE["Watching"][outcome][0]
    assert parent.told("result") == parent.log.count("result fails: CancelledError") == 1


def test_the_outcome_of_one_upgrade_is_not_told_twice():
    """
    An upgrade that an operator asked for has nobody waiting, whoever waited
    for the one before.
    """
    parent = process("Upgrading")
    parent.tell("childFailed")
    assert parent.tell("redeploy", "childReady", "childServing", "confirm") == [
        *("startChild", "park", "commitChild", "watchChild", "beginDrain"),
        *("confirmChild", "letGo", "isExiting"),
    ]


def test_a_child_that_cannot_be_started_is_a_failure_like_any_other():
    """
    A step that fails while it runs ends the upgrade, once; what it raised is in
    the reason.
    """
    parent = process("Serving")
    parent.raising = ["startChild"]
    assert parent.tell("upgrade") == ["startChild", "takeBack", "result fails: ChildNotStarted"]
    assert isinstance(parent.said[-1], ChildNotStarted)
    assert "startChild raised" in str(parent.said[-1])
    assert parent.tell("redeploy") == ["startChild", "takeBack"]
    assert parent.state == "Serving"


# -- redeploys


@pytest.mark.parametrize("phase", ["Upgrading", "Committing", "Watching", "Withdrawing"])
def test_a_redeploy_during_an_upgrade_is_done_once_by_whoever_goes_on(phase):
    """
    However many come, and whomever they reach: the child is told, and this process
    starts one more if the upgrade fails, and none when that has failed, too.
    """
    parent = process(phase)
    assert parent.tell("redeploy", "told") == ["tellChildToRedeploy"]
    assert parent.tell("childFailed")[-2:] == ["result fails: ChildExited", "startChild"]
    assert parent.tell("childFailed") == ["takeBack"]
    assert parent.state == "Serving"


@pytest.mark.parametrize("heard", ["redeploy", "told"])
@pytest.mark.parametrize("state", [BESIDE, "AwaitingCommit", "OnProbation"])
def test_a_redeploy_of_a_child_is_done_by_it_when_that_is_final(state, heard):
    """
    Whichever of the two was asked: the child remembers, and the parent has been told
    if it was the child.
    """
    child = process(state)
    assert child.tell(heard) == (["tellParentToRedeploy"] if heard == "redeploy" else [])
    rest = WAYS["OnProbation"][1][len(WAYS[state][1]) :]
    assert "startChild" not in child.tell(*rest)
    assert child.tell("parentConfirmed") == ["finalise", "isFinal", "startChild"]
    assert child.tell("childFailed") == ["takeBack"]


def test_a_redeploy_is_not_done_by_who_leaves():
    """
    A parent that is replaced, or stops, forgets it: the child remembers. A child that
    leaves does the same.
    """
    for end in ("confirm", "childStopping"):
        parent = process("Watching")
        parent.tell("redeploy")
        assert "startChild" not in parent.tell(end)
    child = process("OnProbation")
    child.tell("redeploy")
    assert "startChild" not in child.tell("parentAborted", "parentExited")


def test_every_redeploy_after_success_is_handed_on():
    """
    A process that drains passes each request on, and starts nothing.
    """
    parent = process("Replaced")
    assert parent.tell("redeploy", "redeploy", "told") == ["tellChildToRedeploy"] * 2


def test_a_redeploy_that_is_handed_on_is_done_at_once():
    """
    Once a child is final, it has nobody to wait for.
    """
    for heard in ("redeploy", "told"):
        child = process("OnProbation")
        child.tell("parentConfirmed")
        assert child.tell(heard) == ["startChild"]


@pytest.mark.parametrize("state", ["Initialising", BESIDE, "AwaitingCommit"])
def test_a_redeploy_before_ready_waits_for_it(state):
    """
    It is done as soon as the process serves alone.
    """
    found = process(state)
    found.tell("redeploy", "told")
    assert "startChild" not in found.log
    found.tell("parentExited", "ready")
    assert found.log.count("startChild") == 1
    assert found.state == "Upgrading"
