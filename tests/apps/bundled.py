"""
A service for the tests that is bundled into one file, or one folder, with all that it
needs: there are no plugins of Twisted to be found in some of these.

It answers as C{answering.py} does, on C{$ENDPOINTS}; its release is in its own text.
"""

import os
import sys

from twisted.internet.protocol import Factory
from twisted.internet.task import react
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.log import startLogging

from txtableflip import Upgrader, currentUpgrader

RELEASE = "1"


class Answering(LineOnlyReceiver):
    delimiter = b"\n"

    def lineReceived(self, line):
        generation = currentUpgrader().generation
        answer = f"{line.decode()} {RELEASE} {generation} {os.getpid()} .\n"
        self.transport.write(answer.encode())
        self.transport.loseConnection()


async def serve(reactor):
    upgrader = Upgrader(reactor, pidFile=os.environ["PIDFILE"])
    upgrader.redeployOn("HUP")
    upgrader.stopOn("TERM")
    factory = Factory.forProtocol(Answering)
    await upgrader.endpoint(os.environ["ENDPOINTS"]).listen(factory)
    await upgrader.ready()
    await upgrader.whenExiting()
    await upgrader.drain(5)


def main():
    startLogging(sys.stdout)
    react(serve, [])


if __name__ == "__main__":
    main()
