"""
What each descriptor adds to an upgrade: pipes by the thousand, as in
tableflip's own benchmark (BenchmarkUpgrade).

    python benchmarks/descriptors.py

One service each with 4, 400 and 4,000 descriptors of pipes is upgraded in turn,
round after round.  We measure the time from SIGHUP until the next process serves,
which is mostly the start of Python; so what counts is how much more it is than with
4, for each descriptor, round by round.  If Go and a checkout of tableflip are there
($TABLEFLIP), its own benchmark is run, too.
"""

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from measuring import (
    DEADLINE,
    allowDescriptors,
    commandLine,
    endProperly,
    show,
    showHead,
    waitForEnd,
)

COUNTS = (4, 400, 4000)
SERVICE = """
import os, sys
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from txtableflip import Upgrader

count, told = int(sys.argv[1]), sys.argv[2]
upgrader = Upgrader(reactor)
upgrader.redeployOn("HUP")

async def main():
    if upgrader.hasParent:
        assert all([upgrader.fds.file(str(n)) for n in range(count)])
    else:
        for n in range(0, count, 2):
            for number, end in zip((n, n + 1), os.pipe()):
                upgrader.fds.addFile(str(number), end)
                os.close(end)
    await upgrader.ready()
    with open(told, "w") as pipe:
        pipe.write(f"{os.getpid()}\\n")
    await upgrader.whenExiting()
    reactor.stop()

reactor.callWhenRunning(lambda: ensureDeferred(main()))
reactor.run()
"""


class Chain:
    """
    A service that is upgraded, and reports through a named pipe which process serves.
    """

    def __init__(self, directory, count):
        self.path = Path(directory) / f"told.{count}"
        os.mkfifo(self.path)
        self.told = os.open(self.path, os.O_RDWR)
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVICE, str(count), str(self.path)], start_new_session=True
        )
        self.pid = None

    def next(self):
        """
        Wait until a process serves, and return its id.
        """
        if not select.select([self.told], [], [], DEADLINE)[0]:
            sys.exit(f"no process served within {DEADLINE:g} s")
        return int(os.read(self.told, 100))

    def upgrade(self):
        """
        Upgrade once, and return the seconds that it took.
        """
        old = self.pid
        start = time.perf_counter()
        os.kill(old, signal.SIGHUP)
        self.pid = self.next()
        seconds = time.perf_counter() - start
        waitForEnd(old)
        return seconds


@contextmanager
def chain(directory, count):
    made = Chain(directory, count)
    try:
        made.pid = made.next()
        yield made
    finally:
        os.killpg(made.process.pid, signal.SIGKILL)
        made.process.wait()


def showGo():
    """
    Run tableflip's own benchmark, if possible.
    """
    checkout = os.environ.get("TABLEFLIP")
    if checkout and shutil.which("go"):
        sys.stdout.flush()  # or what has been printed may come after it
        subprocess.run(["go", "test", "-run=^$", "-bench=Upgrade"], cwd=checkout, check=True)
    else:
        print("tableflip's own benchmark: not run (needs go, and its checkout in $TABLEFLIP)")


def main():
    parser = commandLine(__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="upgrades of each")
    rounds = parser.parse_args().rounds
    endProperly()
    allowDescriptors()
    taken = {count: [] for count in COUNTS}
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        chains = {n: stack.enter_context(chain(directory, n)) for n in COUNTS}
        for _ in range(rounds):
            for count in COUNTS:
                taken[count].append(chains[count].upgrade() * 1000)
    showHead(f"{rounds} rounds")
    for count in COUNTS:
        show(f"an upgrade with {count} descriptors", taken[count], "ms")
    for count in COUNTS[1:]:
        more = [many - few for few, many in zip(taken[COUNTS[0]], taken[count], strict=True)]
        show(f"{count} rather than {COUNTS[0]}: more", more, "ms")
        each = [1000 * value / (count - COUNTS[0]) for value in more]
        show(f"{count} rather than {COUNTS[0]}: for each", each, "us")
    showGo()


if __name__ == "__main__":
    main()
