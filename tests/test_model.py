"""
Two processes that hold on to each other: the rules of both, joined by the bytes
that they send, while either may fail at any step and at any byte.

What the parent does with a child (L{txtableflip._handover.child}), and a child with its
parent (L{txtableflip._handover.parent}), is said here again in as few words as possible.
It begins when the child has read its manifest, for that is read at once or not
at all, and has no part in who accepts.
"""

from collections import deque
from functools import partial

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
from twisted.internet.defer import Deferred
from twisted.internet.testing import StringTransport

from txtableflip._handover.channel import Channel
from txtableflip._handover.messages import Abort, Commit, Ready, Redeploy, Refused, Serving
from txtableflip._lifecycle import Core, begin
from txtableflip.errors import ChildExited


class Violation(BaseException):
    """
    What must never be: no Exception, for the rules go on after a step that raises.
    """


def insist(condition, otherwise):
    """
    Let nothing go on if a condition does not hold.
    """
    if not condition:
        raise Violation(otherwise)


class Wire(StringTransport):
    """
    What one process has sent, and the other has not read.
    """

    def write(self, data, descriptors=()):
        """
        What is said here has no descriptors.
        """
        super().write(data)

    def doWrite(self):
        """
        How much of it has left the process is decided when that dies.
        """

    def keep(self, count):
        """
        Lose what comes after so many bytes, if a number is given.
        """
        kept = self.value()[:count]
        self.clear()
        self.write(kept)

    def take(self, count):
        """
        Read up to so many bytes.
        """
        everything = self.value()
        self.clear()
        self.write(everything[count:])
        return everything[:count]


class Line:
    """
    One end of a channel, and who listens there.

    @ivar isOpen: whether the process has this end, and reads from it.
    """

    peerPid = None

    def __init__(self, hear):
        self._hear = hear
        self._come = []
        self.isOpen = True
        self.peer = None
        self.pid = None
        self._wire = Wire()
        self._channel = Channel(self, "parent")
        self._channel.makeConnection(self._wire)

    def join(self, other):
        """
        Be the other end of another one.
        """
        self.peer, other.peer = other, self

    @property
    def unread(self):
        """
        What the peer has sent and is not read here yet.
        """
        return self.peer._wire.value() if self.isOpen else b""

    @property
    def hasNews(self):
        """
        Whether there is something to read, if it is only the end.
        """
        return self.isOpen and (not self.peer.isOpen or self.unread != b"")

    @property
    def isHeard(self):
        """
        Whether the peer has something to read.
        """
        return self.peer.unread != b""

    @property
    def situation(self):
        """
        Everything that may make a difference to what is heard here.
        """
        return (self.isOpen, self.peer.isOpen, self._begun, self.unread)

    def say(self, message):
        """
        Send a message, unless this end is closed.
        """
        if self.isOpen:
            self._channel.send(message)

    def read(self, count=None):
        """
        Read up to so many bytes, or to the end of a message; or the end.
        """
        if self.unread:
            self._channel.dataReceived(self.peer._wire.take(count or self._missing))
            # Not from inside the channel, which lets nothing that is raised pass.
            while self._come:
                message = self._come.pop(0)
                assert not isinstance(message, Exception), (
                    "what is cut off became something else"
                )
                self._hear(message)
        else:
            self.isOpen = False
            self._channel.connectionLost()

    @property
    def _begun(self):
        return bytes(self._channel._reader._data)

    @property
    def _missing(self):
        """
        How many bytes more make a message.
        """
        begun = self._begun
        return 4 + int.from_bytes((begun + self.unread)[:4], "big") - len(begun)

    def close(self, kept=None):
        """
        Close this end.

        @param kept: how much of what is unread the kernel had taken.
        """
        self.isOpen = False
        self._wire.keep(kept)

    def messageReceived(self, message):
        self._come.append(message)

    def channelGarbled(self, error):
        self._come.append(error)

    def channelLost(self):
        """
        What follows is up to whoever has this end, see L{Generation}.
        """


class Generation:
    """
    One process of a chain: the rules, and the least that carries them out.

    @ivar isAble: whether nothing has happened to this process itself that
        keeps it from serving.
    @ivar isDeaf: whether it has closed the channel to its parent, and lives.
    @ivar stepsLeft: after how many more steps it dies, if it does, in the
        middle of a transition.
    """

    def __init__(self, world, parent=None):
        self.world = world
        self.child = None
        self.toChild = None
        self.toParent = None
        self.stepsLeft = None
        self.isAlive = True
        self.isAble = True
        self.isDeaf = False
        self.accepts = False
        self.hasInitialised = False
        self.awaitsAnswer = False
        self.mayLeave = parent is None
        self.heardAbort = False
        self.hasTerm = False
        self.givesUp = False
        self.hasSuccessor = False
        if parent is not None:
            self.toParent = Line(self._parentSaid)
            parent.toChild.join(self.toParent)
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
            self.toParent and self.toParent.situation,
            self.toChild and self.toChild.situation,
            self.child and self.child.isAlive,
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

    @property
    def isCutOff(self):
        """
        Whether the channel to a child has ended which has not taken over.
        """
        return self.child is not None and not self.toChild.isOpen

    # -- Steps

    def startChild(self):
        if self._step():
            self.givesUp = False
            self.toChild = Line(self._childSaid)
            self.child = Generation(self.world, self)

    def commitChild(self):
        # What is sent may be read before this process does anything else.
        insist(not self.accepts, "a child is to take over from a parent that accepts")
        self._say(self.toChild, Commit())

    def endChild(self):
        if self._step():
            self.giveUp()

    def forwardRedeploy(self):
        self._say(self.toChild, Redeploy())

    def sayReady(self):
        self.awaitsAnswer = True
        self._say(self.toParent, Ready())

    def sayServing(self):
        insist(self.accepts or not self.isAlive, "a child says too early that it serves")
        self._say(self.toParent, Serving())

    def sayRefused(self, reason):
        self.mayLeave = True
        self._say(self.toParent, Refused(reason))

    def park(self):
        if self._step():
            self.accepts = False

    def accept(self):
        insist(not self.heardAbort, "a child that was given up takes over")
        self.mayLeave = True
        if self._step():
            self.accepts = True
            insist(self.world.accepting == [self], "two processes accept")

    def takePidFile(self):
        self._step()

    def settle(self):
        self._step()

    def killChild(self, reason):
        raise Violation(f"a step failed that cannot: {reason}")

    def _step(self):
        if self.stepsLeft == 0:
            self.die()
        elif self.stepsLeft is not None:
            self.stepsLeft -= 1
        return self.isAlive

    def _say(self, line, message):
        if self._step():
            line.say(message)

    # -- what carries them out, in as few words as possible

    def die(self, toParent=None, toChild=None):
        """
        End, at once: what was sent is still on its way, and the end after it.

        @param toParent: how much of what the parent has not read it will read,
            in bytes.
        @param toChild: the same of the child.
        """
        self.isAlive = self.isAble = self.accepts = False
        for line, kept in ((self.toParent, toParent), (self.toChild, toChild)):
            if line is not None:
                line.close(kept)

    def leave(self):
        """
        End, as the application was told to.
        """
        assert not self.isAble, "a process leaves for no reason"
        assert self.mayLeave, "a process leaves and has not told its parent why"
        assert self.child is None or self.hasSuccessor, "a process leaves its child behind"
        self.die()

    def hangUp(self, kept=None):
        """
        Close the channel to the parent, as code may that closes descriptors
        which it does not know, and hear of nothing any more.

        There is no such fault of a parent, which nothing could defend against:
        a child that hears the end of the channel must serve, because nothing
        else would tell it that the parent has died.
        """
        self.isDeaf = True
        self.isAble = self.isAble and self.accepts
        self.toParent.close(kept)

    def giveUp(self):
        """
        Make the child leave: a message, and a signal, which may overtake it.
        """
        self.givesUp = True
        self.toChild.say(Abort("it is not wanted"))
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

    def findChildSilent(self, kept=None):
        """
        Be without Ready, or without Serving, or without the end of a child
        that was told to leave, for too long.
        """
        if self.givesUp or not (self.accepts or self.isCutOff):
            self.givesUp = True
            self.child.die(kept)
        else:
            self.giveUp()

    def hearParent(self, count=None):
        """
        Take in what the parent has said next, if it is only that it has ended.
        """
        self.toParent.read(count)
        if not self.toParent.isOpen and self.isAlive:
            self.awaitsAnswer = False
            self.mayLeave = True
            self.lifecycle.parentExited()

    def _parentSaid(self, message):
        if not self.isAlive:
            return
        if isinstance(message, Redeploy):
            self.lifecycle.redeploy()
            return
        self.awaitsAnswer = False
        if isinstance(message, Commit):
            self.lifecycle.parentCommitted()
        else:
            # One that serves already does not mind.
            self.heardAbort = not self.accepts
            self.mayLeave = True
            self.isAble = self.isAble and self.accepts
            self.lifecycle.parentAborted(message.reason)

    def hearChild(self, count=None):
        """
        Take in what the child has said next, if it is only that it has ended.
        """
        self.toChild.read(count)
        if self.isCutOff and self.hasSuccessor:
            self.child = None

    def _childSaid(self, message):
        if not self.isAlive or self.givesUp:
            return
        if isinstance(message, Ready):
            self.lifecycle.childReady()
        elif isinstance(message, Serving):
            self.hasSuccessor = True
            self.isAble = False
            self.lifecycle.childServing()
        else:
            self.giveUp()

    def reapChild(self):
        """
        Learn that the child has ended, after the channel has.
        """
        self.child = None
        self.lifecycle.childFailed(ChildExited("ended", phase="commit"))


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
        self.start()

    def start(self):
        """
        Start the service, of which there is nothing.
        """
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
        return tuple(one.situation for one in self.alive)

    def duties(self):
        """
        Return what is bound to happen, by name.
        """
        found = {}
        for number, one in enumerate(self.alive):
            if one.toChild is not None and one.toChild.hasNews:
                found[f"{number} hears its child"] = one.hearChild
            if one.toParent is not None and one.toParent.hasNews:
                found[f"{number} hears its parent"] = one.hearParent
            if one.isCutOff and not one.child.isAlive:
                found[f"{number} reaps its child"] = one.reapChild
            if one.isCutOff and one.child.isAlive and not one.givesUp:
                found[f"{number} finds its child alive"] = one.giveUp
            if one.isDeaf and one.awaitsAnswer:
                found[f"{number} finds its parent silent"] = one.findParentSilent
            if one.hasTerm:
                found[f"{number} hears SIGTERM"] = one.stop
            if one.isLeaving:
                found[f"{number} leaves"] = one.leave
            if not one.hasInitialised:
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
            if not one.hasInitialised:
                found[f"{number} cannot initialise"] = one.failToInitialise
            if one.awaitsAnswer and not one.isDeaf:
                found[f"{number} finds its parent silent"] = one.findParentSilent
            if one.child is not None and one.child.isAlive and not one.hasSuccessor:
                found[f"{number} finds its child silent"] = one.findChildSilent
            if one.toParent is not None and one.toParent.isOpen:
                found[f"{number} hangs up"] = one.hangUp
            if (one.toParent and one.toParent.isHeard) or (one.toChild and one.toChild.isHeard):
                found[f"{number} dies and is not heard"] = partial(one.die, 0, 0)
        for name, act in self.duties().items():
            if not name.endswith("leaves"):
                found[f"{name} and dies after one step"] = partial(self._die, act)
        return found

    def _die(self, act, steps=1, *kept):
        # The process that does this does no more than so many steps of it.
        one = act.__self__
        one.stepsLeft = steps
        act()
        one.die(*kept)

    def do(self, name, *arguments):
        """
        Have something happen, by its name.

        @param arguments: how much is read, or lost, if it is not all.
        """
        faults = self.faults()
        if name in faults:
            self.isFaultless = False
        elif name.endswith("redeploy"):
            self.asked = len(self.generations)
        {**self.duties(), **self.wishes(), **faults}[name](*arguments)

    def check(self):
        """
        Never do two processes accept; never are there more than two; and while
        nothing goes wrong nobody accepts only when a child is ready to.
        """
        assert len(self.accepting) <= 1
        assert len(self.alive) <= 2
        if self.isFaultless and not self.accepting:
            assert self.alive[1].hasInitialised

    def live(self, way):
        """
        Have one thing after another happen, by their names.
        """
        for name in way:
            self.do(name)
            self.check()

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
            self.live([next(iter(duties))])
        else:
            raise AssertionError("this never comes to rest")
        able = [one for one in self.generations if one.isAble]
        assert self.accepting == able
        for one in self.alive:
            if one not in able:
                assert one.state == "Initialising"
            elif one.isDeaf:
                # It is never told that its parent has gone.
                assert one.state == "ServingBesideParent"
            else:
                assert (one.state, one.core.wanted) == ("Serving", False)
            assert one.core.result is None
        if self.isFaultless:
            assert len(able) == 1
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
        world.live(way)
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
        world.live(way)
        try:
            world.comeToRest()
        except AssertionError as error:
            raise AssertionError(f"after: {', '.join(way)}") from error


# -- anything, in any order

either = st.integers(0, 1)
pieces = st.integers(1, 100)
cuts = st.none() | st.integers(0, 100)


def possible(what):
    """
    Have a rule followed only when there is a process that it is about.
    """
    return precondition(lambda life: life.names(what))


class Life(RuleBasedStateMachine):
    """
    What may happen to a service, byte by byte.

    @ivar isFaulty: whether anything may go wrong.
    """

    def __init__(self):
        super().__init__()
        self.world = World()
        self.isFaulty = False

    @initialize(isFaulty=st.booleans())
    def askFirst(self, isFaulty):
        self.isFaulty = isFaulty
        self.world.live(["0 is to redeploy"])

    def names(self, ending):
        """
        Return the names of what may happen that end like this.
        """
        duties = self.world.duties()
        # What goes wrong at rest is soon told: it ends the service.
        faults = self.world.faults() if self.isFaulty and duties else ()
        names = (*duties, *self.world.wishes(), *faults)
        return [name for name in names if name.endswith(ending)]

    def have(self, which, what, *arguments):
        """
        Have something happen to the older or the younger process.
        """
        names = self.names(what)
        self.world.do(names[which % len(names)], *arguments)

    # -- what is bound to happen

    @possible("hears its parent")
    @rule(which=either, count=pieces)
    def hearParent(self, which, count):
        self.have(which, "hears its parent", count)

    @possible("hears its child")
    @rule(which=either, count=pieces)
    def hearChild(self, which, count):
        self.have(which, "hears its child", count)

    @possible("initialises")
    @rule(which=either)
    def initialise(self, which):
        self.have(which, "initialises")

    @possible("hears SIGTERM")
    @rule(which=either)
    def hearTerm(self, which):
        self.have(which, "hears SIGTERM")

    @possible("leaves")
    @rule(which=either)
    def leave(self, which):
        self.have(which, "leaves")

    @possible("reaps its child")
    @rule(which=either)
    def reapChild(self, which):
        self.have(which, "reaps its child")

    @possible("finds its child alive")
    @rule(which=either)
    def findChildAlive(self, which):
        self.have(which, "finds its child alive")

    @rule(order=st.lists(st.integers(0, 5), min_size=1, max_size=3))
    def goOn(self, order):
        """
        Have so much of it happen, with messages in one piece.
        """
        for number in order:
            if names := list(self.world.duties()):
                self.world.live([names[number % len(names)]])

    # -- what somebody may ask for

    @possible("is to redeploy")
    @rule(which=either, what=st.sampled_from(["is to redeploy", "is to upgrade"]))
    def ask(self, which, what):
        self.have(which, what)

    @precondition(lambda life: not life.world.alive)
    @rule()
    def start(self):
        self.world.start()

    # -- what may go wrong

    @possible("is told to stop")
    @rule(which=either)
    def stop(self, which):
        self.have(which, "is told to stop")

    @possible("dies")
    @rule(which=either, toParent=cuts, toChild=cuts)
    def die(self, which, toParent, toChild):
        self.have(which, "dies", toParent, toChild)

    @possible("dies after one step")
    @rule(which=st.integers(0, 9), steps=st.integers(0, 3), toParent=cuts, toChild=cuts)
    def dieAfterSteps(self, which, steps, toParent, toChild):
        self.have(which, "dies after one step", steps, toParent, toChild)

    @possible("hangs up")
    @rule(which=either, kept=cuts)
    def hangUp(self, which, kept):
        self.have(which, "hangs up", kept)

    @possible("cannot initialise")
    @rule(which=either)
    def failToInitialise(self, which):
        self.have(which, "cannot initialise")

    @possible("finds its parent silent")
    @rule(which=either)
    def findParentSilent(self, which):
        self.have(which, "finds its parent silent")

    @possible("finds its child silent")
    @rule(which=either, kept=cuts)
    def findChildSilent(self, which, kept):
        self.have(which, "finds its child silent", kept)

    # -- what is true all the time, and in the end

    @invariant()
    def check(self):
        self.world.check()

    @invariant()
    def checkRest(self):
        if not self.world.duties():
            self.world.comeToRest()

    def teardown(self):
        self.world.comeToRest()


def test_any_life_of_a_service_byte_by_byte():
    """
    The same holds over a long life, with any number of upgrades and faults, or
    with none, and wherever messages are divided and cut off; and a service that
    has ended can be started again.
    """
    # One failure is enough: teardown, which follows, would be another.
    chosen = settings(
        max_examples=6 * settings.default.max_examples,
        stateful_step_count=60,
        deadline=None,
        report_multiple_bugs=False,
    )
    run_state_machine_as_test(Life, settings=chosen)
