"""
WebSockets of L{twisted.web} migrate, with real clients in one process.
"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from migrating import divide, makeWorld, world
from twisted.web.resource import Resource
from twisted.web.server import Site
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, Ping, Request, TextMessage
from zope.interface import implementer

from txtableflip import IMigratable, Snapshot
from txtableflip._migration.known import registerKnown
from txtableflip._migration.moving import Stays, take
from txtableflip.web import migratedState

__all__ = ["makeWorld", "world"]

CUTS = st.lists(st.integers(0, 10**6), max_size=12)

ANYWHERE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

# The oldest Twisted has none.
websocket = pytest.importorskip("twisted.web.websocket")


@implementer(IMigratable)
class Talk:
    """
    Says what it hears, with its number.
    """

    def __init__(self, state):
        self.isNew = state is None
        self.count = int(state or b"0")
        self.lost = []

    def snapshot(self):
        return Snapshot(b"%d" % self.count)

    def negotiationStarted(self, transport):
        self.transport = transport

    def negotiationFinished(self):
        if self.isNew:
            self.transport.sendTextMessage("welcome")

    def textMessageReceived(self, text):
        self.count += 1
        self.transport.sendTextMessage(f"{self.count} {text}")

    def bytesMessageReceived(self, data):
        self.count += 1
        self.transport.sendBytesMessage(b"%d %s" % (self.count, data))

    def pongReceived(self, payload):
        pass

    def connectionLost(self, reason):
        self.lost.append(reason)


class Talks:
    def buildProtocol(self, request):
        return Talk(migratedState(request))


@pytest.fixture
def talk(world):
    """
    A world with a WebSocket.
    """
    root = Resource()
    registerKnown()
    root.putChild(b"talk", websocket.WebSocketResource(Talks()))
    world.listen(Site(root, reactor=world.reactor))
    return world


def messages(protocol, data):
    """
    Return what a client understands of data.
    """
    protocol.receive_data(data)
    found = []
    for event in protocol.events():
        assert isinstance(event, (AcceptConnection, TextMessage, BytesMessage, Ping)) or (
            event.payload == b"p"
        )
        if isinstance(event, (TextMessage, BytesMessage)):
            found.append(event.data)
    return found


@ANYWHERE
@given(cuts=CUTS)
def test_a_websocket_migrates_between_messages(talk, cuts):
    """
    Messages in any pieces, some fragmented and with a ping between, are each answered once
    and in order; nobody is greeted twice.
    """
    protocol = WSConnection(ConnectionType.CLIENT)
    hello = protocol.send(Request("x", "/talk"))
    client = talk.connect()
    client.send(hello)
    talk.turnUntil(lambda: client.read().endswith(b"welcome"))
    heard = messages(protocol, client.got)
    client.got = b""
    data = b"".join(
        protocol.send(each)
        for each in (
            TextMessage("one"),
            TextMessage("tw", message_finished=False),
            Ping(b"p"),
            TextMessage("o", message_finished=True),
            BytesMessage(b"x" * 70_000),
            BytesMessage(b"4"),
        )
    )
    for piece in divide(data, cuts):
        client.send(piece)
        talk.migrateSoon(client)
    expected = ["welcome", "1 one", "2 two", b"3 " + b"x" * 70_000, b"4 4"]
    parts = []

    def hear():
        client.read()
        parts.extend(messages(protocol, client.got))
        client.got = b""
        return parts and parts[-1] == b"4 4"

    talk.turnUntil(hear)
    joined = heard + [each for each in parts if isinstance(each, str)]
    assert joined == expected[:3]
    assert b"".join(each for each in parts if isinstance(each, bytes)) == b"".join(expected[3:])
    talk.turnUntil(lambda: not client.isWaiting)
    assert client.failures == []
    assert client.moves > 0


class Unsaid(Talk):
    """
    Inherits the claim.
    """


def test_a_websocket_whose_class_does_not_say_so_stays(talk):
    """
    The application's protocol has state of its own, and says whether it can leave it.
    """
    Talks.buildProtocol, usual = lambda self, request: Unsaid(None), Talks.buildProtocol
    try:
        client = talk.connect()
        client.send(WSConnection(ConnectionType.CLIENT).send(Request("x", "/talk")))
        talk.turnUntil(lambda: client.read().endswith(b"welcome"))
        with pytest.raises(Stays, match="refuses"):
            take(client.transport)
    finally:
        Talks.buildProtocol = usual
