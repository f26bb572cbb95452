"""
Connections that migrate, between real processes and under load: their clients never connect
again, and check every byte.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from processes import APPS, fewOrMany, freePort, until

from txtableflip.testing._service import isAlive, stateOf
from txtableflip.testing._strict import Strict

pytestmark = pytest.mark.process

TABLEFLIP = shutil.which("tableflip", path=os.path.dirname(sys.executable))
WHERE = "tcp:{}:interface=127.0.0.1"
MIGRATION = Path(__file__).parent.parent.joinpath("docs", "migration.md").read_text()


def start(service, listeners, code=""):
    """
    Start the application, and wait until it serves.
    """
    service.release(f"listeners = {listeners!r}\n{code}")
    service.start(sys.executable, str(APPS / "rooms.py"))
    service.waitFor("generation 1 serves")


def upgrade(service):
    """
    Have the next process serve, whatever becomes of the old one.
    """
    old = service.pid
    os.kill(old, signal.SIGHUP)
    until(lambda: service.pid != old, lambda: f"a successor of {old}:\n{service.log[-3000:]}")
    return old


@fewOrMany(4, 10)
def test_nobody_notices_any_upgrade(service, upgrades):
    """
    Rooms that migrate together, and clients that migrate one after another: all of them hear
    every line that was said, once and in order, in all processes.
    """
    together, rolling = freePort(), freePort()
    start(service, {WHERE.format(together): ("together", 10), WHERE.format(rolling): (True, 1)})
    with (
        Strict(("127.0.0.1", together), 30, 10) as rooms,
        Strict(("127.0.0.1", rolling), 30) as echoes,
    ):
        for _ in range(upgrades):
            service.redeploy()
        rooms.finish()
        echoes.finish()
    assert rooms.failures + echoes.failures == []
    for each in rooms.generations + echoes.generations:
        assert each >= {1, 1 + upgrades}
    said = "migrated: 60 connections continue in the new process; 0 were"
    assert service.log.count(said) == upgrades
    assert "Traceback" not in service.log


BUSY = """
from pathlib import Path
from twisted.internet.task import deferLater

def snapshot(member, snapshot=Member.snapshot):
    isBusy = upgrader.generation == 1 and not Path("finished").exists()
    return deferLater(reactor, 0.1, lambda: None) if isBusy else snapshot(member)

Member.snapshot = snapshot
"""
"""
In the first generation no connection can migrate before there is that file.
"""


def test_connections_follow_through_a_process_that_has_been_replaced_meanwhile(service):
    """
    The second generation has handed over to a third before the connections of the first can
    migrate: they still do, through the second, which waits for that.
    """
    port = freePort()
    start(service, {WHERE.format(port): (True, 1)}, BUSY)
    with Strict(("127.0.0.1", port), 3) as clients:
        until(lambda: clients.lines > 3, "some lines")
        first = upgrade(service)
        second = upgrade(service)
        service.waitFor(f"not finished yet: connections that process {first} may hand over")
        service.directory.joinpath("finished").touch()
        until(
            lambda: all({1, 3} <= each for each in clients.generations),
            lambda: f"answers of the third:\n{service.log[-3000:]}",
        )
        clients.finish()
    assert clients.failures == []
    until(lambda: not isAlive(first) and not isAlive(second), "the end of both")
    assert "Traceback" not in service.log


def test_connections_stay_if_the_next_release_does_not_listen_there(service):
    """
    They are returned, and drain in the old process, whose log says why; those of another
    listener migrate.
    """
    dropped, kept = freePort(), freePort()
    start(service, {WHERE.format(port): (True, 1) for port in (dropped, kept)})
    with Strict(("127.0.0.1", dropped), 2) as old, Strict(("127.0.0.1", kept), 2) as new:
        until(lambda: old.lines and new.lines, "some lines")
        service.release(f"listeners = {{{WHERE.format(kept)!r}: (True, 1)}}")
        upgrade(service)
        why = f"connections of tcp 127.0.0.1:{dropped} do not migrate in the new release"
        service.waitFor(f"; 2 were returned, and 0 never left; 2: {why}")
        old.finish()
        new.finish()
    assert old.failures + new.failures == []
    assert old.generations == [{1}, {1}]
    assert all(each >= {2} for each in new.generations)


def test_what_is_dropped_is_missed(service):
    """
    The clients can tell: a protocol that forgets what it has received, and not acted upon,
    shows as errors.
    """
    port = freePort()
    forgetful = "Member.clearBuffer = lambda member: b''"
    start(service, {WHERE.format(port): ("together", 10)}, forgetful)
    with Strict(("127.0.0.1", port), 30, 10, think=0.01) as clients:
        for _ in range(3):
            service.redeploy()
        clients.finish(5)
    assert clients.failures != []


FAULT = """
import os, signal
from txtableflip import _journal

def strike(event):
    if {condition}:
        os.kill({victim}, signal.{signal})

_journal.Journal.listeners.append(strike)
"""
SAID = "type(event).__name__ == {!r} and getattr(event, 'message', '') == {!r} and once()"
ONCE = """
from pathlib import Path

def once():
    # The second batch, of those that ask.
    path = Path("asked")
    path.write_text(path.read_text() + "." if path.exists() else ".")
    return len(path.read_text()) == 2
"""
MOMENTS = {
    "old says Offer": ("Saying", "Offer", {30}, {20}),
    "old has said Offer": ("Said", "Offer", {10}, {20, 40}),
    "new hears Offer": ("Hearing", "Offer", {10}, {20}),
    "new says Taken": ("Saying", "Taken", {10}, {20}),
    # The old one may have offered the third batch before it is killed.
    "new has said Taken": ("Said", "Taken", {0, 10}, {40}),
    "old hears Taken": ("Hearing", "Taken", {10}, {40}),
    "old takes back": ("Returning", "", {50}, {0}),
}
"""
When what happens to the second of three batches, of 20, 20 and 10 connections; and how many
die with the old process, or with the new one, if that is killed then.
"""

REFUSING = """
def resume(factory, snapshot, address, resumed=Rooms.resume):
    return None if upgrader.generation > 1 else resumed(factory, snapshot, address)

Rooms.resume = resume
"""
"""
A release to which nothing migrates.
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", ["SIGKILL", "SIGSTOP"])
@pytest.mark.parametrize("victim", ["old", "new"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_connection_is_served_by_whoever_is_left(service, moment, victim, number):
    """
    In the middle of a migration one of the two is killed, or stopped for longer than the
    other waits for it: no connection is lost that the survivor could have kept, and none
    is served by both.
    """
    port = freePort()
    kind, message, *dying = MOMENTS[moment]
    other = "upgrader._ours.child.pid" if victim == "new" else "os.getppid()"
    who = "os.getpid()" if moment.startswith(victim) else other
    fault = FAULT.format(condition=SAID.format(kind, message), victim=who, signal=number)
    shorter = "from txtableflip._migration import move\nmove.ANSWER_TIMEOUT = 2\n"
    code = ONCE + fault + shorter + (REFUSING if kind == "Returning" else "")
    start(service, {WHERE.format(port): (True, 1)}, code)
    with Strict(("127.0.0.1", port), 50) as clients:
        until(lambda: clients.lines > 200, "some lines")
        old = upgrade(service)
        struck = {"old": old, "new": service.pid}[victim]
        asked = service.directory / "asked"
        until(lambda: asked.exists() and len(asked.read_text()) >= 2, "the fault")
        if number == "SIGSTOP":
            until(lambda: stateOf(struck)[0] == "T", "a stop")
            until(lambda: victim == "old" or "migrated:" in service.log, "a decision")
            os.kill(struck, signal.SIGCONT)
        else:
            until(lambda: not isAlive(struck), "a death")
        clients.finish()
    ends = ("closed", "reset", "Broken pipe")
    assert [each for each in clients.failures if not any(end in each for end in ends)] == []
    allowed = dying[victim == "new"] if number == "SIGKILL" else {0}
    assert len(clients.failures) in allowed
    assert "Traceback" not in service.log


def test_who_loses_what_is_in_the_documents():
    """
    For each moment, how many connections are lost with a process that is killed then.
    """

    def row(moment, kind, message, *lost):
        return f"| {moment} | {' | '.join(' or '.join(map(str, sorted(n))) for n in lost)} |"

    rows = [row(moment, *details) for moment, details in MOMENTS.items()]
    assert "\n".join(rows) in MIGRATION


def test_what_status_says(service):
    """
    C{tableflip status} has what became of the connections.
    """
    port = freePort()
    refusing = "Member.snapshot = lambda member: None"
    start(service, {WHERE.format(port): (True, 1)}, refusing)
    with Strict(("127.0.0.1", port), 3) as clients:
        until(lambda: clients.lines > 3, "some lines")
        old = upgrade(service)
        service.waitFor("0 were returned, and 3 never left; 3: its protocol refuses")
        found = service.run(TABLEFLIP, "status", "--json", str(old))
        status = json.loads(found.stdout)
        mine = [each for each in status["generations"] if each["pid"] == old]
        assert mine[0]["migration"]["stayed"] == {"its protocol refuses": 3}
