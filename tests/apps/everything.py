"""
A program that holds one of everything that can be inherited, and goes on serving all
of it; run as C{python everything.py DIRECTORY}.

It writes what it has to DIRECTORY/addresses as JSON.  With a second directory, it has
a helper, a forked worker and a thread that write there, and end with it.
"""

import json
import os
import socket
import sys
from contextlib import suppress

import companions
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.internet.protocol import DatagramProtocol, Factory
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.filepath import FilePath
from zope.interface import implementer

from txtableflip import IDrainable, Upgrader

GROUP = "239.255.71.9"
directory = sys.argv[1]
upgrader = Upgrader(reactor, pidFile=f"{directory}/twistd.pid")
upgrader.redeployOn("HUP")


class Answering(LineOnlyReceiver):
    delimiter = b"\n"

    def lineReceived(self, line):
        answer = f"{line.decode()} 1 {upgrader.generation} {os.getpid()} .\n"
        self.transport.write(answer.encode())
        self.transport.loseConnection()


@implementer(IDrainable)
class Numbers(DatagramProtocol):
    """
    Answers at once, so it has nothing left to say.
    """

    def drain(self, seconds):
        self.transport.stopListening()

    def datagramReceived(self, datagram, address):
        self.transport.write(b"%s %d" % (datagram, upgrader.generation), address)


class Group(Numbers):
    def startProtocol(self):
        if upgrader.generation == 1:
            self.transport.joinGroup(GROUP, "127.0.0.1")


class Accepting:
    """
    Serves on a listening socket by itself: Twisted has no seqpacket transport.
    """

    def __init__(self, sock):
        self.sock = sock

    def fileno(self):
        return self.sock.fileno()

    def logPrefix(self):
        return "seqpacket"

    def doRead(self):
        with suppress(BlockingIOError):
            connection, _ = self.sock.accept()
            connection.settimeout(10)
            question = connection.recv(100)
            connection.send(b"%s %d" % (question, upgrader.generation))
            connection.close()

    def connectionLost(self, reason):
        pass


def seqpacket(name, address):
    listening = upgrader.fds.listener(name)
    if listening is None:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listening.bind(address)
        listening.listen(50)
        upgrader.fds.addListener(name, listening)
    return Accepting(listening)


def reusing():
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", 0))
    sock.listen(77)
    return sock


def diary():
    """
    Return a file that was opened once.
    """
    kept = upgrader.fds.file("diary")
    if kept is None:
        fileno = os.open(f"{directory}/diary", os.O_CREAT | os.O_WRONLY)
        upgrader.fds.addFile("diary", fileno)
        os.close(fileno)
        kept = upgrader.fds.file("diary")
    return kept


async def main():
    if len(sys.argv) > 2:
        companions.start(sys.argv[2])
    inherit = upgrader.reactor
    factory = Factory.forProtocol(Answering)
    ports = {
        "tcp": await upgrader.endpoint("tcp:0:interface=localhost").listen(factory),
        "again": await upgrader.endpoint("tcp:0:interface=127.0.0.1").listen(factory),
        "with": upgrader.fds.listenWith("reusing", reusing, factory),
        "udp": inherit.listenUDP(0, Numbers(), "127.0.0.1", maxPacketSize=65000),
        "multicast": inherit.listenMulticast(0, Group(), GROUP),
    }
    await upgrader.endpoint(f"unix:{directory}/s:mode=600:lockfile=0").listen(factory)
    await upgrader.endpoint(f"unix:{directory}/t:mode=660").listen(factory)
    inherit.listenUNIX("\0" + f"{directory}/abstract", factory)
    inherit.listenUNIXDatagram(f"{directory}/d", Numbers(), mode=0o600)
    inherit.listenUNIXDatagram("\0" + f"{directory}/d", Numbers())
    readers = [
        seqpacket("packets", f"{directory}/q"),
        seqpacket("abstract packets", "\0" + f"{directory}/q"),
    ]
    addresses = {name: port.getHost().port for name, port in ports.items()}
    # What is not asked for until then is closed.
    book = diary()
    await upgrader.ready()
    for reader in readers:
        reactor.addReader(reader)
    os.write(book.fileno(), b"%d\n" % upgrader.generation)
    FilePath(directory).child(f"addresses.{upgrader.generation}").setContent(
        json.dumps({**addresses, "pid": os.getpid(), "used": upgrader.used}).encode()
    )
    await upgrader.whenExiting()
    for reader in readers:
        reactor.removeReader(reader)
    await upgrader.drain(5)
    with suppress(Exception):
        reactor.stop()


def failed(reason):
    sys.stderr.write(str(reason))
    reactor.stop()


reactor.callWhenRunning(lambda: ensureDeferred(main()).addErrback(failed))
reactor.run()
