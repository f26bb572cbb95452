"""
A service for the tests that listens when it has reached its database, which takes
C{$DELAY} seconds; on C{$EARLY} at once, if that is set, and on C{$LATE} then.  If
C{$UNTIL} is set, or C{$RELEASE_FILE} has C{isAwaited}, it says that it is not ready until
then.  C{$RELEASE_FILE} may have the database away.
"""

import os
import runpy
from pathlib import Path

from twisted.application import service
from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater

from txtableflip import currentUpgrader

# All but where and when it listens is that of the other.
os.environ["ENDPOINTS"] = ""
answering = runpy.run_path(str(Path(__file__).with_name("answering.py")))
database = answering["RELEASE"].get("database", lambda: None)


class Late(service.Service):
    def startService(self):
        super().startService()
        self.listen("EARLY")
        reaching = self.reach()
        if "UNTIL" in os.environ or "isAwaited" in answering["RELEASE"]:
            currentUpgrader().notReadyUntil(reaching)

    @inlineCallbacks
    def reach(self):
        yield deferLater(reactor, float(os.environ["DELAY"]), database)
        self.listen("LATE")

    def listen(self, name):
        if name in os.environ:
            factory = Factory.forProtocol(answering["Answering"])
            factory.noisy = False
            serverFromString(reactor, os.environ[name]).listen(factory)


application = answering["application"]
Late().setServiceParent(application)
