"""
A service under C{tableflip run}, and load: whatever is upgraded and killed, nobody is
refused, and the keeper is as it was.

    python torture/keeper.py --upgrades 1000 --crashes 100

First upgrades and crashes, one after the other: the keeper has the descriptors, the memory
and the children afterwards that it had after the first tenth of them, and no zombie.  Then
the old process, the new one, or both are killed at each moment of the table of faults
(docs/faults.md): of an upgrade, a refusal, a probation, a withdrawal and a stop.  One
process serves in the end, which the keeper knows; or the service was told to stop, and all
has ended.
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

from faults import (
    ANOTHER,
    KILL,
    MOMENTS,
    NOT_THERE,
    OLD,
    PROBATION,
    REFUSAL,
    STOPPING,
    UPGRADE_TIMEOUTS,
    codeOf,
    expected,
)
from serving import APPS, INTERFACE, TWISTD, Load, descriptors, endProperly

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


ONCE = """
import os
if not os.path.exists("acted"):
    open("acted", "w").close()
    exec({!r})
"""
"""
A release that is bad once: not when the keeper starts it again.
"""


class Kept(Service):
    """
    A service below a keeper.

    @ivar keeper: the keeper's process id.
    """

    def __init__(self, directory, *options):
        """
        @param options: of C{twistd tableflip}.
        """
        self.port = freePort()
        self.keeper = 0
        self._mayCrash = 0.0
        self._release = Path(directory) / "release.py"
        self.deploy("")
        super().__init__(
            [
                *("env", "-C", directory, f"RELEASE_FILE={self._release}"),
                f"ENDPOINTS=tableflip:tcp:{self.port}:{INTERFACE}",
                *(TABLEFLIP, "run", "--", TWISTD, "--nodaemon", "--pidfile=", "tableflip"),
                *(*options, "--app", str(APPS / "answering.py")),
            ]
        )

    def deploy(self, code):
        """
        The next process that starts runs this.
        """
        self._release.write_text(f"name = 'one'\n{code}")

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

    def comeTo(self, moment):
        """
        Upgrade, and wait for the fault at this moment.
        """
        self.redeploy()
        if moment in ANOTHER:
            self.until(lambda: self._said("new starts"), "a new process")
            os.kill(self.keeper, signal.SIGHUP)
        self.until(lambda: self._said("fault"), f"the moment when {moment}")

    def _said(self, what):
        return any(event.what == what for event in self.events)

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

    def end(self):
        """
        Wait until the keeper has exited by itself, with everybody else.

        @return: the exit status.
        """
        self.until(lambda: self._process.poll() is not None, "the end of the keeper")
        self.until(lambda: not self.processes(), "the end of all")
        return self._process.returncode

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
def kept(*options):
    """
    A service below a keeper that runs, and is ended.
    """
    with tempfile.TemporaryDirectory() as directory:
        service = Kept(directory, *options)
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
    with kept("--probation", "0") as service, Load(service.port, CLIENTS) as load:
        began = time.time()
        for number in range(crashes):
            goOn(upgrades * (number + 1) // crashes - upgrades * number // crashes, service)
            if number == crashes // 10:
                # What it allocates but once, it has by now.
                before, first = service.footprint()
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
    Kill somebody at a moment of a hand-over.

    @return: what is not as it should be.
    """
    if expected(moment, KILL, victims) == NOT_THERE:
        return []
    times = ("--probation", str(PROBATION), "--upgrade-timeout", str(UPGRADE_TIMEOUTS[KILL]))
    with kept(*times) as service, Load(service.port, CLIENTS) as load:
        code = codeOf(moment)
        service.deploy(ONCE.format(code) if moment in REFUSAL else code)
        service.fail(Fault(moment, victims))
        service.comeTo(moment)
        if isToStop(moment, victims):
            status = service.end()
            return [f"the keeper exits with status {status}"] if status else []
        service.settle()
        answers = len(load.answers)
        service.until(lambda: len(load.answers) > answers, "an answer")
        # Another upgrade may have been asked for, and have begun by then.
        service.settle()
    if moment in STOPPING and expected(moment, KILL, victims) != OLD:
        # It was told to stop, and closed its sockets, before it was killed.
        return []
    return [sample.error for sample in load.failures if "Refused" in sample.error]


def isToStop(moment, victims):
    """
    Say whether the service stops, as it was told to: who is killed before it has done
    that is started again.
    """
    return moment in STOPPING and "new" not in victims


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
    parser.add_argument("--crashes", type=int, default=30, help="12 s each; at least 1")
    parser.add_argument("--moments", type=int, default=len(MOMENTS), help="of all")
    options = parser.parse_args()
    endProperly()
    complaints, samples, seconds = endure(options.upgrades, options.crashes)
    failed = sum(1 for sample in samples if sample.error)
    print(
        f"{options.upgrades} upgrades and {options.crashes} crashes in {seconds:.0f} s: "
        f"{len(samples):,} requests, {failed} lost with a killed process",
        flush=True,
    )
    count, more = tryMoments(MOMENTS[: options.moments])
    print(f"killed at {count} moments: one process serves after each, unless told to stop")
    complaints += more
    print("\n".join(complaints) or "all is as it should be")
    sys.exit(1 if complaints else 0)


if __name__ == "__main__":
    main()
