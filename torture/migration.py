"""
Upgrades of a service whose connections migrate, under the load of clients of all protocols
that never connect again and check every byte.

    python torture/migration.py             # ten upgrades of 2,600 connections

Everybody is served by the first generation and by the last one, on the same connection.  A
control shows that the clients can tell: there each process forgets what the one before had
received and not acted upon.
"""

import argparse
import json
import re
import resource
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from serving import APPS, endProperly
from strict import Compressed, Events, Requests, WebSocket

from txtableflip.testing._service import Service, TortureError, freePort
from txtableflip.testing._strict import PATIENCE, Member, Strict

LEAST = 5
"""
How many clients of a protocol there are at least.
"""

CONTROL = 20
"""
The same in the control, where some of them are to be in the midst of a word.
"""

FORGETFUL = """
from txtableflip._migration.moving import Held

# What was received, and not acted upon; of events, how many there were.
Held.receive = lambda held: None
News.left = lambda news, stream: b"0"
"""

MIGRATED = re.compile(
    r"migrated: (\d+) connections continue in the new process; "
    r"(\d+) were returned, and (\d+) never left.*"
)


@dataclass(frozen=True)
class Protocol:
    """
    What is spoken to a listener of C{tests/apps/migrating.py}.

    @ivar connections: how many clients there are.
    @ivar think: how long each of them waits between two halves of what it says, in seconds
        at most.
    """

    title: str
    kind: type
    connections: int
    think: float
    room: int = 1


PROTOCOLS = {
    "rooms": Protocol("chat, in rooms of 20, together", Member, 1000, 30.0, 20),
    "lines": Protocol("lines, in batches", Member, 1000, 6.0),
    "requests": Protocol("HTTP/1.1 of twisted.web", Requests, 200, 3.0),
    "events": Protocol("events of EventStream", Events, 200, 1.0),
    "websocket": Protocol("WebSocket of twisted.web", WebSocket, 100, 2.0),
    "autobahn": Protocol("autobahn, compressed", Compressed, 100, 2.0),
}


@dataclass(frozen=True)
class Row:
    """
    What the clients of a protocol have seen.

    @ivar lines: how many lines, answers, events or messages they have got.
    @ivar migrated: how often their connections have.
    """

    title: str
    connections: int
    lines: int
    migrated: int
    errors: list


@dataclass
class Result:
    """
    What was seen in all.

    @ivar returned: how many connections were returned.
    @ivar stayed: how many have never left.
    """

    rows: list = field(default_factory=list)
    complaints: list = field(default_factory=list)
    migrated: int = 0
    returned: int = 0
    stayed: int = 0


def spoken():
    """
    Return the names of the protocols that this Twisted has.
    """
    names = list(PROTOCOLS)
    if find_spec("twisted.web.websocket") is None:
        names.remove("websocket")
    return names


@contextmanager
def serving(ports, code):
    """
    A service that runs, and is ended.
    """
    with tempfile.TemporaryDirectory() as directory:
        release = Path(directory) / "release.py"
        release.write_text(code)
        variables = [f"RELEASE_FILE={release}", f"PORTS={json.dumps(ports)}"]
        app = str(APPS / "migrating.py")
        service = Service(["env", "-C", directory, *variables, sys.executable, app])
        try:
            service.start()
            yield service
        finally:
            service.stop()
            service.discard()


class Crowd:
    """
    Clients of all protocols.
    """

    def __init__(self, ports, factor, least, stack):
        self._all = {}
        for name, port in ports.items():
            of = PROTOCOLS[name]
            count = max(least, round(of.connections * factor))
            think = of.think * min(1.0, max(0.1, factor))
            address = ("127.0.0.1", port)
            strict = Strict(address, count, of.room, think=think, kind=of.kind)
            self._all[name] = stack.enter_context(strict)

    def haveHeard(self, generation):
        """
        Return whether all whose connections live have heard a generation.
        """
        return all(each.haveHeard(generation) for each in self._all.values())

    def haveFailed(self):
        """
        Return whether there are errors in each protocol.
        """
        return all(each.failures for each in self._all.values())

    def finish(self, patience):
        """
        Have everybody say nothing new, and get all there is to get.
        """
        for each in self._all.values():
            each.finish(patience)

    def rows(self, last):
        """
        Return what they have seen.
        """
        for name, each in self._all.items():
            # One that never connects again has migrated once for each generation.
            migrated = sum(max(heard) - 1 for heard in each.generations if heard)
            errors = list(each.failures)
            if not each.haveHeard(1) or not each.haveHeard(last):
                errors.append("not all have heard the first and the last generation")
            title = PROTOCOLS[name].title
            yield Row(title, len(each.generations), each.lines, migrated, errors)


def tryMigration(upgrades=10, factor=1.0, least=LEAST, *, isControl=False):
    """
    Upgrade so often.

    @param factor: with which part of the connections.
    @param least: how many clients each protocol has at least.
    @param isControl: whether the processes are to forget; then there should be errors of
        each protocol.
    @return: the L{Result}.
    """
    ports = {name: freePort() for name in spoken()}
    result, last = Result(), upgrades + 1
    code, patience = (FORGETFUL, 1) if isControl else ("", PATIENCE)
    with serving(ports, code) as service, ExitStack() as stack:
        crowd = Crowd(ports, factor, least, stack)
        service.until(lambda: crowd.haveHeard(1), "an answer to each client")
        for _ in range(upgrades):
            outcome = service.upgrade()
            if outcome.what != "serves":
                result.complaints.append(f"an upgrade failed: {outcome.why}")
            if not isControl:
                # To a process that exits, nobody who waits for the end of a message migrates.
                service.until(lambda: len(service.processes()) == 1, "one process")
        try:
            if isControl:
                service.until(crowd.haveFailed, "errors of each protocol")
            else:
                service.until(lambda: crowd.haveHeard(last), "the last generation")
        except TortureError as error:
            result.complaints.append(str(error))
        crowd.finish(patience)
        result.rows += crowd.rows(last)
        readLog(service.output(), result)
    return result


def tryControl():
    """
    Have the processes forget.

    @return: the L{Result}, and the protocols of which it has no errors.
    """
    control = tryMigration(upgrades=2, factor=0, least=CONTROL, isControl=True)
    return control, [row.title for row in control.rows if not row.errors]


def readLog(log, result):
    """
    Add what the processes have said of their connections.
    """
    for line in MIGRATED.finditer(log):
        migrated, returned, stayed = map(int, line.groups())
        result.migrated += migrated
        result.returned += returned
        result.stayed += stayed
        if returned or stayed:
            result.complaints.append(line[0])
    seen = sum(row.migrated for row in result.rows)
    # Who has failed has not seen what became of its connection.
    if seen != result.migrated and not any(row.errors for row in result.rows):
        result.complaints.append(f"the log has {result.migrated} migrations, clients {seen}")
    result.complaints += re.findall("Traceback.*", log)


def show(result, most):
    """
    Print a table, and what is wrong.

    @param most: how many errors of a protocol to print.
    """
    print(f"{'protocol':32}{'connections':>12}{'answers':>10}{'migrated':>10}{'errors':>8}")
    for row in result.rows:
        print(
            f"{row.title:32}{row.connections:12,}{row.lines:10,}{row.migrated:10,}"
            f"{len(row.errors):8,}"
        )
    print(
        f"{result.migrated:,} migrations, {result.returned:,} were returned, "
        f"{result.stayed:,} never left; {len(result.complaints):,} complaints"
    )
    errors = [f"{row.title}: {error}" for row in result.rows for error in row.errors[:most]]
    print("".join(f"    {one}\n" for one in result.complaints[:most] + errors), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--upgrades", type=int, default=10, help="how many (default: 10)")
    parser.add_argument(
        "--connections", type=float, default=1.0, help="which part of 2,600 (default: 1.0)"
    )
    options = parser.parse_args()
    endProperly()
    highest = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(highest, 20_000), highest))
    result = tryMigration(options.upgrades, options.connections)
    print(f"{options.upgrades} upgrades")
    show(result, 5)
    control, blind = tryControl()
    print("A control, whose processes forget:")
    show(control, 1)
    print("".join(f"no error is seen in {title}\n" for title in blind), end="")
    isGood = not (result.complaints or any(row.errors for row in result.rows) or blind)
    sys.exit(0 if isGood else 1)


if __name__ == "__main__":
    main()
