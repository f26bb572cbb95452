"""
A script for the tests that makes its endpoint some time after the reactor has
begun to run, and nothing of ours before.
"""

import os
import sys

from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.log import startLogging

from txtableflip import currentUpgrader


class Answering(LineOnlyReceiver):
    delimiter = b"\n"

    def lineReceived(self, line):
        generation = currentUpgrader().generation
        answer = f"{line.decode()} late {generation} {os.getpid()} .\n"
        self.transport.write(answer.encode())
        self.transport.loseConnection()


def begin(ignored):
    factory = Factory.forProtocol(Answering)
    factory.noisy = False
    serverFromString(reactor, os.environ["ENDPOINTS"]).listen(factory)


startLogging(sys.stdout)
deferLater(reactor, 0.1, lambda: None).addCallback(begin)
reactor.run()
