"""
The same service as in L{modelled}, whose messages are read byte by byte, and which lives
on and on.
"""

from contextlib import contextmanager

from hypothesis import note
from modelled import END, ERROR, Straight, Violation, insist
from modelled_world import Move, World
from twisted.internet.testing import StringTransport

from txtableflip._handover.channel import Channel
from txtableflip._handover.messages import encode

TOGETHER = 4
"""
How many generations there may be at a time.
"""


@contextmanager
def asserted():
    """
    Have a violation be what a test fails by.
    """
    try:
        yield
    except Violation as error:
        raise AssertionError(str(error)) from error


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
        Read up to so many bytes, or everything.
        """
        everything = self.value()
        self.clear()
        self.write(everything[count:] if count else b"")
        return everything[:count]


class Pipe:
    """
    One way of a channel.
    """

    peerPid = None

    def __init__(self):
        self.wire = Wire()
        self._come = []
        self._writer = Channel(self, "parent")
        self._writer.makeConnection(self.wire)
        self._reader = Channel(self, "parent")
        self._reader.makeConnection(StringTransport())

    def say(self, message):
        """
        Send a message.
        """
        self._writer.send(message)

    def read(self, count):
        """
        @return: the messages that are whole after so many bytes more.
        """
        self._reader.dataReceived(self.wire.take(count))
        # Not from inside the channel, which lets nothing that is raised pass.
        come, self._come = self._come, []
        return come

    def missing(self, message):
        """
        @return: how many bytes more make a message, of which some may be there.
        """
        return len(encode(message)) - len(self._reader._reader._data)

    @property
    def size(self):
        """
        How many bytes have not been heard: of a message that has begun, all.
        """
        return len(self._reader._reader._data) + len(self.wire.value())

    def messageReceived(self, message):
        self._come.append(message)

    def channelGarbled(self, error):
        insist(False, f"what is cut off became something else: {error}")


class Bytes(World):
    """
    A service, byte by byte; a transition is done in one piece, unless it is cut off.

    @ivar pipes: by the number of the child, and the way.
    """

    rules = Straight

    def __init__(self):
        self.pipes = {}
        super().__init__(None)

    def start(self, parent):
        """
        @return: a new process.
        """
        if len(self.alive) == TOGETHER:
            raise ERROR.with_traceback(None)
        one = super().start(parent)
        self.pipes[one.number, "up"] = Pipe()
        self.pipes[one.number, "down"] = Pipe()
        return one

    def startAgain(self):
        """
        The service has ended, and is started.
        """
        self._forgive()
        self.live(Move(self.start(None).number, "initialise"))

    def send(self, kid, way, message):
        """
        Say something: in bytes, and as what is to become of them.
        """
        before = getattr(kid, way)
        super().send(kid, way, message)
        if getattr(kid, way) is not before and message is not END:
            self.pipes[kid.number, way].say(message)

    def hear(self, one, about):
        """
        Have a process read so many bytes, or as many as make a message; or the end.
        """
        kid, way = (one, "down") if about is None else (self.generations[about], "up")
        queue = getattr(kid, way)
        if queue[0] is END:
            come = [END]
        else:
            pipe = self.pipes[kid.number, way]
            come = pipe.read(self.count or pipe.missing(queue[0]))
        for message in come:
            if one.isAlive:
                insist(getattr(kid, way)[0] == message, "a message is not what was said")
                super().hear(one, about)

    def lose(self, one, up, down):
        """
        A process is killed.

        @param up: how much of what its parent has not read it will read, in bytes.
        @param down: the same of its children.
        """
        if one.isAlive:
            note(f"{one.number + 1} is killed")
            self._cut(one, "up", up)
            for kid in one.kids:
                self._cut(kid, "down", down)
            self.kill(one)

    def _cut(self, kid, way, kept):
        pipe = self.pipes[kid.number, way]
        pipe.wire.keep(kept)
        size, whole = pipe.size, []
        for message in getattr(kid, way):
            size -= len(encode(message)) if message is not END else 0
            if size >= 0:
                whole.append(message)
        setattr(kid, way, tuple(whole))

    def messages(self):
        """
        @return: what may be read in pieces.
        """
        found = [move for move in self.duties() if move.message is not None]
        return [move for move in found if move.message is not END]

    def live(self, move, *, count=None, stepsLeft=None, failsIn=None):
        """
        Have something happen.

        @param count: how many bytes are read.
        @param stepsLeft: how many steps are done.
        @param failsIn: after how many one raises.
        """
        self.count, self.stepsLeft, self.failsIn = count, stepsLeft, failsIn
        note(f"{move} (bytes: {count}, steps: {stepsLeft}, fails in: {failsIn})")
        with asserted():
            self.do(move)
        if failsIn is not None and self.failsIn is None:
            self.mourn()
        self.stepsLeft = self.failsIn = None

    def comeToRest(self):
        """
        Have everything happen that is bound to.
        """
        for _ in range(300):
            if not (moves := self.promptDuties() or self.duties()):
                break
            self.live(moves[0])
            with asserted():
                self.check()
        else:
            raise AssertionError("this never comes to rest")
        with asserted():
            self.checkRest()

    def checkRest(self):
        """
        The same as ever; and what has happened to one that serves is over.
        """
        super().checkRest()
        if self.alive:
            self._forgive()

    def _forgive(self):
        self.isOwed = self.isExcused = self.isStopped = self.mustEnd = False
        self.asked = 0
