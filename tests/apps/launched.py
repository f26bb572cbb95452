"""
A program for the tests that can be started in many ways: as a script, a module,
a console script (C{main}), inside a zipapp, and, for what it calls
C{application}, by twistd.

It answers as C{answering.py} does, on C{$ENDPOINTS}, with the reactor that
C{$REACTOR} names.
"""

import os
import sys
from pathlib import Path

from twisted.application import reactors, service, strports

if "REACTOR" in os.environ:
    reactors.installReactor(os.environ.pop("REACTOR"))

from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.log import startLogging

from txtableflip import currentUpgrader


class Answering(LineOnlyReceiver):
    delimiter = b"\n"

    def lineReceived(self, line):
        release = {}
        exec(RELEASE, release)
        generation = currentUpgrader().generation
        answer = f"{line.decode()} {release['name']} {generation} {os.getpid()} .\n"
        self.transport.write(answer.encode())
        self.transport.loseConnection()


RELEASE = Path(os.environ["RELEASE_FILE"]).read_text()
factory = Factory.forProtocol(Answering)
factory.noisy = False


def main():
    startLogging(sys.stdout)
    serverFromString(reactor, os.environ["ENDPOINTS"]).listen(factory)
    reactor.run()


if __name__ == "__main__":
    main()
elif __name__ != "launched":
    # Run by twistd, and not imported by another script.
    application = service.Application("launched")
    strports.service(os.environ["ENDPOINTS"], factory).setServiceParent(application)
