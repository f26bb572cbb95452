"""
Connections of web servers migrate, with real clients in one process.
"""

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from migrating import divide, dropped, makeWorld, world
from twisted.internet.task import deferLater
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from txtableflip import ConnectionMigrated
from txtableflip._migration.known import registerKnown
from txtableflip._migration.moving import Stays, take
from txtableflip.web import EventStream, migratedState

__all__ = ["makeWorld", "world"]

CUTS = st.lists(st.integers(0, 10**6), max_size=12)

ANYWHERE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def _known():
    registerKnown()


class Echo(Resource):
    """
    Answers with what was sent, at once or later.
    """

    isLeaf = True

    def __init__(self, reactor):
        super().__init__()
        self.reactor = reactor

    def render(self, request):
        said = b"%s %s " % (request.method, request.uri) + request.content.read()
        answer = said * 2000 if request.uri == b"/long" else said
        if b"late" not in request.uri:
            return answer
        later = deferLater(self.reactor, 0.001, request.write, answer)
        later.addCallback(lambda ignored: request.finish())
        return NOT_DONE_YET


def bodies(data):
    """
    Return the bodies of answers of known length, and what is behind them.
    """
    found = []
    while match := re.match(rb"HTTP/1.1 200 OK\r\n(?:.+\r\n)*?\r\n", data):
        head = match.group()
        if b"chunked" in head:
            body, _, data = data[len(head) :].partition(b"0\r\n\r\n")
            size, _, body = body.partition(b"\r\n")
            found.append(body[: int(size, 16)])
        else:
            length = int(re.search(rb"Content-Length: (\d+)", head, re.IGNORECASE).group(1))
            found.append(data[len(head) : len(head) + length])
            data = data[len(head) + length :]
    return found, data


def ask(method, path, body=b""):
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


REQUESTS = (
    ask("GET", "/"),
    ask("POST", "/late", b"a body" * 100),
    ask("GET", "/long"),
    ask("POST", "/later", b"x"),
    ask("GET", "/"),
)


@pytest.fixture
def web(world):
    """
    A world with a web server.
    """
    world.listen(Site(Echo(world.reactor), reactor=world.reactor))
    return world


@ANYWHERE
@given(cuts=CUTS)
def test_requests_are_answered_wherever_their_connection_migrates(web, cuts):
    """
    Requests in any pieces, pipelined, with bodies and with answers that take a while: each
    is answered once and in order.
    """
    expected = [
        b"GET / ",
        b"POST /late " + b"a body" * 100,
        b"GET /long " * 2000,
        b"POST /later x",
        b"GET / ",
    ]
    client = web.converse(divide(b"".join(REQUESTS), cuts), b"")
    web.turnUntil(lambda: len(bodies(client.read())[0]) >= len(expected) or client.ended)
    assert bodies(client.got) == (expected, b"")
    web.turnUntil(lambda: not client.isWaiting)
    assert client.moves > 0
    assert not client.ended


def test_an_idle_connection_is_served_by_each_process(web):
    """
    A connection migrates before each request, a hundred times.
    """
    client = web.connect()
    for _ in range(100):
        web.migrate(client)
        client.send(ask("GET", "/"))
        web.turnUntil(lambda: bodies(client.read())[0])
        assert bodies(client.got) == ([b"GET / "], b"")
        client.got = b""


def test_half_a_request_line_moves_and_is_missed_if_it_does_not(web):
    """
    What has come of a request is received again; and these tests can fail.
    """
    line = ask("GET", "/")
    for change, expected in ((lambda moving: moving, [b"GET / "]), (dropped, [])):
        web.change = change
        client = web.connect()
        client.send(line[:5])
        web.migrateSoon(client)
        client.send(line[5:])
        web.turnUntil(client.read)
        web.turn(10)
        client.read()
        assert bodies(client.got)[0] == expected


def test_the_last_answer_of_a_connection_is_given_here(web):
    """
    A connection that closes behind its answer stays.
    """
    client = web.connect()
    client.send(b"GET /late HTTP/1.1\r\nConnection: close\r\n\r\n")
    with pytest.raises(Stays, match="refuses"):
        take(client.transport)
    web.turnUntil(lambda: client.read() and client.ended)


class Clock(Resource):
    """
    Counts up, for as long as the connection lasts, and on from where the last one was.
    """

    isLeaf = True

    def __init__(self, reactor):
        super().__init__()
        self.reactor = reactor
        self.lost = []

    def render(self, request):
        counts = json.loads(migratedState(request) or b"[0]")
        body = request.content.read().decode()
        stream = EventStream(request, lambda: json.dumps(counts).encode())

        def tick():
            counts[0] += 1
            stream.send(f"{counts[0]} {body}", event="tick", id=str(counts[0]))
            ticking[0] = self.reactor.callLater(0.001, tick)

        def end(reason):
            self.lost.append(reason)
            ticking[0].cancel()

        ticking = [self.reactor.callLater(0.001, tick)]
        request.notifyFinish().addErrback(end)
        return NOT_DONE_YET


def events(data):
    """
    Return the numbers of the events in a chunked answer that is whole so far.
    """
    head, _, rest = data.partition(b"\r\n\r\n")
    assert head.count(b"HTTP/1.1 200") == 1
    found = []
    while match := re.match(rb"([0-9a-f]+)\r\n", rest):
        size = int(match.group(1), 16)
        chunk = rest[match.end() : match.end() + size]
        if len(rest) < match.end() + size + 2:
            break
        number = int(re.fullmatch(rb"event: tick\nid: (\d+)\ndata: \1 .*\n\n", chunk).group(1))
        found.append(number)
        rest = rest[match.end() + size + 2 :]
    return found, rest


@pytest.fixture
def clock(world):
    """
    A world with events.
    """
    world.resource = Clock(world.reactor)
    world.listen(Site(world.resource, reactor=world.reactor))
    return world


@pytest.mark.parametrize(
    "request_", [ask("GET", "/?a"), ask("POST", "/", b"question")], ids=["GET", "POST"]
)
def test_an_event_stream_goes_on_in_mid_answer(clock, request_):
    """
    The numbers have no gap, nothing comes twice, and there is one header.
    """
    client = clock.connect()
    client.send(request_)
    for count in range(10, 210, 10):
        clock.turnUntil(
            lambda count=count: client.read() and len(events(client.got)[0]) > count
        )
        clock.migrate(client)
    found, rest = events(client.got)
    assert found == list(range(1, len(found) + 1))
    assert not client.ended
    assert all(reason.check(ConnectionMigrated) for reason in clock.resource.lost)
    assert len(clock.resource.lost) == 20
    assert rest == b"" or b"\r\n0\r\n" not in rest


def test_an_event_stream_that_the_new_release_does_not_know_is_cut(clock):
    """
    Asked again, the new release answers something else: the client sees an end, and no
    answer within its answer.
    """
    client = clock.connect()
    client.send(ask("GET", "/"))
    clock.turnUntil(lambda: client.read() and events(client.got)[0])
    clock.port.factory.resource = Echo(clock.reactor)
    before = len(client.got)
    clock.migrate(client)
    with pytest.raises(ConnectionResetError):
        clock.turnUntil(lambda: client.read() and client.ended)
    assert b"GET" not in client.got[before:]


def test_an_event_that_would_be_two_is_refused():
    """
    The fields of an event have one line each; its data may have several.
    """
    sent = []

    class Asked:
        responseHeaders = Headers()

        def write(self, data):
            sent.append(data)

    stream = EventStream(Asked())
    with pytest.raises(ValueError, match="one line"):
        stream.send("x", id="1\n2")
    stream.send("one\ntwo")
    stream.send("")
    assert sent == [b"", b"data: one\ndata: two\n\n", b"data: \n\n"]
