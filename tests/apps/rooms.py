"""
A chat whose connections migrate: each line goes to all of a room, with the generation that
says so.  Whoever comes is put into the room of the one before, until that is full.

C{$RELEASE_FILE} is run first, and sets C{listeners} (of each how to migrate, and the size of
a room), and maybe C{options}; or changes the classes.
"""

import json
import os
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.protocol import Factory
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.protocols.basic import LineOnlyReceiver
from zope.interface import implementer

from txtableflip import (
    ConnectionMigrated,
    IMigratable,
    IMigratableFactory,
    Snapshot,
    Upgrader,
    UpgradeService,
)


@implementer(IMigratable)
class Member(LineOnlyReceiver):
    delimiter = b"\n"
    room = None

    def connectionMade(self):
        if self.room is None:
            self.room = self.factory.nextRoom()
        self.factory.rooms.setdefault(self.room, []).append(self)

    def lineReceived(self, line):
        for member in self.factory.rooms[self.room]:
            member.sendLine(b"%s %d" % (line, upgrader.generation))

    def connectionLost(self, reason):
        self.factory.rooms[self.room].remove(self)
        if not reason.check(ConnectionMigrated):
            pass

    def snapshot(self):
        return Snapshot(json.dumps({"room": self.room}).encode(), self.clearBuffer())

    def clearBuffer(self):
        unread, self._buffer = self._buffer, b""
        return unread


@implementer(IMigratableFactory)
class Rooms(Factory):
    protocol = Member

    def __init__(self, size):
        self.size = size
        self.rooms = {}
        self.next = 0

    def nextRoom(self):
        if len(self.rooms.get(self.next, [])) >= self.size:
            self.next += 1
        return self.next

    def resume(self, snapshot, address):
        member = self.buildProtocol(address)
        member.room = json.loads(snapshot.state)["room"]
        return member


names = {"Member": Member, "Rooms": Rooms, "Snapshot": Snapshot, "options": {}}
names |= {"listeners": {}, "reactor": reactor}
exec(Path(os.environ["RELEASE_FILE"]).read_text(), names)
log = open("twistd.log", "a")  # noqa: SIM115 - until the process ends
globalLogBeginner.beginLoggingTo([textFileLogObserver(log)])
upgrader = names["upgrader"] = Upgrader(reactor, pidFile="twistd.pid", **names["options"])
for description, (migrate, size) in names["listeners"].items():
    upgrader.endpoint(description, migrate=migrate).listen(Rooms(size))
UpgradeService(upgrader, 60).startService()
reactor.run()
