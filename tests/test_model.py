"""
Processes that hold on to each other: the rules of several generations, joined by what
they say, while any may fail at any step and at any byte (L{modelled}).
"""

import pytest
from coverage import Coverage
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from modelled import END, Generation, Violation
from modelled_bytes import Bytes, asserted
from modelled_world import Move, Search, World

from txtableflip import _lifecycle
from txtableflip._handover.messages import Ready, Redeploy
from txtableflip._steps import (
    Step,
    accept,
    cancelDrain,
    confirmChild,
    die,
    finalise,
    leave,
    park,
    remember,
    sayReady,
    takePidFile,
    watchChild,
)

IS_QUICK = settings.default.max_examples < 100
"""
Whether this is to be over soon (L{conftest}).
"""

BOUNDS = [(2, 1, 2), (2, 0, 3), (3, 0, 2)]
"""
How many generations, faults and requests there may be.
"""

MORE_BOUNDS = [
    *((2, 2, 3), (2, 3, 2), (3, 0, 3)),
    pytest.param(3, 2, 2, marks=pytest.mark.slow),
]


@pytest.fixture(autouse=True)
def steps_are_not_measured():
    """
    To measure millions of steps takes longer than to make them, and what they run, other
    tests run, too.
    """
    measuring = Coverage.current()
    if measuring is not None:
        measuring.stop()
    yield
    if measuring is not None:
        measuring.start()


@pytest.fixture
def table():
    """
    A copy of the table, to be changed, and then used.
    """
    return {state: dict(rows) for state, rows in _lifecycle.TABLE.items()}


def use(monkeypatch, table):
    """
    Have the rules be those of a table.
    """
    monkeypatch.setattr(_lifecycle, "TABLE", table)


def serving(generations):
    """
    @return: a service that has just begun.
    """
    world = World(generations)
    world.do(Move(0, "initialise"))
    return world


def withdrawn(generations):
    """
    @return: a service whose second process has served, and has been withdrawn, of which
        the first one has not heard yet.
    """
    world = serving(generations)
    world.do(Move(0, "upgrade"))
    while moves := world.promptDuties():
        world.do(moves[0])
    world.do(Move(0, "rollback"))
    world.do(world.promptDuties()[0])
    return world


@pytest.mark.parametrize(
    ("generations", "faults", "requests"), BOUNDS if IS_QUICK else BOUNDS + MORE_BOUNDS
)
def test_every_order_of_what_can_happen(monkeypatch, table, generations, faults, requests):
    """
    Wherever faults and requests come in, whoever is slow, and in whichever order
    everything is heard of: two processes never accept, none resumes behind what cannot
    be undone, each that waits has a deadline; and in the end one serves, unless it was
    told to stop, or the last one that could was killed, and nobody waits.
    """
    use(monkeypatch, table)
    Search(serving(generations), faults, requests).run()


# -- the rules that have been rejected

STORIES = []


def story(otherwise, *bounds, begin=serving, **narrowed):
    """
    Have a rejected rule found out: a function that puts it back.

    @param otherwise: what is found.
    @param bounds: within which bounds.
    @param begin: where the search begins.
    @param narrowed: attributes of the world, so that it is found soon.
    """

    def note(putBack):
        case = (putBack, otherwise, bounds, begin, narrowed)
        STORIES.append(pytest.param(case, id=putBack.__name__))
        return putBack

    return note


def instead(row, old, *new):
    """
    @return: a row with other steps in the place of one.
    """
    after, steps = row
    at = next(index for index, step in enumerate(steps) if step.do is old.do)
    return after, [*steps[:at], *new, *steps[at + 1 :]]


PARKED = park.orElse(die)
NOTHING = Step(lambda core, said: None)


@story("two processes accept", 2, 0, 1)
def aSilentChildIsNotKilled(table, monkeypatch):
    """
    The child hears Commit when the old process has resumed.
    """
    _spareTheChildIn("Committing", monkeypatch)


@story("two processes accept", 2, 0, 2)
def aSilentChildIsNotKilledWhenItIsWithdrawn(table, monkeypatch):
    """
    The child hears Withdraw when the old process has resumed.
    """
    _spareTheChildIn("Withdrawing", monkeypatch)


def _spareTheChildIn(state, monkeypatch):
    kill = Generation.kill

    def give(self, kid):
        (self.reap if self.state == state else lambda kid: kill(self, kid))(kid)

    monkeypatch.setattr(Generation, "kill", give)


@story("nobody serves", 2, 1, 2, asks=("upgrade", "rollback"))
def withdrawIsAbort(table, monkeypatch):
    """
    The child leaves, and who has withdrawn it is killed.
    """
    table["OnProbation"]["parentWithdrew"] = ("Stopped", [PARKED, sayReady, leave])


@story("2 waits without a deadline", 2, 0, 2)
def aChildIsWithdrawnUnasked(table, monkeypatch):
    """
    The child parks by itself, and stands by, and the old process confirms it.
    """
    table["OnProbation"]["rollback"] = ("AwaitingCommit", [PARKED, sayReady])
    table["Watching"]["childReady"] = table["Withdrawing"]["childReady"]
    hear = Generation.hearInTurn

    def hearReady(self, kid, message):
        kid.isWithdrawn = kid.isWithdrawn or isinstance(message, Ready)
        hear(self, kid, message)

    monkeypatch.setattr(Generation, "hearInTurn", hearReady)


@story("nobody serves", 2, 1, 1)
def itIsConfirmedUnheard(table, monkeypatch):
    """
    The child is killed, and confirmed before that is heard of.
    """
    _deafen("up", monkeypatch)


@story("nobody serves", 2, 1, 2, asks=("upgrade", "confirm"))
def itIsConfirmedAsAsked(table, monkeypatch):
    """
    The child wants to be confirmed, and is killed; its wish is heard first.
    """
    monkeypatch.setattr(Generation, "hearConfirm", lambda self, kid: self.input("confirm"))


@story("nobody serves", 2, 1, 1)
def aDeadlineDecidesUnheard(table, monkeypatch):
    """
    The parent is killed, and the child leaves before that is heard of.
    """
    _deafen("down", monkeypatch)


def _deafen(deaf, monkeypatch):
    isHeard = World.isHeard
    monkeypatch.setattr(
        World, "isHeard", lambda self, kid, way: way == deaf or isHeard(self, kid, way)
    )


@story("a process resumes", 2, 0, 1)
def itIsFinalAtCommit(table, monkeypatch):
    """
    The child is overdue behind what it cannot undo.
    """
    row = table["AwaitingCommit"]["parentCommitted"]
    table["AwaitingCommit"]["parentCommitted"] = instead(
        row, accept, accept.orElse("quit"), finalise
    )


@story("a process resumes", 2, 0, 2)
def itIsFinalAtServing(table, monkeypatch):
    """
    The same, behind Serving.
    """
    after, steps = table["AwaitingCommit"]["parentCommitted"]
    table["AwaitingCommit"]["parentCommitted"] = (after, [*steps, finalise])


@story("a process resumes", 2, 0, 2)
def aChildMakesItselfFinal(table, monkeypatch):
    """
    The parent wakes up, and finds the child overdue.
    """
    table["OnProbation"]["parentTimedOut"] = table["OnProbation"]["parentExited"]


@story("2 waits without a deadline", 2, 0, 1)
def aChildWaitsToBeFinal(table, monkeypatch):
    """
    The parent never says anything.
    """
    del table["OnProbation"]["parentTimedOut"]


@story("two processes accept", 2, 0, 1)
def aChildDespairs(table, monkeypatch):
    """
    The parent was only slow to say Commit.
    """
    table["AwaitingCommit"]["parentTimedOut"] = table["AwaitingCommit"]["parentExited"]


@story("two processes accept", 3, 1, 1, begin=withdrawn, asks=("upgrade",))
def abortIsNotSaid(table, monkeypatch):
    """
    A withdrawn child, which was told nothing, takes the end of its parent for its
    call, while the child after it serves.
    """
    monkeypatch.setattr(Generation, "abandon", lambda self, kid: vars(kid).update(isOver=True))


@story("nobody serves", 2, 1, 0, begin=withdrawn)
def thereIsNoWayBackFromTheWayBack(table, monkeypatch):
    """
    The old process cannot resume; while it leaves, the child gives up.
    """
    row = table["Withdrawing"]["childReady"]
    table["Withdrawing"]["childReady"] = instead(row, accept, accept.orElse("fail"))


@story("one request, and two upgrades", 2, 0, 2)
def aRequestIsToldBehindConfirm(table, monkeypatch):
    """
    Both have remembered it, and the old one hands it down, too.
    """
    for state in ("Upgrading", "Committing", "Watching", "Withdrawing"):
        table[state]["redeploy"] = (state, [remember])
    tell = Step(lambda core, said: core.wanted and core.steps.tellChildToRedeploy())
    table["Watching"]["confirm"] = instead(
        table["Watching"]["confirm"], confirmChild, confirmChild, tell
    )


@story("a request is lost", 2, 0, 3, asks=("upgrade", "redeploy", "rollback"))
def aRequestIsKeptByTheChild(table, monkeypatch):
    """
    It is withdrawn, and leaves with it.
    """
    for state in ("InitialisingBesideParent", "AwaitingCommit", "OnProbation"):
        table[state]["redeploy"] = (state, [remember])


@story("a request is lost", 2, 0, 1, begin=withdrawn, asks=("redeploy",))
def aRequestIsLostWithWhoWasWithdrawn(table, monkeypatch):
    """
    Who has withdrawn it does not listen to it any more.
    """
    hear = Generation.hearChild

    def hearLess(self, kid, message):
        if not kid.isOver or message is END:
            hear(self, kid, message)

    monkeypatch.setattr(Generation, "hearChild", hearLess)


@story("a request is lost", 3, 0, 3, asks=("upgrade", "redeploy"), isHasty=False)
def aRequestIsHandedOnOnce(table, monkeypatch):
    """
    It comes to one that is replaced as well, from its parent.
    """
    hear = Generation.hearParent

    def hearLess(self, message):
        if self.state != "Replaced" or not isinstance(message, Redeploy):
            hear(self, message)

    monkeypatch.setattr(Generation, "hearParent", hearLess)


@story("told to stop, and serves", 2, 0, 2)
def aChildThatIsToStopJustLeaves(table, monkeypatch):
    """
    The old process takes that for a crash.
    """
    table["OnProbation"]["stop"] = ("Stopped", [PARKED, leave])


@story("told to stop, and serves", 2, 0, 2)
def aParentThatIsToStopConfirms(table, monkeypatch):
    """
    The child keeps serving.
    """
    table["Watching"]["stop"] = table["Watching"]["confirm"]


@story("two processes accept", 2, 1, 1)
def aStepThatRaisesClosesTheChannel(table, monkeypatch):
    """
    The child takes that for the end of its parent.
    """

    def hangUp(self):
        self.world.send(self.kid, "down", END)
        self.kid.overdue = "giveUp"

    monkeypatch.setattr(Generation, "hangUp", hangUp, raising=False)
    close = park.orElse(Step(lambda core, said: core.steps.hangUp()))
    row = table["Upgrading"]["childReady"]
    table["Upgrading"]["childReady"] = instead(row, park, close)


@story("1 waits without a deadline", 2, 1, 1)
def aStepThatRaisesIsOnlyLogged(table, monkeypatch):
    """
    The caller is never told.
    """
    for rows in table.values():
        for what, (after, steps) in rows.items():
            rows[what] = (after, [step.orElse(NOTHING) for step in steps])


@story("a child that accepts says that it does not", 2, 1, 2)
def aChildThatCannotParkGoesOn(table, monkeypatch):
    """
    It says Ready, and accepts still.
    """
    table["OnProbation"]["parentWithdrew"] = ("AwaitingCommit", [park, sayReady])


@story("1 is to serve, and drains", 2, 0, 2)
def aDrainIsNotCancelled(table, monkeypatch):
    """
    Who serves again cuts its connections when their time is over.
    """
    for what in ("childReady", "childFailed"):
        row = table["Withdrawing"][what]
        table["Withdrawing"][what] = instead(row, cancelDrain)


@story("1 waits without a deadline", 2, 1, 1)
def aChildIsNotWatched(table, monkeypatch):
    """
    The step raises, and nobody ends the probation.
    """
    row = table["Committing"]["childServing"]
    table["Committing"]["childServing"] = instead(row, watchChild, watchChild.orElse(None))


@story("the pid file names another process", 2, 1, 1)
def thePidFileFollowsWhatIsFinal(table, monkeypatch):
    """
    It cannot be written when there is no way back.
    """
    row = table["AwaitingCommit"]["parentCommitted"]
    table["AwaitingCommit"]["parentCommitted"] = instead(row, takePidFile)
    for what in ("parentConfirmed", "parentExited"):
        after, steps = table["OnProbation"][what]
        table["OnProbation"][what] = (after, [takePidFile, *steps])


@pytest.mark.parametrize("case", STORIES)
def test_each_rejected_rule_is_found_out(monkeypatch, table, case):
    """
    Each rule that was tried and rejected, put back, leads to what must never be.
    """
    putBack, otherwise, (generations, *left), begin, narrowed = case
    putBack(table, monkeypatch)
    use(monkeypatch, table)
    world = begin(generations)
    vars(world).update(narrowed)
    with pytest.raises(Violation, match=otherwise):
        Search(world, *left).run()


# -- anything, in any order

which = st.integers(0, 20)
cuts = st.none() | st.integers(0, 100)


def faulty(method):
    """
    Have something go wrong if anything may; but at rest that is soon told: it ends the
    service.
    """
    return precondition(lambda self: self.isFaulty and self.world.duties())(method)


class Life(RuleBasedStateMachine):
    """
    What may happen to a service in a long life, byte by byte.

    @ivar isFaulty: whether anything may go wrong.
    """

    def __init__(self):
        super().__init__()
        self.world = Bytes()
        self.isFaulty = False

    @initialize(isFaulty=st.booleans())
    def begin(self, isFaulty):
        self.isFaulty = isFaulty
        self.world.live(Move(0, "initialise"))
        self.world.live(Move(0, "redeploy"))

    # -- what is bound to happen

    @rule(order=st.lists(which, min_size=1, max_size=6))
    def goOn(self, order):
        """
        Have so much of it happen, with messages in one piece.
        """
        for number in order:
            self.have(self.world.promptDuties(), number)

    @rule(number=which, count=st.integers(1, 100))
    def read(self, number, count):
        self.have(self.world.messages(), number, count=count)

    @rule(number=which)
    def endProbation(self, number):
        self.have(self.named("findProbationOver"), number)

    # -- what somebody may ask for

    @rule(number=which)
    def ask(self, number):
        self.have([move for move in self.world.requests() if move.what != "stop"], number)

    @precondition(lambda self: not self.world.alive)
    @rule()
    def start(self):
        self.world.startAgain()

    # -- what may go wrong

    @faulty
    @rule(number=which)
    def stop(self, number):
        self.have(self.named("stop"), number)

    @faulty
    @rule(number=which)
    def beSilent(self, number):
        self.have(self.named("findOverdue", "findParentOverdue"), number)

    @faulty
    @rule(number=which, steps=st.integers(0, 4))
    def fail(self, number, steps):
        """
        A step raises.
        """
        self.have(self.world.duties(), number, failsIn=steps)

    @faulty
    @rule(number=which)
    def failToInitialise(self, number):
        if self.have(self.named("failToInitialise"), number):
            self.world.mourn()

    @faulty
    @rule(number=which, up=cuts, down=cuts)
    def die(self, number, up, down):
        alive = self.world.alive
        self.world.lose(alive[number % len(alive)], up, down)

    @faulty
    @rule(number=which, steps=st.integers(0, 4), up=cuts, down=cuts)
    def dieMeanwhile(self, number, steps, up, down):
        move = self.have(self.world.duties(), number, stepsLeft=steps)
        self.world.lose(self.world.generations[move.who], up, down)

    def named(self, *names):
        """
        @return: what can happen and has one of these names.
        """
        world = self.world
        moves = (*world.duties(), *world.requests(), *world.faults())
        return [move for move in moves if move.what in names]

    def have(self, moves, number, **how):
        """
        Have one of these happen, if there is one.

        @return: which.
        """
        if not moves:
            return None
        move = moves[number % len(moves)]
        self.world.live(move, **how)
        return move

    # -- what is true all the time, and in the end

    @invariant()
    def check(self):
        with asserted():
            self.world.check()
            if not self.world.duties():
                self.world.checkRest()

    def teardown(self):
        self.world.comeToRest()


def test_any_life_of_a_service_byte_by_byte():
    """
    The same holds over a long life, with any number of upgrades, of generations and
    of faults, or with none, and wherever messages are divided and cut off; and a
    service that has ended can be started again.
    """
    # One failure is enough: teardown, which follows, would be another.
    chosen = settings(
        max_examples=6 * settings.default.max_examples,
        stateful_step_count=60,
        deadline=None,
        report_multiple_bugs=False,
    )
    run_state_machine_as_test(Life, settings=chosen)
