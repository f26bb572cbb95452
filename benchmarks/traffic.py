"""
What tableflip: costs the clients of a service: nothing that can be measured.

    python benchmarks/traffic.py

One process listens on a plain endpoint and on one with tableflip:, and the same
client asks at both in turn, round after round: on a connection per request, and
over one that is kept.  What counts is the ratio of each pair.  For the memory of
an idle connection, two processes are compared, with one endpoint each.
"""

import argparse
import os
import platform
import re
import resource
import socket
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path

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
    Run a web server, and end it.

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
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(REQUEST % b"Connection: close\r\n")
            receive(sock)


def askTogether(port, count):
    with socket.create_connection(("127.0.0.1", port)) as sock:
        for _ in range(count):
            sock.sendall(REQUEST % b"")
            receive(sock)


def timed(ask, port, count):
    begin = time.perf_counter()
    ask(port, count)
    return time.perf_counter() - begin


def memory(pid):
    """
    @return: what a process has in memory, in bytes.
    """
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(re.search(r"VmRSS:\s*(\d+) kB", status)[1])


def perConnection(endpoint):
    """
    @return: the bytes that an idle connection takes.  Some have been there
        before, so that what all need is not counted.
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


def show(what, values, unit=""):
    spread = f"{min(values):.3f} to {max(values):.3f}"
    print(f"{what:50}{statistics.median(values):8.3f}{unit} ({spread})")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--rounds", type=int, default=15, help="pairs of each kind")
    parser.add_argument("--requests", type=int, default=1000, help="requests in a round")
    options = parser.parse_args()
    _, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(highest, 20_000), highest))
    versions = ", ".join(f"{name} {version(name)}" for name in ("txtableflip", "twisted"))
    print(f"{options.rounds} pairs; Python {platform.python_version()}, {versions}")
    print(f"{'tableflip:tcp: / tcp:':50}  median  (least to most)")
    with server(PLAIN, OURS) as (_, ports):
        for what, ask in (("a connection per request", askAlone), ("keep-alive", askTogether)):
            ratios = []
            for number in range(options.rounds):
                turns = (0, 1) if number % 2 else (1, 0)
                taken = {turn: timed(ask, ports[turn], options.requests) for turn in turns}
                ratios.append(taken[1] / taken[0])
            show(f"time of {options.requests} requests, {what}", ratios)
    ratios = [perConnection(OURS) / perConnection(PLAIN) for _ in range(5)]
    show(f"memory of an idle connection, of {CONNECTIONS}", ratios)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    main()
