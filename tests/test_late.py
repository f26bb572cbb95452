"""
Services that listen some time after the reactor runs: what clients had, they have.
"""

import os
import re
import signal
import sys

import pytest
from processes import APPS, DEADLINE, TWISTD, Clients, connect, until

from txtableflip.testing._service import freePort

APP = ["--app", str(APPS / "late.py")]
WAYS = {
    "by strings": ("tableflip:", []),
    "by --inherit-all": ("", ["--inherit-all"]),
}


@pytest.fixture
def late(service):
    """
    A service that listens late on one port.
    """
    port = freePort()
    service.address = ("127.0.0.1", port)

    def start(way, delay, *more):
        prefix, options = WAYS[way]
        service.environment.update({"DELAY": str(delay), **dict(more)})
        service.environment["LATE"] = f"{prefix}tcp:{port}:interface=127.0.0.1"
        return service.twistd("tableflip", *options, *APP)

    service.startLate = start
    return service


def replaced(service, old):
    """
    Redeploy, and return the process that serves then.
    """
    os.kill(old, signal.SIGHUP)
    return until(lambda: service.pid != old and service.pid, lambda: service.log[-3000:])


@pytest.mark.parametrize("idle", [0, 1])
@pytest.mark.parametrize("way", WAYS)
def test_a_late_listener_keeps_its_socket(late, way, idle):
    """
    The child is not ready before it listens on what it has inherited: nobody is
    refused, with and without a client that keeps its connection, in three upgrades.
    """
    old = late.startLate(way, 1)
    until(lambda: "listening on" in late.log, "the first listener")
    held = [connect(late.address) for _ in range(idle)]
    with Clients(late.address, 4) as clients:
        for generation in (2, 3, 4):
            late.release(f"name = {generation}")
            old = replaced(late, old)
            clients.waitForMore()
    for each in held:
        each.close()
    assert clients.failures == []
    assert clients.generations == {1, 2, 3, 4}
    assert "dropped []" in late.log
    assert "dropped ['" not in late.log


@pytest.mark.parametrize("way", WAYS)
def test_one_of_two_listens_late(late, way):
    """
    Also the second one's clients have it all the time.
    """
    port = freePort()
    early = f"{WAYS[way][0]}tcp:{port}:interface=127.0.0.1"
    old = late.startLate(way, 2, ("EARLY", early))
    until(lambda: late.log.count("listening on") == 2, "both listeners")
    with Clients(late.address, 2) as others, Clients(("127.0.0.1", port), 2) as clients:
        for _ in range(2):
            old = replaced(late, old)
            clients.waitForMore()
            others.waitForMore()
    assert clients.failures == others.failures == []


def test_an_application_says_what_it_waits_for(late):
    """
    What is waited for may take longer than anybody would by himself.
    """
    old = late.startLate("by strings", 12, ("UNTIL", "1"))
    with Clients(late.address, 2) as clients:
        replaced(late, old)
        clients.waitForMore()
    assert clients.failures == []


@pytest.mark.parametrize("until_", [(), ("UNTIL", "1")])
def test_a_database_that_is_away_fails_the_upgrade(late, until_):
    """
    The old process keeps serving, and says why; the next good release goes in.
    """
    old = late.startLate("by strings", 0.2, *filter(None, [until_]))
    until(lambda: "listening on" in late.log, "the first listener")
    late.release("def database(): raise OSError('the database is away')")
    with Clients(late.address, 2) as clients:
        os.kill(old, signal.SIGHUP)
        late.waitFor("upgrade failed")
        clients.waitForMore()
        assert late.pid == old
        late.release("name = 'good'")
        replaced(late, old)
        clients.waitForMore()
    assert clients.failures == []
    reason = "the database is away" if until_ else "nothing has listened on tcp 127.0.0.1"
    assert reason in late.log.partition("upgrade failed")[2]


def test_a_first_generation_that_cannot_listen_fails(service):
    """
    With nothing to serve, it exits with status 1, so that whoever watches it acts.
    """
    service.environment.update(DELAY="0", UNTIL="1", LATE="tableflip:tcp:0")
    service.release("def database(): raise OSError('the database is away')")
    process = service.start(TWISTD, "-n", "--pidfile=", "tableflip", *APP)
    assert process.wait(DEADLINE) == 1


EARLY = """
import os, signal, sys, time
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import react
from twisted.python.log import startLogging
from txtableflip import Upgrader

def hook():
    time.sleep(0.2)
    print("the last hook")

async def main(reactor, endpoint):
    upgrader = Upgrader(reactor)
    upgrader.redeployOn("HUP")
    upgrader.stopOn("TERM")
    await upgrader.endpoint(endpoint).listen(Factory.forProtocol(Protocol))
    serving = upgrader.ready()
    reactor.callWhenRunning(hook)
    await serving
    os.kill(os.getpid(), signal.SIGTERM if upgrader.hasParent else signal.SIGHUP)
    await upgrader.whenExiting()
    await upgrader.drain(5)

startLogging(sys.stdout)
react(main, sys.argv[1:])
"""


def test_nobody_is_ready_before_the_reactor_has_started(service):
    """
    A program of one's own may say so before: it serves when all has begun that begins with
    the reactor, and signals that come then do what they are to.
    """
    (service.directory / "script.py").write_text(EARLY)
    endpoint = f"tcp:{freePort()}:interface=127.0.0.1"
    with (service.directory / "twistd.log").open("a") as log:
        first = service.start(sys.executable, "script.py", endpoint, stdout=log, stderr=log)
    assert first.wait(DEADLINE) == 0
    until(lambda: not service.processes(), lambda: f"the end of both:\n{service.log}")
    said = re.findall("the last hook|generation . serves|SIGTERM: stopping", service.log)
    assert said == [
        *("the last hook", "generation 1 serves"),
        *("the last hook", "generation 2 serves", "SIGTERM: stopping"),
    ]
