"""
Releases that are bad when they have taken over: they exit, are killed, hang, or answer
their health check with an error, 0 to 4 s after they took over, while eight clients ask
without a pause.

    python torture/badreleases.py           # ten times each

Only requests fail that the bad one had itself accepted, the one before serves again,
and nothing of it is left; each time the next good release goes in.
"""

import argparse
import os
import select
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from serving import INTERFACE, Load, endProperly, served

from txtableflip.testing import TortureError
from txtableflip.testing._service import freePort

CLIENTS = 8
WITHIN = 4.0
"""
How long after taking over a release goes bad at the latest, in seconds.
"""

BAD = """
import os, time
from twisted.internet import reactor
from txtableflip import currentUpgrader
name = 'bad'
def unwell():
    global name
    name = 'unwell'
currentUpgrader().whenServing().addCallback(lambda _: reactor.callLater({after}, {act}))
"""
GOOD = """
from txtableflip import currentUpgrader
name = 'good'
currentUpgrader().whenServing().addCallback(lambda _: currentUpgrader().confirm())
"""
WELL = """
import socket, sys
try:
    sock = socket.create_connection(("127.0.0.1", {port}), 1)
    sock.sendall(b"well?\\n")
    answer = sock.makefile().readline()
except OSError as error:
    sys.exit(str(error))
sys.exit("it says " + answer.strip() if "unwell" in answer else 0)
"""
ACTS = {
    "exits": ("os._exit, 3", "exited with status 3"),
    "is killed": ("os.kill, os.getpid(), 9", "was killed by SIGKILL"),
    "hangs": ("time.sleep, 600", "failed its health check"),
    "is not well": ("unwell", "failed its health check: status 1: it says"),
}
"""
What a release does, and what the operator is told.
"""

STANDS_BY = ("is not well",)
"""
Those that are still running when they are rolled back.
"""


@dataclass
class Round:
    """
    One bad release.

    @ivar requests: how many there were.
    @ivar lost: how many of those failed that it had accepted itself.
    @ivar away: how long after its death, or after it was rolled back, the one before
        answered for the first time, in seconds.
    @ivar told: what the operator was told.
    @ivar complaints: what was not as it should be.
    """

    requests: int = 0
    lost: int = 0
    away: float = 0.0
    told: str = ""
    complaints: list = field(default_factory=list)


class Trial:
    """
    A service that gets bad releases and good ones in turn.
    """

    def __init__(self, service, port, act):
        self._service = service
        self._port = port
        self._act, self._reason = ACTS[act]
        self._standsBy = act in STANDS_BY
        self._first = self._settled()

    def _settled(self):
        """
        Return the footprint of the process that serves when it is alone.
        """
        service = self._service
        service.until(lambda: service.footprint()[1] == [], "one process")
        return service.footprint()

    def go(self, after):
        """
        Deploy one that goes bad so many seconds after it took over, and a good one.
        """
        service, found = self._service, Round()
        before = self._settled()
        service.release(BAD.format(after=after, act=self._act))
        begin, old = len(service.events), service.pid
        with Load(self._port, CLIENTS, pause=0) as load, ThreadPoolExecutor(1) as pool:
            service.redeploy()
            (new, *_) = service.until(lambda: service.told("new starts", begin), "a start")
            end = pool.submit(untilItEnds, os.pidfd_open(new.pid))
            failed = service.until(lambda: service.told("upgrade failed", begin), "a failure")
            found.told = failed[0].why.partition(" Its last output")[0]
            death = self._takenBack(begin) if self._standsBy else end.result()
            answered = service.until(lambda: answerTo(load, old, death), "an answer")
            found.away = answered - death
        self._judge(found, load, death)
        self._compare(found, before, "after the bad release")
        self._goodOne(found)
        return found

    def _takenBack(self, begin):
        return self._service.told("old says Withdraw", begin)[0].time

    def _judge(self, found, load, death):
        failures = load.failures
        found.requests, found.lost = len(load.samples), len(failures)
        wrong = [one for one in failures if one.connected > death or "efused" in one.error]
        # Each client has one connection at a time, and a process that is rolled back finishes.
        if self._standsBy or len(failures) > CLIENTS:
            wrong = failures
        found.complaints += [one.error for one in wrong]
        if self._reason not in found.told:
            found.complaints.append(f"the operator is told: {found.told}")

    def _compare(self, found, wanted, when):
        service = self._service
        try:
            service.until(lambda: service.footprint() == wanted, f"what was there, {when}")
        except TortureError as error:
            found.complaints.append(f"{error}; {wanted} became {service.footprint()}")

    def _goodOne(self, found):
        self._service.release(GOOD)
        outcome = self._service.upgrade()
        if outcome.what != "serves":
            found.complaints.append(f"a good release: {outcome.why}")
        self._compare(found, self._first, "in the good release")


def answerTo(load, pid, since):
    """
    Return when a process first answered after that time, if it has.
    """
    times = [when for when, who in list(load.answers) if who == pid and when > since]
    return min(times, default=None)


def untilItEnds(pidfd):
    """
    Wait until a process exits, and return when that was.
    """
    select.select([pidfd], [], [])
    ended = time.time()
    os.close(pidfd)
    return ended


def tryAct(act, rounds=10, within=WITHIN):
    """
    Deploy so many releases that go bad in one way, each later than the one before.

    @return: the L{Round}s.
    """
    port = freePort()
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "well.py").write_text(WELL.format(port=port))
        options = ["--probation", "10", "--health-check", f"{sys.executable} well.py"]
        endpoint = f"tableflip:tcp:{port}:{INTERFACE}"
        with served(directory, "answering.py", *options, ENDPOINTS=endpoint) as service:
            trial = Trial(service, port, act)
            step = within / max(1, rounds - 1)
            return [trial.go(number * step) for number in range(rounds)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--rounds", type=int, default=10, help="of each (default: 10)")
    options = parser.parse_args()
    endProperly()
    complaints = []
    for act in ACTS:
        rounds = tryAct(act, options.rounds)
        complaints += [one for each in rounds for one in each.complaints]
        away = sorted(each.away for each in rounds)
        print(
            f"{act:11}: {len(rounds)} bad releases, {len(rounds)} good ones, "
            f"{sum(each.requests for each in rounds):,} requests, "
            f"{sum(each.lost for each in rounds)} lost that the bad ones had accepted; "
            f"first answer {away[0]:.3f} to {away[-1]:.3f} s after the end; "
            f"told: {rounds[-1].told}",
            flush=True,
        )
    print("\n".join(complaints) or "nothing else failed, and nothing was left")
    sys.exit(1 if complaints else 0)


if __name__ == "__main__":
    main()
