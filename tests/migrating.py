"""
Connections of one process that migrate in it: on reactors of every kind, turned by hand.
"""

import asyncio
import contextlib
import gc
import itertools
import os
import select
import socket
import time

import pytest
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.pollreactor import PollReactor
from twisted.internet.selectreactor import SelectReactor
from twisted.python.failure import Failure

from txtableflip._draining.connections import Connections, CountedTCPServer, countedTransport
from txtableflip._migration.moving import Held, begin, take
from txtableflip._sockets.unixport import CountedUNIXServer

PATIENCE = 60
"""
For how many seconds something is waited for that comes at once.
"""

REACTORS = {
    "epoll": EPollReactor,
    "poll": PollReactor,
    "select": SelectReactor,
    "asyncio": lambda: AsyncioSelectorReactor(asyncio.new_event_loop()),
}


def end(reactor):
    """
    Close what a reactor of our own has open.
    """
    reactor.disconnectAll()
    reactor.waker.connectionLost(Failure(Exception("the test is over")))
    if isinstance(reactor, EPollReactor):
        reactor._poller.close()
    if isinstance(reactor, AsyncioSelectorReactor):
        reactor._asyncioEventloop.close()


class Client:
    """
    A client that never connects again, and keeps every byte.
    """

    def __init__(self, world):
        self.world = world
        self.sock = socket.socket(world.family)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self.sock.connect(world.port.socket.getsockname())
        self.sock.setblocking(False)
        self.got = b""
        self.ended = False
        self.isWaiting = False
        self.failures = []
        self.moves = 0
        known = set(world.accepted)
        world.turnUntil(lambda: set(world.accepted) - known)
        (self.transport,) = set(world.accepted) - known

    def send(self, data):
        """
        Send all of it, while the server reads.
        """
        left = memoryview(data)
        while left:
            with contextlib.suppress(BlockingIOError):
                left = left[self.sock.send(left) :]
            self.world.turn()

    def read(self):
        """
        Read what is there.
        """
        with contextlib.suppress(BlockingIOError):
            data = self.sock.recv(1 << 20)
            self.got += data
            self.ended |= not data
        return self.got

    def expect(self, data):
        """
        Get so much, which is this.
        """
        self.world.turnUntil(lambda: len(self.read()) >= len(data) or self.ended)
        assert self.got[: len(data)] == data
        self.got = self.got[len(data) :]

    @property
    def protocol(self):
        """
        Who serves it.
        """
        return self.transport.protocol


class World:
    """
    A reactor, a listener, and its clients.
    """

    def __init__(self, reactor, family, directory):
        self.reactor = reactor
        self.family = family
        self._path = str(directory / "s")
        self._closing = contextlib.ExitStack()
        self._closing.callback(end, reactor)
        # A port that stops listening closes its socket in the next turn.
        self._closing.callback(self.turn)
        self.change = lambda moving: moving

    def listen(self, factory):
        """
        Listen, and count the connections as an inheritable listener does.
        """
        if self.family == socket.AF_UNIX:
            kind, self.port = CountedUNIXServer, self.reactor.listenUNIX(self._path, factory)
        else:
            host = "::1" if self.family == socket.AF_INET6 else "127.0.0.1"
            kind, self.port = (
                CountedTCPServer,
                self.reactor.listenTCP(0, factory, interface=host),
            )
        self.accepted = Connections().acceptedBy("the test's")
        self.port.transport = countedTransport(kind, self.accepted)
        self._closing.callback(self.port.stopListening)
        self._closing.callback(self._abort)

    def _abort(self):
        # The reactor does not know of what it neither reads nor writes.
        for each in list(self.accepted):
            each.abortConnection()

    def connect(self):
        """
        Return a new client.
        """
        client = Client(self)
        self._closing.callback(client.sock.close)
        return client

    def turn(self, times=1):
        """
        Have the reactor do what there is to do.
        """
        for _ in range(times):
            self.reactor.iterate(0)

    def turnUntil(self, happened):
        """
        Have it do so until something has happened.
        """
        end = time.monotonic() + PATIENCE
        while not happened():
            assert time.monotonic() < end, "it has not happened"
            self.turn()

    def take(self, client):
        """
        Take a client's connection, as soon as its protocol is at a boundary.
        """
        while True:
            taken = take(client.transport)
            if not hasattr(taken, "addCallback"):
                return taken
            again = []
            taken.addBoth(again.append)
            self.turnUntil(lambda: again)  # noqa: B023 - it is waited for here
            assert again == [None]

    def hold(self, client, moving):
        """
        Have a connection held that has been taken.
        """
        held = Held(moving, self.port)

        def beginOne():
            begin([held])
            client.transport = held.transport

        held.begin = beginOne
        return held

    def migrate(self, *clients):
        """
        Have all of them go on with other protocols.
        """
        held = [Held(self.take(client), self.port) for client in clients]
        begin(held)
        for client, each in zip(clients, held, strict=True):
            client.transport = each.transport

    def migrateSoon(self, client):
        """
        Have a client's connection go on with another protocol as soon as that may be.
        """
        if client.isWaiting:
            return
        taken = take(client.transport)
        if hasattr(taken, "addCallback"):
            client.isWaiting = True
            taken.addCallback(self._again, client)
            taken.addErrback(client.failures.append)
        else:
            self.hold(client, self.change(taken)).begin()
            client.moves += 1

    def _again(self, ignored, client):
        client.isWaiting = False
        self.migrateSoon(client)

    def converse(self, pieces, answer):
        """
        Have a new client send pieces, migrate after each, and get so much.
        """
        client = self.connect()
        for each in pieces:
            client.send(each)
            self.migrateSoon(client)
        self.turnUntil(lambda: len(client.read()) >= len(answer) or client.ended)
        self.turn(5)
        assert client.failures == []
        client.read()
        return client

    def close(self):
        """
        End all.
        """
        self._closing.close()


@pytest.fixture
def makeWorld(tmp_path):
    """
    A function that makes a world, which is ended with the test.
    """
    with contextlib.ExitStack() as stack:

        def make(kind="epoll", family=socket.AF_INET):
            world = World(REACTORS[kind](), family, tmp_path)
            stack.callback(world.close)
            return world

        yield make


@pytest.fixture
def world(makeWorld):
    """
    A world as most are.
    """
    return makeWorld()


def openDescriptors():
    """
    Return how many descriptors this process has, without what others have left.
    """
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def isHungUp(sock):
    """
    Whether the other end of a connection has ended it, in any way.
    """
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
    return poll.poll(0) != []


def dropped(moving):
    """
    Return a connection of which what was unread has been dropped, for a control.
    """
    moving.snapshot = moving.snapshot._replace(unread=b"")
    return moving


def divide(data, cuts):
    """
    Return the pieces of data that begin at some places.
    """
    places = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(places)]
