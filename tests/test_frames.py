"""
Frames and their descriptors: any bytes, cut anywhere, with descriptors anywhere;
and real sockets, in both directions.
"""

import os
import socket
import struct
import threading
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import finite, texts
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import MemoryReactor, StringTransport
from twisted.python.failure import Failure

from txtableflip._handover import channel as channels
from txtableflip._handover.channel import connectChannel
from txtableflip._handover.frames import (
    FDS_AT_ONCE,
    MAX_FRAME,
    FrameReader,
    closeAll,
    divide,
    writeFrame,
)
from txtableflip._handover.messages import Abort, Manifest, Ready, Redeploy, Refused, Serving
from txtableflip._handover.receiving import Received, receive, receiveFrame
from txtableflip.errors import ChannelError

MANY = [0, 1, 253, 254, 1000]
"""
Numbers of descriptors: what goes at once, and one more.
"""


def openDescriptors():
    """
    Return the numbers of the descriptors that are open.
    """
    looked = map(int, os.listdir("/proc/self/fd"))
    return {fileno for fileno in looked if os.path.exists(f"/proc/self/fd/{fileno}")}


@contextmanager
def nothingLeaks():
    """
    Check that the same descriptors are open behind it as before.
    """
    before = openDescriptors()
    try:
        yield
    except BaseException:
        # What chance draws may give an example up anywhere: thousands were left.
        closeAll(openDescriptors() - before)
        raise
    assert openDescriptors() == before


def opened(count):
    """
    Open so many descriptors, to be closed by whoever gets them.
    """
    return [os.open("/dev/null", os.O_RDONLY) for _ in range(count)]


@pytest.fixture
def pair():
    """
    Two sockets that are connected with each other.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


headers = st.dictionaries(texts.filter(lambda name: name != "descriptors"), finite, max_size=3)
conversations = st.lists(
    st.tuples(headers, st.sampled_from([0, 0, 1, 2, 3, FDS_AT_ONCE + 1])), max_size=4
)


EVERYWHERE = 9999
somewhere = st.integers(0, EVERYWHERE)
"""
Drawn before anything is opened, and not when it is known how long the stream is: an
example is given up where it draws, if Hypothesis has no more data for it.
"""

cuts = st.lists(somewhere, max_size=6)


def placeIn(last, somewhere):
    """
    Return a place from 0 to the last one.
    """
    return last * somewhere // EVERYWHERE


def cut(wire, where):
    """
    Return where a stream of bytes is cut.
    """
    places = sorted(placeIn(len(wire), each) for each in where)
    return list(zip([0, *places], [*places, len(wire)], strict=True))


def given_(conversation):
    """
    Return a conversation as bytes, its descriptors with their places in that, and
    the frames that it should come out as.
    """
    wire, places, expected = b"", [], []
    for header, count in conversation:
        descriptors = opened(count)
        for piece, batch in divide(writeFrame(header, count), descriptors):
            places += [(len(wire), fileno) for fileno in batch]
            wire += piece
        expected.append(({**header, "descriptors": count} if count else header, descriptors))
    return wire, places, expected


def read(wire, places, cuts):
    """
    Have a reader receive it, and close all that comes.

    @return: the frames, and the errors.
    """
    reader, found, errors = FrameReader(), [], []
    for begin, end in cuts:
        batch = [fileno for place, fileno in places if begin <= place < end]
        if errors:
            # As a channel does with a peer that is not understood.
            closeAll(batch)
            continue
        try:
            for frame in reader.receive(wire[begin:end], batch):
                assert frame.body == b""
                found.append((frame.header, frame.descriptors))
                closeAll(frame.descriptors)
        except ChannelError as error:
            errors.append(error)
    reader.close()
    return found, errors


@given(conversations, cuts)
def test_frames_come_out_with_their_descriptors_in_any_pieces(conversation, where):
    """
    Each frame comes once, in order, with exactly the descriptors that were sent
    with it.
    """
    with nothingLeaks():
        wire, places, expected = given_(conversation)
        assert read(wire, places, cut(wire, where)) == (expected, [])


@given(conversations, st.lists(somewhere, min_size=1, max_size=4), cuts)
def test_descriptors_at_other_places_are_the_same_or_one_error(conversation, others, where):
    """
    Wherever the descriptors come, no frame gets those of another: what comes out
    is a beginning of what was sent, and the whole of it if there is no error.
    """
    with nothingLeaks():
        wire, places, expected = given_(conversation)
        last = max(0, len(wire) - 1)
        some = sorted(placeIn(last, each) for each in others)
        moved = [
            (some[number * len(some) // len(places)], fileno)
            for number, (_, fileno) in enumerate(places)
        ]
        found, errors = read(wire, moved, cut(wire, where))
        assert found == expected[: len(found)]
        assert len(errors) <= 1
        assert errors or found == expected


@given(conversations, st.booleans(), somewhere, cuts)
def test_descriptors_too_many_or_too_few_are_an_error(conversation, isLost, which, where):
    """
    A conversation in which a descriptor is missing, or is one too many, does not
    come through, and all are closed.
    """
    with nothingLeaks():
        wire, places, expected = given_(conversation)
        if places and isLost:
            _, lost = places.pop(placeIn(len(places) - 1, which))
            os.close(lost)
        elif wire:
            place = placeIn(len(wire) - 1, which)
            places = sorted([*places, (place, opened(1)[0])])
        else:
            return
        found, errors = read(wire, places, cut(wire, where))
        assert len(found) < len(expected)
        assert len(errors) == 1


@given(
    st.binary(max_size=60) | st.builds(struct.Struct("!I").pack, st.integers(0, 99)),
    st.lists(somewhere, max_size=3),
    cuts,
)
def test_noise_is_one_error_or_is_waited_for_and_nothing_leaks(noise, others, where):
    """
    Any bytes, in any pieces, with any descriptors.
    """
    with nothingLeaks():
        others = others if noise else []
        places = [
            (placeIn(len(noise) - 1, each), fileno)
            for each, fileno in zip(others, opened(len(others)), strict=True)
        ]
        found, errors = read(noise, places, cut(noise, where))
        assert found == []
        assert len(errors) <= 1


@pytest.mark.parametrize("count", [-1, 1.0, True, None, "1", [1]])
def test_the_number_of_descriptors_is_a_number(count):
    """
    A frame that says anything else is refused, and what came with it is closed.
    """
    with nothingLeaks(), pytest.raises(ChannelError, match="number of descriptors"):
        list(FrameReader().receive(writeFrame({"descriptors": count}), opened(1)))


@pytest.mark.parametrize("length", [MAX_FRAME + 1, 2**32 - 1])
def test_a_frame_that_would_be_too_long_is_refused_at_its_length(length):
    """
    Nothing of it is waited for.
    """
    with nothingLeaks(), pytest.raises(ChannelError, match=f"{length} bytes is too long"):
        list(FrameReader().receive(struct.pack("!I", length), opened(1)))


@pytest.mark.parametrize("count", [*MANY, 10_000, 100_000])
def test_a_small_frame_has_a_byte_for_each_batch_of_its_descriptors(count):
    """
    Whatever their number, all of them are on their way with the last byte.
    """
    frame = writeFrame({}, count)
    pieces = list(divide(frame, range(count)))
    assert b"".join(data for data, _ in pieces) == frame
    assert [fileno for _, batch in pieces for fileno in batch] == list(range(count))
    assert all(data for data, _ in pieces)
    assert all(len(batch) <= FDS_AT_ONCE for _, batch in pieces)


def test_what_is_missing_never_reaches_into_the_next_frame():
    """
    Whoever reads only so much leaves what follows to somebody else.
    """
    wire = writeFrame({"x": 1}) + writeFrame({"y": 2})
    reader, place, found = FrameReader(), 0, []
    while not found:
        piece = wire[place : place + reader.missing]
        place += len(piece)
        found += reader.receive(piece)
    assert place == len(writeFrame({"x": 1}))


# -- over real sockets


@pytest.mark.parametrize("count", MANY)
def test_descriptors_come_by_a_blocking_read(pair, count):
    """
    All of them, close-on-exec, and what follows stays on the socket.
    """
    ours, theirs = pair
    sent = opened(count)

    def send():
        for data, batch in divide(writeFrame({"x": 1}, count), sent):
            socket.send_fds(ours, [data], batch)
        ours.sendall(b"next")

    with nothingLeaks():
        sender = threading.Thread(target=send)
        sender.start()
        frame = receiveFrame(theirs, 20)
        sender.join()
        assert len(frame.descriptors) == count
        assert not any(map(os.get_inheritable, frame.descriptors))
        theirs.settimeout(20)
        assert theirs.recv(10) == b"next"
        closeAll(frame.descriptors)
    closeAll(sent)


class Receiver:
    """
    Keeps what comes over a channel.
    """

    peerPid = None

    def __init__(self):
        self.heard = []

    def messageReceived(self, message):
        self.heard.append(message)

    def channelGarbled(self, error):
        self.heard.append(str(error))

    def channelLost(self):
        self.heard.append("lost")


class Ends:
    """
    The two ends of a channel, each with a channel of its own and what it hears.
    """

    def __init__(self, pair):
        self.reactor = MemoryReactor()
        self.heard = {"parent": Receiver(), "child": Receiver()}
        self.channels = {
            peer: connectChannel(self.reactor, sock.dup(), self.heard[peer], peer)
            for peer, sock in zip(self.heard, pair, strict=True)
        }
        for sock in pair:
            sock.close()

    def turn(self):
        """
        Let both write and read what they can, once.
        """
        for writer in list(self.reactor.writers):
            writer.doWrite()
        for reader in list(self.reactor.readers):
            self.read(reader)

    def read(self, reader):
        reason = reader.doRead()
        if reason is not None:
            self.reactor.removeReader(reader)
            self.reactor.removeWriter(reader)
            reader.connectionLost(Failure(reason))

    def close(self):
        for reader in list(self.reactor.readers):
            reader.connectionLost(Failure(ConnectionDone()))


@pytest.fixture
def ends(pair):
    """
    A channel whose both ends a reactor has.
    """
    made = Ends(pair)
    yield made
    made.close()


@pytest.fixture
def expected(monkeypatch):
    """
    The frames that have come over any channel, each with its descriptors, as if
    there were a message that expects some.
    """
    come = []

    def hear(self, frame):
        come.append(frame)
        self._receiver.messageReceived(frame.header["message"])

    monkeypatch.setattr(channels.Channel, "_hear", hear)
    yield come
    for frame in come:
        closeAll(frame.descriptors)


@pytest.mark.parametrize("peer", ["parent", "child"])
@pytest.mark.parametrize("count", MANY)
def test_descriptors_come_with_any_message_in_both_directions(ends, expected, peer, count):
    """
    Before, behind and between messages without any, each has its own; also those
    of a message that is shorter than there are descriptors.
    """
    other = "child" if peer == "parent" else "parent"
    sent = opened(count)
    speaker = ends.channels[peer]
    speaker.send(Redeploy())
    speaker.send(Ready(), sent)
    speaker.send(Serving(), sent[:2])
    speaker.send(Abort("x" * 400_000))
    speaker.send(Refused("x"), sent[:254])
    for _ in range(99):
        ends.turn()
    assert ends.heard[other].heard == ["Redeploy", "Ready", "Serving", "Abort", "Refused"]
    for frame, share in zip(expected, [0, count, 2, 0, 254], strict=True):
        assert len(frame.descriptors) == len(sent[:share])
        assert not any(map(os.get_inheritable, frame.descriptors))
    closeAll(sent)


@pytest.mark.parametrize("peer", ["parent", "child"])
def test_descriptors_that_are_not_expected_are_closed_and_the_peer_is_garbled(ends, peer):
    """
    The channel stays open, and what comes later is closed as well.
    """
    other = "child" if peer == "parent" else "parent"
    sent = opened(300)
    with nothingLeaks():
        ends.channels[peer].send(Redeploy())
        ends.channels[peer].send(Manifest(2, 60.0, None, ()), sent)
        ends.channels[peer].send(Ready(), sent)
        for _ in range(9):
            ends.turn()
        assert ends.heard[other].heard == [Redeploy(), "300 descriptors came with a Manifest"]
    closeAll(sent)


class Raising(Receiver):
    """
    Can act on nothing.
    """

    def messageReceived(self, message):
        raise RuntimeError


@pytest.mark.parametrize("first", [{"message": "Ready"}, {"message": 1}, {"message": "Hello"}])
def test_what_has_come_behind_a_garbled_message_is_closed(first):
    """
    Also if that was whole, and what came behind it is not yet.
    """
    with nothingLeaks():
        channel = channels.Channel(Raising(), "parent")
        channel.makeConnection(StringTransport())
        second = writeFrame({"message": "Ready"}, 2)
        channel.received(
            Received(writeFrame(first) + second[:-1], opened(2), None, isCut=False)
        )
        channel.received(Received(second[-1:], opened(1), None, isCut=False))


def test_a_peer_that_dies_within_a_frame_leaves_no_descriptor(ends):
    """
    What came with the beginning of a message is closed when the end does not
    come.
    """
    sent = opened(2)
    transport = ends.channels["parent"].transport
    transport.write(writeFrame({"message": "Ready"}, 2)[:-1], sent)
    transport.doWrite()
    ends.turn()
    before = len(openDescriptors())
    ends.reactor.removeReader(transport)
    transport.connectionLost(Failure(ConnectionDone()))
    ends.turn()
    assert ends.heard["child"].heard == ["lost"]
    assert len(openDescriptors()) == before - 4
    closeAll(sent)


def test_a_limit_on_descriptors_is_one_error_and_nothing_leaks(pair, monkeypatch):
    """
    What the kernel could not give is noticed, and what it gave is closed; by a
    channel as well, which stays open.
    """
    ours, theirs = pair
    sent = opened(2)
    monkeypatch.setattr(
        "txtableflip._handover.receiving._SPACE", socket.CMSG_LEN(struct.calcsize("i"))
    )
    socket.send_fds(ours, [b"x"], sent * 2)
    with nothingLeaks():
        came = receive(theirs, 10)
        assert came.isCut
        closeAll(came.descriptors)
    ends = Ends(pair)
    ends.channels["parent"].send(Ready(), sent * 2)
    with nothingLeaks():
        ends.turn()
    [error] = ends.heard["child"].heard
    assert "dropped descriptors" in error
    ends.close()
    closeAll(sent)


def test_a_peer_that_reads_nothing_gets_all_of_it_later(ends, expected):
    """
    What does not fit into the socket's buffer follows, and no descriptor comes
    with another message than its own.
    """
    sent = opened(3)
    for _ in range(30):
        ends.channels["parent"].send(Abort("x" * 100_000), sent[:2])
        ends.channels["parent"].send(Ready())
        ends.channels["parent"].send(Serving(), sent)
    for _ in range(999):
        ends.turn()
    assert [len(frame.descriptors) for frame in expected] == [2, 0, 3] * 30
    closeAll(sent)
