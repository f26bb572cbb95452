"""
Services that listen some time after the reactor runs: what clients had, they have.

    python torture/late.py                  # 24 services, ten upgrades of each

Each is upgraded under load, and then once more with its database away, which fails.
"""

import argparse
import itertools
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from serving import INTERFACE, Load, Staying, endProperly, served

from txtableflip.testing import TortureError
from txtableflip.testing._service import freePort

DELAYS = (15, 5, 0.5)
WAYS = {"strings": ("tableflip:", []), "--inherit-all": ("", ["--inherit-all"])}
PATIENTLY = 10.0
"""
How long a process waits for a listener that was not announced, in seconds.
"""

AWAY = "isAwaited = True\ndef database(): raise OSError('the database is away')\n"
AFTERWARDS = 0.5
"""
For how long clients ask the old process after a failed upgrade, in seconds.
"""

TOGETHER = 8
"""
How many services are tried at the same time: most of them wait.
"""


@dataclass(frozen=True)
class Cell:
    """
    A service.

    @ivar delay: how long after the start of the reactor it listens, in seconds.
    @ivar way: how its endpoints are inherited.
    @ivar ofTwo: whether another endpoint listens at once.
    @ivar idle: whether a client connects in each generation, and stays connected.
    """

    delay: float
    way: str
    ofTwo: bool
    idle: bool

    def __str__(self):
        return (
            f"{self.delay:>4g} s late, {'one of two' if self.ofTwo else 'the only one':12}, "
            f"{self.way:13}, {'idle clients' if self.idle else 'no idle clients':15}"
        )


CELLS = [
    Cell(*values) for values in itertools.product(DELAYS, WAYS, (False, True), (False, True))
]


class Late:
    """
    A service that is upgraded, and what is wrong with that.
    """

    def __init__(self, cell):
        self.cell = cell
        self.ports = [freePort() for _ in range(1 + cell.ofTwo)]
        self.complaints = []
        self.reason = ""
        self._staying = []

    def go(self, directory, upgrades):
        """
        Upgrade under load so often, and once with the database away.

        @return: how many requests there were.
        """
        with served(directory, "late.py", *self._options(), **self._environment()) as service:
            listening = "listening on"
            service.until(lambda: service.output().count(listening) == len(self.ports), "both")
            loads = [Load(port, pause=0.03) for port in self.ports]
            with ExitStack() as stack:
                for each in loads:
                    stack.enter_context(each)
                try:
                    self._upgradeAll(service, upgrades)
                except TortureError as error:
                    self.complaints.append(str(error))
            for each in self._staying:
                each.close()
        samples = [sample for load in loads for sample in load.samples]
        self.complaints += [sample.error for sample in samples if sample.error]
        return len(samples)

    def _options(self):
        return [*WAYS[self.cell.way][1], "--probation", "0"]

    def _environment(self):
        prefix = WAYS[self.cell.way][0]
        listeners = {
            name: f"{prefix}tcp:{port}:{INTERFACE}"
            for name, port in zip(("LATE", "EARLY"), self.ports, strict=False)
        }
        awaited = {"UNTIL": "1"} if self.cell.delay > PATIENTLY else {}
        return {"DELAY": self.cell.delay, **listeners, **awaited}

    def _upgradeAll(self, service, upgrades):
        for _ in range(upgrades):
            self._stay()
            outcome = service.upgrade()
            if outcome.what != "serves":
                self.complaints.append(f"an upgrade failed: {outcome.why}")
        service.release(AWAY)
        outcome = service.upgrade()
        self.reason = outcome.why.partition(" before it had")[0]
        if outcome.what == "serves" or "the database is away" not in outcome.why:
            self.complaints.append(f"without its database: {outcome}")
        time.sleep(AFTERWARDS)

    def _stay(self):
        if self.cell.idle:
            self._staying.append(Staying(self.ports[0]))


@dataclass(frozen=True)
class Result:
    """
    The result of a service.

    @ivar reason: why the upgrade failed that was meant to.
    @ivar complaints: what was not as it should be.
    """

    requests: int
    seconds: float
    reason: str
    complaints: list


def tryCell(cell, upgrades=10):
    """
    Try one service.
    """
    late, begin = Late(cell), time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        requests = late.go(directory, upgrades)
    return Result(requests, time.monotonic() - begin, late.reason, late.complaints)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--upgrades", type=int, default=10, help="of each (default: 10)")
    options = parser.parse_args()
    endProperly()
    complaints = []
    with ThreadPoolExecutor(TOGETHER) as pool:
        results = pool.map(lambda cell: tryCell(cell, options.upgrades), CELLS)
        for cell, result in zip(CELLS, results, strict=True):
            complaints += result.complaints
            print(
                f"{cell}: {options.upgrades} upgrades in {result.seconds:.0f} s, "
                f"{result.requests:,} requests, {len(result.complaints)} failures; "
                f"without its database: {result.reason}",
                flush=True,
            )
            print("".join(f"    {one}\n" for one in result.complaints[:5]), end="")
    sys.exit(1 if complaints else 0)


if __name__ == "__main__":
    main()
