"""
Upgrades while older generations drain, with connections that their clients never close.

    python torture/overlap.py               # ten upgrades

No upgrade waits for a drain, at most four generations live, each connection lives to its
deadline unless its generation is terminated as one too many, and jobs that wait for all
older generations run in one process at a time.  The first upgrades follow each other at
once, the last ones so slowly that deadlines come first.
"""

import argparse
import re
import sys
import tempfile
import threading
import time
from pathlib import Path

from serving import INTERFACE, Load, Staying, endProperly, served

from txtableflip.testing._service import freePort, isAlive

DRAIN_TIMEOUT = 60
MOST = 4
SLOWLY = 21.0
"""
How long after the one before a slow upgrade comes, in seconds: three take longer than the
drain timeout.
"""

PATIENCE = 60.0
"""
How much later than its deadline a connection may be waited for, in seconds.
"""

JOB = """
import fcntl, os
from txtableflip import currentUpgrader
name = 'job'

def work(ignored):
    # Kept open, and so locked, until the process ends.
    global alone
    alone = open("jobs", "a")
    try:
        fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
        what = "works"
    except OSError:
        what = "works beside another"
    alone.write(f"generation {currentUpgrader().generation} {what}\\n")
    alone.flush()

currentUpgrader().whenParentExits().addCallback(work)
"""


class Chain:
    """
    A service, a connection to each of its generations, and what is wrong.

    @ivar most: how many generations have lived at the same time, when an upgrade was over.
    @ivar slowest: how long the slowest upgrade took, in seconds.
    @ivar lives: how long each connection has lived after its generation was replaced,
        in seconds, and what has ended it.
    """

    def __init__(self, service, port, drainTimeout):
        self.complaints, self.lives = [], []
        self.most, self.slowest = 1, 0.0
        self._service = service
        self._port = port
        self._drainTimeout = drainTimeout
        self._connections, self._threads = [], []
        self._connect()

    def _connect(self):
        connection = Staying(self._port)
        thread = threading.Thread(target=connection.waitForItsEnd)
        thread.start()
        self._connections.append(connection)
        self._threads.append(thread)

    def upgrade(self):
        """
        Upgrade once, and check that this has not waited for the older ones.
        """
        begin, started = len(self._service.events), time.monotonic()
        outcome = self._service.upgrade()
        self.slowest = max(self.slowest, time.monotonic() - started)
        if outcome.what != "serves":
            self.complaints.append(f"an upgrade failed: {outcome.why}")
        replaced = self._connections[-1]
        if not self._threads[-1].is_alive():
            self.complaints.append(f"it waited for the connection to {replaced.answer}")
        replaced.replacedAt = self._service.told("upgrade done", begin)[0].time
        # The one too many is being terminated.
        self._service.until(lambda: self._alive() <= MOST, f"{MOST} generations")
        self.most = max(self.most, self._alive())
        self._connect()

    def _alive(self):
        return len(self._service.processes())

    def finish(self):
        """
        Check how each connection has ended, except the last one.
        """
        for connection, thread in zip(self._connections[:-1], self._threads, strict=False):
            thread.join(self._drainTimeout + PATIENCE)
            self._judge(connection, connection.ended - connection.replacedAt)
        self._service.until(lambda: self._alive() == 1, "one process")

    def _judge(self, connection, lived):
        pid, generation = connection.answer.pid, connection.answer.generation
        self._service.until(lambda: not isAlive(pid), f"the end of generation {generation}")
        log = self._service.output()
        reason = "unknown"
        if f"terminating process {pid}, " in log:
            reason = "one too many"
        elif re.search(rf" pid {pid}\] drained: .* 1 aborted at the deadline", log):
            reason = "its deadline"
        else:
            self.complaints.append(f"generation {generation}: ended after {lived:.1f} s")
        self.lives.append((generation, lived, reason))

    def close(self):
        """
        Close the last connection.
        """
        self._service.stop()
        for thread in self._threads:
            thread.join()
        for connection in self._connections:
            connection.close()


def tryOverlap(upgrades=10, slow=4, drainTimeout=DRAIN_TIMEOUT, slowly=SLOWLY):
    """
    Upgrade so often; the last upgrades come slowly.

    @return: the L{Chain}, and what clients saw.
    """
    port = freePort()
    options = ["--probation", "0", "--drain-timeout", str(drainTimeout)]
    endpoint = f"tableflip:tcp:{port}:{INTERFACE}"
    with (
        tempfile.TemporaryDirectory() as directory,
        served(directory, "answering.py", *options, ENDPOINTS=endpoint) as service,
    ):
        service.release(JOB)
        chain = Chain(service, port, drainTimeout)
        try:
            with Load(port) as load:
                for number in range(upgrades):
                    if number >= upgrades - slow:
                        time.sleep(slowly)
                    chain.upgrade()
                chain.finish()
            jobs = service.until(lambda: jobsOf(directory, upgrades + 1), "the last job")
        finally:
            chain.close()
    chain.complaints += [sample.error for sample in load.failures]
    chain.complaints += [line for line in jobs if "beside" in line]
    return chain, jobs, load.samples


def jobsOf(directory, last):
    """
    Return what the jobs have written, if the job of the last generation has.
    """
    path = Path(directory) / "jobs"
    lines = path.read_text().splitlines() if path.exists() else []
    return lines if any(line.startswith(f"generation {last} ") for line in lines) else None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--upgrades", type=int, default=10, help="how many (default: 10)")
    options = parser.parse_args()
    endProperly()
    chain, jobs, samples = tryOverlap(options.upgrades)
    for generation, lived, reason in chain.lives:
        print(f"a connection to generation {generation} has lived {lived:.1f} s: {reason}")
    print("\n".join(jobs))
    print(
        f"{options.upgrades} upgrades, the slowest in {chain.slowest:.1f} s; at most "
        f"{chain.most} generations at the same time; {len(samples):,} requests, "
        f"{len(chain.complaints)} failures"
    )
    print("".join(f"    {one}\n" for one in chain.complaints[:20]), end="")
    sys.exit(1 if chain.complaints else 0)


if __name__ == "__main__":
    main()
