"""
How long a client waits whose process drains, when it is one of thousands.

    python benchmarks/drain.py

Thousands of idle connections are open to a service, and one on which a client asks
without a pause.  Then the service is upgraded, and the old process drains: it looks
at all of them again and again, and the client still asks.  We compare its longest
waits in two windows of the same length: in steady state, right before SIGHUP; and
from the moment at which the drain begins.

Then the same with HTTP/2 and without that client: how much of a processor's time the
old process takes while it waits for idle connections.
"""

import signal
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from measuring import allowDescriptors, commandLine, endProperly, server, show, showHead

WINDOW = 1.0
"""
How long each window is, in seconds.
"""

SETTLED = 2.0
"""
How long a drain takes to say goodbye on all connections at its start, in seconds.
"""

SHARE_WINDOW = 5.0
"""
For how long the processor's time is measured, in seconds.
"""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""
What an HTTP/2 client sends first: the connection preface with an empty SETTINGS frame.
"""

SERVICE = """
import sys
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory, Protocol
from txtableflip import Upgrader

class Echo(Protocol):
    def dataReceived(self, data):
        self.transport.write(data)

def makeFactory():
    if sys.argv[1] == "echo":
        return Factory.forProtocol(Echo)
    from twisted.web._http2 import H2Connection
    from twisted.web.resource import Resource
    from twisted.web.server import Site
    site = Site(Resource())
    class Channel(H2Connection):
        timeOut = None
        factory = property(lambda self: site, lambda self, factory: None)
    return Factory.forProtocol(Channel)

def serve(port):
    if not upgrader.hasParent:
        print(port.getHost().port, flush=True)
    return upgrader.ready()

def drain(ignored):
    print("draining", flush=True)
    return upgrader.drain(3600)

upgrader = Upgrader(reactor)
upgrader.redeployOn("HUP")
upgrader.whenExiting().addCallback(drain)
endpoint = serverFromString(reactor, "tableflip:tcp:0:interface=127.0.0.1")
endpoint.listen(makeFactory()).addCallback(serve)
reactor.run()
"""


def ask(sock):
    """
    @return: the seconds until the answer was complete.
    """
    begin = time.perf_counter()
    sock.sendall(b"x")
    if not sock.recv(1):
        sys.exit("the server closed the connection")
    return time.perf_counter() - begin


def longestWait(sock):
    """
    @return: the longest wait for an answer within a window, in milliseconds.
    """
    end = time.perf_counter() + WINDOW
    longest = 0.0
    while time.perf_counter() < end:
        longest = max(longest, ask(sock))
    return 1000 * longest


def measure(connections):
    """
    @return: the longest waits in steady state and in the drain.
    """
    with server(SERVICE, "echo") as (process, port), ExitStack() as stack:
        for _ in range(connections + 1):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            ask(sock)
        steady = longestWait(sock)
        upgrade(process)
        return steady, longestWait(sock)


def upgrade(process):
    """
    Wait until the process drains.
    """
    process.send_signal(signal.SIGHUP)
    if process.stdout.readline() != "draining\n":
        sys.exit("the service was not upgraded")


def processorTime(pid):
    """
    @return: how much processor time the main thread of a process has had, in seconds.
    """
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def measureShare(connections):
    """
    @return: the share of a processor that the old process takes while idle HTTP/2
        connections drain.
    """
    with server(SERVICE, "http2") as (process, port), ExitStack() as stack:
        for _ in range(connections):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            sock.sendall(PREFACE)
            if not sock.recv(100):
                sys.exit("the server closed the connection")
        upgrade(process)
        time.sleep(SETTLED)
        begin, before = time.perf_counter(), processorTime(process.pid)
        time.sleep(SHARE_WINDOW)
        return (processorTime(process.pid) - before) / (time.perf_counter() - begin)


def main():
    parser = commandLine(__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="services, one after another")
    parser.add_argument("--connections", type=int, default=9000, help="idle ones")
    parser.add_argument("--http2", type=int, default=2000, help="idle ones of HTTP/2")
    options = parser.parse_args()
    endProperly()
    allowDescriptors()
    seen = [measure(options.connections) for _ in range(options.rounds)]
    showHead(f"{options.rounds} rounds with {options.connections} connections")
    show("longest wait in steady state", [steady for steady, _ in seen], "ms")
    show("longest wait while the old process drains", [drain for _, drain in seen], "ms")
    show("drain / steady state", [drain / steady for steady, drain in seen])
    shares = [measureShare(options.http2) for _ in range(options.rounds)]
    what = f"processor's time / time, {options.http2} of HTTP/2"
    show(what, shares, digits=4)


if __name__ == "__main__":
    main()
