"""
For how long nobody reads a connection while it migrates, and what that costs.

    python benchmarks/migration.py

Connections on which clients keep sending are open to a service whose listener migrates them
one batch after another, and the service is upgraded.  For each, the old process reports when
its protocol has lost it, and the new one when another protocol continues it: the time
between the two is the blackout of that connection.  Then the same with many idle ones, and
the time from when the first is lost until the last continues, divided by their number.
"""

import json
import signal
import socket
import statistics
import sys
import threading
from contextlib import ExitStack

from measuring import (
    DEADLINE,
    allowDescriptors,
    commandLine,
    endProperly,
    server,
    show,
    showHead,
)

SERVICE = """
import json, sys, time
from twisted.internet import reactor
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineReceiver
from zope.interface import implementer
from txtableflip import IMigratable, IMigratableFactory, Snapshot, Upgrader

count, seen = int(sys.argv[1]), []

@implementer(IMigratable)
class Echo(LineReceiver):
    delimiter = b"\\n"
    left = None

    def connectionMade(self):
        if self.left is not None:
            seen.append((self.left, time.monotonic()))
            if len(seen) == count:
                print(json.dumps(seen), flush=True)

    def lineReceived(self, line):
        self.sendLine(line)

    def snapshot(self):
        unread = self.clearLineBuffer()
        return Snapshot(state=repr(time.monotonic()).encode(), unread=unread)

@implementer(IMigratableFactory)
class Echoes(Factory):
    protocol = Echo

    def resume(self, snapshot, address):
        echo = self.buildProtocol(address)
        echo.left = float(snapshot.state)
        return echo

def serve(port):
    if not upgrader.hasParent:
        print(port.getHost().port, flush=True)
    return upgrader.ready()

upgrader = Upgrader(reactor)
upgrader.redeployOn("HUP")
upgrader.whenExiting().addCallback(lambda ignored: upgrader.drain(60))
endpoint = upgrader.endpoint("tcp:0:interface=127.0.0.1", migrate=True)
endpoint.listen(Echoes()).addCallback(serve)
reactor.run()
"""

PAUSE = 0.01
"""
How long the clients rest between two lines of all of them, in seconds.
"""


class Talking:
    """
    A thread in which each connection says a line and hears it, again and again.
    """

    def __init__(self, socks):
        self._socks = socks
        self._isOver = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.mistakes = 0

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._isOver.set()
        self._thread.join()

    def _run(self):
        while not self._isOver.wait(PAUSE):
            for sock in self._socks:
                sock.sendall(b"hello\n")
            for sock in self._socks:
                self.mistakes += sock.recv(100) != b"hello\n"


def measure(connections, talk):
    """
    @param talk: how many of them are not idle.
    @return: of each connection, when it was left and when another protocol went on with
        it, in seconds.
    """
    with server(SERVICE, str(connections)) as (process, port), ExitStack() as stack:
        socks = []
        for _ in range(connections):
            sock = socket.create_connection(("127.0.0.1", port), DEADLINE)
            socks.append(stack.enter_context(sock))
            sock.sendall(b"hello\n")
            if sock.recv(100) != b"hello\n":
                sys.exit("the service does not answer")
        with Talking(socks[:talk]) as talking:
            process.send_signal(signal.SIGHUP)
            moves = json.loads(process.stdout.readline())
        if talking.mistakes:
            sys.exit(f"{talking.mistakes} answers were lost")
        return moves


def main():
    parser = commandLine(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="services, one after another")
    parser.add_argument("--talking", type=int, default=1000, help="connections that talk")
    parser.add_argument("--idle", type=int, default=10_000, help="idle ones, after that")
    options = parser.parse_args()
    endProperly()
    allowDescriptors()
    showHead(f"{options.rounds} rounds")
    talked = [measure(options.talking, options.talking) for _ in range(options.rounds)]
    blackouts = [[1000 * (on - left) for left, on in moves] for moves in talked]
    what = f"of {options.talking} that talk"
    show(f"median blackout {what}", [statistics.median(each) for each in blackouts], "ms")
    show(f"longest blackout {what}", [max(each) for each in blackouts], "ms")
    idle = [measure(options.idle, 0) for _ in range(options.rounds)]
    for of, found in ((what, talked), (f"of {options.idle} that are idle", idle)):
        costs = [
            1e6 * (max(on for _, on in moves) - min(left for left, _ in moves)) / len(moves)
            for moves in found
        ]
        show(f"hand-over of one {of}", costs, "us", 1)


if __name__ == "__main__":
    main()
