"""
A service of several generations, in one process: the real rules of each, joined by
queues of messages, and everything that can happen to it next.

What carries the rules out (L{txtableflip._handover.child}, C{ending} and C{parent}) is
said here again in as few words as possible.  It begins when a child has read its
manifest, for that is read at once or not at all.  A move is one input, or what is
left of a transition, up to and with the first step that reaches the world; so
between any two steps of a process all others may run, and this one be killed.
"""

from collections import deque
from typing import NamedTuple

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
        self.waiting = 0
        self.child = None
        # What it has not heard of its parent, and what it waits for.
        self.down = ()
        self.isPatient = self.isConfirmed = False

    def forget(self):
        """
        The parent knows nothing yet, or not any more.

        @ivar overdue: what follows if it says nothing any more, if that is waited
            for.
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

    def startChild(self):
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


class Move(NamedTuple):
    """
    Something that may happen next.

    @ivar who: the number of the process to which it does.
    @ivar what: the name of the method.
    @ivar about: the number of the child that it is about, if it is.
    @ivar message: what is heard, to be read.
    @ivar isFailing: whether the first step that can fail does.
    """

    who: int
    what: str
    about: int | None = None
    message: object = None
    isFailing: bool = False

    def __str__(self):
        words = [str(self.who + 1), self.what]
        if self.message is not None:
            words.append(repr(self.message).partition("(")[0])
        if self.about is not None:
            words.append(f"of {self.about + 1}")
        if self.isFailing:
            words.append("and fails")
        return " ".join(words)


class World:
    """
    A service, and everything that can happen to it next.

    @ivar most: how many generations there can be.
    @ivar asks: what somebody may ask for.
    @ivar isHasty: whether anybody may find another one overdue.
    @ivar rules: the class of the L{Core}.
    @ivar core: of the process to which something happens.
    @ivar stepsLeft: how many steps that may do.
    @ivar failsIn: after how many of them one fails, if one does.
    @ivar pidFile: the number of the process that it names.
    @ivar isOwed: whether a new version was asked for, and has not been started since.
    @ivar asked: how often one was, and has not been.
    @ivar isExcused: whether nobody may serve in the end, as the last one that could
        was killed, or failed.
    @ivar isStopped: whether nobody may, as the operator said so.
    @ivar mustEnd: whether nobody must, for the same reason.
    """

    asks = ("upgrade", "redeploy", "stop", "rollback", "confirm")
    isHasty = True
    rules = Stepwise
    stepsLeft = failsIn = core = None

    def __init__(self, most):
        self.most = most
        self.generations = []
        self.pidFile = None
        self.isOwed = self.isExcused = self.isStopped = self.mustEnd = False
        self.asked = 0
        self.start(None)

    @property
    def key(self):
        """
        Everything that may make a difference to what happens next, and to what
        ought to.
        """
        return (
            tuple([one.key for one in self.generations]),
            self.pidFile,
            self.isOwed,
            self.asked,
            self.isExcused,
            self.isStopped,
            self.mustEnd,
        )

    def copy(self):
        """
        @return: another world like this one.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.generations = [one.copyTo(other) for one in self.generations]
        return other

    def forget(self):
        """
        Be no more, without the collector of garbage.
        """
        self.generations.clear()

    @property
    def alive(self):
        """
        The processes that there are, the oldest first.
        """
        return [one for one in self.generations if one.isAlive]

    @property
    def accepting(self):
        """
        The processes that accept connections.
        """
        return [one for one in self.generations if one.accepts]

    # -- what processes do to each other

    def start(self, parent):
        """
        @return: a new process.
        """
        if len(self.generations) == self.most:
            raise ERROR.with_traceback(None)
        one = Generation(self, parent)
        self.generations.append(one)
        return one

    def startUpgrade(self):
        """
        A new version is being started, as somebody asked for.
        """
        self.isOwed = False
        if self.core.result is None:
            self.asked -= 1
            insist(self.asked >= 0, "one request, and two upgrades")

    def send(self, kid, way, message):
        """
        Say something over the channel between a child and its parent.
        """
        parent = self.generations[kid.parent]
        if (kid if way == "down" else parent).isAlive:
            setattr(kid, way, (*getattr(kid, way), message))

    def end(self, one):
        """
        A process ends; what it has said is still heard, and the end after it.
        """
        one.isAlive = False
        if one.parent is not None:
            self.send(one, "up", END)
        for kid in one.kids:
            self.send(kid, "down", END)
            kid.up = ()
            kid.forget()
        one.clear()

    def kill(self, one):
        """
        A process is ended, and what it alone has known is lost.
        """
        if one.isAlive:
            self.end(one)
            self.mourn()
            self.remember()

    def remember(self):
        """
        A request is not owed any more if nobody has heard of it, or is going to.
        """
        self.isOwed = self.isOwed and any(one.isKnowing for one in self.alive)

    # -- how far something goes, and whether it fails

    def spend(self):
        """
        Let one more step be done, if it may.
        """
        if self.stepsLeft is not None:
            if self.stepsLeft == 0:
                raise Pause
            self.stepsLeft -= 1

    def isToFail(self):
        """
        @return: whether a step fails here.
        """
        if self.failsIn is None:
            return False
        self.failsIn -= 1
        if self.failsIn >= 0:
            return False
        self.failsIn = None
        return True

    def mayFail(self):
        """
        Fail, if it is to be.
        """
        if self.isToFail():
            raise ERROR.with_traceback(None)

    def mayForget(self):
        """
        The same, where the word of a new version goes no further.
        """
        if self.isToFail():
            self.isOwed = False
            raise ERROR.with_traceback(None)

    # -- what can happen

    def duties(self):
        """
        @return: what is bound to happen.
        """
        found = []
        for one in self.alive:
            found += [Move(one.number, "goOn")] if one.todo else self._turn(one)
        return found

    def promptDuties(self):
        """
        @return: what happens of it while nobody is too slow, nor the probation over.
        """
        return [move for move in self.duties() if not move.what.startswith("find")]

    def _turn(self, one):
        # What happens by itself comes first, and last what happens by the clock.
        found = [Move(one.number, what) for what in self._alone(one)]
        if one.down:
            found.append(Move(one.number, "hearParent", message=one.down[0]))
        for kid in one.kids:
            if kid.up:
                found.append(Move(one.number, "hearChild", kid.number, kid.up[0]))
            if kid.isLost and not kid.isAlive and not kid.isOver:
                found.append(Move(one.number, "reap", kid.number))
        return found + self._overdue(one)

    def _overdue(self, one):
        found = []
        if self.isHasty and one.isPatient and self.isHeard(one, "down"):
            found.append(Move(one.number, "findParentOverdue"))
        if one.child is not None and self.isHeard(one.kid, "up"):
            if one.kid.isWatched:
                found.append(Move(one.number, "findProbationOver", one.child))
            if self.isHasty and one.kid.overdue:
                found.append(Move(one.number, "findOverdue", one.child))
        return found

    def _alone(self, one):
        if one.state in ("Initialising", "InitialisingBesideParent"):
            yield "initialise"
        if one.hasTerm:
            yield "hearTerm"
        if one.isInsisting:
            yield "insistOnPidFile"
        if one.isLeaving:
            yield "leave"

    def isHeard(self, kid, way):
        """
        @return: whether nothing is left to be heard, so that a deadline may decide.
        """
        return not getattr(kid, way)

    def requests(self):
        """
        @return: what somebody may ask for.
        """
        return [
            Move(one.number, what)
            for one in self.alive
            if not one.todo
            for what in _ASKED.get(one.state, ())
            if what in self.asks
        ]

    def faults(self):
        """
        @return: what may go wrong by itself.
        """
        found = []
        for one in self.alive:
            found.append(Move(one.number, "beKilled"))
            if one.state in ("Initialising", "InitialisingBesideParent"):
                found.append(Move(one.number, "failToInitialise"))
        return found

    def do(self, move):
        """
        Have something happen.
        """
        one = self.generations[move.who]
        act = getattr(one, move.what)
        if move.message is not None:
            self.hear(one, move.about)
        elif move.about is not None:
            act(self.generations[move.about])
        else:
            act()

    def hear(self, one, about):
        """
        Have a process hear the next message of a child, or of its parent.
        """
        if about is None:
            message, *one.down = one.down
            one.down = tuple(one.down)
            one.hearParent(message)
        else:
            kid = self.generations[about]
            message, *kid.up = kid.up
            kid.up = tuple(kid.up)
            one.hearChild(kid, message)

    def mourn(self):
        """
        Something has gone wrong: see whether somebody is left.
        """
        self.mustEnd = False
        self.isExcused = self.isExcused or not any(one.isAble for one in self.alive)

    # -- what must be

    def check(self):
        """
        Nobody waits for another one without a deadline.
        """
        for one in self.alive:
            if not one.todo:
                insist(self._isTimed(one), f"{one.number + 1} waits without a deadline")

    def _isTimed(self, one):
        if one.state in HAS_CHILD:
            if one.child is None:
                return False
            kid = one.kid
            isDue = kid.overdue is not None or kid.isWatched or kid.isLost
            return isDue or (not kid.isAlive and not kid.isOver)
        return one.state not in WAITS_FOR_PARENT or one.isPatient or one.down != ()

    def checkRest(self):
        """
        When nothing is left that is bound to happen, whoever is there serves, and
        nothing is left undone.
        """
        for one in self.alive:
            insist(one.state == "Serving", f"{one.number + 1} waits for ever ({one.state})")
            insist(one.accepts, f"{one.number + 1} is to serve, and does not")
            insist(one.waiting == 0, f"who asked {one.number + 1} is never told")
            isTold = one.hasToldReady and one.hasToldFinal
            insist(isTold, f"who waits for {one.number + 1} to serve is never told")
            insist(not one.isWanted, f"{one.number + 1} remembers a request for ever")
            insist(self.pidFile == one.number, "the pid file names another process")
        isServed = self.alive != []
        insist(isServed or self.isExcused or self.isStopped, "nobody serves")
        insist(not isServed or not self.mustEnd, "told to stop, and serves")
        isLost = self.isOwed and not self.isExcused
        insist(not isLost, "a request is lost")


_ASKED = {
    "Serving": ("upgrade", "redeploy", "stop"),
    "Replaced": ("redeploy",),
    "Initialising": ("redeploy", "stop"),
    **dict.fromkeys(STOPS_ALONE, ("redeploy", "stop")),
    "OnProbation": ("redeploy", "stop", "rollback", "confirm"),
    "Upgrading": ("redeploy", "stop", "rollback"),
    "Committing": ("redeploy", "stop", "rollback"),
    "Watching": ("redeploy", "stop", "rollback"),
    "Withdrawing": ("redeploy", "stop"),
}
"""
What makes a difference in which state.
"""


class Search:
    """
    Finds every situation that a service can come to, breadth first.

    @ivar size: how many situations have been found.
    """

    def __init__(self, world, faults, requests):
        """
        @param faults: how many things may go wrong.
        @param requests: how many things may be asked for.
        """
        self.size = self.moves = 0
        self._seen = {}
        self._queue = deque()
        self._arrive(world, None, faults, requests)

    def run(self):
        """
        @raise Violation: with the shortest way to what must never be.
        """
        while self._queue:
            world, *rest = self._queue.popleft()
            self._goOn(world, *rest)
            world.forget()

    def _arrive(self, world, way, faults, requests):
        # Whoever has been here with as much left has been everywhere from here.
        left = self._seen.setdefault(world.key, [])
        if not any(faults <= fewer and requests <= less for fewer, less in left):
            left.append((faults, requests))
            self._queue.append((world, way, faults, requests))
            self.size += 1
        else:
            world.forget()

    def _goOn(self, world, way, faults, requests):
        duties = world.duties()
        try:
            world.check()
            if not duties:
                world.checkRest()
        except Violation as error:
            raise Violation(_told(way, error)) from None
        for move in duties:
            self._try(world, way, move, faults, requests)
            if faults:
                self._try(world, way, move._replace(isFailing=True), faults - 1, requests)
        if faults:
            for move in world.faults():
                self._try(world, way, move, faults - 1, requests)
        if requests:
            for move in world.requests():
                self._try(world, way, move, faults, requests - 1)
                if faults:
                    failing = move._replace(isFailing=True)
                    self._try(world, way, failing, faults - 1, requests - 1)

    def _try(self, world, way, move, faults, requests):
        self.moves += 1
        world = world.copy()
        way = (way, move)
        world.stepsLeft = 1
        world.failsIn = 0 if move.isFailing else None
        try:
            world.do(move)
        except Violation as error:
            raise Violation(_told(way, error)) from None
        if move.isFailing and world.failsIn is not None:
            return
        if move.isFailing or move.what == "failToInitialise":
            world.mourn()
        self._arrive(world, way, faults, requests)


def _told(way, error):
    moves = []
    while way is not None:
        way, move = way
        moves.append(str(move))
    return f"{error}, after: {', '.join(reversed(moves))}"
