"""
What each descriptor adds to an upgrade: pipes by the thousand, as in
tableflip's own benchmark (BenchmarkUpgrade).

    python benchmarks/descriptors.py

One service each with 4, 400 and 4,000 descriptors of pipes is upgraded in turn,
round after round.  Measured is the time from SIGHUP until the next process
serves, which is mostly the start of Python; so what counts is how much more it
is than with 4, for each descriptor, round by round.  Where Go and a checkout of
tableflip are ($TABLEFLIP), its own benchmark is run beside it.
"""

import argparse
import os
import platform
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path

DEADLINE = 60.0
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
    A service that is upgraded, and says who serves through a named pipe.
    """

    def __init__(self, directory, count):
        self.path = Path(directory) / f"told.{count}"
        os.mkfifo(self.path)
        self.told = os.open(self.path, os.O_RDWR)
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVICE, str(count), str(self.path)], start_new_session=True
        )
        self.pid = self.next()

    def next(self):
        """
        Wait until a process serves, and return its id.
        """
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
        end = time.monotonic() + DEADLINE
        while self.isRunning(old):
            if time.monotonic() > end:
                sys.exit(f"process {old} did not end within {DEADLINE:g} s")
            time.sleep(0.005)
        return seconds

    def isRunning(self, pid):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False


@contextmanager
def chain(directory, count):
    made = Chain(directory, count)
    try:
        yield made
    finally:
        os.killpg(made.process.pid, signal.SIGKILL)
        made.process.wait()


def show(what, values, unit):
    spread = f"{min(values):.2f} to {max(values):.2f}"
    print(f"{what:44}{statistics.median(values):8.2f} {unit}  ({spread})")


def showGo():
    """
    Run tableflip's own benchmark, where that can be done.
    """
    checkout = os.environ.get("TABLEFLIP")
    if checkout and shutil.which("go"):
        subprocess.run(["go", "test", "-run=^$", "-bench=Upgrade"], cwd=checkout, check=True)
    else:
        print("tableflip's own benchmark: not run (needs go, and its checkout in $TABLEFLIP)")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--rounds", type=int, default=15, help="upgrades of each")
    rounds = parser.parse_args().rounds
    highest = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(highest, 20_000), highest))
    taken = {count: [] for count in COUNTS}
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        chains = {n: stack.enter_context(chain(directory, n)) for n in COUNTS}
        for _ in range(rounds):
            for count in COUNTS:
                taken[count].append(chains[count].upgrade() * 1000)
    versions = ", ".join(f"{name} {version(name)}" for name in ("txtableflip", "twisted"))
    print(f"{rounds} rounds; Python {platform.python_version()}, {versions}")
    print(f"{'':44}  median     (least to most)")
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
