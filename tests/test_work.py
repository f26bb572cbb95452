"""
What a process has to finish besides its connections: datagrams that it has read, jobs,
calls and child processes.
"""

import os
import signal
import socket
import threading
import time
from contextlib import suppress

import pytest
from processes import APPS, DEADLINE, until
from test_draining import begin, let
from twisted.internet.defer import Deferred
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import formatEvent, globalLogPublisher
from zope.interface import implementer

from txtableflip import IDrainable, Work
from txtableflip._draining.connections import Connections
from txtableflip._draining.drain import Outcome
from txtableflip.testing import FakeUpgrader
from txtableflip.testing._service import freePort, isAlive

NOTHING = Outcome()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def connections():
    return Connections()


@pytest.fixture
def events():
    """
    What the log is told during the test, as text.
    """
    heard = []

    def hear(event):
        heard.append(formatEvent(event))

    globalLogPublisher.addObserver(hear)
    yield heard
    globalLogPublisher.removeObserver(hear)


@pytest.fixture
def upgrader():
    return FakeUpgrader(MemoryReactorClock())


# -- the drain


def test_a_drain_waits_for_what_is_not_finished(clock, connections, events):
    """
    Without any connection it waits for each job, and the log names them at the begin
    and every few seconds.
    """
    jobs = [connections.tasks.begin("the report"), connections.tasks.begin("the mail")]
    outcomes = begin(clock, connections)
    assert events == [
        "draining: 0 open connections have 10 s to finish",
        "draining: not finished yet: the report, the mail; 10 s left",
    ]
    jobs[0].finish()
    let(clock, 5)
    assert events[2:] == ["draining: not finished yet: the mail; 5 s left"]
    assert outcomes == []
    jobs[1].finish()
    jobs[1].finish()
    clock.advance(0)
    assert outcomes == [NOTHING]


def test_what_begins_in_the_drain_is_waited_for_too(clock, connections):
    """
    A request that is under way may begin a job, also as its last deed.
    """
    first = connections.tasks.begin("first")
    outcomes = begin(clock, connections)
    second = connections.tasks.begin("second")
    first.finish()
    let(clock, 1)
    assert outcomes == []
    second.finish()
    clock.advance(0)
    assert outcomes == [NOTHING]


def test_a_drain_waits_no_longer_than_it_may(clock, connections, events):
    """
    What is not finished at the deadline is named.
    """
    connections.tasks.begin("the report")
    outcomes = begin(clock, connections, 3)
    let(clock, 2.8)
    assert outcomes == []
    let(clock, 0.4)
    clock.advance(0)
    assert outcomes == [NOTHING]
    assert events[-1] == "not finished at the drain deadline: the report"


@implementer(IDrainable)
class Goodbye(DatagramProtocol):
    """
    A protocol that knows how it ends.
    """

    def __init__(self):
        self.told = []
        self.done = None

    def drain(self, seconds):
        self.told.append(seconds)
        return self.done


def test_a_datagram_protocol_is_asked_once_and_closed_when_it_says_so(clock, connections):
    """
    As that of a connection; and a goodbye counts as none of a connection.
    """
    protocol = Goodbye()
    protocol.done = Deferred()
    closed = []

    def close():
        closed.append(True)
        task.finish()

    task = connections.tasks.begin("udp 0.0.0.0:53", protocol, close)
    outcomes = begin(clock, connections, 10)
    let(clock, 1)
    assert (protocol.told, closed) == ([10], [])
    protocol.done.callback(None)
    clock.advance(0)
    assert (outcomes, closed) == ([NOTHING], [True])


# -- what the application says


def test_a_context_is_busy_until_its_exit(upgrader):
    """
    Also if that is by an error; what is not finished is listed meanwhile.
    """
    job = upgrader.busy("the report")
    assert upgrader.work == []
    with suppress(ValueError), job:
        assert upgrader.work == [Work("the report", 0)]
        raise ValueError("no ink")
    assert upgrader.work == []


@pytest.mark.parametrize("end", ["callback", "errback", "cancel"])
def test_a_deferred_is_busy_until_it_has_an_outcome(upgrader, end):
    """
    Whatever that is, and it is passed on.
    """
    results = []
    happening = Deferred()
    assert upgrader.busyUntil("a call", happening) is happening
    happening.addBoth(results.append)
    drained = upgrader.drain(9)
    assert upgrader.work == [Work("a call", 0)]
    assert not drained.called
    getattr(happening, end)(*{"callback": [7], "errback": [ValueError()], "cancel": []}[end])
    assert upgrader.work == []
    assert drained.result == 0
    assert len(results) == 1
    assert (results == [7]) == (end == "callback")


def test_the_fake_waits_no_longer_than_it_may(upgrader):
    """
    A test can show what becomes of a job that takes too long.
    """
    with upgrader.busy("the report"):
        drained = upgrader.drain(9)
        upgrader.reactor.advance(8)
        assert not drained.called
        upgrader.reactor.advance(1)
        assert drained.result == 0


# -- in real processes


class Steadily:
    """
    Sends numbered datagrams, and keeps the answers.
    """

    def __init__(self, sock, address, pause):
        """
        @param pause: how long to wait between two, in seconds.
        """
        self._pause = pause
        self.sent = 0
        self.answers = []
        self._sock = sock
        self._address = address
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=each) for each in (self._send, self._receive)]

    def __enter__(self):
        self._sock.settimeout(0.05)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception):
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * DEADLINE)
        self._sock.close()

    def _send(self):
        while not self._stop.wait(self._pause):
            try:
                self._sock.sendto(b"%d" % self.sent, self._address)
            except TimeoutError:
                # The queue is full: nothing has been sent.
                continue
            self.sent += 1

    def _receive(self):
        end = None
        while len(self.answers) < self.sent or not self._stop.is_set():
            if self._stop.is_set():
                end = end or time.monotonic() + DEADLINE
                if time.monotonic() > end:
                    return
            try:
                number, generation = self._sock.recv(100).split()
            except TimeoutError:
                continue
            self.answers.append((int(number), int(generation)))

    def waitFor(self, generation):
        until(lambda: self.answers and self.answers[-1][1] == generation, "its answer")


@pytest.mark.parametrize("kind", ["udp", "unix"])
def test_datagrams_that_have_been_read_are_answered_later(service, kind):
    """
    A server that answers after 0.4 s answers each datagram, once, over three upgrades:
    the old process reads nothing more, and answers what it has read.
    """
    port = freePort() if kind == "udp" else str(service.directory / "d")
    service.environment.update(PORT=str(port), DELAY="0.4")
    service.twistd("tableflip", "--drain-timeout", "3", "--app", str(APPS / "datagrams.py"))
    if kind == "udp":
        sock, address = socket.socket(type=socket.SOCK_DGRAM), ("127.0.0.1", port)
        pause = 0.01
    else:
        sock, address = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), port
        sock.bind(str(service.directory / "client"))
        # The queue holds ten, and an answer that does not fit is dropped.
        pause = 0.1
    with Steadily(sock, address, pause) as client:
        client.waitFor(1)
        for generation in (2, 3, 4):
            service.redeploy()
            client.waitFor(generation)
    assert sorted(number for number, _ in client.answers) == list(range(client.sent))
    assert service.log.count("draining: not finished yet: u") == 3


WORKING = """
import sys
from twisted.internet import reactor, utils
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.application import service, strports
from txtableflip import currentUpgrader

name = "done.%d"

class Working(service.Service):
    def startService(self):
        upgrader = currentUpgrader()
        if not upgrader.hasParent:
            code = "import time, pathlib\\n"
            code += "while not pathlib.Path('go').exists(): time.sleep(0.01)\\n"
            code += "pathlib.Path('done').touch()\\n"
            running = utils.getProcessValue(sys.executable, ["-c", code])
            upgrader.busyUntil("the conversion", running)

application = service.Application("working")
Working().setServiceParent(application)
endpoint = "tableflip:tcp:0:interface=127.0.0.1"
strports.service(endpoint, Factory()).setServiceParent(application)
"""


@pytest.mark.parametrize("signal_", [signal.SIGHUP, signal.SIGTERM])
def test_a_process_lives_until_its_child_process_has_ended(service, signal_):
    """
    If it was told to wait for that: when it has been replaced, and when it is stopped.
    """
    code = service.directory / "working.py"
    code.write_text(WORKING)
    service.twistd("tableflip", "--drain-timeout", str(DEADLINE), "--app", str(code))
    old = service.pid
    os.kill(old, signal_)
    service.waitFor("draining: not finished yet: the conversion")
    service.waitFor("draining: not finished yet: the conversion", 2)
    assert isAlive(old)
    (service.directory / "go").touch()
    until(lambda: not isAlive(old), lambda: service.log[-3000:])
    assert (service.directory / "done").exists()
    assert "not finished at the drain deadline" not in service.log


GOODBYE = """
import os
from twisted.application import service
from twisted.internet import defer, reactor
from twisted.internet.protocol import DatagramProtocol
from zope.interface import implementer
from txtableflip import IDrainable, currentUpgrader

@implementer(IDrainable)
class Announcing(DatagramProtocol):
    def drain(self, seconds):
        self.transport.write(b"goodbye", ("127.0.0.1", int(os.environ["CLIENT"])))
        return defer.succeed(None)

class Announcer(service.Service):
    def startService(self):
        port = int(os.environ["PORT"])
        currentUpgrader().reactor.listenUDP(port, Announcing(), interface="127.0.0.1")

application = service.Application("announcing")
Announcer().setServiceParent(application)
"""


def test_a_datagram_protocol_says_goodbye_and_is_not_waited_for(service):
    """
    One that knows how it ends is asked, though it has received nothing; and its process
    ends as soon as it has, long before its time is over.
    """
    code = service.directory / "announcing.py"
    code.write_text(GOODBYE)
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.bind(("127.0.0.1", 0))
        client.settimeout(DEADLINE)
        service.environment.update(PORT=str(freePort()), CLIENT=str(client.getsockname()[1]))
        service.twistd("tableflip", "--drain-timeout", "3600", "--app", str(code))
        for _ in range(2):
            service.redeploy()
            assert client.recv(100) == b"goodbye"
