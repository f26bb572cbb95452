"""
What can happen to the service of L{modelled}, what must be true of it then, and the search
for a way to what must never be.
"""

from collections import deque
from typing import NamedTuple

from modelled import (
    END,
    ERROR,
    HAS_CHILD,
    STOPS_ALONE,
    WAITS_FOR_PARENT,
    Generation,
    Pause,
    Stepwise,
    Violation,
    insist,
)


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


class Chance:
    """
    How far something goes, and whether it fails.
    """

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


class Future:
    """
    Everything that can happen next.
    """

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


class Promise:
    """
    What must be.
    """

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
            insist(not one.drains, f"{one.number + 1} is to serve, and drains")
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


class World(Chance, Future, Promise):
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
