"""
A UDP service for the tests: answers each datagram on port C{$PORT} with its own
words and the generation.
"""

import os

from twisted.application import service
from twisted.internet.protocol import DatagramProtocol

from txtableflip import currentUpgrader


class Answering(DatagramProtocol):
    noisy = False

    def datagramReceived(self, datagram, address):
        answer = b"%b %d" % (datagram, currentUpgrader().generation)
        self.transport.write(answer, address)


class Datagrams(service.Service):
    def privilegedStartService(self):
        reactor = currentUpgrader().reactor
        reactor.listenUDP(int(os.environ["PORT"]), Answering(), interface="127.0.0.1")


application = service.Application("datagrams")
Datagrams().setServiceParent(application)
