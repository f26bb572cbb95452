"""
The generations of a service, in one process: the real rules of each, joined by queues
of messages (what can happen to them, L{modelled_world}).

What carries the rules out (L{txtableflip._handover.child}, C{ending} and C{parent}) is
said here again in as few words as possible.  It begins when a child has read its
manifest, for that is read at once or not at all.  A move is one input, or what is
left of a transition, up to and with the first step that reaches the world; so
between any two steps of a process all others may run, and this one be killed.
"""

from txtableflip import _lifecycle
from txtableflip._handover.messages import (
    Abort,
    Commit,
    Confirm,
    Ready,
    Redeploy,
    Refused,
    Serving,
    Stopping,
    Withdraw,
)
from txtableflip._lifecycle import Core
from txtableflip._steps import Step
from txtableflip.errors import HandoverFailed

YOUNG = ("Initialising", "InitialisingBesideParent", "AwaitingCommit", "OnProbation")
SERVES = ("Serving", "Upgrading", "Committing", "Watching", "Withdrawing")
HAS_CHILD = ("Upgrading", "Committing", "Watching", "Withdrawing", "EndingChild")
WAITS_FOR_PARENT = ("AwaitingCommit", "OnProbation")
STOPS_ALONE = ("InitialisingBesideParent", "AwaitingCommit")

ERROR = HandoverFailed("fails", phase="commit")
"""
What is raised, and what is heard of every failure: an UpgradeFailed, which the rules do
not log.
"""


class Violation(BaseException):
    """
    What must never be: no Exception, for the rules go on after a step that raises.
    """


class Pause(BaseException):
    """
    A process has done as much as it may for now: no Exception either.
    """


class End:
    """
    What is heard after the last message of a process that has ended.
    """

    def __repr__(self):
        return "the end"


END = End()


def insist(condition, otherwise):
    """
    Let nothing go on if a condition does not hold.
    """
    if not condition:
        raise Violation(otherwise)


class Quiet:
    """
    A journal that nobody reads.
    """

    def tell(self, kind, **more):
        """
        Something has happened.
        """


class Stepwise(Core):
    """
    The rules, which can be held up between any two steps; each is followed as the
    rules do it, with what is to follow if it raises.

    @ivar todo: the steps that are left, each with what came with the input.
    """

    def follow(self, steps, said):
        """
        Have steps done, later.  Inputs that follow from steps come last in every
        row, so that nothing is left behind which this would overtake.
        """
        self.todo = [(step, said) for step in steps]

    def goOn(self):
        """
        Do what is left, up to a L{Pause}.
        """
        try:
            while self.todo:
                self._doNext()
        except Pause:
            pass

    def _doNext(self):
        before, self.todo = self.todo, []
        (step, said), *rest = before
        try:
            super().follow([step, Step(lambda core, said: core._keep(rest))], said)
        except Pause:
            self.todo = before
            raise

    def _keep(self, rest):
        if rest:
            insist(not self.todo, "a step is followed by an input, and by steps")
            self.todo = rest


class Straight(Core):
    """
    The rules as they are: a transition is done in one piece.
    """

    todo = ()

    def goOn(self):
        """
        Nothing is left.
        """


class Hands:
    """
    What the rules can reach: each step that does counts.
    """

    def __init__(self, generation):
        self._generation = generation

    def __getattr__(self, name):
        self._generation.world.spend()
        return getattr(self._generation, name)


class Caller:
    """
    Who has called C{upgrade()}, in the place of the Deferred.
    """

    called = False

    def __init__(self, generation):
        self._generation = generation

    def callback(self, result):
        """
        The upgrade is done.
        """
        isFinal = self._generation.world.core.state == "Replaced"
        insist(isFinal, "an upgrade is done that is not final")
        self._told()

    def errback(self, error):
        """
        The upgrade has failed.
        """
        isFinal = self._generation.world.core.state == "Replaced"
        insist(not isFinal, "an upgrade has failed that is final")
        self._told()

    def _told(self):
        self._generation.waiting -= 1
        insist(self._generation.waiting >= 0, "a caller is told twice")


class Record:
    """
    All that there is to know of a process: values that do not change, so that a copy
    is soon made.

    @ivar overdue: what the parent does if this process says nothing for too long, if
        it waits.
    @ivar isPatient: whether it waits for its parent, with a deadline.
    """

    def __init__(self, world, parent):
        self.world = world
        self.number = len(world.generations)
        self.parent = parent
        self.isAlive = True
        # What its parent has not heard, and what the parent knows.
        self.up = ()
        self.forget()
        # The rules.
        self.state = "Initialising" if parent is None else "InitialisingBesideParent"
        self.todo = ()
        self.isWanted = self.hasCaller = self.isLeaving = False
        self.hasToldReady = self.hasToldFinal = False
        # The world.
        self.accepts = self.isInsisting = self.mayNotAccept = self.hasTerm = False
        self.drains = False
        self.waiting = 0
        self.child = None
        # What it has not heard of its parent, and what it waits for.
        self.down = ()
        self.isPatient = self.isConfirmed = False

    def forget(self):
        """
        The parent knows nothing yet, or not any more.
        """
        self.phase = "initialise"
        self.overdue = "giveUp"
        self.isWithdrawn = self.isGivenUp = self.isOver = False
        self.isFinal = self.isLost = self.isWatched = False

    def clear(self):
        """
        The process itself knows nothing any more.
        """
        self.state = "dead"
        self.todo = self.down = ()
        self.isWanted = self.hasCaller = self.isLeaving = False
        self.hasToldReady = self.hasToldFinal = False
        self.accepts = self.isInsisting = self.mayNotAccept = self.hasTerm = False
        self.drains = False
        self.waiting = 0
        self.child = None
        self.isPatient = self.isConfirmed = False

    def copyTo(self, world):
        """
        @return: the same in another world.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.world = world
        return other

    @property
    def key(self):
        """
        Everything that may make a difference.
        """
        return tuple(self.__dict__.values())[1:]


class AsParent(Record):
    """
    What a process does with its children, and what it hears of them.
    """

    @property
    def kid(self):
        """
        The last one.
        """
        return self.world.generations[self.child]

    # -- Steps

    def startChild(self, order):
        self.world.startUpgrade()
        self.world.mayFail()
        self.child = self.world.start(self.number).number

    def commitChild(self):
        kid = self.kid
        kid.phase, kid.overdue, kid.isWithdrawn = "commit", "kill", False
        insist(not self.accepts, "a child is to take over from a parent that accepts")
        self.world.mayFail()
        self.world.send(kid, "down", Commit())

    def watchChild(self):
        self.world.mayFail()
        self.kid.isWatched = True

    def withdrawChild(self, why):
        kid = self.kid
        kid.isWithdrawn, kid.isWatched, kid.overdue = True, False, "kill"
        self.world.mayFail()
        self.world.send(kid, "down", Withdraw("why"))

    def confirmChild(self):
        self.kid.isFinal, self.kid.isWatched = True, False
        self.world.mayFail()
        self.world.send(self.kid, "down", Confirm())

    def endChild(self, why):
        self.kid.isWatched = False
        self.world.mayFail()
        self.giveUp(self.kid)

    def killChild(self, why):
        self.kid.isWatched = False
        self.kill(self.kid)

    def dismissChild(self):
        kid = self.kid
        if self.world.isToFail():
            self.abandon(kid)
            raise ERROR.with_traceback(None)
        self.over(kid)

    def tellChildToRedeploy(self):
        if self.state == "Replaced" and not self.kid.isAlive:
            self.world.isOwed = False
        self.world.mayForget()
        self.world.send(self.kid, "down", Redeploy())

    # -- how a child ends

    def giveUp(self, kid):
        """
        Make it leave, politely at first.
        """
        if not kid.isOver:
            kid.isGivenUp = True
            self.world.send(kid, "down", Abort("why"))
            kid.hasTerm = kid.isAlive
            kid.overdue = "kill"

    def kill(self, kid):
        """
        End it at once.
        """
        if not kid.isOver:
            kid.isGivenUp = kid.isLost = True
            kid.overdue = None
            # A stop that it may have heard of is lost with it.
            self.world.mustEnd = False
            self.world.kill(kid)

    def over(self, kid):
        """
        Have no more to do with it.
        """
        kid.isOver, kid.overdue, kid.isWatched = True, None, False
        self.world.send(kid, "down", Abort("why"))

    def abandon(self, kid):
        """
        End one that cannot be told to leave, and never hear of it again.
        """
        kid.isOver, kid.overdue, kid.isWatched = True, None, False
        self.world.kill(kid)

    def reap(self, kid):
        """
        It has ended, or has said that it never will serve.
        """
        if not kid.isOver:
            insist(kid.number == self.child, "who failed is not the child any more")
            self.over(kid)
            self.input("childFailed", ERROR)

    def findOverdue(self, kid):
        """
        It has said nothing for too long.
        """
        getattr(self, kid.overdue)(kid)

    def findProbationOver(self, kid):
        """
        It has served well for so long.
        """
        self.input("confirm")

    # -- what it says

    def hearChild(self, kid, message):
        """
        A child has said something.
        """
        if message is END:
            self.loseChild(kid)
        elif isinstance(message, Redeploy):
            # One that was given up does not do it: it is as if this one was asked.
            self.input("redeploy" if kid.isOver else "told")
        elif kid.isOver or kid.isFinal:
            pass
        elif isinstance(message, Refused):
            (self.giveUp if kid.phase == "initialise" else self.reap)(kid)
        elif isinstance(message, Stopping):
            self.over(kid)
            self.input("childStopping")
        elif not kid.isGivenUp:
            self.hearInTurn(kid, message)

    def loseChild(self, kid):
        """
        The channel has ended.
        """
        if kid.isFinal:
            self.reap(kid)
        else:
            kid.isLost, kid.isWatched = True, False

    def hearInTurn(self, kid, message):
        """
        A child that is wanted has said something.
        """
        if isinstance(message, Ready) and kid.isWithdrawn:
            kid.overdue = None
            self.input("childReady", ERROR)
        elif isinstance(message, Ready) and kid.phase == "initialise":
            kid.overdue = None
            self.input("childReady")
        elif isinstance(message, Serving) and kid.phase == "commit":
            kid.phase = "probation"
            if not kid.isWithdrawn:
                kid.overdue = None
            self.input("childServing")
        elif isinstance(message, Withdraw) and kid.phase == "probation":
            self.input("rollback", ERROR)
        elif isinstance(message, Confirm) and kid.phase == "probation":
            # Its time is over, which may be at any moment, and is not what it says.
            self.hearConfirm(kid)
        else:
            raise Violation(f"{message} at the wrong time")

    def hearConfirm(self, kid):
        """
        It wants to be final: the end of its time follows, when all has been heard.
        """


class AsChild(Record):
    """
    What a process says to its parent, and what it hears.
    """

    # -- Steps

    def sayReady(self):
        insist(not self.accepts, "a child that accepts says that it does not")
        self.world.mayFail()
        self.world.send(self, "up", Ready())
        self.isPatient = True

    def sayServing(self):
        insist(self.accepts, "a child says too early that it serves")
        self.world.mayFail()
        self.world.send(self, "up", Serving())

    def sayRefused(self, reason):
        insist(not self.accepts, "a child that accepts says that it does not")
        self.world.mayFail()
        self.world.send(self, "up", Refused("why"))

    def sayStopping(self):
        insist(not self.accepts, "a child that accepts says that it does not")
        self.world.mayFail()
        self.world.send(self, "up", Stopping())

    def askToBeWithdrawn(self, reason):
        self.world.mayFail()
        self.world.send(self, "up", Withdraw("why"))

    def askToBeConfirmed(self):
        self.world.mayFail()
        self.world.send(self, "up", Confirm())

    def tellParentToRedeploy(self):
        self.world.mayForget()
        self.world.send(self, "up", Redeploy())

    def killParent(self):
        self.world.kill(self.world.generations[self.parent])

    # -- what the parent says

    def hearParent(self, message):
        """
        The parent has said something.
        """
        if isinstance(message, Redeploy):
            self.input("redeploy" if self.isConfirmed else "told")
            return
        self.isPatient = isinstance(message, Commit)
        if message is END or isinstance(message, Confirm):
            self.isConfirmed = True
        if isinstance(message, Abort):
            self.input("parentAborted", ERROR)
        else:
            self.input(_HEARD[type(message)])

    def findParentOverdue(self):
        """
        The parent has said nothing for too long.
        """
        self.isPatient = False
        self.input("parentTimedOut", ERROR)


_HEARD = {
    Commit: "parentCommitted",
    Withdraw: "parentWithdrew",
    Confirm: "parentConfirmed",
    End: "parentExited",
}


class Generation(AsParent, AsChild):
    """
    One process: the rules, and the least that carries them out.
    """

    @property
    def isAble(self):
        """
        Whether this process serves, or will by itself, whoever is killed next.
        """
        if self.state in SERVES:
            return True
        if self.state not in YOUNG or Abort("why") in self.down or self.hasTerm:
            return False
        parent = None if self.parent is None else self.world.generations[self.parent]
        return parent is None or parent.state in ("dead", "Replaced", "Stopped")

    @property
    def isKnowing(self):
        """
        Whether this process knows, or is about to hear, that a new version is wanted.
        """
        if self.state == "Stopped" or Abort("why") in self.down:
            return False
        if Redeploy() in self.down:
            return True
        # One that is replaced leaves it to its child.
        isKnown = self.isWanted or any(Redeploy() in kid.up for kid in self.kids)
        return isKnown and self.isAlive and self.state != "Replaced"

    @property
    def isGivenUpByTheDead(self):
        """
        Whether this process is about to hear that it is not wanted, and then the end.
        """
        return Abort("why") in self.down and END in self.down

    @property
    def kids(self):
        """
        All that this process has started.
        """
        return [one for one in self.world.generations if one.parent == self.number]

    # -- the rules

    def input(self, name, *said):
        """
        Have the rules told something.
        """
        core = self._core()
        try:
            getattr(core.rules, name)(*said)
            core.goOn()
        except Pause:
            pass
        self._keep(core)

    def goOn(self):
        """
        Have the rest of a transition done, or as much as may be.
        """
        core = self._core()
        core.todo = list(self.todo)
        core.goOn()
        self._keep(core)

    def _core(self):
        core = self.world.rules(Hands(self), journal=Quiet())
        core.todo = ()
        core.wanted = self.isWanted
        core.result = Caller(self) if self.hasCaller else None
        _lifecycle.begin(core, self.state)
        self.world.core = core
        return core

    def _keep(self, core):
        if not self.isAlive:
            return
        self.state = core.state
        self.todo = tuple(
            (step, said if isinstance(said, Exception) else None) for step, said in core.todo
        )
        self.isWanted = core.wanted
        self.hasCaller = core.result is not None
        self.isLeaving = self.isLeaving or core.isExiting.outcome is not None
        self.hasToldReady = self.hasToldReady or core.isReady.outcome is True
        self.hasToldFinal = self.hasToldFinal or core.isFinal.outcome is True
        if self.state in ("Stopped", "Replaced"):
            self.hasTerm = False
        if self.state not in WAITS_FOR_PARENT:
            self.isPatient = False

    # -- Steps

    def learn(self):
        self.world.mayFail()

    def takeBack(self):
        self.world.mayFail()

    def accept(self):
        insist(not self.mayNotAccept, "a process resumes whose child has made that impossible")
        self.world.mayFail()
        self.accepts = True
        insist(self.world.accepting == [self], "two processes accept")

    def park(self):
        self.world.mayFail()
        self.accepts = self.isInsisting = False

    def takePidFile(self):
        self.world.mayFail()
        self.world.pidFile = self.number

    def insistOnPidFile(self):
        self.isInsisting = self.world.isToFail()
        if not self.isInsisting:
            self.world.pidFile = self.number

    def beginDrain(self):
        insist(not self.accepts, "a process drains that accepts")
        self.world.mayFail()
        self.drains = True

    def cancelDrain(self):
        self.drains = False

    def finalise(self):
        self.world.mayFail()
        if self.parent is not None:
            self.world.generations[self.parent].mayNotAccept = True

    def letGo(self):
        self.world.mayFail()

    def exitWithFailure(self):
        pass

    def die(self):
        self.world.kill(self)

    # -- what somebody asks for

    def upgrade(self):
        """
        The application wants to be replaced.
        """
        self.waiting += 1
        self.input("upgrade", Caller(self))

    def redeploy(self):
        """
        The operator wants a new version.
        """
        # One that was given up, and cannot tell anybody, has only its log.
        isLost = self.isGivenUpByTheDead or self.world.isStopped
        self.world.isOwed = self.world.isOwed or not isLost
        self.world.asked += 1
        self.input("redeploy")

    def stop(self):
        """
        The operator wants the service to end; or, of a child that has never served,
        or has been withdrawn, only that.
        """
        self.world.isStopped = True
        self.world.isOwed = False
        self.world.mustEnd = self.world.mustEnd or self.state not in STOPS_ALONE
        self.input("stop")

    def rollback(self):
        """
        The operator does not want the new version.
        """
        self.input("rollback", ERROR)

    def confirm(self):
        """
        The operator wants the new version, and no way back.
        """
        self.input("confirm")

    # -- what else happens to a process

    def initialise(self):
        """
        The application is ready.
        """
        self.input("ready")

    def failToInitialise(self):
        """
        The application never will be.
        """
        self.input("initialisationFailed", ERROR)

    def hearTerm(self):
        """
        SIGTERM has come, from the parent.
        """
        self.hasTerm = False
        self.input("stop")

    def leave(self):
        """
        End, as the application was told to.
        """
        insist(self.waiting == 0, "a process leaves, and who asked for an upgrade is not told")
        if self.world.pidFile == self.number:
            self.world.pidFile = None
        isUnread = Redeploy() in self.down or any(Redeploy() in kid.up for kid in self.kids)
        self.world.end(self)
        if isUnread:
            # A process that is asked while it leaves: its log says so.
            self.world.remember()

    def beKilled(self):
        """
        End at once.
        """
        self.world.kill(self)
