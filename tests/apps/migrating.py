"""
A service of many protocols whose connections migrate; each answer has the generation that
gives it.

C{$PORTS} has the port of each protocol as JSON; C{$RELEASE_FILE} is run first, and may change
the classes.
"""

import json
import os
import sys
from pathlib import Path

from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from members import Rooms
from twisted.internet import reactor
from twisted.internet.task import LoopingCall
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from zope.interface import implementer

from txtableflip import IMigratable, Snapshot, Upgrader, UpgradeService
from txtableflip.autobahn import MigratingServerFactory, MigratingServerProtocol
from txtableflip.web import EventStream, migratedState

try:
    from twisted.web.websocket import WebSocketResource
except ImportError:
    # The oldest Twisted has none; then nobody asks for it.
    WebSocketResource = None

ROOM = 20
INTERVAL = 1.0
"""
How often there is news, in seconds.
"""


class Answers(Resource):
    """
    Says what it was asked, and with which body.
    """

    isLeaf = True

    def render_POST(self, request):
        body = request.content.read()
        return b"%d %s %s" % (upgrader.generation, request.uri, body)


class News(Resource):
    """
    Numbers its events.
    """

    isLeaf = True

    def __init__(self):
        super().__init__()
        self.readers = {}
        LoopingCall(self.publish).start(INTERVAL)

    def render_GET(self, request):
        count = int(migratedState(request) or b"0")
        stream = EventStream(request, lambda: self.left(stream))
        self.readers[stream] = count
        request.notifyFinish().addErrback(lambda reason: self.readers.pop(stream))
        return NOT_DONE_YET

    def left(self, stream):
        return b"%d" % self.readers[stream]

    def publish(self):
        for stream, count in self.readers.items():
            self.readers[stream] = count + 1
            stream.send(f"{upgrader.generation} {count}")


@implementer(IMigratable)
class Talk:
    """
    Says what it hears, on a WebSocket of Twisted's.
    """

    def snapshot(self):
        return Snapshot()

    def negotiationStarted(self, transport):
        self.transport = transport

    def negotiationFinished(self):
        pass

    def textMessageReceived(self, text):
        self.transport.sendTextMessage(f"{upgrader.generation} {text}")

    def connectionLost(self, reason):
        pass


class Talks:
    def buildProtocol(self, request):
        return Talk()


@implementer(IMigratable)
class Compressed(MigratingServerProtocol):
    """
    Says what it hears, on one of autobahn's.
    """

    def onMessage(self, payload, isBinary):
        self.sendMessage(b"%d %s" % (upgrader.generation, payload), isBinary)

    def snapshot(self):
        return self.leave()


def websocket():
    """
    Return a factory of those of Twisted.
    """
    root = Resource()
    root.putChild(b"", WebSocketResource(Talks()))
    return Site(root)


def compress(offers):
    """
    Accept that messages are compressed, and refer to those before.
    """
    for offer in offers:
        if isinstance(offer, PerMessageDeflateOffer):
            return PerMessageDeflateOfferAccept(offer)
    return None


def autobahn():
    """
    Return a factory of those of autobahn.
    """
    factory = MigratingServerFactory()
    factory.protocol = Compressed
    factory.setProtocolOptions(perMessageCompressionAccept=compress)
    return factory


FACTORIES = {
    "rooms": lambda: ("together", Rooms(ROOM)),
    "lines": lambda: (True, Rooms(1)),
    "requests": lambda: (True, Site(Answers())),
    "events": lambda: (True, Site(News())),
    "websocket": lambda: (True, websocket()),
    "autobahn": lambda: (True, autobahn()),
}
exec(Path(os.environ["RELEASE_FILE"]).read_text(), globals())
globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)])
upgrader = Upgrader(reactor, pidFile="twistd.pid")
for name, port in json.loads(os.environ["PORTS"]).items():
    migrate, factory = FACTORIES[name]()
    endpoint = upgrader.endpoint(f"tcp:{port}:interface=127.0.0.1:backlog=500", migrate=migrate)
    endpoint.listen(factory)
UpgradeService(upgrader, 60).startService()
reactor.run()
