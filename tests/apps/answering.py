"""
A service for the tests: answers each line with what process, which generation
and which release of the code it is, and ends the connection.

Run as C{twistd tableflip --app answering.py}.  It listens on every endpoint in
C{$ENDPOINTS}, separated by blanks; the release is the text of C{$RELEASE_FILE},
which stands for code that changes between two upgrades: it is run, and may
name itself and have a function C{heard} that is called with each line.
"""

import os
from pathlib import Path

from twisted.application import service, strports
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineOnlyReceiver

from txtableflip import currentUpgrader

RELEASE = {"name": "1", "heard": lambda line: None}
exec(Path(os.environ["RELEASE_FILE"]).read_text(), RELEASE)


class Answering(LineOnlyReceiver):
    delimiter = b"\n"

    def lineReceived(self, line):
        generation = currentUpgrader().generation
        answer = f"{line.decode()} {RELEASE['name']} {generation} {os.getpid()} .\n"
        RELEASE["heard"](line.decode())
        self.transport.write(answer.encode())
        if line != b"stay":
            self.transport.loseConnection()


application = service.Application("answering")
for description in os.environ["ENDPOINTS"].split():
    factory = Factory.forProtocol(Answering)
    factory.noisy = False
    strports.service(description, factory).setServiceParent(application)
