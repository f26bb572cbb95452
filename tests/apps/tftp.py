"""
A TFTP server for the tests, on C{$PORT}: each transfer has a port of its own, of which
C{$AFTER} says after how many seconds it is opened.  If that is at once, the server says
when it leaves that it has nothing left to do on C{$PORT}; else it knows nothing of
txtableflip.  A file has as many blocks as its name says, each with its number and the
process.
"""

import os
import struct

from twisted.application import internet, service
from twisted.internet import reactor
from twisted.internet.protocol import DatagramProtocol
from zope.interface import implementer

from txtableflip import IDrainable


class Transfer(DatagramProtocol):
    noisy = False

    def __init__(self, address, blocks):
        self.address = address
        self.blocks = blocks

    def startProtocol(self):
        self.send(1)

    def send(self, number):
        body = b"%d %d." % (number, os.getpid())
        size = 512 if number < self.blocks else 511
        data = struct.pack("!HH", 3, number) + body.ljust(size, b".")
        self.transport.write(data, self.address)

    def datagramReceived(self, datagram, address):
        number = struct.unpack("!H", datagram[2:4])[0]
        if number < self.blocks:
            self.send(number + 1)
        else:
            self.transport.stopListening()


class TFTP(DatagramProtocol):
    def datagramReceived(self, datagram, address):
        blocks = int(datagram[2:].split(b"\0")[0])
        after = float(os.environ["AFTER"])
        if after:
            reactor.callLater(after, self.begin, address, blocks)
        else:
            self.begin(address, blocks)

    def begin(self, address, blocks):
        reactor.listenUDP(0, Transfer(address, blocks), interface="127.0.0.1")


@implementer(IDrainable)
class Prompt(TFTP):
    def drain(self, seconds):
        self.transport.stopListening()


protocol = TFTP() if float(os.environ["AFTER"]) else Prompt()
application = service.Application("tftp")
server = internet.UDPServer(int(os.environ["PORT"]), protocol, interface="127.0.0.1")
server.setServiceParent(application)
