"""
One connection moves from one protocol to another.
"""

import json
import socket
import struct

import pytest
from migrating import REACTORS, isHungUp, makeWorld, openDescriptors
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.basic import LineReceiver
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.components import registerAdapter
from zope.interface import implementer

from txtableflip import ConnectionMigrated, IMigratable, IMigratableFactory, Snapshot
from txtableflip._migration.moving import Held, Moving, Stays, begin, take

__all__ = ["makeWorld"]

FAMILIES = {"IPv4": socket.AF_INET, "IPv6": socket.AF_INET6, "UNIX": socket.AF_UNIX}


@implementer(IMigratable, IHalfCloseableProtocol)
class Chat(LineReceiver):
    """
    Says each line to all, with its number.
    """

    number = 0
    answer = None
    lost = None
    halfClosed = 0

    def connectionMade(self):
        self.factory.room.append(self)

    def snapshot(self):
        if self.answer is not None:
            return self.answer
        return Snapshot(json.dumps([1, self.number]).encode(), self.clearLineBuffer())

    def lineReceived(self, line):
        self.number += 1
        for each in self.factory.room:
            each.sendLine(b"%d %s" % (self.number, line))

    def connectionLost(self, reason):
        self.lost = reason
        self.factory.room.remove(self)

    def readConnectionLost(self):
        self.halfClosed += 1

    def writeConnectionLost(self):
        pass


@implementer(IMigratableFactory)
class ChatFactory(Factory):
    """
    Makes those, and remembers all.
    """

    protocol = Chat
    fails = None

    def __init__(self):
        self.room = []
        self.addresses = []

    def buildProtocol(self, address):
        self.addresses.append(address)
        return super().buildProtocol(address)

    def resume(self, snapshot, address):
        if self.fails is not None:
            raise self.fails
        version, number = json.loads(snapshot.state)
        assert version == 1
        chat = self.buildProtocol(address)
        chat.number = number
        return chat


@pytest.fixture(
    params=[(kind, family) for kind in REACTORS for family in FAMILIES], ids="-".join
)
def chat(request, makeWorld):
    """
    A world with a chat: on each kind of reactor, and of each family.
    """
    kind, family = request.param
    world = makeWorld(kind, FAMILIES[family])
    world.listen(ChatFactory())
    return world


def linger(sock):
    return struct.unpack("ii", sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))


def test_the_client_cannot_tell(chat):
    """
    What was half received is received whole, the state is kept, the peers' addresses are
    the same, no descriptor is left, and nobody shuts the connection down: when the last
    protocol closes it, that is its end, and no reset.
    """
    client = chat.connect()
    before = (
        client.transport.getPeer(),
        client.transport.getHost(),
        repr(client.transport)[:5],
    )
    descriptors = openDescriptors()
    for number in range(1, 6):
        client.send(b"hal")
        left, old = client.protocol, client.transport
        chat.migrate(client)
        client.send(b"f\r\n")
        client.expect(b"%d half\r\n" % number)
        assert left.lost.check(ConnectionMigrated)
        assert left.lost.check(ConnectionDone)
        assert old not in chat.reactor.getReaders()
        assert chat.accepted._open == {client.transport}
    assert openDescriptors() == descriptors
    assert not isHungUp(client.sock)
    assert linger(client.transport.socket) == (0, 0)
    assert client.transport.server is chat.port
    now = (client.transport.getPeer(), client.transport.getHost(), repr(client.transport)[:5])
    assert now == before
    assert len(set(map(repr, chat.port.factory.addresses))) == 1
    client.transport.write(b"farewell")
    client.transport.loseConnection()
    chat.turnUntil(lambda: client.read() and client.ended)
    assert client.got == b"farewell"


def test_what_was_not_sent_moves(chat):
    """
    What the client has not read does not keep its connection, and comes as it was written.
    """
    client = chat.connect()
    data = b"".join(b"%7d\n" % number for number in range(150_000))
    client.transport.write(data)
    chat.turn(5)
    chat.migrate(client)
    client.transport.write(b"more")
    chat.migrate(client)
    client.expect(data + b"more")


def test_a_room_is_whole_when_its_first_line_comes(chat):
    """
    All are connected before any receives what was unread.
    """
    clients = [chat.connect() for _ in range(3)]
    for each in clients:
        each.send(b"hello")
    moving = [take(each.transport) for each in clients]
    whole = [Moving(m.sock, m.snapshot._replace(unread=b"hello\r\n"), b"") for m in moving]
    begin([Held(each, chat.port) for each in whole])
    for each in clients:
        each.expect(b"1 hello\r\n" * 3)


def test_nobody_reads_what_has_no_protocol(chat):
    """
    Between two protocols nothing is read, and what the old one writes goes nowhere.
    """
    client = chat.connect()
    left, old = client.protocol, client.transport
    read = []
    old.doRead = lambda: read.append(1)
    moving = take(old)
    client.send(b"one\r\n")
    old.write(b"late")
    old.loseConnection()
    left.sendLine(b"later")
    chat.turn(10)
    assert read == []
    assert client.read() == b""
    chat.hold(client, moving).begin()
    client.expect(b"1 one\r\n")


def test_what_the_factory_refuses_comes_home(chat):
    """
    What the one cannot go on with is untouched, and another goes on with it.
    """
    client = chat.connect()
    client.send(b"one\r\ntw")
    client.expect(b"1 one\r\n")
    moving = take(client.transport)
    chat.port.factory.fails = ValueError("version 7")
    with pytest.raises(ValueError, match="version 7"):
        Held(moving, chat.port)
    chat.port.factory.fails = None
    chat.hold(client, moving).begin()
    client.send(b"o\r\n")
    client.expect(b"2 two\r\n")


def test_the_end_that_the_old_one_has_read_is_read_again(chat):
    """
    A client that has closed its sending half, which the old protocol knows or not, may
    still hear.
    """
    for waits in (True, False):
        client = chat.connect()
        first = client.protocol
        client.sock.shutdown(socket.SHUT_WR)
        if waits:
            chat.turnUntil(lambda first=first: first.halfClosed)
        chat.migrate(client)
        chat.turnUntil(lambda client=client: client.protocol.halfClosed)
        client.protocol.sendLine(b"still here")
        client.expect(b"still here\r\n")


def test_who_resets_meanwhile_is_lost(chat):
    """
    A connection that its client resets while it has no protocol is found dead: at once,
    or when it is read.
    """
    client = chat.connect()
    moving = take(client.transport)
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.sock.close()
    try:
        chat.hold(client, moving).begin()
    except OSError:
        moving.sock.close()
    else:
        client.transport.write(b"anybody there?")
        chat.turnUntil(lambda: not client.transport.connected)
    assert chat.port.factory.room == []


@pytest.fixture
def plain(makeWorld):
    """
    A world with a chat: one is enough.
    """
    world = makeWorld()
    world.listen(ChatFactory())
    return world


class Producer:
    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        if name.endswith("Producing"):
            return lambda: self.calls.append(name)
        raise AttributeError(name)


class Stateful(Chat):
    """
    Has more state than the class whose claim it inherits knows.
    """


REFUSALS = {
    "it is closing": lambda client: client.transport.loseConnection(),
    "it is closing ": lambda client: client.transport.abortConnection(),
    "sending half": lambda client: client.transport.loseWriteConnection(),
    "a producer": lambda client: client.transport.registerProducer(Producer(), True),
    "TLS": lambda client: setattr(client.transport, "TLS", True),
    "refuses": lambda client: setattr(client.protocol, "snapshot", lambda: None),
    "failed: ZeroDiv": lambda client: setattr(client.protocol, "snapshot", lambda: 1 / 0),
    "not a Snapshot": lambda client: setattr(client.protocol, "snapshot", lambda: b"bytes"),
    "of bytes": lambda client: setattr(client.protocol, "snapshot", lambda: Snapshot("text")),
    "has closed it": lambda client: setattr(
        client.protocol, "snapshot", lambda: client.transport.loseConnection() or Snapshot()
    ),
    "Stateful does not say": lambda client: setattr(client.protocol, "__class__", Stateful),
    "the factory of Chat": lambda client: setattr(
        client.transport.server, "factory", Factory()
    ),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_what_does_not_move_says_why_and_stays(plain, why):
    """
    Whoever cannot move is told so before anything has been done to it.
    """
    client = plain.connect()
    REFUSALS[why](client)
    with pytest.raises(Stays, match=why.strip()):
        take(client.transport)
    assert client.transport.connected
    assert client.protocol.lost is None


def test_a_connection_that_stays_serves_on(plain):
    """
    One that was refused is as it was.
    """
    client = plain.connect()
    client.protocol.snapshot = lambda: None
    with pytest.raises(Stays):
        take(client.transport)
    client.send(b"one\r\n")
    client.expect(b"1 one\r\n")


def test_descriptors_under_way_keep_a_connection(makeWorld):
    """
    What is to be sent with descriptors is sent by who has them.
    """
    world = makeWorld(family=socket.AF_UNIX)
    world.listen(ChatFactory())
    client = world.connect()
    client.transport.sendFileDescriptor(0)
    with pytest.raises(Stays, match="descriptors"):
        take(client.transport)


def test_a_producer_of_its_own_is_left_and_not_told(plain):
    """
    A protocol may be the producer of its transport: it is not stopped, for it is not lost.
    """
    client = plain.connect()
    stopped = []
    client.protocol.stopProducing = lambda: stopped.append(1)
    client.transport.registerProducer(client.protocol, True)
    plain.migrate(client)
    assert stopped == []
    client.send(b"one\r\n")
    client.expect(b"1 one\r\n")


def test_wrapped_protocols_do_not_move(plain):
    """
    Of what a wrapper knows nobody has asked it.
    """
    plain.port.factory = WrappingFactory(plain.port.factory)
    plain.port.factory.protocol = ProtocolWrapper
    client = plain.connect()
    with pytest.raises(Stays, match="ProtocolWrapper does not say"):
        take(client.transport)


def test_an_adapter_teaches_one_class(plain):
    """
    What somebody has registered for a class counts for it, and not for its subclasses.
    """

    class Theirs(Protocol):
        def dataReceived(self, data):
            self.transport.write(b"<%s>" % data)

    class More(Theirs):
        pass

    @implementer(IMigratable)
    class Teaching:
        def __init__(self, protocol):
            pass

        def snapshot(self):
            return Snapshot(b"[1, 0]")

    registerAdapter(Teaching, Theirs, IMigratable)
    plain.port.factory.protocol = Theirs
    client = plain.connect()
    plain.migrate(client)
    client.send(b"a")
    client.expect(b"<a>")
    plain.port.factory.protocol = More
    with pytest.raises(Stays, match="More does not say"):
        take(plain.connect().transport)


def test_a_boundary_is_waited_for(plain):
    """
    A protocol may say when to ask again, and is asked in a turn of its own: never while it
    receives.
    """
    client = plain.connect()
    protocol = client.protocol
    protocol.answer = later = Deferred()
    received = []

    def lineReceived(line):
        protocol.answer = None
        later.callback(None)
        assert protocol.lost is None
        received.append(line)

    protocol.lineReceived = lineReceived
    waiting = take(client.transport)
    asked = []
    waiting.addCallback(lambda ignored: asked.append(take(client.transport)))
    client.send(b"one\r\ntwo\r")
    plain.turnUntil(lambda: asked)
    assert received == [b"one"]
    plain.hold(client, asked[0]).begin()
    client.send(b"\n")
    client.expect(b"1 two\r\n")


def test_the_deferred_of_a_snapshot_has_no_result(plain):
    """
    What was true when it fired is not when it is acted upon.
    """
    client = plain.connect()
    client.protocol.answer = Deferred()
    failures = []
    take(client.transport).addErrback(failures.append)
    client.protocol.answer.callback(Snapshot())
    assert "has to fire with None" in failures[0].getErrorMessage()


def test_errors_of_those_that_leave_and_come_cost_one_connection(plain):
    """
    An error in connectionLost does not keep a connection from going on; one in the new
    protocol loses it, and not the others.
    """
    clients = [plain.connect() for _ in range(3)]
    clients[0].protocol.connectionLost = lambda reason: 1 / 0
    plain.port.factory.room.pop(0)
    clients[1].send(b"x")
    moving = [take(each.transport) for each in clients]
    held = [Held(each, plain.port) for each in moving]
    held[1].protocol.dataReceived = lambda data: 1 / 0
    held[2].protocol.connectionMade = lambda: 1 / 0
    begin(held)
    plain.turnUntil(lambda: isHungUp(clients[1].sock) and isHungUp(clients[2].sock))
    clients[0].send(b"one\r\n")
    clients[0].expect(b"1 one\r\n")


def test_who_pauses_when_it_is_connected_is_paused(plain):
    """
    A protocol that does not want to read yet does not.
    """
    client = plain.connect()
    moving = take(client.transport)
    held = plain.hold(client, moving)
    held.protocol.connectionMade = lambda: (
        client.transport and held.protocol.transport.pauseProducing()
    )
    held.protocol.factory.room.append(held.protocol)
    held.begin()
    client.send(b"one\r\n")
    plain.turn(10)
    assert client.read() == b""
    client.transport.resumeProducing()
    client.expect(b"1 one\r\n")


def test_a_drop_is_noticed(plain):
    """
    These tests can fail: what is unread and dropped is missed.
    """
    client = plain.connect()
    client.send(b"hal")
    moving = take(client.transport)
    moving.snapshot = moving.snapshot._replace(unread=b"")
    plain.hold(client, moving).begin()
    client.send(b"f\r\n")
    plain.turnUntil(client.read)
    assert client.got == b"1 f\r\n"
