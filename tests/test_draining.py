"""
The rules by which connections are told to end, and ended, on a clock of the
test's own.
"""

import dataclasses

import pytest
import pytest_twisted
from processes import DEADLINE
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater
from twisted.logger import globalLogPublisher
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.components import registerAdapter
from zope.interface import implementer

from txtableflip._draining.connections import Connections
from txtableflip._draining.drain import (
    AT_ONCE,
    LAST_BYTES_TIMEOUT,
    LONGEST_REST,
    PROGRESS,
    TICK,
    Drain,
    Outcome,
)
from txtableflip._draining.goodbyes import findDrainable
from txtableflip._draining.http2 import MOMENT, QUIET_SHARE, HTTP2Drain, _Quiet
from txtableflip._journal import DrainCancelled, Drained, Draining, Event, Journal
from txtableflip.interfaces import IDrainable, IDrainableFactory, IResumable


class Transport:
    """
    A connection without a socket, which keeps what it was told.
    """

    connected = True

    def __init__(self, accepted, protocol=None, stubborn=False):
        self.protocol = protocol or Protocol()
        self.done = []
        self._accepted = accepted
        self._stubborn = stubborn
        accepted.opened(self)

    def getPeer(self):
        return IPv4Address("TCP", "127.0.0.1", 4711)

    def unregisterProducer(self):
        self.done.append("unregisterProducer")

    def loseConnection(self):
        self.done.append("loseConnection")
        if not self._stubborn:
            self._accepted.closed(self)

    def abortConnection(self):
        self.done.append("abortConnection")
        self._accepted.closed(self)

    def end(self):
        self.connected = False
        self._accepted.closed(self)


@implementer(IDrainable)
class Drainable(Protocol):
    """
    A protocol that knows how it ends.
    """

    def __init__(self):
        self.told = []
        self.done = None

    def drain(self, seconds):
        self.told.append(seconds)
        return self.done


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def connections():
    return Connections()


@pytest.fixture
def told(monkeypatch):
    """
    What the journal is told during the test: the kinds, and the fields besides
    those that every event has.
    """
    heard = []
    common = {field.name for field in dataclasses.fields(Event)}

    def hear(event):
        fields = {k: v for k, v in vars(event).items() if k not in common}
        heard.append((type(event), fields))

    monkeypatch.setattr(Journal, "listeners", [hear])
    return heard


@pytest.fixture
def events():
    """
    What the log is told during the test, as text.
    """
    heard = []

    def hear(event):
        if event.get("log_format"):
            heard.append(event["log_format"].format(**event))

    globalLogPublisher.addObserver(hear)
    yield heard
    globalLogPublisher.removeObserver(hear)


def begin(clock, connections, timeout=10):
    """
    Begin to drain, and return a list for the outcome.
    """
    outcomes = []
    draining = Drain(clock, connections, timeout, Journal(), isReplaced=True)
    draining.run()
    draining.conclude(timeout).addCallback(outcomes.append)
    return outcomes


class Channel:
    """
    What an HTTP/2 channel tells of its streams.
    """

    def __init__(self):
        self.streams = {}
        self.conn = self
        self.highest_inbound_stream_id = 0

    def open(self, number):
        self.highest_inbound_stream_id = number
        self.streams[number] = object()

    def end(self, number):
        del self.streams[number]


def let(clock, seconds):
    """
    Let time pass in small steps.
    """
    for _ in range(round(seconds / TICK)):
        clock.advance(TICK)


def test_without_connections_a_drain_is_over_at_once(clock, connections):
    """
    Nothing is waited for that is not there.
    """
    outcomes = begin(clock, connections)
    clock.advance(0)
    assert outcomes == [Outcome(finished=0, told=0, cut=0)]


def test_an_unknown_protocol_lives_until_it_closes(clock, connections):
    """
    A connection of which nothing is known is left alone, and the drain is over
    when it has closed.
    """
    transport = Transport(connections.acceptedBy("here"))
    outcomes = begin(clock, connections)
    let(clock, 9)
    assert transport.done == []
    transport.end()
    clock.advance(0)
    assert outcomes == [Outcome(finished=1, told=0, cut=0)]


def test_at_the_deadline_it_is_closed_and_then_aborted(clock, connections):
    """
    At the deadline, and not before, a connection is closed; one that is still
    there a moment later is aborted.
    """
    polite = Transport(connections.acceptedBy("here"))
    stubborn = Transport(connections.acceptedBy("there"), stubborn=True)
    outcomes = begin(clock, connections)
    clock.advance(9.9)
    assert polite.done == stubborn.done == []
    clock.advance(0.1)
    assert polite.done == stubborn.done == ["unregisterProducer", "loseConnection"]
    assert outcomes == []
    clock.advance(LAST_BYTES_TIMEOUT)
    assert stubborn.done[2:] == ["abortConnection"]
    clock.advance(0)
    assert outcomes == [Outcome(finished=0, told=0, cut=2)]


def test_a_listener_may_have_a_deadline_of_its_own(clock, connections):
    """
    The connections of a listener with a time of its own are closed then, be it
    earlier or later than the others.
    """
    early = Transport(connections.acceptedBy("early", drainTimeout=1))
    usual = Transport(connections.acceptedBy("usual"))
    late = Transport(connections.acceptedBy("late", drainTimeout=20))
    outcomes = begin(clock, connections, timeout=10)
    closed = []
    for _ in range(200):
        clock.advance(0.1)
        for name, transport in (("early", early), ("usual", usual), ("late", late)):
            if transport.done and name not in closed:
                closed.append(name)
                assert clock.seconds() == pytest.approx(
                    {"early": 1, "usual": 10, "late": 20}[name], abs=TICK
                )
    clock.advance(0)
    assert closed == ["early", "usual", "late"]
    assert outcomes == [Outcome(finished=0, told=0, cut=3)]


def test_thousands_are_told_a_few_at_a_time(clock, connections):
    """
    In one turn of the reactor no more than a few connections are told, so that
    requests which are under way wait for these and not for all; and not one that
    has been closed meanwhile.
    """
    accepted = connections.acceptedBy("here")
    transports = [Transport(accepted, Drainable()) for _ in range(3 * AT_ONCE)]

    def told():
        return [each for each in transports if each.protocol.told]

    begin(clock, connections)
    assert len(told()) == AT_ONCE
    closed = next(each for each in transports if not each.protocol.told)
    closed.end()
    clock.advance(0)
    clock.advance(0)
    assert len(told()) == 3 * AT_ONCE - 1
    assert closed.protocol.told == []


@pytest.mark.parametrize(("looked", "rest"), [(0.01, 1.0), (0.1, LONGEST_REST)])
def test_after_a_long_look_comes_a_long_rest(clock, connections, looked, rest):
    """
    The longer it takes to look at all connections, the rarer that is done, so that it
    takes a hundredth of the time; but every other second at least, and deadlines are
    kept.
    """

    class Slow(Drainable):
        def drain(self, seconds):
            clock.rightNow += looked

    transport = Transport(connections.acceptedBy("here"), Slow())
    outcomes = begin(clock, connections, 15)
    transport.protocol = Drainable()
    let(clock, rest - TICK)
    assert transport.protocol.told == []
    let(clock, 2 * TICK)
    assert len(transport.protocol.told) == 1
    clock.advance(15)
    assert transport.done == ["unregisterProducer", "loseConnection"]
    clock.advance(0)
    assert [outcome.cut for outcome in outcomes] == [1]


def test_what_comes_after_the_deadline_is_not_acted_upon(clock, connections):
    """
    A protocol whose connection is closed at the deadline receives nothing more,
    because it could not answer.
    """
    received = []
    protocol = Protocol()
    protocol.dataReceived = received.append
    Transport(connections.acceptedBy("here"), protocol, stubborn=True)
    begin(clock, connections)
    protocol.dataReceived(b"in time")
    clock.advance(10)
    protocol.dataReceived(b"too late")
    assert received == [b"in time"]


def test_a_protocol_is_told_once_how_long_it_has(clock, connections):
    """
    A protocol that can drain is told so, once, and not closed before its time.
    """
    protocol = Drainable()
    transport = Transport(connections.acceptedBy("here"), protocol)
    outcomes = begin(clock, connections)
    let(clock, 5)
    assert protocol.told == [10]
    assert transport.done == []
    transport.end()
    clock.advance(0)
    assert outcomes == [Outcome(finished=1, told=1, cut=0)]


def test_a_protocol_that_becomes_another_is_told_again(clock, connections):
    """
    A connection that speaks another protocol from now on has that told, too.
    """

    class Other(Drainable):
        pass

    transport = Transport(connections.acceptedBy("here"), Drainable())
    begin(clock, connections)
    let(clock, 1)
    transport.protocol = Other()
    let(clock, 1)
    assert len(transport.protocol.told) == 1


def test_a_protocol_that_says_that_it_is_done_is_closed(clock, connections):
    """
    When the Deferred that a protocol has returned fires, its connection is
    closed.
    """
    protocol = Drainable()
    protocol.done = Deferred()
    transport = Transport(connections.acceptedBy("here"), protocol)
    outcomes = begin(clock, connections)
    let(clock, 1)
    assert transport.done == []
    protocol.done.callback(None)
    assert transport.done == ["unregisterProducer", "loseConnection"]
    clock.advance(0)
    assert outcomes == [Outcome(finished=1, told=1, cut=0)]


@pytest.mark.parametrize("how", ["raises", "fails"])
def test_a_protocol_that_cannot_drain_does_not_keep_the_others(clock, connections, events, how):
    """
    An error of one protocol is logged; its connection lives until its deadline,
    and the others are told.
    """

    class Broken(Drainable):
        def drain(self, seconds):
            if how == "raises":
                raise ValueError("broken")
            return Deferred().addCallback(lambda ignored: 1 / 0)

    broken = Broken()
    accepted = connections.acceptedBy("here")
    transport = Transport(accepted, broken)
    other = Transport(accepted, Drainable())
    outcomes = begin(clock, connections)
    let(clock, 1)
    assert other.protocol.told == [10]
    other.end()
    clock.advance(9)
    assert transport.done == ["unregisterProducer", "loseConnection"]
    clock.advance(0)
    assert [outcome.cut for outcome in outcomes] == [1]
    if how == "raises":
        assert any(event.startswith("telling <") for event in events)


def test_who_cannot_even_be_asked_is_told_of_once(clock, connections, events):
    """
    A factory that raises when it is asked how to drain is not asked again.
    """

    @implementer(IDrainableFactory)
    class Broken(Factory):
        def drainable(self, protocol):
            raise ValueError("broken")

    protocol = Protocol()
    protocol.factory = Broken()
    transport = Transport(connections.acceptedBy("here"), protocol)
    begin(clock, connections)
    let(clock, 5)
    assert len([event for event in events if event.startswith("telling <")]) == 1
    assert transport.done == []


def test_a_connection_that_cannot_be_closed_is_aborted(clock, connections, events):
    """
    An error in closing one connection, as a wrapper of it may raise, is logged,
    and keeps no other from being closed.
    """

    class Unwilling(Transport):
        def loseConnection(self):
            raise ValueError("unwilling")

    accepted = connections.acceptedBy("here")
    unwilling, other = Unwilling(accepted), Transport(accepted)
    outcomes = begin(clock, connections)
    clock.advance(10)
    assert other.done == ["unregisterProducer", "loseConnection"]
    assert len([event for event in events if event.startswith("closing <")]) == 1
    clock.advance(LAST_BYTES_TIMEOUT)
    clock.advance(0)
    assert unwilling.done == ["unregisterProducer", "abortConnection"]
    assert outcomes == [Outcome(finished=0, told=0, cut=2)]


def test_a_factory_may_answer_for_its_protocols():
    """
    A factory that provides IDrainableFactory is asked before anything else.
    """
    drainable = Drainable()

    @implementer(IDrainableFactory)
    class Knowing(Factory):
        protocol = Protocol

        def drainable(self, protocol):
            assert isinstance(protocol, Protocol)
            return drainable

    transport = Transport(Connections().acceptedBy("here"), Knowing().buildProtocol(None))
    assert findDrainable(transport) is drainable


def test_an_adapter_may_be_registered_for_somebody_elses_protocol():
    """
    A class of which its author has not thought that it may drain is adapted.
    """

    class Foreign(Protocol):
        pass

    @implementer(IDrainable)
    class Adapter:
        def __init__(self, protocol):
            self.protocol = protocol

    registerAdapter(Adapter, Foreign, IDrainable)
    protocol = Foreign()
    found = findDrainable(Transport(Connections().acceptedBy("here"), protocol))
    assert isinstance(found, Adapter)
    assert found.protocol is protocol


def test_a_wrapped_protocol_is_found():
    """
    A protocol inside others, as inside TLS, is told, and closed through the
    outermost of those that wrap it.
    """
    inner = Drainable()
    factory = WrappingFactory(Factory.forProtocol(lambda: inner))
    wrapped = factory.buildProtocol(None)
    assert isinstance(wrapped, ProtocolWrapper)
    assert findDrainable(Transport(Connections().acceptedBy("here"), wrapped)) is inner


def test_progress_is_told_every_few_seconds(clock, connections, events):
    """
    The log says how many connections are left on which listener, the oldest of
    them, and how long there is.
    """
    accepted = connections.acceptedBy("tcp 127.0.0.1:8080")
    for _ in range(3):
        Transport(accepted)
    begin(clock, connections, timeout=30)
    let(clock, PROGRESS - 1)
    assert not [event for event in events if "left on" in event]
    let(clock, 2)
    (progress,) = [event for event in events if "left on" in event]
    assert progress.startswith("draining: 3 connections left on tcp 127.0.0.1:8080")
    assert "from IPv4Address(type='TCP', host='127.0.0.1', port=4711)" in progress
    assert progress.endswith("they have 25 s")
    let(clock, 30)
    assert len([event for event in events if "left on" in event]) == 5


def test_the_journal_is_told_when_a_drain_begins_and_ends(clock, connections, told):
    """
    The journal hears how many connections there are, how long they have, and
    whether another process serves; and in the end what became of them.
    """
    accepted = connections.acceptedBy("here")
    finished = Transport(accepted, Drainable())
    Transport(accepted)
    begin(clock, connections, timeout=10)
    assert told == [(Draining, {"connections": 2, "seconds": 10, "isReplaced": True})]
    finished.end()
    let(clock, 10)
    clock.advance(LAST_BYTES_TIMEOUT)
    assert told[1:] == [(Drained, {"finished": 1, "told": 1, "cut": 1})]


def test_what_has_migrated_before_a_drain_is_not_counted_in_it(clock, connections, told):
    """
    Connections may migrate before the drain begins, and while it lasts: those that have
    finished are the others.
    """
    accepted = connections.acceptedBy("here")
    before, meanwhile, finished = [Transport(accepted, Drainable()) for _ in range(3)]
    before.end()
    connections.migrated += 1
    begin(clock, connections, timeout=10)
    meanwhile.end()
    connections.migrated += 1
    finished.end()
    clock.advance(LAST_BYTES_TIMEOUT)
    assert told[1:] == [(Drained, {"finished": 1, "told": 2, "cut": 0})]


# -- to serve on after all


@implementer(IResumable)
class Resumable(Drainable):
    """
    A protocol that can take back what its client has not heard.
    """

    isSaid = False

    def resume(self):
        return not self.isSaid


def cancelled(clock, connections):
    """
    Begin to drain, and serve on a moment later.
    """
    drain = Drain(clock, connections, 10, Journal(), isReplaced=True)
    drain.run()
    let(clock, 1)
    drain.cancel()


def test_what_was_not_told_is_served_on(clock, connections):
    """
    After a drain that was cancelled, no deadline counts for a connection of which
    nothing is known, nor for one that takes back its goodbye; they may be closed
    without that care, and the next drain has them again.
    """
    accepted = connections.acceptedBy("here")
    unknown = Transport(accepted)
    resumed = Transport(accepted, Resumable())
    resumed.protocol.done = Deferred()
    cancelled(clock, connections)
    assert not accepted.isLeaving(unknown)
    assert not accepted.isLeaving(resumed)
    resumed.protocol.done.callback(None)
    let(clock, 60)
    assert unknown.done == resumed.done == []
    assert resumed.protocol.told == [10]
    resumed.protocol.done = None
    outcomes = begin(clock, connections, timeout=5)
    let(clock, 5)
    clock.advance(0)
    assert resumed.protocol.told == [10, 5]
    assert outcomes == [Outcome(finished=0, told=1, cut=2)]


@pytest.mark.parametrize("kind", [Drainable, Resumable])
def test_what_was_told_ends_as_it_was_told(clock, connections, kind):
    """
    A client that was told goodbye is not told twice: its connection is closed when
    its protocol says so, and with care, or at the deadline of the next drain.
    """
    accepted = connections.acceptedBy("here")
    closing, staying = [Transport(accepted, kind()) for _ in range(2)]
    for transport in (closing, staying):
        transport.protocol.isSaid = True
        transport.protocol.done = Deferred()
    cancelled(clock, connections)
    assert accepted.isLeaving(closing)
    closing.protocol.done.callback(None)
    assert closing.done == ["unregisterProducer", "loseConnection"]
    begin(clock, connections)
    let(clock, 9)
    assert staying.done == []
    let(clock, 2)
    assert staying.done == ["unregisterProducer", "loseConnection"]
    assert staying.protocol.told == [10]
    assert connections.leaving == set()


def test_a_connection_that_was_late_is_aborted_all_the_same(clock, connections):
    """
    It has been closed by then, and its client does not read.
    """
    late = Transport(connections.acceptedBy("here", drainTimeout=0.8), stubborn=True)
    usual = Transport(connections.acceptedBy("there"))
    cancelled(clock, connections)
    clock.advance(LAST_BYTES_TIMEOUT)
    assert late.done == ["unregisterProducer", "loseConnection", "abortConnection"]
    assert usual.done == []


def test_a_protocol_that_cannot_resume_does_not_keep_others_from_it(
    clock, connections, events, told
):
    """
    One that raises is in the log, and counts as told; the journal hears how many
    go on, and nothing of an end.
    """
    accepted = connections.acceptedBy("here")
    for kind in (Resumable, Resumable, Protocol):
        Transport(accepted, kind())
    broken = next(iter(accepted))
    broken.protocol = Resumable()
    broken.protocol.resume = lambda: 1 / 0
    cancelled(clock, connections)
    let(clock, 20)
    assert connections.leaving == {broken}
    assert [event for event in events if event.startswith("resuming ")]
    kinds = [kind for kind, _ in told]
    assert kinds == [Draining, DrainCancelled]
    assert told[1][1] == {"connections": 3, "told": 1, "cut": 0}


def test_many_connections_are_not_told_behind_the_end_of_a_drain(clock, connections):
    """
    With more than are told in one turn, those that have not had theirs are served on.
    """
    accepted = connections.acceptedBy("here")
    many = [Transport(accepted, Drainable()) for _ in range(3 * AT_ONCE)]
    drain = Drain(clock, connections, 10, Journal(), isReplaced=True)
    drain.run()
    drain.cancel()
    let(clock, 20)
    assert len([one for one in many if one.protocol.told]) == AT_ONCE
    assert connections.leaving == {one for one in many if one.protocol.told}


class SpokenTo:
    """
    As much of an HTTP/2 connection as it takes to say goodbye.
    """

    highest_inbound_stream_id = 1

    def __init__(self, streams):
        self.streams = streams
        self.conn = self.transport = self
        self.written = []
        self.write = self.written.append
        self.receive_data = lambda data: []
        self.ping = lambda mark: None
        self.data_to_send = lambda: b"ping"


@pytest_twisted.ensureDeferred
async def test_an_http2_connection_goes_on_unless_it_has_been_told():
    """
    Before GOAWAY, nothing is ever sent; behind it, there is no way back.
    """
    busy = HTTP2Drain(SpokenTo({1: "open"}))
    over = busy.drain(DEADLINE / QUIET_SHARE)
    assert busy.resume()
    await over
    assert busy.channel.written == []
    quiet = HTTP2Drain(SpokenTo({}))
    quiet.drain(DEADLINE / QUIET_SHARE)
    while not quiet.channel.written:
        await deferLater(reactor, 0.01, lambda: None)
    assert not quiet.resume()


# -- who has connections


def test_a_listener_is_listed_from_its_first_connection_to_its_last(connections):
    """
    Where connections are counted is listed as long as there are some, whoever
    else holds it; and not by the grace of the garbage collector.
    """
    accepted = connections.acceptedBy("here")
    assert connections.listeners == set()
    one, other = Transport(accepted), Transport(accepted)
    one.end()
    assert connections.listeners == {accepted}
    other.end()
    other.end()
    assert connections.listeners == set()
    again = Transport(accepted)
    assert [len(each) for each in connections.listeners] == [1]
    again.end()


def test_who_waits_for_the_last_connection_is_told_once(connections):
    """
    What is waited for is that none is open, now or some time; more may come
    after that, and end, and be waited for.
    """
    assert connections.whenAllClosed().called
    accepted, other = connections.acceptedBy("here"), connections.acceptedBy("there")
    for _ in range(2):
        transports = [Transport(accepted), Transport(other)]
        waiting = connections.whenAllClosed()
        transports[0].end()
        assert not waiting.called
        transports[1].end()
        assert waiting.called


@pytest.fixture
def quiet(clock, monkeypatch):
    """
    A function that waits for 10 s at most until a channel is quiet, and returns a list
    that is not empty then.
    """
    monkeypatch.setattr("twisted.internet.reactor", clock)

    def wait(channel):
        happened = []
        _Quiet(channel, 10).happened.addCallback(happened.append)
        return happened

    return wait


@pytest.mark.parametrize("streams", [[], [1, 3]])
def test_an_http2_connection_is_waited_for_without_looking(clock, quiet, streams):
    """
    While a connection is idle, or has streams open, nothing is done for it until its
    time is over.
    """
    channel = Channel()
    for number in streams:
        channel.open(number)
    happened = quiet(channel)
    (only,) = clock.getDelayedCalls()
    assert only.getTime() == 10
    clock.advance(9.9)
    assert (happened, clock.getDelayedCalls()) == ([], [only])
    clock.advance(0.1)
    assert (happened, clock.getDelayedCalls()) == ([None], [])
    channel.open(5)
    channel.end(5)
    assert clock.getDelayedCalls() == []


def test_an_http2_connection_is_quiet_when_no_stream_has_been_open_for_a_moment(clock, quiet):
    """
    The moment begins when the last stream ends, and anew with each that is opened.
    """
    channel = Channel()
    channel.open(1)
    happened = quiet(channel)
    channel.open(3)
    channel.end(1)
    clock.advance(2 * MOMENT)
    channel.end(3)
    clock.advance(MOMENT / 2)
    channel.open(5)
    clock.advance(2 * MOMENT)
    assert happened == []
    channel.end(5)
    clock.advance(MOMENT)
    assert (happened, clock.getDelayedCalls()) == ([None], [])
