"""
A line echo as a plain script: the word tableflip: is all that it takes.

    python examples/echo.py                 # then, from another terminal:
    nc localhost 8080
    kill -HUP 1234                          # the process id is in its output
"""

import os
import sys

from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python import log


class Echo(LineOnlyReceiver):
    delimiter = b"\n"

    def lineReceived(self, line):
        self.sendLine(line)


log.startLogging(sys.stdout)
log.msg(f"this is process {os.getpid()}")
endpoint = sys.argv[1] if len(sys.argv) > 1 else "tcp:8080"
listening = serverFromString(reactor, f"tableflip:{endpoint}").listen(Factory.forProtocol(Echo))
listening.addErrback(lambda failure: (log.err(failure), reactor.stop()))
reactor.run()
