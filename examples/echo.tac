# A line echo for twistd: only the endpoint differs from any other .tac file.
#
#   twistd -y examples/echo.tac             # then:
#   nc localhost 8080
#   kill -HUP $(cat twistd.pid)             # what happens is in twistd.log

import os

from twisted.application import service, strports
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineOnlyReceiver


class Echo(LineOnlyReceiver):
    delimiter = b"\n"

    def lineReceived(self, line):
        self.sendLine(line)


endpoint = os.environ.get("ENDPOINT", "tcp:8080")
application = service.Application("echo")
strports.service(f"tableflip:{endpoint}", Factory.forProtocol(Echo)).setServiceParent(application)
