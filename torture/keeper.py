"""
A service under C{tableflip run}, and load: whatever is upgraded and killed, nobody is
refused, and the keeper is as it was.

    python torture/keeper.py --upgrades 1000 --crashes 100

First upgrades and crashes, one after the other: the keeper has the descriptors, the memory
and the children afterwards that it had before, and no zombie.  Then the old process, the
new one, or both are killed at each moment of an upgrade: one process serves in the end,
which the keeper knows.
"""

import argparse
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from faults import KILL, NOT_THERE, UPGRADE, expected
from serving import APPS, INTERFACE, TWISTD, Load, descriptors

from txtableflip._control.client import Patience, ask
from txtableflip._control.requests import Request
from txtableflip.errors import NoAnswer, NobodyThere
from txtableflip.keeper import Restarts
from txtableflip.testing import TortureError
from txtableflip.testing._service import Fault, Service, freePort, zombiesOf

TABLEFLIP = shutil.which("tableflip", path=os.path.dirname(sys.executable))
VICTIMS = [("old",), ("new",), ("old", "new")]
CLIENTS = 2
SETTLED = {"state": "Serving", "isReady": True, "older": [], "successor": None, "before": None}
STORED = (3, 4)
"""
What the keeper says of itself in the end.  Stored are a socket, the counters, and the list;
and once an upgrade has failed, the process itself, which the next one is to know.
"""

MEMORY = 64
"""
By how many KiB the keeper's memory may differ: what Python's own allocator does.
"""


class Kept(Service):
    """
    A service below a keeper.

    @ivar keeper: the keeper's process id.
    """

    def __init__(self, directory):
        self.port = freePort()
        self.keeper = 0
        self._mayCrash = 0.0
        release = Path(directory) / "release.py"
        release.write_text("name = 'one'\n")
        super().__init__(
            [
                *("env", "-C", directory, f"RELEASE_FILE={release}"),
                f"ENDPOINTS=tableflip:tcp:{self.port}:{INTERFACE}",
                *(TABLEFLIP, "run", "--", TWISTD, "--nodaemon", "--pidfile=", "tableflip"),
                *("--probation", "0", "--app", str(APPS / "answering.py")),
            ]
        )

    def start(self):
        super().start()
        self.keeper = self._process.pid
        self.settle()

    def redeploy(self):
        """
        Upgrade by the keeper's process id.
        """
        self.read()
        os.kill(self.keeper, signal.SIGHUP)

    def crash(self):
        """
        Kill who serves, and wait until the next one does.
        """
        # The keeper restarts so often, and not oftener.
        time.sleep(max(0.0, self._mayCrash - time.monotonic()))
        self._mayCrash = time.monotonic() + Restarts.WITHIN / Restarts.LIMIT + 1
        old = self.pid
        os.kill(old, signal.SIGKILL)
        self.until(lambda: self.pid != old, f"who serves after process {old}")
        self.settle()

    def settle(self):
        """
        Wait until nobody lives but the keeper and who serves, who has stored what it has.
        """
        self.until(self._isSettled, "one process that serves, which the keeper knows")

    def _isSettled(self):
        if self._process.poll() is not None:
            raise TortureError(self._withOutput("the keeper has exited"))
        kept = self.status()
        isAlone = self.processes() == sorted({self.keeper, self.pid})
        isAll = kept.pop("stored", None) in STORED
        return isAlone and isAll and kept == {"main": self.pid, **SETTLED}

    def status(self):
        """
        Return what the keeper says of itself, but for how often it has restarted.
        """
        try:
            told = ask(self.keeper, Request("status"), Patience.of(None), print)
        except (NobodyThere, NoAnswer):
            return {}
        kept = told["status"]["keeper"]
        return {name: value for name, value in kept.items() if name != "restarts"}

    def footprint(self):
        """
        Return what the keeper has, but for its memory, and that, in KiB.
        """
        children = Path(f"/proc/{self.keeper}/task/{self.keeper}/children").read_text().split()
        memory = Path(f"/proc/{self.keeper}/smaps_rollup").read_text()
        private = sum(map(int, re.findall(r"^Private_\w+:\s+(\d+)", memory, re.MULTILINE)))
        return {
            "descriptors": descriptors(self.keeper),
            "children": len(children),
            "zombies": len(zombiesOf([self.keeper])),
        }, private


@contextmanager
def kept():
    """
    A service below a keeper that runs, and is ended.
    """
    with tempfile.TemporaryDirectory() as directory:
        service = Kept(directory)
        try:
            service.start()
            yield service
        finally:
            service.stop()
            service.discard()


def endure(upgrades, crashes):
    """
    Upgrade and crash under load, and have the same keeper in the end.

    @return: what is not as it should be, and what clients saw.
    """
    with kept() as service, Load(service.port, CLIENTS) as load:
        goOn(1, service)
        (before, first), began = service.footprint(), time.time()
        for number in range(crashes):
            goOn(upgrades * (number + 1) // crashes - upgrades * number // crashes, service)
        after, last = service.footprint()
        complaints = [f"{before} became {after}"] if before != after else []
        if last - first > MEMORY:
            complaints.append(f"{first} KiB of memory became {last}")
        print(f"the keeper's private memory: {first} KiB, and in the end {last} KiB")
    failures = [sample.error for sample in load.failures]
    lost = [error for error in failures if "Refused" not in error]
    complaints += [error for error in failures if "Refused" in error]
    # Those that the killed process had accepted.
    if len(lost) > CLIENTS * (crashes + 1):
        complaints += lost
    return complaints, load.samples, time.time() - began


def goOn(upgrades, service):
    """
    Upgrade so often, and crash once.
    """
    for _ in range(upgrades):
        event = service.upgrade()
        if event.what != "serves":
            raise TortureError(f"an upgrade failed: {event.why}")
        service.settle()
    service.crash()


def tryMoment(moment, victims):
    """
    Kill somebody at a moment of an upgrade.

    @return: what is not as it should be.
    """
    if expected(moment, KILL, victims) == NOT_THERE:
        return []
    with kept() as service, Load(service.port, CLIENTS) as load:
        service.fail(Fault(moment, victims))
        service.redeploy()
        service.until(
            lambda: any(event.what == "fault" for event in service.events),
            f"the moment when {moment}",
        )
        service.settle()
        answers = len(load.answers)
        service.until(lambda: len(load.answers) > answers, "an answer")
    return [sample.error for sample in load.failures if "Refused" in sample.error]


def tryMoments(moments):
    """
    @return: how many there were, and what is not as it should be.
    """
    complaints, count = [], 0
    for moment in moments:
        for victims in VICTIMS:
            count += 1
            try:
                found = tryMoment(moment, victims)
            except TortureError as error:
                found = [str(error)]
            where = f"{moment}, {' and '.join(victims)} killed"
            complaints += [f"{where}: {complaint}" for complaint in found]
    return count, complaints


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--upgrades", type=int, default=200)
    parser.add_argument("--crashes", type=int, default=30, help="12 s each, at least")
    parser.add_argument("--moments", type=int, default=len(UPGRADE), help="of an upgrade")
    options = parser.parse_args()
    complaints, samples, seconds = endure(options.upgrades, options.crashes)
    failed = sum(1 for sample in samples if sample.error)
    print(
        f"{options.upgrades} upgrades and {options.crashes} crashes in {seconds:.0f} s: "
        f"{len(samples):,} requests, {failed} lost with a killed process",
        flush=True,
    )
    count, more = tryMoments(UPGRADE[: options.moments])
    print(f"killed at {count} moments of an upgrade: one process serves after each")
    complaints += more
    print("\n".join(complaints) or "all is as it should be")
    sys.exit(1 if complaints else 0)


if __name__ == "__main__":
    main()
