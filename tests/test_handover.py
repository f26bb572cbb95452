"""
What the parent and the child say to each other: every message, every way to
spoil one, and the channel that carries them, in any pieces.
"""

import json
import struct
from functools import partial

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import JSON, messages, texts
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from txtableflip._handover import messages as wire
from txtableflip._handover.channel import Channel
from txtableflip._handover.manifest import Entry, Identity, Key
from txtableflip._handover.messages import (
    MAX_FRAME,
    VERSION,
    Abort,
    Hello,
    Manifest,
    Ready,
    Redeploy,
    Refused,
    Serving,
    decode,
    encode,
)
from txtableflip.errors import ChannelError

MANIFEST = Manifest(
    generation=2,
    upgradeTimeout=60.0,
    pidFile="/run/web.pid",
    entries=(
        Entry(Key("listener", "tcp", "0.0.0.0:80", 0), 2, 1, Identity(8, 90)),
        Entry(Key("listener", "unix", "/run/web", 0), 1, 1, Identity(8, 91), Identity(3, 7)),
    ),
)


def frame(**changes):
    """
    Return a good manifest as a frame, but for some of its fields.
    """
    values = {**json.loads(encode(MANIFEST)), **changes}
    return json.dumps(values).encode() + b"\n"


def changedEntry(**changes):
    """
    Return a good manifest as a frame, but for some fields of its first entry.
    """
    entries = json.loads(encode(MANIFEST))["entries"]
    for name, value in changes.items():
        if name in Entry._fields:
            entries[0][Entry._fields.index(name)] = value
        else:
            entries[0].append(value)
    return frame(entries=entries)


def refusal(content):
    """
    Return the message of the error with which a frame is refused.
    """
    with pytest.raises(ChannelError) as info:
        decode(content)
    return str(info.value)


def test_the_manifest_of_these_tests_is_good():
    """
    What is spoiled below is the reason why it is refused.
    """
    assert decode(frame()) == decode(changedEntry()) == MANIFEST


@given(messages)
def test_every_message_survives(message):
    """
    What is decoded is what was encoded: equal, and of the same types.
    """
    found = decode(encode(message))
    assert found == message
    assert repr(found) == repr(message)


@given(messages, st.data())
def test_a_truncated_frame_is_refused(message, data):
    """
    No beginning of a frame is a frame.
    """
    whole = encode(message)
    cut = data.draw(st.integers(0, len(whole) - 1))
    assert refusal(whole[:cut])


@given(messages, st.binary(min_size=1))
def test_a_frame_with_a_body_is_refused(message, body):
    """
    No message has a body yet, so a frame ends with its newline.
    """
    assert "ends where it should not" in refusal(encode(message) + body)


@given(st.binary())
def test_noise_is_refused(noise):
    """
    Any bytes that are no message raise ChannelError, and nothing else.
    """
    assert refusal(noise)
    assert refusal(noise + b"\n")


@given(JSON)
def test_json_that_is_no_message_is_refused(value):
    """
    Any other JSON value raises ChannelError, and nothing else.
    """
    assert refusal(json.dumps(value).encode() + b"\n")


@given(messages, st.data())
def test_one_wrong_value_is_refused(message, data):
    """
    A message in which any value is replaced by any other is a message of the
    right types all the same, or is refused.
    """
    values = json.loads(encode(message))
    place, name = values, data.draw(st.sampled_from(sorted(values)))
    while isinstance(place[name], (list, dict)) and place[name] and data.draw(st.booleans()):
        place = place[name]
        indices = sorted(place) if isinstance(place, dict) else range(len(place))
        name = data.draw(st.sampled_from(indices))
    place[name] = data.draw(JSON)
    try:
        found = decode(json.dumps(values).encode() + b"\n")
    except ChannelError:
        return
    # Nothing that the types do not allow came through: it can be said again.
    assert decode(encode(found)) == found
    assert repr(decode(encode(found))) == repr(found)


@given(messages, texts, JSON)
def test_one_field_too_many_is_refused(message, name, value):
    """
    A message has its fields and no others.
    """
    values = json.loads(encode(message))
    assume(name not in values)
    if name == "version":
        value = VERSION
    assert refusal(json.dumps({**values, name: value}).encode() + b"\n")


@given(messages, st.data())
def test_one_field_too_few_is_refused(message, data):
    """
    A message has all of its fields.
    """
    values = json.loads(encode(message))
    del values[data.draw(st.sampled_from(sorted(values)))]
    assert refusal(json.dumps(values).encode() + b"\n")


def test_every_message_is_one_line_of_ascii():
    """
    A frame can be read in a trace: JSON, and a newline, and room for a body.
    """
    content = encode(Refused("línea\n\ud800"))
    assert content.isascii()
    assert content.index(b"\n") == len(content) - 1
    assert json.loads(content) == {"message": "Refused", "reason": "línea\n\ud800"}


@pytest.mark.parametrize("cls", [Manifest, Hello])
@pytest.mark.parametrize("version", [VERSION + 1, 0, "1.2", None, [VERSION]])
def test_another_version_is_an_error_that_names_both(cls, version):
    """
    The first frame of another version says so, and what to do, whatever else
    that version would have in it.
    """
    content = {"message": cls.__name__, "version": version, "novelty": 1}
    text = refusal(json.dumps(content).encode() + b"\nbody")
    assert f"version {version!r}" in text
    assert f"this one {VERSION}" in text
    assert "restart the service" in text


@pytest.mark.parametrize("same", [True, 1.0])
def test_what_equals_the_version_is_not_the_version(same):
    """
    The version is an integer, and not what Python takes for the same.
    """
    assert refusal(frame(version=same))


def test_the_first_frame_must_have_a_version():
    """
    A manifest or a greeting without one is refused.
    """
    for message in (MANIFEST, Hello(7)):
        values = json.loads(encode(message))
        del values["version"]
        assert "version" in refusal(json.dumps(values).encode() + b"\n")


@pytest.mark.parametrize(
    "spoil",
    [
        partial(frame, generation=True),
        partial(frame, generation=2.0),
        partial(frame, generation="2"),
        partial(frame, generation=None),
        partial(frame, upgradeTimeout=True),
        partial(frame, upgradeTimeout="60"),
        partial(frame, upgradeTimeout=None),
        partial(frame, pidFile=0),
        partial(frame, pidFile=["/run/web.pid"]),
        partial(frame, entries=None),
        partial(frame, entries={}),
        partial(frame, entries=[None]),
        partial(frame, entries=[[]]),
        partial(changedEntry, family=True),
        partial(changedEntry, type=1.0),
        partial(changedEntry, key="listener"),
        partial(changedEntry, key={}),
        partial(changedEntry, key=["listener", "tcp", "0.0.0.0:80"]),
        partial(changedEntry, key=["listener", "tcp", "0.0.0.0:80", 0, 0]),
        partial(changedEntry, key=["listener", "tcp", "0.0.0.0:80", False]),
        partial(changedEntry, key=["listener", "tcp", 80, 0]),
        partial(changedEntry, key=None),
        partial(changedEntry, identity=None),
        partial(changedEntry, identity=[8]),
        partial(changedEntry, identity=[8, True]),
        partial(changedEntry, path=[8, 1.0]),
        partial(changedEntry, path=[]),
        partial(changedEntry, path=False),
        partial(changedEntry, novelty=1),
    ],
    ids=lambda spoil: str(spoil.keywords),
)
def test_a_field_of_another_type_is_refused(spoil):
    """
    Each field has its own type: no bool is an integer, no integer a string.
    """
    assert refusal(spoil())


def test_a_whole_number_of_seconds_is_a_time():
    """
    JSON does not tell 60 from 60.0; the message has a float.
    """
    found = decode(frame(upgradeTimeout=60))
    assert type(found.upgradeTimeout) is float
    assert found == MANIFEST


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_time_is_refused(name):
    """
    Python's JSON would take these for numbers.
    """
    assert "JSON" in refusal(frame().replace(b"60.0", name.encode()))


@pytest.mark.parametrize("time", [b"1e999", b"-1e999"])
def test_a_time_without_an_end_is_refused(time):
    """
    A number too large for a float is no time either.
    """
    assert refusal(frame().replace(b"60.0", time))


def test_an_integer_too_large_for_a_float_is_refused():
    """
    A time may be given as an integer, but not as any.
    """
    assert refusal(frame(upgradeTimeout=10**400))


@pytest.mark.parametrize("depth", [100, 900, 1_000, 10_000, 1_000_000])
@pytest.mark.parametrize("name", [b'"/run/web.pid"', b"60.0", b'"Manifest"', b'"version":1'])
def test_json_of_any_depth_is_refused(name, depth):
    """
    JSON that is nested too deeply to be read, or to be shown, is no message.
    """
    nested = b"[" * depth + b"]" * depth
    if b"version" in name:
        nested = b'"version":' + nested
    whole = encode(MANIFEST)
    assert name in whole
    assert refusal(whole.replace(name, nested))


def test_an_error_does_not_show_everything_it_was_sent():
    """
    The message of an error fits into a log, whatever it complains of.
    """
    big = "x" * 100_000
    for content in (
        big.encode(),
        frame(generation=big),
        frame(message=big),
        frame(pidFile=[big]),
        changedEntry(key=[big]),
    ):
        assert len(refusal(content)) < 500


def test_a_message_that_is_too_long_is_refused_by_who_sends_it(monkeypatch):
    """
    A frame of MAX_FRAME bytes can be sent, and one more byte cannot.
    """
    message = Abort("x" * 50)
    length = len(encode(message))
    monkeypatch.setattr(wire, "MAX_FRAME", length)
    assert decode(encode(message)) == message
    monkeypatch.setattr(wire, "MAX_FRAME", length - 1)
    with pytest.raises(ChannelError, match=f"Abort of {length} bytes is too long"):
        encode(message)


def test_ten_thousand_descriptors_fit_into_a_frame():
    """
    The limit is far from what a manifest takes.
    """
    one = Entry(
        Key("listener", "unix", "/" + "x" * 107, 0),
        1,
        1,
        Identity(2**40, 2**40),
        Identity(9, 9),
    )
    assert len(encode(Manifest(2, 60.0, None, (one,) * 10_000))) < MAX_FRAME / 4


def test_a_path_that_is_no_utf_8_survives():
    """
    Any name that a file can have comes out as the same bytes.
    """
    path = bytes(range(1, 256)).decode("utf-8", "surrogateescape")
    key = Key("listener", "unix", path, 0)
    manifest = Manifest(2, 1.0, path, (Entry(key, 1, 1, Identity(1, 2)),))
    found = decode(encode(manifest))
    for name in (found.pidFile, found.entries[0].key.address):
        assert name.encode("utf-8", "surrogateescape") == bytes(range(1, 256))


def test_a_key_reads_as_an_operator_would_say_it():
    """
    The ordinal is shown only where it tells two apart.
    """
    assert str(Key("listener", "tcp", "127.0.0.1:80", 0)) == "tcp 127.0.0.1:80"
    assert str(Key("listener", "tcp", "127.0.0.1:0", 1)) == "tcp 127.0.0.1:0 (number 2)"


# -- the channel


class Transport(StringTransport):
    """
    A transport that keeps what it was told to do with descriptors, and when.
    """

    def __init__(self):
        super().__init__()
        self.done = []

    def sendFileDescriptor(self, descriptor):
        self.done.append((descriptor, len(self.value())))

    def doWrite(self):
        self.done.append("doWrite")

    def stopReading(self):
        self.done.append("stopReading")

    def stopWriting(self):
        self.done.append("stopWriting")


class MessageReceiver:
    """
    Keeps what comes over a channel, in order.
    """

    peer = "parent"
    pid = None

    def __init__(self):
        self.heard = []

    def messageReceived(self, message):
        self.heard.append(message)

    def channelGarbled(self, error):
        assert type(error) is ChannelError
        self.heard.append("garbled")

    def channelLost(self):
        self.heard.append("lost")


def connected():
    """
    Return a channel, its transport, and what its listener hears.
    """
    listener, transport = MessageReceiver(), Transport()
    channel = Channel(listener)
    channel.makeConnection(transport)
    return channel, transport, listener.heard


def sent(*said):
    """
    Return the bytes of these messages on the wire.
    """
    channel, transport, _ = connected()
    for message in said:
        channel.send(message)
    return transport.value()


def framed(content):
    """
    Return the bytes of a frame on the wire.
    """
    return struct.pack("!I", len(content)) + content


@given(st.lists(messages, max_size=4), st.data())
def test_messages_arrive_in_any_pieces(said, data):
    """
    Each message is heard once, in order, wherever the bytes are divided.
    """
    wire = sent(*said)
    cuts = data.draw(st.lists(st.integers(0, len(wire)), max_size=6).map(sorted))
    channel, _, heard = connected()
    for begin, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        channel.dataReceived(wire[begin:end])
    assert heard == said


def test_messages_arrive_byte_by_byte():
    """
    A message is heard with its last byte, and not before.
    """
    said = [Hello(7), Ready(), Serving()]
    channel, _, heard = connected()
    for message in said:
        wire = sent(message)
        before = list(heard)
        for byte in wire[:-1]:
            channel.dataReceived(bytes([byte]))
            assert heard == before
        channel.dataReceived(wire[-1:])
        assert heard == [*before, message]


def test_the_wire_is_a_length_and_a_frame():
    """
    Another version must find the version: this does not change with it.
    """
    content = b'{"message":"Hello","pid":7,"version":1}\n'
    assert sent(Hello(7)) == b"\0\0\0\x28" + content


def test_what_is_said_leaves_at_once():
    """
    The transport is told to write before send returns, and not only when the
    reactor has time.
    """
    channel, transport, _ = connected()
    channel.send(Ready())
    assert transport.done == ["doWrite"]


def test_descriptors_go_with_their_message():
    """
    They are queued before anything is written, in order.
    """
    channel, transport, _ = connected()
    channel.send(MANIFEST, [5, 3, 9])
    assert transport.done == [(5, 0), (3, 0), (9, 0), "doWrite"]


@pytest.mark.parametrize(
    "nonsense",
    [
        framed(b""),
        framed(b"hello\n"),
        framed(b'{"message":"Hello","pid":7,"version":2}\n'),
        framed(encode(Ready()) + b"body"),
        struct.pack("!I", MAX_FRAME + 1),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\xff" * 50,
    ],
)
@pytest.mark.parametrize("isInPieces", [False, True])
def test_nonsense_is_reported_once_and_then_nothing_is_heard(nonsense, isInPieces):
    """
    After what is no message, or would be too long for one, no more messages
    and no more errors are heard, but the end.
    """
    channel, transport, heard = connected()
    wire = sent(Hello(7)) + nonsense + sent(Ready()) + nonsense + sent(Ready())
    size = 1 if isInPieces else len(wire)
    for begin in range(0, len(wire), size):
        channel.dataReceived(wire[begin : begin + size])
    channel.dataReceived(sent(Ready()))
    channel.dataReceived(nonsense)
    assert heard == [Hello(7), "garbled"]
    assert not transport.disconnecting
    channel.connectionLost(Failure(ConnectionDone()))
    assert heard == [Hello(7), "garbled", "lost"]


def test_a_frame_of_the_greatest_length_is_heard():
    """
    The limit of the channel is the limit of the messages, and a prefix that
    keeps it is waited for.
    """
    channel, _, heard = connected()
    channel.dataReceived(struct.pack("!I", MAX_FRAME))
    assert heard == []
    padding = b" " * (MAX_FRAME - len(encode(Ready())))
    channel.dataReceived(padding + encode(Ready()))
    assert heard == [Ready()]


def test_a_peer_that_sent_nonsense_can_still_be_told():
    """
    The channel stays open for what this side says.
    """
    channel, transport, heard = connected()
    channel.dataReceived(framed(b"?"))
    channel.send(Abort("you are not understood"))
    assert heard == ["garbled"]
    assert transport.value() == sent(Abort("you are not understood"))


def test_nothing_is_sent_to_a_peer_that_is_gone():
    """
    What is said after the end, or before the beginning, goes nowhere.
    """
    channel, transport, heard = connected()
    channel.connectionLost(Failure(ConnectionDone()))
    channel.send(Ready())
    Channel(MessageReceiver()).send(Ready())
    assert heard == ["lost"]
    assert (transport.value(), transport.done) == (b"", [])


def test_a_channel_that_never_closes_is_taken_from_the_reactor():
    """
    The reactor neither reads nor writes it any more, and closes nothing; and
    nothing that is in the air is heard, or said.
    """
    channel, transport, heard = connected()
    channel.neverClose()
    channel.dataReceived(sent(Redeploy()))
    channel.send(Redeploy())
    channel.neverClose()
    assert transport.done == ["stopReading", "stopWriting"]
    assert not transport.disconnecting
    assert (transport.value(), heard) == (b"", [])
