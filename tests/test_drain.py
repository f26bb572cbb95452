"""
How a process leaves: not one request is cut, and nothing is open longer than it
may be.
"""

import importlib.util
import os
import select
import shutil
import signal
import socket
import ssl
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import hyperframe.frame
import pytest
import wsproto
import wsproto.events
from httpclients import KINDS, Connection, Crowd, generationOf
from processes import APPS, DEADLINE, connect, fewOrMany, until

import txtableflip
from txtableflip.testing._service import freePort, isAlive


def secured(certificate, *protocols):
    """
    Return what wraps a client's socket in TLS, where an end that is no proper
    one is an error.
    """
    context = ssl.create_default_context(cafile=certificate)
    if protocols:
        context.set_alpn_protocols(protocols)
    return partial(context.wrap_socket, server_hostname="localhost", suppress_ragged_eofs=False)


@pytest.fixture
def site(service, certificate):
    """
    A function that starts the site as a daemon on TCP, TLS and a UNIX path, and
    returns the address of each and what wraps a socket to it.
    """

    def start(*options):
        plain, secure = freePort(), freePort()
        path = service.directory / "site.sock"
        tls = f"privateKey={certificate}:certKey={certificate}"
        service.environment["ENDPOINTS"] = (
            f"tableflip:tcp:{plain}:interface=127.0.0.1 "
            f"tableflip:ssl:{secure}:interface=127.0.0.1:{tls} tableflip:unix:{path}"
        )
        service.twistd("tableflip", *options, "--app", str(APPS / "site.py"))
        return {
            "TCP": (("127.0.0.1", plain), lambda sock: sock),
            "TLS": (("127.0.0.1", secure), secured(certificate)),
            "UNIX": (str(path), lambda sock: sock),
        }

    return start


@fewOrMany(4, 10)
def test_not_one_request_is_cut_in_any_upgrade(service, site, upgrades):
    """
    Requests of every kind are under way all the time, over TCP, TLS and a UNIX
    path: one on each connection, many, many at once, slow ones, large ones,
    and uploads.  Each is answered, and whole, over some upgrades.
    """
    with Crowd(site()) as crowd:
        for generation in range(2, upgrades + 2):
            service.redeploy()
            crowd.waitFor(generation)
    assert crowd.failures == []
    served = {name for name, _ in crowd.answers}
    assert len(served) == 3 * len(KINDS), f"only these were answered: {served}"
    for name in served:
        if "large" not in name:
            generations = {found for kind, found in crowd.answers if kind == name}
            assert len(generations) > upgrades / 2, f"{name}: answered by {generations}"


def test_what_was_half_sent_is_answered(service, site):
    """
    A request whose first line had begun when the process was replaced is
    answered by it, whole, and the connection closed behind the answer; so is a
    HEAD request.
    """
    address, wrap = site()["TCP"]
    with Connection(address, wrap) as half, Connection(address, wrap) as head:
        half.sock.sendall(b"GET /now/ha")
        assert head.get("first") == 1
        os.kill(service.pid, signal.SIGHUP)
        service.waitFor("draining: 2 open connections")
        half.sock.sendall(b"lf HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert generationOf(half.receive(), "half") == 1
        assert half.isLast
        head.send("HEAD", "/now/second")
        answer = b""
        while part := head.sock.recv(4096):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("transport", ["TCP", "TLS"])
@pytest.mark.parametrize(
    "requests",
    [
        ["/now/1", "/now/2"],
        ["/now/1", "/soon/2", "/now/3"],
        ["/soon/1", "/now/2", "/now/3", "/now/4"],
    ],
)
def test_pipelined_requests_that_have_arrived_are_answered(service, site, transport, requests):
    """
    Requests that arrive at once are all answered, and the connection ends behind the
    last answer, also over TLS, which has each in a record of its own; and so is one of
    which the half has arrived.
    """
    address, wrap = site()[transport]
    sent = [f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() for path in requests]
    with Connection(address, wrap) as connection:
        assert connection.get("first") == 1
        os.kill(service.pid, signal.SIGHUP)
        service.waitFor("draining: 1 open connections")
        # As one packet: TLS makes a record of each that is written.
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        for request in sent[:-1]:
            connection.sock.sendall(request)
        connection.sock.sendall(sent[-1][:10])
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        for path in requests[:-1]:
            assert generationOf(connection.receive(), path[-1]) == 1
            assert not connection.isLast
        connection.sock.sendall(sent[-1][10:])
        assert generationOf(connection.receive(), requests[-1][-1]) == 1
        assert connection.isLast


def test_a_process_drains_by_its_own_code_and_not_by_that_of_the_next_release(service, site):
    """
    What is on the disk when a process leaves may be another release, or nothing:
    it has loaded before what it needs to say goodbye.  A release that cannot
    load that serves all the same, and says what it cannot do.
    """
    package = service.directory / "txtableflip"
    shutil.copytree(Path(txtableflip.__file__).parent, package)
    service.environment["PYTHONPATH"] = str(service.directory)
    address, wrap = site()["TCP"]
    with Connection(address, wrap) as client:
        assert client.get("first") == 1
        draining = package / "_draining"
        (draining / "http1.py").write_text("raise ImportError('of the next release')\n")
        (draining / "websocket.py").unlink()
        os.kill(service.pid, signal.SIGHUP)
        service.waitFor("draining: 1 open connections")
        assert client.get("second") == 1
        assert client.isLast
    service.waitFor("drained: 1 connections closed (1 after a protocol goodbye), 0 aborted")
    before, _ = service.log.split("generation 2 serves")
    assert before.count("no graceful drain for connections of") == 2
    assert "ImportError: of the next release" in before


class Streams:
    """
    An HTTP/2 client that keeps twenty streams open, until it is told to open no
    more: then it waits for those it has, and connects anew.

    @ivar farewells: the last streams that the server has named in GOAWAY, by
        connection.
    """

    OPEN = 20

    def __init__(self, address, wrap):
        self.address = address
        self.generations = Counter()
        self.farewells = []
        self.failures = []
        self._wrap = wrap
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._stop.set()
        self._thread.join(DEADLINE)

    def _run(self):
        while not self._stop.is_set() and not self.failures:
            try:
                with connect(self.address, self._wrap) as sock:
                    self._speak(sock)
            except Exception as error:
                self.failures.append(repr(error))

    def _speak(self, sock):
        assert sock.selected_alpn_protocol() == "h2"
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        connection.initiate_connection()
        frames = Frames()
        self._bodies = {}
        while True:
            while not (frames.lastStreams or self._stop.is_set()):
                if len(self._bodies) == self.OPEN:
                    break
                self._open(connection)
            sock.sendall(connection.data_to_send())
            if not self._bodies:
                break
            data = sock.recv(65536)
            assert data, f"the connection ended with {len(self._bodies)} streams open"
            for event in connection.receive_data(frames.withoutGoAway(data)):
                self._happen(connection, event)
        if frames.lastStreams:
            while data := sock.recv(65536):
                frames.withoutGoAway(data)
            self.farewells.append(frames.lastStreams)

    def _open(self, connection):
        stream = connection.get_next_available_stream_id()
        headers = [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "localhost"),
            (":path", "/soon/h2"),
        ]
        connection.send_headers(stream, headers, end_stream=True)
        self._bodies[stream] = b""

    def _happen(self, connection, event):
        if isinstance(event, h2.events.DataReceived):
            self._bodies[event.stream_id] += event.data
            size = event.flow_controlled_length
            connection.acknowledge_received_data(size, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            body = self._bodies.pop(event.stream_id)
            self.generations[generationOf(body, "h2")] += 1
        else:
            assert not isinstance(event, h2.events.StreamReset), event


class Frames:
    """
    Takes the GOAWAY frames out of what an HTTP/2 server sends: the h2 library
    believes after the first that nothing can follow.

    @ivar lastStreams: what they have named as the last stream.
    """

    def __init__(self):
        self.lastStreams = []
        self._buffer = b""

    def withoutGoAway(self, data):
        self._buffer += data
        others = b""
        while len(self._buffer) >= 9:
            frame, length = hyperframe.frame.Frame.parse_frame_header(self._buffer[:9])
            if len(self._buffer) < 9 + length:
                break
            whole, self._buffer = self._buffer[: 9 + length], self._buffer[9 + length :]
            if isinstance(frame, hyperframe.frame.GoAwayFrame):
                frame.parse_body(memoryview(whole[9:]))
                self.lastStreams.append(frame.last_stream_id)
            else:
                others += whole
        return others


@fewOrMany(3, 10)
def test_http2_streams_finish_over_upgrades(service, site, certificate, upgrades):
    """
    A client with twenty streams open is told in time to open no more, is told
    which one was the last, has each of them answered, and then sees the end of
    the connection, in each upgrade.
    """
    address, _ = site("--drain-timeout", "8")["TLS"]
    with Streams(address, secured(certificate, "h2")) as client:
        for generation in range(1, upgrades + 2):
            if generation > 1:
                service.redeploy()
            until(
                lambda generation=generation: client.generations[generation] or client.failures,
                f"an answer of generation {generation}",
            )
    assert client.failures == []
    assert set(client.generations) == set(range(1, upgrades + 2))
    assert len(client.farewells) == upgrades
    for first, last in client.farewells:
        assert first == 2**31 - 1
        assert last % 2 == 1
        assert last < first


class WebSocket:
    """
    A client of a WebSocket, as a browser is one.
    """

    def __init__(self, address, path, wrap=lambda sock: sock):
        self.sock = connect(address, wrap)
        self._connection = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self._send(wsproto.events.Request(host="localhost", target=path))
        assert isinstance(self.next(), wsproto.events.AcceptConnection)

    def _send(self, event):
        self.sock.sendall(self._connection.send(event))

    def next(self):
        """
        Wait for the next thing to happen, and return it.
        """
        while True:
            for event in self._connection.events():
                return event
            data = self.sock.recv(4096)
            self._connection.receive_data(data or None)

    def ask(self, text):
        self._send(wsproto.events.TextMessage(text))
        return self.next().data

    def answerClose(self, event, mayReset):
        try:
            self._send(event.response())
            assert self.sock.recv(100) == b""
        except (ConnectionResetError, BrokenPipeError):
            assert mayReset
        self.sock.close()


def webSockets(service, site, library, options=("--drain-timeout", "4")):
    """
    Start a server of WebSockets, and return its addresses and its path.
    """
    if library == "twisted":
        if importlib.util.find_spec("twisted.web.websocket") is None:
            pytest.skip("this Twisted has no WebSocket")
        return site(*options), "/socket"
    if importlib.util.find_spec("autobahn") is None:
        pytest.skip("autobahn is not installed")
    port = freePort()
    service.environment["ENDPOINTS"] = f"tableflip:tcp:{port}:interface=127.0.0.1"
    app = str(APPS / "autobahnsite.py")
    service.twistd("tableflip", *options, "--app", app)
    return {"TCP": (("127.0.0.1", port), lambda sock: sock)}, "/"


@pytest.mark.parametrize("library", ["twisted", "autobahn"])
def test_websockets_are_closed_by_a_frame_that_says_why(service, site, library):
    """
    Each client of a WebSocket gets a close frame with the code 1001, over TCP as
    over TLS, and the end of the stream behind it; not at the deadline.
    """
    addresses, path = webSockets(service, site, library)
    addresses.pop("UNIX", None)
    clients = [WebSocket(address, path, wrap) for address, wrap in addresses.values()]
    clients += [WebSocket(*addresses["TCP"][:1], path) for _ in range(5)]
    for client in clients:
        assert client.ask("hello") == "hello"
    old = service.pid
    os.kill(old, signal.SIGHUP)

    def bidFarewell(client):
        event = client.next()
        # autobahn aborts what both sides have closed, also where nobody drains, and
        # whoever takes a second for the answer.
        client.answerClose(event, mayReset=library == "autobahn")
        return type(event), event.code

    with ThreadPoolExecutor(len(clients)) as pool:
        farewells = list(pool.map(bidFarewell, clients))
    assert farewells == [(wsproto.events.CloseConnection, 1001)] * len(clients)
    until(lambda: not isAlive(old), "the end of the old process")
    assert f"{len(clients)} after a protocol goodbye), 0 aborted" in service.log


def upgradeOnProbation(service):
    """
    Begin an upgrade, and return the new process when it serves on probation.
    """
    begun = service.log.count("on probation for")
    os.kill(service.pid, signal.SIGHUP)
    service.waitFor("on probation for", begun + 1)
    return service.childOf(1, begun + 1)


def takeBack(service, new):
    """
    Have a process on probation die, and wait until the old one serves again.
    """
    failed = service.log.count("the old one serves again")
    os.kill(new, signal.SIGKILL)
    service.waitFor("the old one serves again", failed + 1)


def test_clients_are_told_when_the_new_process_serves_and_not_when_that_is_final(service, site):
    """
    However long the probation, an idle connection to the old process is told to
    close behind its next answer.
    """
    address, wrap = site("--probation", "3000")["TCP"]
    with Connection(address, wrap) as idle:
        assert idle.get("first") == 1
        upgradeOnProbation(service)
        service.waitFor("draining: 1 open connections")
        assert idle.get("second") == 1
        assert idle.isLast
        assert idle.sock.recv(1) == b""
    service.waitFor("drained: 1 connections closed (1 after a protocol goodbye), 0 aborted")
    assert "upgrade done" not in service.log
    with Connection(address, wrap) as another:
        assert another.get("third") == 2


def test_who_was_not_told_is_served_on_by_the_process_that_serves_again(service, site):
    """
    When the new process is rolled back, idle connections of the old one go on, those
    that were told have ended, new ones are as any; and the next upgrade tells them.
    """
    address, wrap = site("--probation", "3000", "--drain-timeout", "300")["TCP"]
    with Connection(address, wrap) as idle, Connection(address, wrap) as told:
        assert idle.get("first") == told.get("first") == 1
        new = upgradeOnProbation(service)
        service.waitFor("draining: 2 open connections")
        assert told.get("second") == 1
        assert told.isLast
        assert told.sock.recv(1) == b""
        takeBack(service, new)
        service.waitFor("drain cancelled: ")
        with Connection(address, wrap) as another:
            for connection in (idle, another):
                for question in ("third", "fourth"):
                    assert connection.get(question) == 1
                    assert not connection.isLast
            upgradeOnProbation(service)
            service.waitFor("draining: ", 2)
            for connection in (idle, another):
                assert connection.get("last") == 1
                assert connection.isLast


@pytest.mark.parametrize("library", ["twisted", "autobahn"])
def test_a_websocket_that_was_not_told_goes_on(service, site, library):
    """
    Who was to be told later is not told when the old process serves again.
    """
    patience = ["--drain-timeout", "100000", "--probation", "3000"]
    addresses, path = webSockets(service, site, library, patience)
    client = WebSocket(*addresses["TCP"][:1], path)
    assert client.ask("hello") == "hello"
    takeBack(service, upgradeOnProbation(service))
    service.waitFor("drain cancelled: 1 open connections are still served, except 0")
    assert client.ask("again") == "again"
    client.sock.close()


def test_a_process_whose_connections_have_all_ended_serves_again(service, site):
    """
    Their time counts from when the new process serves, so it may be over before that
    is final: the old one stays, and can serve others.
    """
    address, wrap = site("--probation", "3000", "--drain-timeout", "1")["TCP"]
    with Connection(address, wrap) as idle:
        assert idle.get("first") == 1
        new = upgradeOnProbation(service)
        assert idle.sock.recv(1) == b""
    service.waitFor("drained: 0 connections closed (1 after a protocol goodbye), 1 aborted")
    takeBack(service, new)
    with Connection(address, wrap) as another:
        assert another.get("second") == 1
        assert not another.isLast


def test_a_process_with_a_thread_that_never_returns_is_ended(service, site):
    """
    A thread of the application's that never ends does not keep the old process
    beyond the time that it has to stop; its last words in the log say which function
    it was that held it.
    """
    address, wrap = site("--stop-timeout", "2")["TCP"]
    with Connection(address, wrap) as connection:
        connection.send("GET", "/stuck")
        connection.receive()
    old = service.pid
    os.kill(old, signal.SIGHUP)
    until(lambda: not isAlive(old), "the end of the old process")
    assert f"pid {old}] this process did not exit in time and is killed" in service.log
    assert "in wait (" in service.log.partition("Still running: ")[2]
    assert service.pid != old


def test_a_process_without_room_for_a_thread_drains_and_ends(service):
    """
    When the successor was the last process that there may be, so that nothing can
    watch over the end of the old one, that drains and ends all the same.
    """
    port = freePort()
    service.environment["ENDPOINTS"] = f"tableflip:tcp:{port}:interface=127.0.0.1"
    service.release(
        "import threading\n"
        "start = threading.Thread.start\n"
        "def startOthers(self):\n"
        "    if self.name == 'txtableflip watchdog':\n"
        "        raise RuntimeError('no room for a thread')\n"
        "    start(self)\n"
        "threading.Thread.start = startOthers\n"
    )
    service.twistd("tableflip", "--app", str(APPS / "answering.py"))
    service.redeploy()
    assert "will not be killed if it hangs: no room for a thread" in service.log
    assert "drained: 0 connections closed" in service.log


def test_a_stop_lets_requests_finish_and_accepts_no_more(service, site):
    """
    SIGTERM closes the listening sockets, finishes the request that is under
    way, and ends the process by that signal.
    """
    addresses = site()
    address, wrap = addresses["TCP"]
    with Connection(address, wrap) as connection:
        connection.send("GET", "/late/last")
        os.kill(service.pid, signal.SIGTERM)
        service.waitFor("draining: 1 open connections")
        with pytest.raises(ConnectionRefusedError):
            connect(address)
        assert not (service.directory / "site.sock").exists()
        assert generationOf(connection.receive(), "last") == 1
        assert connection.isLast
    until(lambda: not service.processes(), "the end of the service")
    assert (
        "drained: 1 connections closed (1 after a protocol goodbye), 0 aborted" in service.log
    )
    assert not service.pidFile.exists()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once(service, site, second):
    """
    A process that drains because of SIGTERM is ended by another one, or by
    SIGINT, without waiting for its clients.
    """
    address, wrap = site("--drain-timeout", "1000")["TCP"]
    with Connection(address, wrap) as connection:
        connection.get("hello")
        pid = service.pid
        os.kill(pid, signal.SIGTERM)
        service.waitFor("draining: 1 open connections")
        os.kill(pid, second)
        assert connection.sock.recv(1) == b""
    until(lambda: not service.processes(), "the end of the service")


def test_a_stop_is_no_news_to_a_process_that_drains(service, site):
    """
    After an upgrade, a first SIGTERM to the old process leaves it to drain; a
    second one ends it.  The new process is not concerned.
    """
    address, wrap = site("--drain-timeout", "1000")["TCP"]
    with Connection(address, wrap) as connection:
        connection.get("hello")
        old = service.pid
        os.kill(old, signal.SIGHUP)
        # Until then, a stop is for both.
        service.waitFor("upgrade done")
        os.kill(old, signal.SIGTERM)
        assert connection.get("again") == 1
        assert connection.isLast
    until(lambda: not isAlive(old), "the end of the old process")
    with Connection(address, wrap) as connection:
        assert connection.get("hello") == 2
        young = service.pid
        os.kill(young, signal.SIGHUP)
        service.waitFor("upgrade done", 2)
        for count in (2, 3):
            os.kill(young, signal.SIGTERM)
            if count == 2:
                service.waitFor("SIGTERM: stopping once", count)
        assert connection.sock.recv(1) == b""
        until(lambda: not isAlive(young), "the end of the second generation")
    with Connection(address, wrap) as connection:
        assert connection.get("hello") == 3


def test_a_stop_during_an_upgrade_ends_the_child_and_drains(service, site):
    """
    SIGTERM while a child initialises ends the child, and finishes what is open
    in the parent.
    """
    address, wrap = site()["TCP"]
    with Connection(address, wrap) as connection:
        connection.send("GET", "/late/last")
        os.kill(service.pid, signal.SIGHUP)
        service.childOf(1)
        os.kill(service.pid, signal.SIGTERM)
        assert generationOf(connection.receive(), "last") in (1, 2)
    until(lambda: not service.processes(), "the end of the service")


@pytest.mark.parametrize("cause", [signal.SIGHUP, signal.SIGTERM])
def test_a_process_is_taken_apart_in_order(service, cause):
    """
    The last connection comes first, then its factory, then the application's
    services, and last the application's shutdown triggers; after an upgrade as
    on a stop.
    """
    port = freePort()
    service.environment["ENDPOINTS"] = f"tableflip:tcp:{port}:interface=127.0.0.1"
    old = service.twistd("tableflip", "--app", str(APPS / "leaving.py"))
    events = service.directory / "events"
    with connect(("127.0.0.1", port)) as sock:
        sock.sendall(b"hello\n")
        assert sock.recv(100) == b"hello\n"
        os.kill(old, cause)
        service.waitFor("draining: 1 open connections")
        assert not events.exists()
        sock.sendall(b"still there\n")
        assert sock.recv(100) == b"still there\n"
    until(lambda: not isAlive(old), "the end of the old process")
    told = [line.removeprefix(f"{old} ") for line in events.read_text().splitlines()]
    assert told == ["connectionLost", "stopFactory", "stopService", "shutdown trigger"]


UNWILLING = """
import os
from twisted.application import service, strports
from twisted.internet.protocol import Factory, Protocol

class Unwilling(Factory):
    protocol = Protocol
    def stopFactory(self):
        raise ValueError("no")

service = service.MultiService()
for description in os.environ["ENDPOINTS"].split():
    strports.service(description, Unwilling()).setServiceParent(service)
"""


def test_factories_that_fail_to_stop_are_told_of_and_hold_up_nothing(service):
    """
    An exception of the application's, at the very end, is in the log, for each
    factory; and the process ends at once, not by its deadline.
    """
    (service.directory / "app.py").write_text(UNWILLING)
    service.environment["ENDPOINTS"] = " ".join(
        f"tableflip:tcp:{freePort()}:interface=127.0.0.1" for _ in range(2)
    )
    service.twistd("tableflip", "--app", "app.py")
    service.redeploy()
    assert service.log.count("cannot stop") == service.log.count("ValueError: no") == 2
    assert "did not exit in time" not in service.log


UNRULY = """
import os
from twisted.application import strports
from twisted.internet.protocol import Factory, Protocol

class Unruly(Protocol):
    def dataReceived(self, data):
        self.transport.abortConnection()
        raise ValueError("unruly")
    def connectionLost(self, reason):
        raise ValueError("unruly")

service = strports.service(os.environ["ENDPOINTS"], Factory.forProtocol(Unruly))
"""


@pytest.mark.parametrize("network", ["tcp", "unix"])
@pytest.mark.parametrize(("sent", "errors"), [(b"", 1), (b"x", 2)])
def test_connections_of_a_protocol_that_raises_are_not_waited_for(
    service, network, sent, errors
):
    """
    A connection is closed when it is, whatever its protocol makes of that, and
    also if it is lost twice over: a drain does not wait for it.
    """
    path, port = str(service.directory / "socket"), freePort()
    description, address = {
        "tcp": (f"tcp:{port}:interface=127.0.0.1", ("127.0.0.1", port)),
        "unix": (f"unix:{path}", path),
    }[network]
    (service.directory / "app.py").write_text(UNRULY)
    service.environment["ENDPOINTS"] = f"tableflip:{description}"
    service.twistd("tableflip", "--app", "app.py")
    with connect(address) as sock:
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
        service.waitFor("ValueError: unruly", errors)
    service.redeploy()
    assert "draining: 0 open connections" in service.log
    assert "KeyError" not in service.log


@pytest.mark.parametrize("transport", ["TCP", "UNIX"])
def test_a_request_that_comes_too_late_meets_an_end_and_no_reset(service, site, transport):
    """
    A request that is sent when the server has just closed an idle connection at
    its deadline is not answered, nor is the connection reset: the client reads
    the end of the stream, after which it may ask again elsewhere.
    """
    address, wrap = site("--drain-timeout", "1")[transport]
    with Connection(address, wrap) as connection:
        assert connection.get("early") == 1
        os.kill(service.pid, signal.SIGHUP)
        ready, _, _ = select.select([connection.sock], [], [], DEADLINE)
        assert ready
        connection.send("GET", "/now/late")
        assert connection.sock.recv(1) == b""
    with Connection(address, wrap) as connection:
        assert connection.get("elsewhere") == 2
