"""
One chain of upgrades by the tableflip command, under load, as long as one likes: what a
process has at the end is what it had after the third.

    python torture/endurance.py             # 1,000 upgrades

Compared are descriptors, threads, environment, memory, zombies, the pid file, the
files in the service's directory, and the lines that each upgrade adds to the log.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from serving import APPS, TWISTD, descriptors, endProperly

from txtableflip.testing import Exchange
from txtableflip.testing._clients import Clients
from txtableflip.testing._service import Service, freePort, zombiesOf

TABLEFLIP = str(Path(TWISTD).with_name("tableflip"))
APP = APPS / "answering.py"
QUESTION = Exchange(b"stay\n", r"stay one \d+ \d+ \.\n")
FIRST = 3
"""
After how many upgrades nothing should change any more.
"""

REMEMBERED = "upgrade requested; deferred"
"""
A line of the log that depends on when a request comes.
"""

MEMORY = 0.05
"""
By what fraction the memory may differ: it does from one start of Python to another.
"""


@dataclass(frozen=True)
class Footprint:
    """
    What a generation has.

    @ivar memory: in bytes.
    @ivar zombies: children that it has not waited for.
    @ivar pidFile: whether it names this process.
    @ivar logLines: how many its upgrade has added to the log.
    """

    descriptors: list
    threads: int
    environment: list
    memory: int
    zombies: int
    pidFile: bool
    files: list
    logLines: int


class Chain:
    """
    A daemon that is upgraded again and again.
    """

    def __init__(self, directory):
        self.directory = Path(directory)
        self.port = freePort()
        (self.directory / "release.py").write_text("name = 'one'\n")
        self.service = Service(
            [
                *("env", "-C", directory, f"RELEASE_FILE={directory}/release.py"),
                f"ENDPOINTS=tableflip:tcp:{self.port}:interface=127.0.0.1",
                *(TWISTD, "tableflip", "--probation", "0", "--app", APP),
            ]
        )
        self._lines = 0

    def upgrade(self):
        """
        Upgrade once, and wait until the new process is alone.
        """
        self._lines = self._logLines()
        old = self.service.pid
        command = [TABLEFLIP, "upgrade", str(old), "--timeout", str(self.service.patience)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"an upgrade failed: {done.stderr}")
        self.service.read()
        pid = self.service.pid
        if pid == old or f"process {pid} in" not in done.stdout:
            sys.exit(f"process {pid} serves, and the command said: {done.stdout}")
        self.service.until(lambda: self.service.processes() == [pid], f"process {pid} alone")

    def footprint(self):
        """
        Return the footprint of the process that serves.
        """
        pid = self.service.pid
        proc = Path(f"/proc/{pid}")
        status = (proc / "status").read_text()
        return Footprint(
            self._descriptors(pid),
            int(re.search(r"Threads:\s*(\d+)", status)[1]),
            sorted((proc / "environ").read_text().split("\0")),
            1024 * int(re.search(r"VmRSS:\s*(\d+)", status)[1]),
            len(zombiesOf([pid])),
            int((self.directory / "twistd.pid").read_text()) == pid,
            # A log that has been rotated is as it should be.
            sorted({name.rstrip(".0123456789") for name in os.listdir(self.directory)}),
            self._logLines() - self._lines,
        )

    def _logLines(self):
        """
        Return how many lines the log has, except those about a request that came just
        before a process saw its parent exit: not every upgrade has one.
        """
        logs = [log.read_text() for log in self.directory.glob("twistd.log*")]
        return sum(log.count("\n") - log.count(REMEMBERED) for log in logs)

    def _descriptors(self, pid):
        """
        Return the descriptors of a process except its connections, including those that are
        just closing: the fewest that it has within some seconds.
        """
        found = []
        for _ in range(100):
            found.append(descriptors(pid))
            time.sleep(0.03)
        return min(found, key=len)


def differences(first, last):
    """
    Return what differs between two generations, in words.
    """
    one, other = asdict(first), asdict(last)
    if abs(last.memory / first.memory - 1) <= MEMORY:
        other["memory"] = one["memory"]
    return [
        f"{name}: {one[name]} became {other[name]}" for name in one if one[name] != other[name]
    ]


def endure(upgrades):
    """
    Go through a chain of upgrades under load.

    @return: what differs at the end, and what clients saw.
    """
    with tempfile.TemporaryDirectory() as directory:
        chain = Chain(directory)
        clients = Clients(("127.0.0.1", chain.port), QUESTION, 1)
        try:
            chain.service.start()
            with clients:
                for number in range(1, upgrades + 1):
                    chain.upgrade()
                    if number == FIRST:
                        first = chain.footprint()
                    if number % 100 == 0:
                        print(
                            f"{number} upgrades, {len(clients.samples):,} requests", flush=True
                        )
                last = chain.footprint()
        finally:
            chain.service.stop()
            chain.service.discard()
    return differences(first, last), clients.samples, last.memory / first.memory


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--upgrades", type=int, default=1000, help="more than 3")
    options = parser.parse_args()
    endProperly()
    start = time.monotonic()
    different, samples, memory = endure(options.upgrades)
    failures = [sample.error for sample in samples if sample.error]
    print(
        f"{options.upgrades} upgrades in {time.monotonic() - start:.0f} s, {len(samples):,} "
        f"requests, {len(failures)} failures; memory of the last generation / of the third: "
        f"{memory:.3f}"
    )
    print("\n".join([*failures[:20], *different]) or "everything else is the same")
    sys.exit(1 if failures or different else 0)


if __name__ == "__main__":
    main()
