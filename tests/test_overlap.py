"""
Upgrades while older generations drain.
"""

import os
import signal
import socket

import pytest
from processes import APPS, Clients, ask, connect, until

from txtableflip.testing._service import freePort, isAlive

APP = ["--app", str(APPS / "answering.py")]


@pytest.fixture
def port(service):
    """
    The port of a service.
    """
    number = freePort()
    service.environment["ENDPOINTS"] = f"tableflip:tcp:{number}:interface=127.0.0.1"
    return number


UNWELL = """
from twisted.internet import reactor
from txtableflip import currentUpgrader
name = "unwell"


def heard(line):
    if line == "withdraw":
        reactor.callLater(0, currentUpgrader().withdraw, "unwell")
"""


def test_who_was_taken_back_and_drains_is_waited_for(service, port):
    """
    A release that was withdrawn has connections of its own to finish, and jobs of the
    next one do not run beside it.
    """
    jobs = service.directory / "jobs"
    first = service.twistd("tableflip", "--probation", "300", "--drain-timeout", "300", *APP)
    service.release(UNWELL)
    os.kill(first, signal.SIGHUP)
    service.waitFor("on probation")
    staying = Staying(port)
    assert staying.ask() == 2
    ask(("127.0.0.1", port), "withdraw")
    service.waitFor("the old one serves again")
    service.release(JOB.format(name="3", path=str(jobs)))
    os.kill(first, signal.SIGHUP)
    service.waitFor("on probation", 2)
    third = until(lambda: service.pid != first and service.pid, "the third")
    os.kill(first, signal.SIGKILL)
    until(lambda: not isAlive(first), "the end of the first")
    service.waitFor("generation 2 serves", 2)
    assert not jobs.exists()
    assert staying.ask() == 2
    staying.close()
    until(jobs.exists, "the job")
    assert service.processes() == [third]


def isRefused(port):
    """
    Return whether nobody listens on a port.
    """
    try:
        connect(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    return False


class Staying:
    """
    A connection that its client never closes.
    """

    def __init__(self, port):
        self.sock = connect(("127.0.0.1", port))
        self.stream = self.sock.makefile("rw")
        self.ask()

    def ask(self):
        """
        Ask once more, and return the generation that answers.
        """
        self.stream.write("stay\n")
        self.stream.flush()
        return int(self.stream.readline().split()[2])

    def close(self):
        self.stream.close()
        self.sock.close()


JOB = """
import fcntl, os
from txtableflip import currentUpgrader
name = {name!r}

def work(ignored):
    # Kept open, and so locked, until the process ends.
    global alone
    alone = open({path!r}, "a")
    fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
    alone.write(name + " works\\n")
    alone.flush()

currentUpgrader().whenParentExits().addCallback(work)
"""


def test_ten_upgrades_do_not_wait_for_what_drains(service, port):
    """
    Connections that never close hold up no upgrade; no more than four generations
    live, for the oldest is ended; and what waits for all older ones runs alone.
    """
    jobs = service.directory / "jobs"
    service.release(JOB.format(name="1", path=str(jobs)))
    pid = service.twistd("tableflip", "--probation", "0", "--drain-timeout", "300", *APP)
    until(jobs.exists, "the first job")
    staying = [Staying(port)]
    with Clients(("127.0.0.1", port), 2) as clients:
        for generation in range(2, 12):
            service.release(JOB.format(name=str(generation), path=str(jobs)))
            os.kill(service.pid, signal.SIGHUP)
            service.waitFor(f"generation {generation} serves")
            until(lambda: len(service.processes()) <= 4, "four generations")
            staying.append(Staying(port))
            for number, each in enumerate(staying, 1):
                if number > generation - 4:
                    assert each.ask() == number
    assert clients.failures == []
    assert not isAlive(pid)
    for each in staying:
        each.close()
    until(lambda: len(service.processes()) == 1, "the last one")
    until(lambda: "11 works" in jobs.read_text(), "the last job")
    assert "Unhandled" not in service.log
    assert jobs.read_text().splitlines()[0] == "1 works"


def test_a_middle_one_that_is_killed_does_not_hide_the_oldest(service, port):
    """
    C{whenParentExits} waits for everybody older, not only for the parent; and the
    oldest does not think that nobody serves, though who has replaced it is gone.
    """
    jobs = service.directory / "jobs"
    service.twistd("tableflip", "--probation", "0", "--drain-timeout", "300", *APP)
    first = service.pid
    staying = Staying(port)
    os.kill(first, signal.SIGHUP)
    service.waitFor("generation 2 serves")
    second = until(lambda: service.pid != first and service.pid, "the second")
    another = Staying(port)
    service.release(JOB.format(name="3", path=str(jobs)))
    os.kill(second, signal.SIGHUP)
    service.waitFor("generation 3 serves")
    third = until(lambda: service.pid != second and service.pid, "the third")
    service.waitFor("upgrade done", 2)
    os.kill(second, signal.SIGKILL)
    until(lambda: not isAlive(second), "the end of the second")
    os.kill(third, signal.SIGHUP)
    service.waitFor("generation 4 serves")
    assert isAlive(first)
    assert not jobs.exists()
    staying.close()
    another.close()
    until(jobs.exists, "the job")
    assert not isAlive(first)
    assert not isAlive(third)
    assert "nobody accepts" not in service.log


@pytest.mark.parametrize("probation", ["0", "60"])
@pytest.mark.parametrize("death", [signal.SIGTERM, signal.SIGKILL])
def test_stop_and_start_while_an_old_one_drains(service, port, probation, death):
    """
    Whoever drains holds nothing that the next start needs, whether the one that served
    was told to stop or has crashed, and whether it was on probation.
    """
    first = service.twistd(
        "tableflip", "--probation", probation, "--drain-timeout", "300", *APP
    )
    staying = Staying(port)
    os.kill(first, signal.SIGHUP)
    second = until(lambda: service.pid != first and service.pid, "a successor")
    service.waitFor("upgrade done" if probation == "0" else "on probation")
    os.kill(second, death)
    until(lambda: not isAlive(second), "the end of the second")
    if death == signal.SIGKILL and probation != "0":
        # It was on probation: it has been replaced, by the one that is told to stop now.
        service.waitFor("the old one serves again")
        os.kill(first, signal.SIGTERM)
        service.waitFor("stopping once open connections have finished")
        until(lambda: not service.pidFile.exists(), "the end of the pid file")
    service.waitFor("draining: 1")
    service.release("name = 'anew'")
    third = service.twistd("tableflip", "--probation", "0", *APP)
    assert third not in (first, second)
    assert ask(("127.0.0.1", port)) == ("anew", 1)
    assert staying.ask() == 1
    staying.close()
    until(lambda: service.processes() == [third], "the end of the first")
    assert service.pid == third


@pytest.mark.parametrize("probation", ["0", "60"])
@pytest.mark.parametrize("second", ["is told to stop", "crashes, too"])
def test_stop_and_start_after_the_old_one_has_crashed(service, port, probation, second):
    """
    While it drained, or watched: with it goes nothing that the next start needs, nor
    does the pid file of who has crashed keep that from starting.
    """
    first = service.twistd("tableflip", "--probation", probation, *APP)
    staying = Staying(port)
    os.kill(first, signal.SIGHUP)
    new = until(lambda: service.pid != first and service.pid, "a successor")
    service.waitFor("upgrade done" if probation == "0" else "on probation")
    os.kill(first, signal.SIGKILL)
    if second == "crashes, too":
        os.kill(new, signal.SIGKILL)
    until(lambda: not isAlive(first), "the end of the first")
    staying.close()
    if second == "is told to stop":
        # It serves alone, and for good.
        assert ask(("127.0.0.1", port)) == ("1", 2)
        os.kill(new, signal.SIGTERM)
    until(lambda: service.processes() == [], "the end of both")
    service.release("name = 'anew'")
    third = service.twistd("tableflip", "--probation", "0", *APP)
    assert third not in (first, new)
    assert ask(("127.0.0.1", port)) == ("anew", 1)
    assert service.pid == third


def test_a_dropped_port_is_free_at_once(service, port):
    """
    A release that does not listen on a port any more: its clients are refused, and
    another program can listen there, though the old process drains.
    """
    another = freePort()
    service.environment["ENDPOINTS"] += f" tableflip:tcp:{another}:interface=127.0.0.1"
    (service.directory / "env").write_text(
        f"ENDPOINTS=tableflip:tcp:{port}:interface=127.0.0.1\n"
    )
    first = service.twistd(
        "tableflip", "--probation", "0", "--drain-timeout", "300", "--env-file", "env", *APP
    )
    staying = Staying(port)
    os.kill(first, signal.SIGHUP)
    service.waitFor("upgrade done")
    until(lambda: isRefused(another), "the end of the dropped listener")
    # Without SO_REUSEPORT, two programs cannot have one port.
    socket.create_server(("127.0.0.1", another)).close()
    assert staying.ask() == 1
    staying.close()
