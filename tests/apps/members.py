"""
Members of rooms, for applications beside this file: each line goes to all of a room, with
the generation that says so.  Whoever comes is put into the room of the one before, until
that is full.
"""

import json

from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineOnlyReceiver
from zope.interface import implementer

from txtableflip import (
    ConnectionMigrated,
    IMigratable,
    IMigratableFactory,
    Snapshot,
    currentUpgrader,
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
            member.sendLine(b"%s %d" % (line, currentUpgrader().generation))

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
