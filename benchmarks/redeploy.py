"""
How long an upgrade takes, beside a start of the same application from cold.

    python benchmarks/redeploy.py

A pair is one of each, in alternation: from starting a command to its first
answer, and from SIGHUP to the first answer of the next generation.  The
application is examples/web.py under twistd tableflip; the client is the same,
and asks every two milliseconds.  What counts is the ratio: the seconds are this
machine's.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from measuring import DEADLINE, commandLine, endProperly, show, showHead

from txtableflip.testing._service import freePort

BETWEEN_REQUESTS = 0.002
WEB = Path(__file__).parent.parent / "examples" / "web.py"
TWISTD = os.path.join(os.path.dirname(sys.executable), "twistd")


def ask(port):
    """
    @return: the generation and the process id that a request is answered with.
    """
    connection = HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        connection.request("GET", "/", headers={"Connection": "close"})
        answer = connection.getresponse().read().decode()
    finally:
        connection.close()
    found = re.search(r"generation (\d+), process (\d+)", answer)
    return int(found[1]), int(found[2])


def untilGeneration(wanted, port):
    """
    Ask until a generation answers, and return the seconds that it took and its
    process id.
    """
    start = time.perf_counter()
    while time.perf_counter() - start < DEADLINE:
        with suppress(OSError, HTTPException):
            generation, pid = ask(port)
            if generation == wanted:
                return time.perf_counter() - start, pid
        time.sleep(BETWEEN_REQUESTS)
    sys.exit(f"generation {wanted} did not answer within {DEADLINE:g} s")


def end(process):
    """
    Terminate a process and everything that it started: all are in one session.
    """
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def server(directory, port):
    """
    Run the application, and terminate it.
    """
    process = subprocess.Popen(
        [TWISTD, "--nodaemon", "--pidfile=", "tableflip", "--probation=0", "--app", WEB],
        cwd=directory,
        env={**os.environ, "ENDPOINT": f"tcp:{port}:interface=127.0.0.1", "PWD": directory},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        end(process)


def measureStart(directory):
    port = freePort()
    with server(directory, port):
        seconds, _ = untilGeneration(1, port)
    return seconds


def measure(pairs, directory):
    """
    @return: the seconds of each start and of each upgrade.  By the time an
        upgrade begins, the one before is over: a start lies between them.
    """
    starts, upgrades = [], []
    port = freePort()
    with server(directory, port):
        _, pid = untilGeneration(1, port)
        for generation in range(2, pairs + 2):
            starts.append(measureStart(directory))
            os.kill(pid, signal.SIGHUP)
            seconds, pid = untilGeneration(generation, port)
            upgrades.append(seconds)
    return starts, upgrades


def main():
    parser = commandLine(__doc__)
    parser.add_argument("--pairs", type=int, default=15, help="how many of each")
    count = parser.parse_args().pairs
    endProperly()
    with tempfile.TemporaryDirectory() as directory:
        starts, upgrades = measure(count, directory)
    showHead(f"{count} pairs")
    show("start from cold to first answer", starts, "s")
    show("SIGHUP to first answer of the new process", upgrades, "s")
    ratios = [upgrade / start for start, upgrade in zip(starts, upgrades, strict=True)]
    show("upgrade / start, pair by pair", ratios)


if __name__ == "__main__":
    main()
