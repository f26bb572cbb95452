"""
What a service manager is told, and by whom.
"""

import os
import shutil
import signal
import subprocess
import sys

import pytest
from managers import told
from processes import APPS, DEADLINE, TWISTD, Gate, connect, until
from twisted.internet.task import Clock
from twisted.logger import eventAsText, globalLogPublisher

from txtableflip._control.notifications import Notifications
from txtableflip._control.notifier import watchdogOf
from txtableflip.testing._service import isAlive

__all__ = ["told"]

TABLEFLIP = shutil.which("tableflip", path=os.path.dirname(sys.executable))
WHO_AND_HOW = (
    *("MAINPID", "READY", "RELOADING", "STOPPING"),
    *("X_TABLEFLIP_SUCCESSOR", "X_TABLEFLIP_FINAL"),
)


class Notifying:
    """
    A service that has a manager.
    """

    def __init__(self, service, told):
        self.service = service
        self.told = told
        service.environment["NOTIFY_SOCKET"] = told.address

    def start(self, *options, isKept=True):
        """
        Start the first generation, and return its process id.
        """
        words = (TWISTD, "tableflip", *options, "--app", str(APPS / "answering.py"))
        if isKept:
            self.service.environment["TXTABLEFLIP_KEEPER"] = str(self.told.pipe)
        done = self.service.run(*words, pass_fds=[self.told.pipe] if isKept else [])
        assert done.returncode == 0, done.stdout + done.stderr
        self.service.waitFor("generation 1 serves")
        self.told.has(self.service.pid, READY="1")
        return self.service.pid

    def tableflip(self, *words):
        return self.service.run(TABLEFLIP, *words)

    def heard(self):
        return self.told.heard(*WHO_AND_HOW)


@pytest.fixture
def notifying(service, address, told):
    """
    A service that has a manager, and has not been started.
    """
    return Notifying(service, told)


def test_a_keeper_is_told_who_serves_whatever_becomes_of_an_upgrade(notifying):
    """
    The old process names its successor when that serves, and not before; of one that
    fails, it says why; and while it drains, it says nothing, nor does what the
    application has started.
    """
    service, told = notifying.service, notifying.told
    first = notifying.start()
    told.has(first, X_TABLEFLIP_FINAL="1")
    assert notifying.heard() == [
        (first, "MAINPID", str(first)),
        (first, "READY", "1"),
        (first, "X_TABLEFLIP_FINAL", "1"),
    ]
    service.release("name = '2'")
    with connect(("127.0.0.1", int(service.environment["ENDPOINTS"].split(":")[2]))) as held:
        held.sendall(b"stay\n")
        assert held.recv(99)
        told.told.clear()
        assert notifying.tableflip("upgrade").returncode == 0
        second = service.pid
        for each in (first, second):
            told.has(each, X_TABLEFLIP_FINAL="1")
        *heard, one, other = notifying.heard()
        assert heard == [
            (first, "RELOADING", "1"),
            (first, "X_TABLEFLIP_SUCCESSOR", str(second)),
            (second, "READY", "1"),
            (first, "MAINPID", str(second)),
        ]
        assert {one, other} == {(each, "X_TABLEFLIP_FINAL", "1") for each in (first, second)}
        assert told.has(second, READY="1").said["STATUS"] == "generation 2 serves"
        assert int(told.has(first, RELOADING="1").said["MONOTONIC_USEC"]) > 0
        told.told.clear()
        service.release("raise ValueError('bad\\nrelease')")
        assert notifying.tableflip("upgrade").returncode == 1
        [failed] = [each for each in told.told if "X_TABLEFLIP_FAILED" in each.said]
        assert failed.pid == second
        assert failed.said["READY"] == "1"
        reason = failed.said["X_TABLEFLIP_FAILED"]
        assert "exited with status 1" in reason
        assert "(phase: initialise)" in reason
        assert reason.endswith("release")
        assert failed.said["STATUS"] == f"upgrade failed: {reason}"
        assert "MAINPID" not in failed.said
        told.told.clear()
        os.kill(first, signal.SIGTERM)
        os.kill(second, signal.SIGTERM)
        until(lambda: not isAlive(second), "the end of the one that serves")
        assert isAlive(first)
    until(lambda: not service.processes(), "the end")
    assert notifying.heard() == [(second, "STOPPING", "1")]


def test_a_keeper_is_told_who_serves_when_that_is_taken_back(notifying):
    """
    By the process that rolls back, and the one that stands by says no word more.
    """
    service, told = notifying.service, notifying.told
    first = notifying.start("--probation", "60")
    os.kill(first, signal.SIGHUP)
    service.waitFor("on probation")
    second = service.pid
    told.has(first, MAINPID=str(second))
    told.told.clear()
    assert notifying.tableflip("rollback", "--reason", "a whim").returncode == 0
    assert service.pid == first
    assert notifying.heard() == [(first, "MAINPID", str(first)), (first, "READY", "1")]
    assert "a whim" in told.has(first, READY="1").said["X_TABLEFLIP_FAILED"]


@pytest.mark.parametrize("moment", ["initialising", "on probation"])
def test_who_has_lost_its_parent_names_itself(notifying, moment):
    """
    Nobody else could.
    """
    service, told = notifying.service, notifying.told
    first = notifying.start("--probation", "60")
    gate = Gate(service)
    if moment == "initialising":
        service.release(gate.code)
    os.kill(first, signal.SIGHUP)
    second = service.childOf(1)
    if moment == "initialising":
        gate.reached()
    else:
        told.has(first, MAINPID=str(second))
    told.told.clear()
    os.kill(first, signal.SIGKILL)
    gate.open()
    told.has(second, MAINPID=str(second))
    assert {each.pid for each in told.told} == {second}
    assert not told.heard("X_TABLEFLIP_FAILED", "STOPPING")


def test_a_stop_on_probation_cuts_nothing_whoever_is_told_first(notifying):
    """
    systemd sends SIGTERM to all at once: the new process has heard from the old one by
    then, and takes it for the first.
    """
    service, told = notifying.service, notifying.told
    first = notifying.start("--probation", "60")
    os.kill(first, signal.SIGHUP)
    service.waitFor("on probation")
    second = service.pid
    with connect(("127.0.0.1", int(service.environment["ENDPOINTS"].split(":")[2]))) as held:
        held.sendall(b"stay\n")
        assert held.recv(99)
        os.kill(first, signal.SIGTERM)
        told.has(second, STOPPING="1")
        until(lambda: not isAlive(first), "the end of the old one")
        os.kill(second, signal.SIGTERM)
        assert notifying.tableflip("status", str(second)).returncode == 0
        # Twisted's words at the end of the old one: whose signal it is, counts from two on.
        assert service.log.count("Received SIGTERM, shutting down") == 1
        held.sendall(b"bye\n")
        assert held.recv(99)
    until(lambda: not service.processes(), "the end")


@pytest.mark.parametrize("which", ["the old one", "the new one"])
def test_a_keeper_is_told_that_nobody_takes_back_when_both_stop(notifying, which):
    """
    By the one that might, whoever was told to stop: until then the sockets are kept.
    """
    service, told = notifying.service, notifying.told
    first = notifying.start("--probation", "60")
    os.kill(first, signal.SIGHUP)
    service.waitFor("on probation")
    second = service.pid
    told.told.clear()
    os.kill(first if which == "the old one" else second, signal.SIGTERM)
    told.has(second, STOPPING="1")
    told.has(first, X_TABLEFLIP_FINAL="1")
    until(lambda: not service.processes(), "the end")


def test_systemd_itself_is_not_told_who_is_main(notifying):
    """
    It does not watch well what is not its own child; but of the rest it is told, and that
    whoever serves is well.
    """
    service, told = notifying.service, notifying.told
    service.environment["WATCHDOG_USEC"] = "100000"
    first = notifying.start(isKept=False)
    until(lambda: told.pulses.count(first) > 3, "signs of life")
    told.told.clear()
    second = service.redeploy()
    until(lambda: told.pulses.count(second) > 3, "signs of life of the new one")
    switch = told.pulses.index(second)
    assert first not in told.pulses[switch + 1 :]
    assert notifying.heard() == [
        (first, "RELOADING", "1"),
        (first, "X_TABLEFLIP_SUCCESSOR", str(second)),
        (second, "READY", "1"),
        (first, "READY", "1"),
    ]


def test_a_manager_that_is_stopped_keeps_nobody_waiting(notifying):
    """
    Upgrades go on, the command answers, and when the manager goes on, it has missed
    nothing.
    """
    service, told = notifying.service, notifying.told
    first = notifying.start()
    told.stop()
    told.told.clear()
    pids = [first]
    for _ in range(4):
        os.kill(pids[-1], signal.SIGHUP)
        until(lambda: service.pid != pids[-1], "a successor")
        pids.append(service.pid)
        service.waitFor(f"generation {len(pids)} serves")
    assert told.told == []
    told.goOn()
    told.has(pids[-2], MAINPID=str(pids[-1]))
    # Each process says what did not fit into the queue when it can, in whatever order.
    mains = sorted(pids[1:])
    until(
        lambda: sorted(int(main) for _, _, main in told.heard("MAINPID")) == mains,
        lambda: f"{mains} as the main process, after another",
    )


# -- datagrams

FLOOD = """
import os, sys
from twisted.internet import {name}reactor as chosen
chosen.install()
from twisted.internet import reactor
from txtableflip._control.notifications import Notifications

notifications = Notifications(reactor, os.environ["NOTIFY_SOCKET"])
for number in range(100):
    reading, writing = os.pipe()
    notifications.say(f"NUMBER={{number}}", "STATUS=two\\nlines", descriptors=[reading])
    os.close(reading)
    os.close(writing)
assert not notifications.isEmpty
reactor.callLater(0, print, "turns", flush=True)
heard = notifications.flush()
heard.addCallback(lambda ignored: print("heard", flush=True))
heard.addCallback(lambda ignored: reactor.stop())
reactor.run()
assert len(os.listdir("/proc/self/fd")) < 50
"""


@pytest.mark.process
@pytest.mark.parametrize("name", ["epoll", "poll", "select", "asyncio"])
def test_what_a_full_queue_does_not_take_comes_later_and_in_order(told, name):
    """
    With its descriptors, whichever the reactor is, which turns meanwhile.
    """
    told.stop()
    environment = {**os.environ, "NOTIFY_SOCKET": told.address}
    code = FLOOD.format(name=name)
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as flood:
        assert flood.stdout.readline() == "turns\n"
        told.goOn()
        assert flood.communicate(timeout=DEADLINE)[0] == "heard\n"
    assert flood.returncode == 0
    assert [int(each.said["NUMBER"]) for each in told.told] == list(range(100))
    assert {each.said["STATUS"] for each in told.told} == {"two lines"}
    assert [len(each.descriptors) for each in told.told] == [1] * 100


def test_a_manager_that_is_not_there_is_said_once():
    """
    Nobody waits for it, and nothing is left open.
    """
    lines = []
    globalLogPublisher.addObserver(lines.append)
    try:
        before = os.listdir("/proc/self/fd")
        notifications = Notifications(Clock(), "/nonexistent/notify")
        notifications.say("READY=1")
        notifications.say("STATUS=" + "\U0001f600" * 4000)
        assert notifications.isEmpty
        assert len(os.listdir("/proc/self/fd")) == len(before)
    finally:
        globalLogPublisher.removeObserver(lines.append)
    [line] = [eventAsText(each) for each in lines]
    assert "cannot notify the service manager: " in line


@pytest.mark.parametrize("usec", ["", "0", "-1", "soon", "\u0665", "1.5"])
def test_no_watchdog_is_what_is_not_a_time(usec):
    """
    As systemd says it, it is a number of microseconds.
    """
    assert watchdogOf({"WATCHDOG_USEC": usec}) is None
    assert watchdogOf({}) is None
    assert watchdogOf({"WATCHDOG_USEC": "30000000"}) == 30_000_000
