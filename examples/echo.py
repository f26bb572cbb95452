"""
A line echo as a plain script: the word tableflip: is all that it takes.

    python examples/echo.py                 # then, from another terminal:
    nc localhost 8080
    kill -HUP 1234                          # the process id is in its output
"""

import os
import sys

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.internet.task import react
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python import log


class Echo(LineOnlyReceiver):
    delimiter = b"\n"

    def lineReceived(self, line):
        self.sendLine(line)


async def main(reactor, endpoint="tcp:8080"):
    log.startLogging(sys.stdout)
    log.msg(f"this is process {os.getpid()}")
    server = serverFromString(reactor, f"tableflip:{endpoint}")
    await server.listen(Factory.forProtocol(Echo))
    await Deferred()  # for ever: the reactor is stopped when its successor serves


react(main, sys.argv[1:])
