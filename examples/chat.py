"""
A chat: what one client says, all hear, and for a release nobody has to reconnect.

    twistd tableflip --migrate --app examples/chat.py  # then, as often as you like:
    nc localhost 8081
    kill -HUP $(cat twistd.pid)
"""

import os

from twisted.application import strports
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineReceiver
from zope.interface import implementer

from txtableflip import IMigratable, IMigratableFactory, Snapshot


@implementer(IMigratable)
class Chat(LineReceiver):
    delimiter = b"\n"

    def connectionMade(self):
        self.factory.room.add(self)

    def connectionLost(self, reason):
        self.factory.room.discard(self)

    def lineReceived(self, line):
        for each in self.factory.room:
            each.sendLine(line)

    def snapshot(self):
        return Snapshot(unread=self.clearLineBuffer())


@implementer(IMigratableFactory)
class Room(Factory):
    protocol = Chat

    def __init__(self):
        self.room = set()

    def resume(self, snapshot, address):
        return self.buildProtocol(address)


endpoint = os.environ.get("CHAT_ENDPOINT", "tcp:8081")
service = strports.service(f"tableflip:{endpoint}", Room())
