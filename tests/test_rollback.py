"""
A bad release is undone: what dies, hangs, or is not well while it is on probation.
"""

import os
import signal
import sys

import pytest
from processes import APPS, DEADLINE, Clients, ask, until

from txtableflip.testing._service import freePort, isAlive

TERMS = ["--probation", "20"]
WELL = f"--health-check={sys.executable} well.py"
ASKING = """
import socket, sys
sock = socket.create_connection(("127.0.0.1", {port}), 20)
sock.sendall(b"well?\\n")
answer = sock.makefile().readline()
sys.exit("it says " + answer.strip() if "unwell" in answer else 0)
"""


@pytest.fixture
def watched(service):
    """
    A service with a long probation, and its port.
    """
    port = freePort()
    service.address = ("127.0.0.1", port)
    service.environment["ENDPOINTS"] = (
        f"tableflip:tcp:{port}:interface=127.0.0.1 tableflip:unix:{service.directory}/s.sock"
    )
    (service.directory / "well.py").write_text(ASKING.format(port=port))
    service.release("name = 'first'")
    return service


def begin(service, *options):
    """
    Start the first release on probation's terms.
    """
    return service.twistd("tableflip", *TERMS, *options, "--app", str(APPS / "answering.py"))


def serveAgain(service, first, reason):
    """
    Wait until the first process serves again, and alone, and has said why.
    """
    service.waitFor("the old one serves again")
    until(lambda: service.processes() == [first], lambda: f"{first} alone\n{service.log}")
    assert reason in service.log
    assert service.pid == first
    for address in (service.address, str(service.directory / "s.sock")):
        assert ask(address) == ("first", 1)


LATER = """
import os, time
from twisted.internet import reactor
from txtableflip import currentUpgrader
name = 'bad'
def later():
    currentUpgrader().whenServing().addCallback(lambda _: reactor.callLater({}))
# By strings alone, there is no Upgrader yet.
reactor.callWhenRunning(later)
"""
DEATHS = {
    "exits": ("os._exit, 3", "exited with status 3"),
    "is killed": ("os.kill, os.getpid(), 9", "was killed by SIGKILL"),
    "withdraws": (
        "currentUpgrader().withdraw, 'no stock'",
        "asked to be withdrawn: no stock",
    ),
}


@pytest.mark.parametrize("after", [0, 0.3, 2])
@pytest.mark.parametrize("death", DEATHS)
def test_a_release_that_dies_on_probation_is_replaced_by_the_one_before(watched, death, after):
    """
    Whenever it does, the old process serves again, nobody is refused, only what it
    had accepted itself is lost, and the next good release goes in.
    """
    call, reason = DEATHS[death]
    first = begin(watched)
    watched.release(LATER.format(f"{after}, {call}"))
    with Clients(watched.address, 4) as clients:
        os.kill(first, signal.SIGHUP)
        serveAgain(watched, first, reason)
        clients.waitForMore()
    assert not [one for one in clients.failures if "Refused" in one]
    assert len(clients.failures) <= 4
    if death == "withdraws":
        # In the log of the process that leaves, too.
        assert "the parent serves again: asked to be withdrawn: no stock" in watched.log
    watched.release("name = 'good'")
    os.kill(first, signal.SIGHUP)
    until(lambda: ask(watched.address)[0] == "good", "the next release")


def test_a_release_that_is_not_well_is_taken_back(watched):
    """
    Three bad answers of the health check in a row have the old process serve again;
    what the check has said is in the log; the new one finishes what it has accepted.
    """
    first = begin(watched, WELL)
    watched.release("name = 'unwell'")
    os.kill(first, signal.SIGHUP)
    serveAgain(watched, first, "failed its health check: status 1: it says")


def test_a_release_that_hangs_is_killed(watched):
    """
    One whose reactor does not turn any more cannot stand by: it is killed, and the
    old process serves again.
    """
    first = begin(watched, WELL)
    watched.release(LATER.format("0.5, time.sleep, 600"))
    os.kill(first, signal.SIGHUP)
    serveAgain(watched, first, "failed its health check")


@pytest.mark.parametrize("addressee", ["old", "new"])
def test_to_stop_on_probation_stops_both(watched, addressee):
    """
    SIGTERM to either process is for the service: it ends, and can be started again.
    """
    first = begin(watched)
    watched.release("name = 'second'")
    os.kill(first, signal.SIGHUP)
    watched.waitFor("on probation for 20 s")
    until(lambda: watched.pid != first, "the pid file")
    os.kill(first if addressee == "old" else watched.pid, signal.SIGTERM)
    until(lambda: watched.processes() == [], lambda: f"the end of both\n{watched.log}")
    assert not watched.pidFile.exists()
    assert not [each for each in watched.directory.iterdir() if "s.sock" in each.name]
    begin(watched)
    assert ask(watched.address) == ("second", 1)


def test_an_old_process_that_dies_on_probation_makes_it_final(watched):
    """
    There is nobody then who could take back.
    """
    first = begin(watched)
    watched.release("name = 'second'")
    os.kill(first, signal.SIGHUP)
    watched.waitFor("on probation for 20 s")
    os.kill(first, signal.SIGKILL)
    until(lambda: not isAlive(first), "the end of the first")
    second = until(lambda: watched.pid != first and watched.pid, "the pid file")
    watched.release("name = 'third'")
    os.kill(second, signal.SIGHUP)
    watched.waitFor("generation 3 serves")
    assert ask(watched.address) == ("third", 3)


def test_a_signal_on_probation_is_followed_when_it_is_final(watched):
    """
    SIGHUP to the new process, or to the old one, is remembered by both and done once.
    """
    first = watched.twistd("tableflip", "--probation", "2", "--app", str(APPS / "answering.py"))
    watched.release("name = 'second'")
    os.kill(first, signal.SIGHUP)
    watched.waitFor("on probation for 2 s")
    second = until(lambda: watched.pid != first and watched.pid, "the pid file")
    watched.release("name = 'third'")
    os.kill(first, signal.SIGHUP)
    os.kill(second, signal.SIGHUP)
    watched.waitFor("generation 3 serves")
    until(lambda: len(watched.processes()) == 1, "one process", DEADLINE)
    assert ask(watched.address) == ("third", 3)
    assert "generation 4" not in watched.log


# -- if nothing is said

WAYS = {
    "twistd tableflip": (["tableflip", "--app", str(APPS / "answering.py")], ""),
    "strings alone": (["-y", str(APPS / "answering.py")], ""),
    "a service": (
        ["-y", str(APPS / "answering.py")],
        "from txtableflip import UpgradeService; UpgradeService().startService()\n",
    ),
}
UPGRADING = """
import time
from pathlib import Path
def heard(line):
    if line == "upgrade":
        began = time.monotonic()
        done = currentUpgrader().upgrade()
        done.addBoth(lambda it: Path("told").write_text(f"{it} {time.monotonic() - began}"))
"""


@pytest.fixture(params=WAYS)
def patient(request, watched):
    """
    A service that says nothing of a probation, started in each way; its first process.
    """
    options, more = WAYS[request.param]
    watched.isHasty = False
    watched.environment["AUTOMATIC"] = "1"
    watched.release(
        f"name = 'first'\nfrom txtableflip import currentUpgrader\n{more}{UPGRADING}"
    )
    watched.twistd(*options)
    return watched


def test_if_nothing_is_said_an_upgrade_is_final_after_5_seconds(patient):
    """
    Until then the old process is there, whoever asked for the upgrade waits, and the
    log says so.
    """
    first = patient.pid
    patient.release("name = 'second'")
    ask(patient.address, "upgrade")
    patient.waitFor("serves, on probation for 5 s")
    told = patient.directory / "told"
    until(lambda: told.exists() and told.read_text(), "the end of the upgrade")
    result, seconds = told.read_text().split()
    assert result == "None"
    assert float(seconds) >= 5
    until(lambda: not isAlive(first), "the end of the old process")
    assert ask(patient.address) == ("second", 2)


def test_if_nothing_is_said_a_release_that_fails_in_second_3_is_undone(patient):
    """
    Nobody has to ask for it.
    """
    first = patient.pid
    patient.release(LATER.format("3, os._exit, 3"))
    os.kill(first, signal.SIGHUP)
    serveAgain(patient, first, "exited with status 3")
