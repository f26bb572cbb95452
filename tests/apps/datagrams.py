"""
A datagram service for the tests: answers each on port C{$PORT}, or at that path, after
C{$DELAY} seconds, with its own words and the generation.
"""

import os

from twisted.application import service
from twisted.internet import reactor
from twisted.internet.protocol import DatagramProtocol

from txtableflip import currentUpgrader

where, delay = os.environ["PORT"], float(os.environ.get("DELAY", "0"))


class Answering(DatagramProtocol):
    noisy = False

    def datagramReceived(self, datagram, address):
        if delay:
            reactor.callLater(delay, self.answer, datagram, address)
        else:
            self.answer(datagram, address)

    def answer(self, datagram, address):
        answer = b"%b %d" % (datagram, currentUpgrader().generation)
        self.transport.write(answer, address)


class Datagrams(service.Service):
    def privilegedStartService(self):
        reactor = currentUpgrader().reactor
        if where.isdigit():
            reactor.listenUDP(int(where), Answering(), interface="127.0.0.1")
        else:
            reactor.listenUNIXDatagram(where, Answering())


application = service.Application("datagrams")
Datagrams().setServiceParent(application)
