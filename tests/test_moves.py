"""
Moves of connections from one process to the next, both of them in this one: what is offered
is taken, or returned, and is never both.
"""

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from migrating import REACTORS, isHungUp, openDescriptors
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from txtableflip import ConnectionMigrated, IMigratable, IMigratableFactory, Snapshot
from txtableflip._draining.connections import Connections, CountedTCPServer, countedTransport
from txtableflip._handover.frames import FrameReader, writeFrame
from txtableflip._handover.manifest import Key
from txtableflip._handover.messages import (
    Offer,
    Offered,
    Refusal,
    Taken,
    decode,
    encode,
)
from txtableflip._migration import migration as migrations
from txtableflip._migration import move as moves
from txtableflip._migration import taking
from txtableflip._migration.migration import TOGETHER, Migration
from txtableflip._migration.taking import NO_DESCRIPTOR, Taking
from txtableflip._sockets.unixport import CountedUNIXServer
from txtableflip.errors import ChannelError

pytest_plugins = ["migrating"]
KEY = Key("listener", "tcp", "127.0.0.1:0", 0)


@implementer(IMigratable)
class Numbered(Protocol):
    """
    Answers each number, which is in ten digits, with itself and who has served it.
    """

    held = b""

    def connectionMade(self):
        self.factory.made.append(self)

    def dataReceived(self, data):
        self.held += data
        while len(self.held) >= 10:
            self.transport.write(self.held[:10] + self.factory.name)
            self.held = self.held[10:]

    def connectionLost(self, reason):
        self.factory.lost.append(reason.type)
        self.transport.write(b"written too late")

    def snapshot(self):
        return self.factory.snapshotOf(self)


@implementer(IMigratableFactory)
class Numbers(Factory):
    """
    Serves under a name, of one letter.
    """

    protocol = Numbered

    def __init__(self, name):
        self.name = name
        self.made, self.lost = [], []
        self.snapshotOf = lambda protocol: Snapshot(b"state", protocol.held)
        self.refuse = lambda: None

    def resume(self, snapshot, address):
        assert snapshot.state.startswith(b"state")
        self.refuse()
        return self.buildProtocol(address)


class Side:
    """
    What one process has: a listener, and who counts its connections.
    """

    def __init__(self, reactor, name, migrates=True, family=socket.AF_INET, path=None):
        self.factory = Numbers(name)
        self.connections = Connections()
        self.accepted = self.connections.acceptedBy("numbers")
        self.accepted.key, self.accepted.migrates = KEY, migrates
        if family == socket.AF_UNIX:
            kind, self.port = CountedUNIXServer, reactor.listenUNIX(path, self.factory)
        else:
            host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
            kind = CountedTCPServer
            self.port = reactor.listenTCP(0, self.factory, interface=host)
        self.port.transport = countedTransport(kind, self.accepted)
        self.migration = Migration(reactor, self.connections)


class Pair:
    """
    Two processes in one: what the old one offers reaches the new one, unless the test has
    it otherwise.

    @ivar deliver: gets a message and descriptors for the new process.
    """

    def __init__(self, world, migrates=True):
        family, self.world = world.family, world
        self.old = Side(world.reactor, b"O", migrates, family, world._path + "1")
        self.new = Side(world.reactor, b"N", migrates, family, world._path + "2")
        for side in (self.old, self.new):
            world._closing.callback(side.port.stopListening)
        world.port, world.accepted = self.old.port, self.old.accepted
        self.old.connections.stays = set()
        self.taking = Taking(self.portOf, self.new.migration.arrived)
        self.deliver = self.taking.offered
        self.offers = []

    def portOf(self, key):
        return self.new.port if key == KEY else None

    def say(self, offer, descriptors):
        """
        Send an Offer as the channel does.
        """
        [frame] = FrameReader().receive(
            encode(offer, len(descriptors)), [os.dup(each) for each in descriptors]
        )
        self.offers.append(decode(frame))
        self.deliver(self.offers[-1], frame.descriptors)

    def migrate(self):
        """
        Have all go, and wait until it is over.
        """
        self.old.migration.begin(self.say)
        over = []
        self.old.migration.whenOver().addCallback(over.append)
        self.world.turnUntil(lambda: over)

    def clients(self, count):
        """
        Return clients, each of which has sent one number and a half.
        """
        made = [self.world.connect() for _ in range(count)]
        for client in made:
            client.send(b"0123456789abcde")
            client.expect(b"0123456789O")
        return made

    def expect(self, clients, name):
        """
        Each client finds all that it has sent, and is served by this process.
        """
        for client in clients:
            client.sock.send(b"fghij")
        for client in clients:
            client.expect(b"abcdefghij" + name)


@pytest.fixture
def pair(world):
    return Pair(world)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
@pytest.mark.parametrize("kind", REACTORS)
def test_what_is_offered_is_taken(makeWorld, kind, family):
    """
    A connection goes on in the next process, with what was received and not acted upon, on
    reactors and sockets of all kinds; nothing of it is left.
    """
    pair = Pair(makeWorld(kind, family))
    clients = pair.clients(45)
    pair.migrate()
    pair.expect(clients, b"N")
    assert pair.old.factory.lost == [ConnectionMigrated] * 45
    assert [len(offer.connections) for offer in pair.offers] == [20, 20, 5]
    described = {"migrated": 45, "returned": {}, "stayed": {}, "waiting": 0}
    assert pair.old.migration.describe() == described
    assert len(pair.old.accepted) == 0
    assert len(pair.new.accepted) == 45


def test_what_is_not_sent_travels(pair):
    """
    A client that reads slowly gets what the kernel had not taken from the next process.
    """
    [client] = pair.clients(1)
    flood = os.urandom(3_000_000)
    pair.old.factory.made[0].transport.write(flood)
    pair.migrate()
    client.expect(flood)
    pair.expect([client], b"N")


def test_those_who_belong_together_change_hands_together(world, monkeypatch):
    """
    All of a listener go at once, though one message does not have them all: no protocol is
    connected before the last one is held.
    """
    monkeypatch.setattr(moves, "AT_ONCE", 4)
    pair = Pair(world, TOGETHER)
    clients = pair.clients(10)
    seen = []
    original = pair.taking.offered

    def deliver(offer, descriptors):
        seen.append(len([each for each in pair.new.factory.made if each.connected]))
        original(offer, descriptors)

    pair.deliver = deliver
    pair.migrate()
    assert [len(offer.connections) for offer in pair.offers] == [4, 4, 2]
    assert seen == [0, 0, 0]
    pair.expect(clients, b"N")


def refuseThird(pair):
    """
    The new release cannot read what the old one has written, of each third.
    """
    count = []

    def refuse():
        count.append(1)
        if len(count) % 3 == 0:
            raise ValueError("a state of version 1 cannot be read")

    pair.new.factory.refuse = refuse
    return "a state of version 1 cannot be read"


def dropThird(pair):
    """
    The kernel drops descriptors.
    """
    original = pair.deliver

    def deliver(offer, descriptors):
        for each in descriptors[3::3]:
            os.close(each)
        original(offer, [d for n, d in enumerate(descriptors) if n == 0 or n % 3])

    pair.deliver = deliver
    return NO_DESCRIPTOR


@pytest.mark.parametrize("some", [refuseThird, dropThird])
def test_what_is_refused_is_returned(pair, some):
    """
    Those that the new process cannot take go on in the old one, and it is told why; the
    others go.
    """
    clients = pair.clients(15)
    why = some(pair)
    pair.migrate()
    described = pair.old.migration.describe()
    assert described["returned"] == {why: 5}
    assert described["migrated"] == 10
    for client in clients:
        client.sock.send(b"fghij")
    for client in clients:
        client.expect(b"abcdefghij")
    world = pair.world
    world.turnUntil(lambda: all(client.read() for client in clients))
    assert sorted(client.got for client in clients) == [b"N"] * 10 + [b"O"] * 5
    assert pair.old.connections.stays == set(pair.old.accepted)


def test_what_is_refused_without_a_reason_is_returned(pair, monkeypatch):
    """
    As a release may that has none to give: the connection is not thought to be there.
    """
    monkeypatch.setattr(taking, "LONGEST_REASON", 0)
    pair.clients(3)
    refuseThird(pair)
    pair.migrate()
    assert pair.old.migration.describe()["returned"] == {"": 1}
    assert pair.old.migration.describe()["migrated"] == 2


def silent(pair, monkeypatch):
    """
    The new process hangs.  What it answers when it is too late is not heard.
    """
    monkeypatch.setattr(moves, "ANSWER_TIMEOUT", 0.2)
    late = []
    original, pair.deliver = pair.deliver, lambda *offer: late.append(offer)
    pair.wakeUp = lambda: [original(*offer) for offer in late]
    return "the new process has not answered in 0.2 s"


def dead(pair, monkeypatch):
    """
    The new process has ended.
    """

    def deliver(offer, descriptors):
        for each in descriptors:
            os.close(each)

    pair.deliver = deliver
    pair.wakeUp = lambda: None
    return "the new process has ended"


def tooLong(pair, monkeypatch):
    """
    The message is longer than a frame may be.
    """

    def say(offer, descriptors):
        raise ChannelError("it is too long")

    pair.say = say
    pair.wakeUp = lambda: None
    return "they cannot be offered: it is too long"


@pytest.mark.parametrize("broken", [silent, dead, tooLong])
@pytest.mark.parametrize("migrates", [True, TOGETHER])
def test_without_an_answer_all_are_returned(world, monkeypatch, broken, migrates):
    """
    A child that does not answer has taken nothing: all go on here, and it does not touch
    what it holds.
    """
    pair = Pair(world, migrates)
    clients = pair.clients(5)
    before = openDescriptors()
    why = broken(pair, monkeypatch)
    pair.migrate()
    assert pair.old.migration.describe()["returned"] == {why: 5}
    pair.wakeUp()
    pair.expect(clients, b"O")
    assert [each for each in pair.new.factory.made if each.connected] == []
    assert openDescriptors() == before
    assert not any(isHungUp(client.sock) for client in clients)


@pytest.mark.parametrize("isRevoked", [False, True])
def test_what_a_dead_parent_has_offered_is_served_by_one(world, monkeypatch, isRevoked):
    """
    The parent dies when only a part of what belongs together has come: the child goes on
    with that, unless the parent had taken it back.
    """
    monkeypatch.setattr(moves, "AT_ONCE", 3)
    monkeypatch.setattr(moves, "ANSWER_TIMEOUT", 0.5 if isRevoked else 60)
    pair = Pair(world, TOGETHER)
    clients = pair.clients(5)
    original, first = pair.deliver, []

    def deliver(*offer):
        if not first:
            first.append(pair.offers[0].connections)
            original(*offer)

    pair.deliver = deliver
    pair.old.migration.begin(pair.say)
    world.turnUntil(lambda: first)
    [move] = pair.taking._moves.values()
    if isRevoked:
        over = []
        pair.old.migration.whenOver().addCallback(over.append)
        world.turnUntil(lambda: over)
        pair.taking.parentIsGone()
        pair.expect(clients, b"O")
        return
    # As the kernel does with all that a dead process had open.
    assert len(move.held) == 3
    pair.taking.parentIsGone()
    for client in clients:
        client.sock.send(b"fghij")
    answered = b"abcdefghijN"
    world.turnUntil(lambda: [client.read() for client in clients].count(answered) == 3)
    assert len(pair.new.accepted) == 3


def test_a_huge_snapshot_stays_where_it_is(pair):
    """
    One of a hundred megabytes is not offered, and the others are.
    """
    clients = pair.clients(3)
    huge = pair.old.factory.made[0]
    pair.old.factory.snapshotOf = lambda protocol: Snapshot(
        b"state".ljust(10**8 if protocol is huge else 0), protocol.held
    )
    pair.migrate()
    [(why, count)] = pair.old.migration.describe()["returned"].items()
    assert count == 1
    assert "100000005 bytes are more than the" in why
    pair.expect(clients[:1], b"O")
    pair.expect(clients[1:], b"N")


REFUSALS = {
    "its protocol refuses": lambda protocol: None,
    "its snapshot() has failed: ZeroDivisionError('division by zero')": lambda protocol: 1 / 0,
}


@pytest.mark.parametrize("why", REFUSALS)
def test_what_does_not_want_to_go_drains(pair, why):
    """
    A protocol that refuses, or raises, keeps its connection, which may be told to finish.
    """
    clients = pair.clients(2)
    pair.old.factory.snapshotOf = REFUSALS[why]
    pair.migrate()
    assert pair.old.migration.describe()["stayed"] == {why: 2}
    assert all(map(pair.old.accepted.mayDrain, pair.old.accepted))
    pair.expect(clients, b"O")


def test_a_client_that_has_gone_is_nobodys_error(pair):
    """
    One that resets its connection on the way is refused, and found out about when it is
    returned; one that has only finished sending goes on.
    """
    reset, finished = pair.clients(2)
    original = pair.deliver

    def deliver(*offer):
        reset.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        reset.sock.close()
        finished.sock.shutdown(socket.SHUT_WR)
        original(*offer)

    pair.deliver = deliver
    pair.migrate()
    pair.world.turnUntil(lambda: len(pair.old.accepted) == 0 and len(pair.new.accepted) == 0)
    assert finished.read() == b""


def test_who_has_been_replaced_hands_on_what_comes_late(world):
    """
    A connection that comes from a grandparent, when this process has been replaced, goes
    to the one that serves.
    """
    pair = Pair(world)
    third = Side(world.reactor, b"T", True, world.family, world._path + "3")
    world._closing.callback(third.port.stopListening)
    taking = Taking(lambda key: third.port, third.migration.arrived)
    pair.new.connections.stays = set()
    pair.new.migration.begin(
        lambda offer, fds: taking.offered(offer, [os.dup(each) for each in fds])
    )
    clients = pair.clients(3)
    pair.migrate()
    world.turnUntil(lambda: len(third.accepted) == 3)
    pair.expect(clients, b"T")


def test_what_cannot_go_in_time_stays(pair, monkeypatch):
    """
    When the time for all is over, whoever has not gone stays.
    """
    clients = pair.clients(3)
    monkeypatch.setattr(migrations, "BUDGET", 0)
    pair.migrate()
    assert sum(pair.old.migration.describe()["stayed"].values()) == 3
    pair.expect(clients, b"O")


KEYS = st.builds(
    Key, st.just("listener"), st.text(max_size=5), st.text(max_size=5), st.integers(0, 9)
)
SIZES = st.integers(0, 20)
OFFERED = st.builds(Offered, st.integers(0, 2**63), KEYS, SIZES, SIZES, SIZES)
OFFERS = st.builds(
    Offer,
    st.integers(0),
    st.integers(0),
    st.lists(OFFERED, max_size=5).map(tuple),
    st.booleans(),
    st.binary(max_size=100),
)
TAKEN = st.builds(
    Taken, st.lists(st.builds(Refusal, st.integers(0), st.text()), max_size=3).map(tuple)
)


@given(OFFERS | TAKEN)
def test_whatever_is_said_is_understood(message):
    """
    An Offer with whatever bytes, and an answer with whatever words, arrive as they are.
    """
    [frame] = FrameReader().receive(encode(message))
    assert decode(frame) == message


@given(OFFERS)
def test_a_body_of_another_length_is_refused(offer):
    """
    What is said of a body is its length, or nothing of it is taken.
    """
    taking = Taking(lambda key: None, lambda *arrived: None)
    total = sum(each.state + each.unread + each.unsent for each in offer.connections)
    if total == len(offer.body):
        taking.offered(offer, [])
    else:
        with pytest.raises(ChannelError, match="than it says"):
            taking.offered(offer, [])


def test_no_other_message_has_a_body():
    """
    Bytes behind a message that has none are an error.
    """
    [frame] = FrameReader().receive(writeFrame({"message": "Taken"}, 0, b"x"))
    with pytest.raises(ChannelError, match="ends where it should not"):
        decode(frame)
