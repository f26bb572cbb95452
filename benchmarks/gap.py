"""
How long a connection waits while the processes change places.

    python benchmarks/gap.py

The application is examples/web.py under twistd tableflip, and it is upgraded
again and again.  One client asks it without a pause, each time on a new connection,
and notes how long it took from connecting to the end of the answer.  So there is
always one in progress, and nothing that delays clients goes unnoticed.

Three windows of each upgrade are compared, by the longest wait of the connections
that were in progress in them:

- steady state: the 300 ms right before SIGHUP;
- the start: from SIGHUP up to the next window, while a new process is started.
  That takes processors and a fork(2) and is not a wait for the switch, but on a small
  machine clients feel it;
- the switch: 300 ms, too, from 100 ms before the first answer of the new process
  to 200 ms after it, which is when the old process exits.

What counts is the ratios, upgrade by upgrade.  For comparison, there is the ratio of
steady state to the 300 ms before it, when nothing happens at all.
"""

import os
import re
import signal
import socket
import sys
import tempfile
import time
from typing import NamedTuple

from measuring import DEADLINE, commandLine, endProperly, show, showHead, waitForEnd
from redeploy import server, untilGeneration

from txtableflip.testing._service import freePort

BEFORE, AFTER = 0.1, 0.2
WINDOW = BEFORE + AFTER
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class Answer(NamedTuple):
    """
    A connection: when it began and ended, and which process answered.
    """

    begin: float
    end: float
    generation: int
    pid: int


class Upgrade(NamedTuple):
    """
    The longest wait in each window of an upgrade, in milliseconds.
    """

    before: float
    steady: float
    start: float
    switch: float


def ask(port):
    """
    Open a connection and ask.  One that fails ends the benchmark.
    """
    begin = time.perf_counter()
    text = b""
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as sock:
        sock.sendall(REQUEST)
        while part := sock.recv(4096):
            text += part
    end = time.perf_counter()
    found = re.search(rb"generation (\d+), process (\d+)\n", text)
    if found is None:
        sys.exit(f"this is no answer: {text!r}")
    return Answer(begin, end, int(found[1]), int(found[2]))


def askFor(seconds, port):
    """
    Ask without a pause for so many seconds.
    """
    end = time.perf_counter() + seconds
    answers = []
    while time.perf_counter() < end:
        answers.append(ask(port))
    return answers


def askUntilGeneration(wanted, port):
    """
    Ask without a pause until a generation answers.
    """
    end = time.perf_counter() + DEADLINE
    answers = [ask(port)]
    while answers[-1].generation != wanted:
        if time.perf_counter() > end:
            sys.exit(f"generation {wanted} did not answer within {DEADLINE:g} s")
        answers.append(ask(port))
    return answers


def longest(answers, begin, end):
    """
    @return: the longest wait of all connections that were in progress between two
        moments, in milliseconds, including those that began before or ended after.
    """
    return 1000 * max(
        answer.end - answer.begin
        for answer in answers
        if answer.begin <= end and answer.end >= begin
    )


def upgradeOnce(pid, generation, port):
    """
    Upgrade once, and wait until the old process has exited.

    @param generation: that of the next process.

    @return: the process id of the next process, and what was seen.
    """
    answers = askFor(2 * WINDOW, port)
    asked = time.perf_counter()
    os.kill(pid, signal.SIGHUP)
    answers += askUntilGeneration(generation, port)
    switch = answers[-1].end
    successor = answers[-1].pid
    answers += askFor(AFTER, port)
    waitForEnd(pid)
    early = switch - BEFORE
    return successor, Upgrade(
        before=longest(answers, asked - 2 * WINDOW, asked - WINDOW),
        steady=longest(answers, asked - WINDOW, asked),
        start=longest(answers, asked, max(asked, early)),
        switch=longest(answers, early, switch + AFTER),
    )


def measure(count, directory):
    """
    @return: what was seen of each upgrade of one service.
    """
    port = freePort()
    with server(directory, port):
        _, pid = untilGeneration(1, port)
        askFor(WINDOW, port)  # what the first requests import
        seen = []
        for generation in range(2, count + 2):
            pid, upgrade = upgradeOnce(pid, generation, port)
            seen.append(upgrade)
    return seen


def main():
    parser = commandLine(__doc__)
    parser.add_argument("--upgrades", type=int, default=15, help="how many")
    count = parser.parse_args().upgrades
    endProperly()
    with tempfile.TemporaryDirectory() as directory:
        seen = measure(count, directory)
    showHead(f"{count} upgrades")
    show("longest wait in steady state", [each.steady for each in seen], "ms")
    show("longest wait while the new process starts", [each.start for each in seen], "ms")
    show("longest wait around the switch", [each.switch for each in seen], "ms")
    show("switch / steady state", [each.switch / each.steady for each in seen])
    show("start / steady state", [each.start / each.steady for each in seen])
    show("switch / start", [each.switch / each.start for each in seen])
    show("steady state / the one before", [each.steady / each.before for each in seen])


if __name__ == "__main__":
    main()
