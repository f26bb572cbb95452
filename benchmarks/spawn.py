"""
For how long the start of a child keeps the reactor from all else, with few and with many
descriptors open.

    python benchmarks/spawn.py

A process asks for upgrades to a command that exits at once, in turns with few and with many
descriptors open, as in a server with as many connections.  We measure how long the call of
upgrade() takes, and beside it how long Twisted's own reactor.spawnProcess takes, which
lists all that is open; so what counts is the ratios, round by round.
"""

import os
import sys
import time

from measuring import DEADLINE, allowDescriptors, commandLine, endProperly, show, showHead
from twisted.internet import reactor, task
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.protocol import ProcessProtocol

from txtableflip import UpgradeFailed, Upgrader

TRUE = [sys.executable, "-S", "-c", ""]
FEW = 4


class Ended(ProcessProtocol):
    def __init__(self):
        self.end = Deferred()

    def processEnded(self, reason):
        reason.trap(ProcessDone)
        self.end.callback(None)


async def timeUpgrade(upgrader):
    """
    Ask for an upgrade that fails, and return how many milliseconds the call took.
    """
    began = time.perf_counter()
    asked = upgrader.upgrade()
    taken = time.perf_counter() - began
    try:
        await asked.addTimeout(DEADLINE, reactor)
    except UpgradeFailed:
        return taken * 1000
    sys.exit("the upgrade should have failed")


async def timeTwisted():
    """
    Start the same command as Twisted does, and return how many milliseconds that took.
    """
    ended = Ended()
    began = time.perf_counter()
    reactor.spawnProcess(ended, TRUE[0], TRUE, {}, childFDs={0: 0, 1: 1, 2: 2})
    taken = time.perf_counter() - began
    await ended.end.addTimeout(DEADLINE, reactor)
    return taken * 1000


async def measure(upgrader, count):
    """
    Return both, with so many descriptors open.
    """
    opened = [os.dup(2) for _ in range(count)]
    for fileno in opened:
        os.set_inheritable(fileno, False)
    try:
        return await timeUpgrade(upgrader), await timeTwisted()
    finally:
        for fileno in opened:
            os.close(fileno)


async def run(reactor, rounds, count):
    upgrader = Upgrader(reactor, command=TRUE)
    await upgrader.ready()
    # Before the reactor runs, upgrade() would only be noted.
    await task.deferLater(reactor, 0)
    few, many, twisted = [], [], []
    for _ in range(rounds):
        few.append((await measure(upgrader, FEW))[0])
        ours, theirs = await measure(upgrader, count)
        many.append(ours)
        twisted.append(theirs)
    showHead(f"{rounds} rounds")
    show(f"upgrade(), {FEW} descriptors open", few, "ms")
    show(f"upgrade(), {count} descriptors open", many, "ms")
    show(f"reactor.spawnProcess, {count} descriptors open", twisted, "ms")
    pairs = zip(many, few, strict=True)
    show("many / few, round by round", [ours / without for ours, without in pairs])
    pairs = zip(twisted, many, strict=True)
    show("reactor.spawnProcess / upgrade()", [theirs / ours for theirs, ours in pairs])


def main():
    parser = commandLine(__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="upgrades with few and many")
    parser.add_argument("--descriptors", type=int, default=19_000, help="how many are many")
    options = parser.parse_args()
    endProperly()
    allowDescriptors()
    task.react(
        lambda reactor: Deferred.fromCoroutine(
            run(reactor, options.rounds, options.descriptors)
        )
    )


if __name__ == "__main__":
    main()
