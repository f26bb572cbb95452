"""
The end of a process: the application has a time of its own to stop, and what does
not end in it is killed and named.
"""

import os
import signal
import sys
from contextlib import ExitStack

import pytest
from processes import DEADLINE, TWISTD, connect, until
from twisted.application.service import MultiService, Service
from twisted.internet.base import _ThreePhaseEvent
from twisted.internet.defer import Deferred

from txtableflip._launch.shutdown import Shutdown
from txtableflip.testing._service import freePort

# -- what the reactor waits for


class Reactor:
    """
    That part of a reactor which shuts down.
    """

    def __init__(self):
        self.shutdown = _ThreePhaseEvent()
        self._eventTriggers = {"shutdown": self.shutdown}


class Waiting(Service):
    """
    A service that stops when it is told to.
    """

    def __init__(self):
        self.stopped = Deferred()

    def stopService(self):
        return self.stopped


class Awaiting(Waiting):
    async def stopService(self):
        await self.stopped


class Unruly(Service):
    def stopService(self):
        raise ValueError("unruly")


@pytest.fixture
def reactor():
    return Reactor()


def application(*services):
    """
    Return a service that is made of others.
    """
    made = MultiService()
    for service in services:
        service.setServiceParent(made)
    return made


def test_what_has_not_finished_is_named(reactor):
    """
    Services that have not stopped are named, also those that are part of others and
    those that await it, and triggers; not those that have, nor those that raised.
    """
    slow, coroutine, trigger = Waiting(), Awaiting(), Deferred()
    made = application(Service(), application(slow), coroutine, Unruly())
    reactor.shutdown.addTrigger("before", made.stopService)
    reactor.shutdown.addTrigger("before", lambda: trigger)
    shutdown = Shutdown(reactor)
    shutdown.watch()
    assert shutdown.unfinished() == []
    reactor.shutdown.fireEvent()
    waited, awaited, called = shutdown.unfinished()
    assert awaited.startswith(f"Awaiting.stopService ({__file__}:")
    assert waited.startswith(f"Waiting.stopService ({__file__}:")
    assert called.startswith("test_what_has_not_finished_is_named.<locals>.<lambda> (")
    slow.stopped.callback(None)
    trigger.callback(None)
    assert shutdown.unfinished() == [awaited]
    coroutine.stopped.callback(None)
    assert shutdown.unfinished() == []


def test_a_trigger_that_is_watched_can_be_removed(reactor):
    """
    Whoever has added a trigger removes it as always; and what is watched again is
    watched once.
    """
    called = []
    trigger = reactor.shutdown.addTrigger("before", called.append, "removed")
    reactor.shutdown.addTrigger("before", called.append, "called")
    shutdown = Shutdown(reactor)
    shutdown.watch()
    shutdown.watch()
    reactor.shutdown.removeTrigger(trigger)
    reactor.shutdown.fireEvent()
    assert called == ["called"]


def test_a_reactor_of_another_kind_is_left_alone():
    """
    Where it cannot be known, nothing is.
    """
    shutdown = Shutdown(object())
    shutdown.watch()
    assert shutdown.unfinished() == []


# -- real processes

APP = """
import os, threading
from twisted.application import service, strports
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

class Echo(Protocol):
    def dataReceived(self, data):
        self.transport.write(data)

class Ending(service.Service):
    def stopService(self):
        return {stopService}

service = service.MultiService()
Ending().setServiceParent(service)
strports.service(os.environ["ENDPOINTS"], Factory.forProtocol(Echo)).setServiceParent(service)
"""

TRIGGER = "reactor.addSystemEventTrigger('before', 'shutdown', {})"
LATER = "reactor.callWhenRunning(lambda: {})"

HANGS = {
    "a service": ("Deferred()", "", "Ending.stopService (app.py:"),
    "a service that is never cancelled": (
        "Deferred().addBoth(print)",
        "",
        "Ending.stopService (app.py:",
    ),
    "a trigger": (
        "None",
        "def hang(): return Deferred()\n" + TRIGGER.format("hang"),
        "hang (app.py:",
    ),
    "a trigger that was added when the reactor ran": (
        "None",
        "def hang(): return Deferred()\n" + LATER.format(TRIGGER.format("hang")),
        "hang (app.py:",
    ),
    "a thread": (
        "reactor.callInThread(threading.Event().wait)",
        "",
        "in wait (",
    ),
    "the reactor": (
        "threading.Event().wait()",
        "",
        "MainThread in wait",
    ),
}


def startApp(service, stopService, more, *options):
    """
    Start a service in the foreground, and return its process and address.
    """
    port = freePort()
    service.environment["ENDPOINTS"] = f"tableflip:tcp:{port}:interface=127.0.0.1"
    (service.directory / "app.py").write_text(APP.format(stopService=stopService) + more)
    process = service.start(
        *(TWISTD, "--nodaemon", "--pidfile=twistd.pid", "--logfile=twistd.log"),
        *("tableflip", "--app", "app.py", *options),
    )
    service.waitFor("generation 1 serves")
    return process, ("127.0.0.1", port)


@pytest.mark.process
@pytest.mark.parametrize(
    ("cause", "status"), [(signal.SIGHUP, 0), (signal.SIGTERM, -signal.SIGTERM)]
)
def test_a_drain_to_the_end_leaves_the_application_its_time_to_stop(service, cause, status):
    """
    An idle client that uses up the drain does not keep the application's services
    from stopping in their own time, after an upgrade as on a stop.
    """
    stop = "deferLater(reactor, 3, lambda: open(f'stopped.{os.getpid()}', 'w').close())"
    process, address = startApp(service, stop, "", "--drain-timeout", "0.5")
    with connect(address) as idle:
        idle.sendall(b"x")
        assert idle.recv(1) == b"x"
        os.kill(process.pid, cause)
        assert idle.recv(1) == b""
        assert process.wait(DEADLINE) == status
    assert (service.directory / f"stopped.{process.pid}").exists()
    assert "did not exit in time" not in service.log


@pytest.mark.process
@pytest.mark.parametrize("cause", [signal.SIGHUP, signal.SIGTERM])
@pytest.mark.parametrize("what", HANGS)
def test_what_does_not_end_in_its_time_is_named_and_has_a_status(service, cause, what):
    """
    A process whose application does not stop is killed when its time is over, though
    it could drain for long; with status 1, and with what held it in the log.
    """
    stop, more, name = HANGS[what]
    options = ("--drain-timeout", "10000", "--stop-timeout", "1")
    process, _ = startApp(service, stop, more, *options)
    os.kill(process.pid, cause)
    assert process.wait(DEADLINE) == 1
    assert "drained: 0 connections" in service.log
    (line,) = [line for line in service.log.splitlines() if "did not exit in time" in line]
    assert name in line.partition("Still running: ")[2]


@pytest.mark.process
def test_a_second_signal_ends_the_drain_and_not_the_time_to_stop(service):
    """
    A process that is told again to stop ends its drain at once, and has the time to
    stop from then on.
    """
    process, address = startApp(
        service, "Deferred()", "", "--drain-timeout", "10000", "--stop-timeout", "1"
    )
    with connect(address) as idle:
        os.kill(process.pid, signal.SIGTERM)
        service.waitFor("draining: 1 open connections")
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(DEADLINE) == 1
        assert idle.recv(1) == b""
    assert "Still running: Ending.stopService" in service.log


LISTENERS = """
import sys
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import react
from twisted.python.log import startLogging
from txtableflip import Upgrader

async def main(reactor, *arguments):
    upgrader = Upgrader(reactor, pidFile="twistd.pid")
    upgrader.redeployOn("HUP")
    upgrader.stopOn("TERM")
    for timeout in (None, 4):
        endpoint = upgrader.endpoint(arguments[0 if timeout else 1], drainTimeout=timeout)
        await endpoint.listen(Factory.forProtocol(Protocol))
    await upgrader.ready()
    await upgrader.whenExiting()
    await upgrader.drain(0.5, stopTimeout=0.5)
    {after}

startLogging(open("twistd.log", "a"), setStdout=False)
react(main, sys.argv[1:])
"""


def startScript(service, after):
    """
    Start a program with an Upgrader of its own, and return its process and the
    addresses at which connections have 4 and 0.5 seconds to end.
    """
    (service.directory / "script.py").write_text(LISTENERS.format(after=after))
    ports = [freePort(), freePort()]
    process = service.start(
        *(sys.executable, "script.py"),
        *(f"tcp:{port}:interface=127.0.0.1" for port in ports),
    )
    service.waitFor("generation 1 serves")
    return process, *(("127.0.0.1", port) for port in ports)


@pytest.mark.process
@pytest.mark.parametrize("cause", [signal.SIGHUP, signal.SIGTERM])
def test_the_longest_time_that_a_listener_has_counts(service, cause):
    """
    Connections of a listener with a longer drain timeout than the others' have it,
    though these are over.
    """
    process, *addresses = startScript(service, "pass")
    with connect(addresses[0]) as longer, connect(addresses[1]) as shorter:
        os.kill(process.pid, cause)
        assert shorter.recv(1) == b""
        assert longer.recv(1) == b""
        assert process.wait(DEADLINE) == 0
    assert "2 aborted at the deadline" in service.log
    assert "did not exit in time" not in service.log


@pytest.mark.process
@pytest.mark.parametrize(
    "after",
    [
        "from threading import Event; reactor.callInThread(Event().wait)",
        "from twisted.internet.defer import Deferred; await Deferred()",
        "from threading import Event; Event().wait()",
    ],
)
def test_a_program_of_ones_own_does_not_outlive_its_drain_for_ever(service, after):
    """
    Where the program drains by itself, it is killed, too, if it does not end after
    that: for a thread, because it waits in vain, or because the reactor is stuck.
    """
    process, *_ = startScript(service, after)
    os.kill(process.pid, signal.SIGHUP)
    assert process.wait(DEADLINE) == 1
    service.waitFor("this process did not exit in time and is killed")
    until(lambda: service.pid != process.pid, "a successor")


QUEUE = """
import os, pathlib, time
from twisted.application import service, strports
from twisted.internet.protocol import Factory, Protocol

class Answering(Protocol):
    def dataReceived(self, data):
        if data == b"block":
            pathlib.Path("blocked").touch()
            while not pathlib.Path("go").exists():
                time.sleep(0.01)
        self.transport.write(b"answered")
        self.transport.loseConnection()

service = service.MultiService()
for description in os.environ["ENDPOINTS"].split():
    strports.service(description, Factory.forProtocol(Answering)).setServiceParent(service)
"""


@pytest.mark.process
@pytest.mark.parametrize("network", ["tcp", "unix"])
def test_who_waits_in_the_queue_at_a_stop_is_accepted_first(service, network):
    """
    Clients who have connected, and whom a busy process has not accepted when it is told
    to stop, have their requests answered; who has not asked yet finds an end and is not
    reset.  Nobody can connect after that.
    """
    path, port = str(service.directory / "socket"), freePort()
    description, address = {
        "tcp": (f"tcp:{port}:interface=127.0.0.1:backlog=300", ("127.0.0.1", port)),
        "unix": (f"unix:{path}:backlog=300", path),
    }[network]
    (service.directory / "app.py").write_text(QUEUE)
    service.environment["ENDPOINTS"] = f"tableflip:{description}"
    pid = service.twistd("tableflip", "--drain-timeout", "5", "--app", "app.py")
    with ExitStack() as stack:
        blocking = stack.enter_context(connect(address))
        blocking.sendall(b"block")
        until((service.directory / "blocked").exists, "a busy process")
        asking = [stack.enter_context(connect(address)) for _ in range(250)]
        for sock in asking:
            sock.sendall(b"ask")
        silent = stack.enter_context(connect(address))
        os.kill(pid, signal.SIGTERM)
        (service.directory / "go").touch()
        for sock in [blocking, *asking]:
            assert sock.recv(100) == b"answered"
            assert sock.recv(100) == b""
        assert silent.recv(100) == b""
        with pytest.raises(OSError, match=r"refused|No such file"):
            connect(address).close()
    until(lambda: not service.processes(), "the end of the service")
    assert "did not exit in time" not in service.log
