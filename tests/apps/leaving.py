"""
A service for the tests that writes down in which order it is taken apart.
"""

import os
from pathlib import Path

from twisted.application import service, strports
from twisted.internet import reactor
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineOnlyReceiver


def tell(what):
    with Path("events").open("a") as events:
        events.write(f"{os.getpid()} {what}\n")


class Lines(LineOnlyReceiver):
    delimiter = b"\n"

    def lineReceived(self, line):
        self.transport.write(line + b"\n")

    def connectionLost(self, reason):
        tell("connectionLost")


class Lasting(Factory):
    protocol = Lines

    def stopFactory(self):
        tell("stopFactory")


class Leaving(service.MultiService):
    def stopService(self):
        tell("stopService")
        return super().stopService()


application = service.Application("leaving")
leaving = Leaving()
leaving.setServiceParent(application)
strports.service(os.environ["ENDPOINTS"], Lasting()).setServiceParent(leaving)
reactor.addSystemEventTrigger("during", "shutdown", tell, "shutdown trigger")
