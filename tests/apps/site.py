"""
A web site for the tests, with answers that take their time.

    /now/QUESTION    answered at once
    /soon/QUESTION   answered after half a second
    /late/QUESTION   answered after three seconds
    /large           16 MiB
    /upload          answered with how much was sent, when all of it is there
    /stuck           a thread that never returns
    /socket          a WebSocket that sends back what it gets
"""

import os
import threading

from twisted.application import service, strports
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from txtableflip import currentUpgrader

LARGE = b"x" * 16 * 1024 * 1024


def answer(question):
    return f"{question} site {currentUpgrader().generation} {os.getpid()} .\n".encode()


class Now(Resource):
    isLeaf = True

    def render_GET(self, request):
        return answer(request.postpath[0].decode())


class Late(Resource):
    isLeaf = True

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def render_GET(self, request):
        body = answer(request.postpath[0].decode())
        gone = request.notifyFinish()
        gone.addErrback(lambda failure: None)
        waiting = deferLater(reactor, self.seconds, request.write, body)
        waiting.addCallback(lambda ignored: request.finish())
        return NOT_DONE_YET


class Large(Resource):
    isLeaf = True

    def render_GET(self, request):
        return LARGE


class Upload(Resource):
    isLeaf = True

    def render_PUT(self, request):
        return answer(str(len(request.content.read())))


class Stuck(Resource):
    isLeaf = True

    def render_GET(self, request):
        reactor.callInThread(threading.Event().wait)
        return answer("stuck")


root = Resource()
for name, resource in {
    b"now": Now(),
    b"soon": Late(0.5),
    b"late": Late(3),
    b"large": Large(),
    b"upload": Upload(),
    b"stuck": Stuck(),
}.items():
    root.putChild(name, resource)

try:
    from twisted.web.websocket import WebSocketResource
except ImportError:
    pass
else:

    class Echo:
        @classmethod
        def buildProtocol(cls, request):
            return cls()

        def negotiationStarted(self, transport):
            self.transport = transport

        def negotiationFinished(self):
            pass

        def textMessageReceived(self, message):
            self.transport.sendTextMessage(message)

        def bytesMessageReceived(self, data):
            pass

        def pongReceived(self, payload):
            pass

        def connectionLost(self, reason):
            pass

    root.putChild(b"socket", WebSocketResource(Echo))

application = service.Application("site")
for description in os.environ["ENDPOINTS"].split():
    strports.service(description, Site(root)).setServiceParent(application)
