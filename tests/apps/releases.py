"""
A program that is all release: run as C{python releases.py DIRECTORY}, it runs
the code in C{$RELEASE_FILE}, which defines an async C{listen(upgrader)}.

DIRECTORY/limit may have the number of descriptors that it may open.  When that is
final, it writes what it found changed to DIRECTORY/changes.GENERATION.
"""

import dataclasses
import json
import os
import resource
import sys
from contextlib import suppress

from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.internet.protocol import Factory
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.filepath import FilePath

from txtableflip import Upgrader

directory = FilePath(sys.argv[1])
log = open(directory.child("twistd.log").path, "a")  # noqa: SIM115 - kept till the end
globalLogBeginner.beginLoggingTo([textFileLogObserver(log)], redirectStandardIO=False)
limit = directory.child("limit")
if limit.exists():
    highest = int(limit.getContent())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, highest))
upgrader = Upgrader(reactor, 20, pidFile=directory.child("twistd.pid").path)
upgrader.redeployOn("HUP")


class Answering(LineOnlyReceiver):
    delimiter = b"\n"

    def lineReceived(self, line):
        answer = f"{line.decode()} 1 {upgrader.generation} {os.getpid()} .\n"
        self.transport.write(answer.encode())
        self.transport.loseConnection()


factory = Factory.forProtocol(Answering)
release = {"factory": factory, "reactor": reactor}
exec(FilePath(os.environ["RELEASE_FILE"]).getContent(), release)


async def main():
    await release["listen"](upgrader)
    await upgrader.ready()
    if hasattr(upgrader, "whenFinal"):  # it may be of the release before
        await upgrader.whenFinal()
    changes = {**dataclasses.asdict(upgrader.changes), "used": upgrader.used}
    directory.child(f"changes.{upgrader.generation}").setContent(json.dumps(changes).encode())
    await upgrader.whenExiting()
    await upgrader.drain(5)
    with suppress(Exception):
        reactor.stop()


def failed(failure):
    failure.printTraceback()
    os._exit(1)


reactor.callWhenRunning(lambda: ensureDeferred(main()).addErrback(failed))
reactor.run()
