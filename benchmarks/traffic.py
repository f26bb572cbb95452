"""
What tableflip: costs the clients of a service, beside plain tcp:.

    python benchmarks/traffic.py

One process listens on a plain endpoint and on one with tableflip:, and the same
client asks at both in turn, round after round: on a connection per request, and
over one that is kept.  What counts is the ratio of each pair: of the time that
all requests of a round took, which is the inverse of throughput, and of the median
and the 99th percentile of single requests.  For the memory of an idle connection,
two processes are compared, with one endpoint each.
"""

import os
import re
import socket
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from measuring import allowDescriptors, commandLine, endProperly, show, showHead

CONNECTIONS = 2000
BACKLOG = 25
SERVICE = """
import sys
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.static import Data
import txtableflip

root = Resource()
root.putChild(b"", Data(b"hello\\n", "text/plain"))
site = Site(root)
site.noisy = False
for description in sys.argv[1:]:
    listening = serverFromString(reactor, description).listen(site)
    listening.addCallback(lambda port: print(port.getHost().port, flush=True))
reactor.run()
"""
PLAIN, OURS = "tcp:0:interface=127.0.0.1", "tableflip:tcp:0:interface=127.0.0.1"
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n%s\r\n"


@contextmanager
def server(*endpoints):
    """
    Run a web server, and terminate it.

    @return: the process, and the port of each endpoint.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", SERVICE, *endpoints], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process, [int(process.stdout.readline()) for _ in endpoints]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def receive(sock):
    """
    Receive one answer.
    """
    answer = b""
    while not answer.endswith(b"hello\n"):
        part = sock.recv(4096)
        if not part:
            sys.exit(f"the server ended an answer after {answer!r}")
        answer += part


def askAlone(port, count):
    """
    @return: the seconds that each request took, on a new connection.
    """
    taken = []
    for _ in range(count):
        begin = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(REQUEST % b"Connection: close\r\n")
            receive(sock)
        taken.append(time.perf_counter() - begin)
    return taken


def askTogether(port, count):
    """
    @return: the seconds that each request took, all on one connection.
    """
    taken = []
    with socket.create_connection(("127.0.0.1", port)) as sock:
        for _ in range(count):
            begin = time.perf_counter()
            sock.sendall(REQUEST % b"")
            receive(sock)
            taken.append(time.perf_counter() - begin)
    return taken


def percentile99(values):
    return statistics.quantiles(values, n=100)[98]


SUMMARIES = (
    ("time of all requests", sum),
    ("median latency", statistics.median),
    ("99th percentile of latency", percentile99),
)


def showRatios(what, ask, ports, options):
    """
    Ask at both ports in turn, and show how they compare.
    """
    rounds = []
    for number in range(options.rounds):
        turns = (0, 1) if number % 2 else (1, 0)
        rounds.append({turn: ask(ports[turn], options.requests) for turn in turns})
    for name, summary in SUMMARIES:
        ratios = [summary(taken[1]) / summary(taken[0]) for taken in rounds]
        show(f"{what}: {name}", ratios, digits=3)


def memory(pid):
    """
    @return: the resident memory of a process, in bytes.
    """
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(re.search(r"VmRSS:\s*(\d+) kB", status)[1])


def perConnection(endpoint):
    """
    @return: the bytes that an idle connection takes.  Some are opened before, so that
        memory which all of them share is not counted.
    """
    with server(endpoint) as (process, (port,)), ExitStack() as stack:

        def hold():
            for number in range(CONNECTIONS):
                sock = socket.create_connection(("127.0.0.1", port))
                stack.enter_context(sock)
                if number % BACKLOG == 0:
                    askAlone(port, 1)

        hold()
        before = memory(process.pid)
        hold()
        return (memory(process.pid) - before) / CONNECTIONS


def main():
    parser = commandLine(__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="pairs of each kind")
    parser.add_argument("--requests", type=int, default=1000, help="requests in a round")
    options = parser.parse_args()
    endProperly()
    allowDescriptors()
    showHead(f"{options.rounds} pairs of {options.requests} requests", "tableflip:tcp: / tcp:")
    with server(PLAIN, OURS) as (_, ports):
        for what, ask in (("a connection per request", askAlone), ("keep-alive", askTogether)):
            showRatios(what, ask, ports, options)
    pairs = min(options.rounds, 5)
    ratios = [perConnection(OURS) / perConnection(PLAIN) for _ in range(pairs)]
    show(f"memory of an idle connection, of {CONNECTIONS}", ratios, digits=3)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    main()
