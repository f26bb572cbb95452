"""
What is measured: for Prometheus, and by its rules; and counters that never go back.
"""

import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections import Counter

import pytest
from processes import APPS, DEADLINE, Clients, ask, connect, until
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.testing import MemoryReactorClock

from txtableflip import UpgradeFailed, upgrader
from txtableflip._control.metrics import exposition
from txtableflip._counters import _CELLS, _ROWS, KIND, NAMES, Counters
from txtableflip._handover.manifest import UnknownEntry
from txtableflip._journal import DrainCancelled, Drained, Failed, Final, Journal, Migrated
from txtableflip._sockets.inventory import Descriptor, Inventory
from txtableflip.prometheus import UpgradesCollector
from txtableflip.testing import FakeUpgrader
from txtableflip.testing._service import freePort

TABLEFLIP = shutil.which("tableflip", path=os.path.dirname(sys.executable))
PROMTOOL = shutil.which("promtool")


@pytest.fixture(autouse=True)
def journal(monkeypatch):
    """
    Who listens now, and nobody else after the test.
    """
    monkeypatch.setattr(Journal, "listeners", list(Journal.listeners))


# -- counters


def handedOn(inventory):
    """
    Return what a child inherits of this.
    """
    child = Inventory()
    child.inherit(inventory.entries(), [os.dup(each) for each in inventory.descriptors()])
    return child


@pytest.fixture
def inventories():
    """
    Two generations of inventories, of which the first has counted already.
    """
    first = Inventory()
    counters = Counters(first)
    counters.begin()
    counters.end()
    second = handedOn(first)
    yield first, second
    for inventory in (first, second):
        for _, handle in inventory.passedOn:
            handle.close()


def test_what_is_counted_has_its_place_for_ever():
    """
    A row is read by any release: there may be more names, behind these.
    """
    first = ("accepted", "drained", "aborted", "done", "failed", "rolledBack", "stopped")
    assert NAMES[:7] == first
    assert NAMES[7:10] == ("migrated", "returned", "stayed")
    assert (_ROWS, _CELLS, KIND) == (64, 64, "counters")


def test_what_one_generation_counts_all_know(inventories):
    """
    Also what it had counted before it knew of the others.
    """
    older, newer = map(Counters, inventories)
    newer.add("accepted", 3)
    assert newer.totals()["accepted"] == 3
    for each in (older, newer):
        each.begin()
    older.add("accepted")
    newer.begin()
    assert older.totals() == newer.totals() == {**dict.fromkeys(NAMES, 0), "accepted": 4}


def test_what_happens_is_counted(inventories):
    """
    Each outcome of an upgrade, what drained, and what migrated or did not.
    """
    counters = Counters(inventories[0])
    counters.begin()
    journal = Journal()
    journal.tell(Final)
    for outcome in ("failed", "rolledBack", "rolledBack", "stopped"):
        journal.tell(Failed, reason="", outcome=outcome)
    journal.tell(Drained, finished=7, told=5, cut=2)
    journal.tell(DrainCancelled, connections=9, told=5, cut=1)
    journal.tell(Migrated, connections=30, returned=20, stayed=10, why="")
    counters.end()
    journal.tell(Final)
    assert list(counters.totals().values()) == [0, 7, 3, 1, 1, 2, 1, 30, 20, 10]


@pytest.mark.process
def test_processes_count_in_rows_of_their_own_and_go_on_in_those_of_the_dead(inventories):
    """
    However many there are, one after the other or at once, and however they end.
    """
    script = (
        "import os, sys\n"
        "from txtableflip._counters import KIND, Counters\n"
        "from txtableflip._handover.manifest import UnknownEntry\n"
        "from txtableflip._sockets.inventory import Descriptor, Inventory\n"
        "inventory = Inventory()\n"
        "entry = UnknownEntry(key={'kind': KIND})\n"
        "inventory.passedOn.append((entry, Descriptor(int(sys.argv[1]))))\n"
        "counters = Counters(inventory)\n"
        "counters.begin()\n"
        "for _ in range(20000): counters.add('accepted')\n"
        "print('counted', flush=True)\n"
        "sys.stdin.read()\n"
    )
    (fileno,) = inventories[0].descriptors()
    os.set_inheritable(fileno, True)
    counters = Counters(inventories[0])
    counters.begin()
    # As of a copy that has waited for the service manager.
    os.close(os.dup(fileno))
    for goal in (80000, 160000):
        running = [
            subprocess.Popen(
                [sys.executable, "-c", script, str(fileno)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[fileno],
            )
            for _ in range(4)
        ]
        for each in running:
            assert each.stdout.readline() == b"counted\n"
        assert counters.totals()["accepted"] == goal
        for each in running:
            each.kill()
            each.communicate(timeout=DEADLINE)
    used = [row for row in range(_ROWS) if counters._all[row * _CELLS]]
    # This one has the first.
    assert used == [1, 2, 3, 4]


def test_where_there_is_no_file_the_process_counts_for_itself(monkeypatch):
    """
    It is no reason not to serve: and the log says so.
    """
    monkeypatch.delattr(os, "memfd_create")
    inventory = Inventory()
    counters = Counters(inventory)
    counters.add("done")
    counters.begin()
    counters.add("done")
    assert counters.totals()["done"] == 2
    assert inventory.entries() == ()


def test_a_file_of_another_length_is_not_counted_in():
    """
    To look behind its end would be the end of the process.
    """
    with open("/dev/null") as empty:
        inventory = Inventory()
        handle = Descriptor(os.dup(empty.fileno()))
        inventory.passedOn.append((UnknownEntry(key={"kind": KIND}), handle))
        counters = Counters(inventory)
        counters.begin()
        counters.add("done")
        handle.close()
    assert counters.totals()["done"] == 1


# -- the text


def shouldBeWellFormed(text):
    """
    Check a text as Prometheus reads it, and return the samples.
    """
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, family
        assert family.type in ("counter", "gauge")
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def checkedByPromtool(text):
    """
    Return what promtool has against a text.
    """
    done = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def statusOf(**more):
    """
    Return what a process may say.
    """
    said = {
        "generation": 2,
        "pid": 7,
        "state": "Replaced",
        "since": 1.5,
        "directory": "/srv/a",
        "listeners": [{"name": "tcp 0.0.0.0:80", "connections": 3}],
        "drain": {"left": 12.5},
        "counters": dict.fromkeys(NAMES, 4),
    }
    return {**said, **more}


AWKWARD = 'a\\b "c"\nd \udcff é'


def awkward():
    """
    Return the text of two processes with all that may be, and one that says nothing.
    """
    drained = statusOf(
        directory=AWKWARD, release="v7", counters={**statusOf()["counters"], "done": 9}
    )
    serving = statusOf(pid=8, drain=None, state="Serving")
    silent = {"pid": 9, "error": "does not answer"}
    return "\n".join([*exposition([drained, serving, silent]), ""])


def test_the_text_is_as_prometheus_reads_it():
    """
    Whatever the names of files are, and also if two processes are of one generation.
    """
    samples = shouldBeWellFormed(awkward())
    info = {
        dict(labels)["directory"]
        for name, labels in samples
        if name == "tableflip_generation_info"
    }
    labels = [dict(labels) for name, labels in samples if name == "tableflip_generation_info"]
    assert {each["release"] for each in labels} == {"v7", ""}
    assert info == {AWKWARD.replace("\udcff", "?"), "/srv/a"}
    assert samples["tableflip_upgrades_total", (("outcome", "done"),)] == 9
    assert samples["tableflip_migrations_total", (("outcome", "stayed"),)] == 4
    assert samples["tableflip_connections_accepted_total", ()] == 4
    drains = [value for (name, _), value in samples.items() if "drain_remaining" in name]
    assert drains == [12.5]


def test_who_knows_no_counters_has_none():
    """
    A release that has not counted says nothing of it, and not that there was nothing.
    """
    old = statusOf()
    del old["counters"]
    samples = shouldBeWellFormed("\n".join([*exposition([old]), ""]))
    assert not [name for name, _ in samples if name.endswith("_total")]
    assert samples


@pytest.mark.process
@pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool(1), of Prometheus")
def test_promtool_has_nothing_against_it():
    """
    Names, units and help are by its rules.
    """
    assert checkedByPromtool(awkward()) == (0, "")


# -- the collector


def test_the_collector_says_what_the_command_says(monkeypatch):
    """
    Of the same process, in prometheus_client's own form; and nothing where there are no
    upgrades.
    """
    registry = CollectorRegistry(auto_describe=True)
    registry.register(UpgradesCollector())
    assert shouldBeWellFormed(generate_latest(registry).decode()) == {}
    fake = FakeUpgrader(MemoryReactorClock())
    fake.ready()
    monkeypatch.setattr(upgrader.Upgrader, "_current", fake)
    fake.upgrade().addErrback(lambda failure: failure.trap(UpgradeFailed))
    fake.childFails()
    theirs = shouldBeWellFormed(generate_latest(registry).decode())
    ours = shouldBeWellFormed("\n".join([*exposition([fake.status()]), ""]))
    assert theirs == ours
    assert len(ours) > 8


# -- a service

MEASURED = """
import os
from twisted.internet import reactor
from twisted.web.server import Site
from txtableflip import currentUpgrader
from txtableflip.prometheus import UpgradesCollector
from prometheus_client import CollectorRegistry
from prometheus_client.twisted import MetricsResource
registry = CollectorRegistry()
registry.register(UpgradesCollector())
listening = currentUpgrader().endpoint("tcp:{port}:interface=127.0.0.1")
listening.listen(Site(MetricsResource(registry)))
"""
DYING = """
def heard(line):
    if line == "die":
        os._exit(3)
"""
WITHDRAWN = """
currentUpgrader().whenServing().addCallback(lambda _: currentUpgrader().withdraw("too bad"))
"""


class Measured:
    """
    A service that has its metrics at C{/metrics}, and whoever looks at them.

    @ivar mistakes: counters that went back.
    """

    def __init__(self, service):
        self.service = service
        self.port = freePort()
        self.good = MEASURED.format(port=self.port)
        self.mistakes = []
        self.latest = Counter()

    def scrape(self, address=None, question=None, wrap=None):
        """
        Ask as Prometheus does.
        """
        self.look(self._scraped)
        return "scraped", 1

    def _scraped(self):
        url = f"http://127.0.0.1:{self.port}/metrics"
        with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
            return answer.read().decode()

    def command(self):
        """
        Return what the command prints, as samples.
        """
        return self.look(self._printed)

    def _printed(self):
        done = self.service.run(TABLEFLIP, "metrics", timeout=DEADLINE)
        assert done.returncode == 0, done.stderr
        if PROMTOOL is not None:
            assert checkedByPromtool(done.stdout) == (0, "")
        return done.stdout

    def look(self, read):
        """
        Read, and compare with what had been read before that began.
        """
        before = Counter(self.latest)
        found = shouldBeWellFormed(read())
        for key, value in found.items():
            if key[0].endswith("_total"):
                if value < before[key]:
                    self.mistakes.append(f"{key}: {value} behind {before[key]}")
                self.latest[key] = max(self.latest[key], value)
        return found

    def start(self, *options):
        """
        Start it.
        """
        self.service.release(self.good)
        self.service.twistd("tableflip", *options, "--app", str(APPS / "answering.py"))

    def upgrade(self, code, outcome):
        """
        Have that released, and see that it is counted once.
        """
        self.service.release(code)
        before = outcomes(self.command())
        self.service.run(TABLEFLIP, "upgrade", timeout=2 * DEADLINE)
        assert outcomes(self.command()) == {**before, outcome: before.get(outcome, 0) + 1}


def outcomes(samples):
    """
    Return how many upgrades had which outcome.
    """
    return {
        dict(labels)["outcome"]: value
        for (name, labels), value in samples.items()
        if name == "tableflip_upgrades_total" and value
    }


def test_counters_never_go_back(service, address):
    """
    Good releases, bad ones, one that is withdrawn, and a process that is killed while it
    drains: whoever looks, at whichever process, under load, sees no less than before.
    """
    measured = Measured(service)
    measured.start("--drain-timeout", "3", "--probation", "1")
    scraping = Clients(address, 1, asking=measured.scrape)
    first, older = f"{measured.good}# the first\n", service.pid
    with Clients(address, 2) as clients, scraping:
        for code, outcome in (
            (first, "done"),
            ("raise ValueError", "failed"),
            (measured.good + WITHDRAWN, "rolledBack"),
            (measured.good, "done"),
        ):
            with connect(address) as idle:
                measured.upgrade(code, outcome)
                clients.waitForMore()
                scraping.waitForMore(5)
                if code is first:
                    os.kill(older, signal.SIGKILL)
                elif outcome == "done":
                    assert idle.recv(1) == b""
    assert clients.failures == []
    assert scraping.failures == []
    assert measured.mistakes == []
    samples = measured.command()
    assert samples["tableflip_connections_aborted_total", ()] == 1
    assert samples["tableflip_connections_accepted_total", ()] >= clients.total


def test_what_a_process_has_counted_that_is_killed_is_not_lost(service, address):
    """
    On probation: who serves again goes on from there.
    """
    measured = Measured(service)
    measured.start("--probation", "60")
    service.release(measured.good + DYING)
    asking = service.start(TABLEFLIP, "upgrade")
    until(lambda: ask(address)[1] == 2, "the new one")
    for _ in range(20):
        ask(address)
    accepted = measured.command()["tableflip_connections_accepted_total", ()]
    assert accepted > 20
    with pytest.raises((AssertionError, ConnectionError)):
        ask(address, "die")
    assert asking.wait(DEADLINE) == 5
    samples = measured.command()
    assert samples["tableflip_connections_accepted_total", ()] == accepted + 1
    assert outcomes(samples) == {"rolledBack": 1}
    assert measured.mistakes == []


def test_each_process_is_measured(service, address):
    """
    What drains has its time left, and its open connections; and so has what serves.
    """
    service.twistd("tableflip", "--drain-timeout", "60", "--app", str(APPS / "answering.py"))
    first = service.pid
    with connect(address) as held:
        held.sendall(b"stay\n")
        held.recv(99)
        assert service.run(TABLEFLIP, "upgrade").returncode == 0
        assert ask(address)[1] == 2
        text = service.run(TABLEFLIP, "metrics").stdout
        samples = shouldBeWellFormed(text)
        process = (("generation", "1"), ("pid", str(first)))
        assert 0 < samples["tableflip_drain_remaining_seconds", process] <= 60
        name = f"tcp 127.0.0.1:{address[1]}"
        opened = ("generation", "1"), ("listener", name), ("pid", str(first))
        assert samples["tableflip_connections_open", opened] == 1
        states = [k[1] for k in samples if k[0] == "tableflip_generation_state"]
        assert [dict(each)["state"] for each in states] == ["Replaced", "Serving"]


def test_of_nobody_nothing_is_measured(service):
    """
    The exit status says that there was nobody, and standard output is empty.
    """
    done = service.run(TABLEFLIP, "metrics")
    assert (done.returncode, done.stdout) == (3, "")
    assert "twistd.pid cannot be read" in done.stderr
