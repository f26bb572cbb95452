"""
A service for the tests that listens when it has reached its database, which takes
C{$DELAY} seconds; on C{$EARLY} at once, if that is set, and on C{$LATE} then.  If
C{$UNTIL} is set, it says that it is not ready until then.  C{$RELEASE_FILE} may have
the database away.
"""

import os
from pathlib import Path

from twisted.application import service
from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.protocols.basic import LineOnlyReceiver

from txtableflip import currentUpgrader

RELEASE = {"name": "1", "database": lambda: None}
exec(Path(os.environ["RELEASE_FILE"]).read_text(), RELEASE)


class Answering(LineOnlyReceiver):
    delimiter = b"\n"

    def lineReceived(self, line):
        generation = currentUpgrader().generation
        answer = f"{line.decode()} {RELEASE['name']} {generation} {os.getpid()} .\n"
        self.transport.write(answer.encode())
        if line != b"stay":
            self.transport.loseConnection()


class Late(service.Service):
    def startService(self):
        super().startService()
        self.listen("EARLY")
        reaching = self.reach()
        if "UNTIL" in os.environ:
            currentUpgrader().notReadyUntil(reaching)

    @inlineCallbacks
    def reach(self):
        yield deferLater(reactor, float(os.environ["DELAY"]), RELEASE["database"])
        self.listen("LATE")

    def listen(self, name):
        if name in os.environ:
            factory = Factory.forProtocol(Answering)
            factory.noisy = False
            serverFromString(reactor, os.environ[name]).listen(factory)


application = service.Application("late")
Late().setServiceParent(application)
