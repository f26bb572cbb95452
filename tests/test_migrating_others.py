"""
Connections of other protocols migrate, with real clients in one process.
"""

from contextlib import suppress

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from migrating import divide, dropped, makeWorld, world
from test_moving import ChatFactory
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.testing import StringTransport
from twisted.protocols import amp
from twisted.protocols.basic import Int8StringReceiver, Int16StringReceiver, Int32StringReceiver
from wsproto import ConnectionType, WSConnection
from wsproto.events import BytesMessage, Ping, Pong, Request, TextMessage
from wsproto.extensions import PerMessageDeflate
from zope.interface import implementer

from txtableflip import ConnectionMigrated, IMigratable, IMigratableFactory, Snapshot
from txtableflip._migration.moving import Stays, take
from txtableflip.amp import MigratingAMP
from txtableflip.autobahn import MigratingServerFactory, MigratingServerProtocol
from txtableflip.testing import migrate

__all__ = ["makeWorld", "world"]

CUTS = st.lists(st.integers(0, 10**6), max_size=12)

ANYWHERE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@implementer(IMigratableFactory)
class Stateless(Factory):
    """
    Makes protocols that leave no state.
    """

    def resume(self, snapshot, address):
        return self.buildProtocol(address)


# -- Lines and strings


@ANYWHERE
@given(cuts=CUTS)
def test_lines_migrate_anywhere(world, cuts):
    """
    Each line is answered once, with its number.
    """
    if not hasattr(world, "port"):
        world.listen(ChatFactory())
    lines = [b"line %d" % number * number for number in range(1, 30)]
    answer = b"".join(b"%d %s\r\n" % (number, each) for number, each in enumerate(lines, 1))
    client = world.converse(divide(b"\r\n".join([*lines, b""]), cuts), answer)
    assert client.got == answer
    client.transport.abortConnection()
    world.turnUntil(lambda: not world.port.factory.room)


@pytest.mark.parametrize("base", [Int8StringReceiver, Int16StringReceiver, Int32StringReceiver])
def test_strings_with_a_length_migrate_anywhere(world, base):
    """
    What has come of a string is received again, of each kind; and if that is dropped, the
    client notices.
    """

    @implementer(IMigratable)
    class Strings(base):
        def snapshot(self):
            return Snapshot(unread=self.recvd)

        def stringReceived(self, string):
            self.sendString(string.upper())

    world.listen(Stateless.forProtocol(Strings))
    told = StringTransport()
    sender = Strings()
    sender.makeConnection(told)
    for number in range(20):
        sender.sendString(b"string" * number)
    data = told.value()
    answer = data.replace(b"string", b"STRING")
    for size in (1, 2, 3, 7, 50):
        client = world.converse(divide(data, range(0, len(data), size)), answer)
        assert client.got == answer
        assert client.moves >= len(data) // size
    world.change = dropped
    assert world.converse(divide(data, [5]), b"").got != answer


# -- AMP


class Sum(amp.Command):
    arguments = ((b"a", amp.Integer()), (b"b", amp.Integer()))
    response = ((b"total", amp.Integer()),)


@implementer(IMigratable)
class Calculator(MigratingAMP):
    later = ()

    def snapshot(self):
        return self.leave()

    @Sum.responder
    def sum(self, a, b):
        answer = {"total": a + b}
        if a % 3:
            return answer
        waiting = Deferred()
        self.transport.reactor.callLater(0.001, waiting.callback, answer)
        return waiting


@ANYWHERE
@given(cuts=CUTS)
def test_amp_migrates_between_calls(world, cuts):
    """
    Calls in any pieces, pipelined, answered at once or later, are answered once.
    """
    if not hasattr(world, "port"):
        world.listen(Stateless.forProtocol(Calculator))
    told = StringTransport()
    caller = amp.AMP()
    caller.makeConnection(told)
    totals = []
    for number in range(12):
        caller.callRemote(Sum, a=number, b=10).addCallback(lambda d: totals.append(d["total"]))
    client = world.converse(divide(told.value(), cuts), b"")

    def answered():
        client.read()
        caller.dataReceived(client.got)
        client.got = b""
        return len(totals) == 12

    world.turnUntil(answered)
    assert sorted(totals) == [number + 10 for number in range(12)]
    world.turnUntil(lambda: not client.isWaiting)
    assert client.moves > 0
    assert client.failures == []


def test_amp_waits_for_answers_to_its_own_calls(world):
    """
    A call of the server's is under way until the client has answered.
    """
    world.listen(Stateless.forProtocol(Calculator))
    client = world.connect()
    totals = []
    asked = client.protocol.callRemote(Sum, a=1, b=2)
    asked.addCallback(lambda answer: totals.append(answer["total"]))
    world.migrateSoon(client)
    assert client.moves == 0
    world.turnUntil(client.read)
    answering = StringTransport()
    other = Calculator()
    other.makeConnection(answering)
    other.dataReceived(client.got)
    client.send(answering.value())
    world.turnUntil(lambda: client.moves)
    assert totals == [3]


def test_amp_that_has_become_another_protocol_stays(world):
    """
    What it has become says nothing.
    """
    world.listen(Stateless.forProtocol(Calculator))
    client = world.connect()
    client.protocol.innerProtocol = object()
    with pytest.raises(Stays, match="refuses"):
        take(client.transport)
    client.protocol.innerProtocol = None


# -- Autobahn


@implementer(IMigratable)
class Talk(MigratingServerProtocol):
    """
    Says what it hears, with its number.
    """

    count = 0
    closed = ()

    def snapshot(self):
        return self.leave(b"%d" % self.count)

    def onOpen(self):
        if self.migrated is None:
            self.sendMessage(b"welcome")
        else:
            self.count = int(self.migrated)

    def onMessage(self, payload, isBinary):
        self.count += 1
        self.sendMessage(b"%d %s" % (self.count, payload), isBinary)

    def onClose(self, wasClean, code, reason):
        self.closed = (self.hasMigrated, wasClean)


@implementer(IMigratable)
class Unsaid(Talk):
    pass


def talks(world, *, compressed):
    """
    Listen with a factory of those.
    """
    from autobahn.websocket.compress import (  # noqa: PLC0415
        PerMessageDeflateOffer,
        PerMessageDeflateOfferAccept,
    )

    factory = MigratingServerFactory(reactor=world.reactor)
    factory.protocol = Talk
    # Twisted logs for it in the name of our module.
    factory.noisy = False

    def accept(offers):
        for offer in offers:
            if isinstance(offer, PerMessageDeflateOffer):
                return PerMessageDeflateOfferAccept(offer)
        return None

    if compressed:
        factory.setProtocolOptions(perMessageCompressionAccept=accept)
    world.listen(factory)


class Speaker:
    """
    A client of a WebSocket.
    """

    def __init__(self, world, extensions=()):
        self.world = world
        self.connection = WSConnection(ConnectionType.CLIENT)
        self.client = world.connect()
        self.heard = []
        self.client.send(self.connection.send(Request("x", "/", extensions=list(extensions))))
        self.listen(1)
        assert self.heard == ["welcome"]

    def listen(self, count):
        """
        Hear so many messages.
        """
        self.world.turnUntil(lambda: self._hear() >= count or self.client.ended)
        assert len(self.heard) == count

    def _hear(self):
        if self.client.read():
            self.connection.receive_data(self.client.got)
        self.client.got = b""
        for event in self.connection.events():
            if isinstance(event, (TextMessage, BytesMessage)):
                if not self.heard or self.isWhole:
                    self.heard.append(event.data)
                else:
                    self.heard[-1] += event.data
                self.isWhole = event.message_finished
            elif isinstance(event, Pong):
                assert event.payload == b"p"
        return len(self.heard) - (not getattr(self, "isWhole", True))

    def say(self, *events):
        """
        Return the bytes of messages.
        """
        return b"".join(self.connection.send(each) for each in events)


def converseInWords(world, *, compressed, cuts):
    """
    Have a client speak, and migrate in any pieces of that.
    """
    if not hasattr(world, "port"):
        talks(world, compressed=compressed)
    speaker = Speaker(world, [PerMessageDeflate()] if compressed else [])
    assert (speaker.client.protocol._perMessageCompress is not None) == compressed
    data = speaker.say(
        TextMessage("the same words, and the same words again"),
        TextMessage("the same words, ", message_finished=False),
        Ping(b"p"),
        TextMessage("and the same words again", message_finished=True),
        BytesMessage(bytes(range(256)) * 300),
        BytesMessage(bytes(range(256)) * 300),
        TextMessage("the same words, and the same words again"),
    )
    for piece in divide(data, cuts):
        speaker.client.send(piece)
        world.migrateSoon(speaker.client)
    speaker.listen(6)
    words, many = "the same words, and the same words again", bytes(range(256)) * 300
    assert speaker.heard[1:3] == [f"1 {words}", f"2 {words}"]
    assert speaker.heard[3:] == [b"3 " + many, b"4 " + many, f"5 {words}"]
    world.turnUntil(lambda: not speaker.client.isWaiting)
    assert speaker.client.failures == []
    assert speaker.client.moves > 0


@ANYWHERE
@given(cuts=CUTS)
def test_autobahn_migrates_between_messages(world, cuts):
    """
    Messages in any pieces, some fragmented and with a ping between, are each answered once
    and in order.
    """
    converseInWords(world, compressed=False, cuts=cuts)


@ANYWHERE
@given(cuts=CUTS)
@example(cuts=list(range(0, 300, 7)))
def test_compressed_messages_refer_to_those_before(world, cuts):
    """
    The same, though each is compressed by what was in those before the migration.
    """
    converseInWords(world, compressed=True, cuts=cuts)


def test_a_window_that_is_dropped_is_missed(world):
    """
    These tests can fail: without what the next message refers to, the client is cut.
    """
    talks(world, compressed=True)
    speaker = Speaker(world, [PerMessageDeflate()])
    speaker.client.send(speaker.say(TextMessage("words " * 5)))
    speaker.listen(2)
    speaker.client.protocol._window = b""
    world.migrate(speaker.client)
    speaker.client.send(speaker.say(TextMessage("words " * 5)))

    def isCut():
        # By a reset, or an end, as what is under way has it.
        with suppress(ConnectionResetError):
            speaker.client.read()
            return speaker.client.ended
        return True

    world.turnUntil(isCut)


def test_autobahn_says_who_has_migrated(world):
    """
    An application that tells others who has left can tell.
    """
    talks(world, compressed=False)
    speaker = Speaker(world)
    first = speaker.client.protocol
    world.migrate(speaker.client)
    assert first.closed == (True, False)
    speaker.client.protocol.sendClose()
    assert take_or_stay(speaker.client) == "its protocol refuses"


def take_or_stay(client):
    with pytest.raises(Stays) as caught:
        take(client.transport)
    return str(caught.value)


def test_what_the_other_release_does_not_know_is_refused():
    """
    A format of another release is refused before anything is touched.
    """
    with pytest.raises(ValueError, match="format 2"):
        Talk().goOn(Snapshot(b'[2, "", "", ""]'))


# -- In unit tests of applications


def outcome(deferred):
    """
    Return what has come of a Deferred.
    """
    found = []
    deferred.addBoth(found.append)
    return found[0]


def fakeChat():
    """
    Return the protocol of a chat, connected to a fake.
    """
    chat = ChatFactory().buildProtocol(None)
    chat.makeConnection(StringTransport())
    return chat


def test_a_connection_migrates_in_a_unit_test(world):
    """
    The other protocol goes on with what the first has left: on a fake, and on a real
    connection, to which the same happens as in an upgrade.
    """
    chat = fakeChat()
    chat.dataReceived(b"one\r\ntw")
    other = outcome(migrate(chat))
    other.dataReceived(b"o\r\n")
    assert other.transport.value() == b"1 one\r\n2 two\r\n"
    assert (other is chat, chat.lost.type) == (False, ConnectionMigrated)
    world.listen(ChatFactory())
    client = world.connect()
    client.send(b"one\r\ntw")
    other = outcome(migrate(client.protocol))
    client.send(b"o\r\n")
    client.expect(b"1 one\r\n2 two\r\n")
    assert other.transport.getHandle() is not None


def test_a_unit_test_can_have_a_connection_wait_or_stay(world):
    """
    A protocol that is not at a boundary is asked again; and who refuses is told of.
    """
    world.listen(ChatFactory())
    client = world.connect()
    for chat in (fakeChat(), client.protocol):
        chat.answer = later = Deferred()
        others = []
        migrate(chat).addBoth(others.append)
        assert others == []
        chat.answer = None
        later.callback(None)
        world.turnUntil(lambda others=others: others)
        assert others[0].number == 0
    chat = fakeChat()
    chat.snapshot = lambda: None
    assert outcome(migrate(chat)).type is Stays
    chat = fakeChat()
    chat.factory.resume = lambda snapshot, address: None
    assert outcome(migrate(chat)).type is Stays
    chat = fakeChat()
    chat.__class__ = type("Undeclared", (type(chat),), {})
    assert "Undeclared does not say" in outcome(migrate(chat)).getErrorMessage()
