"""
A service for the tests: answers each line with what process, which generation
and which release of the code it is, and ends the connection.

Run as C{twistd tableflip --app answering.py}.  It listens on every endpoint in
C{$ENDPOINTS}, separated by blanks; the release is the text of C{$RELEASE_FILE},
which stands for code that changes between two upgrades: it is run, and may
name itself and have a function C{heard} that is called with each line.
Without C{twistd tableflip}, its upgrades are final at once, unless it is to know no
more of them than these strings (C{$AUTOMATIC}).  If there is a directory
C{$COMPANIONS}, it has a helper, a forked worker and a thread that write there, and end
with it.
"""

import os
import runpy
from pathlib import Path

from twisted.application import service, strports
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineOnlyReceiver

from txtableflip import Upgrader, UpgradeService, currentUpgrader

RELEASE = {"name": "1", "heard": lambda line: None}
exec(Path(os.environ["RELEASE_FILE"]).read_text(), RELEASE)
if "COMPANIONS" in os.environ:
    # It is not on the path where twistd runs this file.
    runpy.run_path(str(Path(__file__).with_name("companions.py")))["start"](
        os.environ["COMPANIONS"]
    )


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
if currentUpgrader() is None and "AUTOMATIC" not in os.environ:
    # By strings alone, it would have a probation.
    from twisted.internet import reactor

    UpgradeService(Upgrader(reactor)).setServiceParent(application)
for description in os.environ["ENDPOINTS"].split():
    factory = Factory.forProtocol(Answering)
    factory.noisy = False
    strports.service(description, factory).setServiceParent(application)
