"""
A service for the tests that asks the name server at C{$NAMES} for its database before
it listens on C{$PORT}, and again for each question.  It knows nothing of txtableflip.
"""

import os

from twisted.application import service
from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks
from twisted.internet.protocol import Factory
from twisted.names.client import Resolver
from twisted.protocols.basic import LineOnlyReceiver

from txtableflip import currentUpgrader

resolver = Resolver(servers=[("127.0.0.1", int(os.environ["NAMES"]))])


class Answering(LineOnlyReceiver):
    delimiter = b"\n"

    @inlineCallbacks
    def lineReceived(self, line):
        address = yield resolver.getHostByName("database.example")
        answer = f"{line.decode()} {address} {currentUpgrader().generation} {os.getpid()} .\n"
        self.transport.write(answer.encode())
        self.transport.loseConnection()


class Looking(service.Service):
    @inlineCallbacks
    def startService(self):
        super().startService()
        yield resolver.getHostByName("database.example")
        factory = Factory.forProtocol(Answering)
        factory.noisy = False
        reactor.listenTCP(int(os.environ["PORT"]), factory, interface="127.0.0.1")


application = service.Application("lookups")
Looking().setServiceParent(application)
