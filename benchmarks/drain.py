"""
How long a client waits whose process drains, when it is one of thousands.

    python benchmarks/drain.py

Thousands of idle connections are open to a service, and one that asks without a
pause.  Then the service is upgraded, and the old process drains: it looks at all of
them again and again, and the one is still asking.  Compared are the longest waits
of that one in two windows of the same length: in steady state, right before
SIGHUP; and from the moment on at which the drain begins.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager

from measuring import allowDescriptors, commandLine, endProperly, show, showHead

WINDOW = 1.0
"""
How long each window is, in seconds.
"""

SERVICE = """
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory, Protocol
from txtableflip import Upgrader

class Echo(Protocol):
    def dataReceived(self, data):
        self.transport.write(data)

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
endpoint.listen(Factory.forProtocol(Echo)).addCallback(serve)
reactor.run()
"""


@contextmanager
def server():
    """
    Run the service, and end all of its processes.

    @return: its first process, and the port.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", SERVICE],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process, int(process.stdout.readline())
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def ask(sock):
    """
    @return: the seconds until the answer had come.
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
    with server() as (process, port), ExitStack() as stack:
        for _ in range(connections + 1):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            ask(sock)
        steady = longestWait(sock)
        process.send_signal(signal.SIGHUP)
        if process.stdout.readline() != "draining\n":
            sys.exit("the service was not upgraded")
        return steady, longestWait(sock)


def main():
    parser = commandLine(__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="services, one after another")
    parser.add_argument("--connections", type=int, default=9000, help="idle ones")
    options = parser.parse_args()
    endProperly()
    allowDescriptors()
    seen = [measure(options.connections) for _ in range(options.rounds)]
    showHead(f"{options.rounds} rounds with {options.connections} connections")
    show("longest wait in steady state", [steady for steady, _ in seen], "ms")
    show("longest wait while the old process drains", [drain for _, drain in seen], "ms")
    show("drain / steady state", [drain / steady for steady, drain in seen])


if __name__ == "__main__":
    main()
