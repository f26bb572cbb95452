"""
The messages of the hand-over, as bytes and back.
"""

import json
import struct
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport

from txtableflip import _handover
from txtableflip._channel import Channel
from txtableflip._handover import (
    MAX_FRAME,
    VERSION,
    Abort,
    Commit,
    Entry,
    Hello,
    Identity,
    Key,
    Manifest,
    Message,
    Ready,
    Redeploy,
    Refused,
    Serving,
    decode,
    encode,
)
from txtableflip.errors import ChannelError

# With what os.fsdecode makes of names that are no UTF-8.
TEXT = st.text(st.characters(blacklist_categories=()))
NUMBER = st.integers(-(2**63), 2**63)
KEYS = st.builds(Key, TEXT, TEXT, TEXT, NUMBER)
IDENTITIES = st.builds(Identity, NUMBER, NUMBER)
ENTRIES = st.builds(
    Entry,
    key=KEYS,
    family=NUMBER,
    type=NUMBER,
    identity=IDENTITIES,
    path=st.none() | IDENTITIES,
    backlog=st.none() | NUMBER,
    mode=st.none() | NUMBER,
)
MANIFESTS = st.builds(
    Manifest,
    generation=NUMBER,
    upgradeTimeout=st.floats(allow_nan=False, allow_infinity=False),
    pidFile=st.none() | TEXT,
    entries=st.lists(ENTRIES, max_size=5).map(tuple),
)
MESSAGES = st.one_of(
    MANIFESTS,
    st.builds(Hello, pid=NUMBER),
    st.builds(Refused, reason=TEXT),
    st.builds(Abort, reason=TEXT),
    st.sampled_from([Ready(), Commit(), Serving(), Redeploy()]),
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def test_every_message_is_tried():
    """
    The properties below are about all messages that there are.
    """
    tried = {Manifest, Hello, Refused, Abort, Ready, Commit, Serving, Redeploy}
    assert tried == set(get_args(Message))


@given(MESSAGES)
def test_what_is_written_is_read_as_the_same(message):
    """
    Each message survives the journey, with every type of every part.
    """
    read = decode(encode(message))
    assert read == message
    assert type(read) is type(message)
    if isinstance(read, Manifest):
        assert all(type(entry) is Entry for entry in read.entries)
        assert all(type(entry.key) is Key for entry in read.entries)


@given(MESSAGES, st.data())
def test_no_part_of_a_message_is_a_message(message, data):
    """
    A frame that is cut short anywhere is refused.
    """
    frame = encode(message)
    with pytest.raises(ChannelError):
        decode(frame[: data.draw(st.integers(0, len(frame) - 1))])


@given(MESSAGES, st.binary(min_size=1))
def test_a_body_that_no_message_has_is_refused(message, body):
    """
    A frame with something behind its message is refused.
    """
    with pytest.raises(ChannelError):
        decode(encode(message) + body)


@given(st.binary())
def test_noise_is_refused(noise):
    """
    Any bytes that are no message raise ChannelError, and nothing else.
    """
    with pytest.raises(ChannelError):
        decode(noise)


@given(JSON)
def test_other_json_is_refused(value):
    """
    Any JSON that is no message raises ChannelError, and nothing else.
    """
    with pytest.raises(ChannelError):
        decode(json.dumps(value).encode() + b"\n")


@given(MESSAGES, st.data(), JSON)
def test_a_field_of_another_type_is_refused_or_means_the_same(message, data, value):
    """
    A message with any value in any field is refused, unless the value is one
    that the field may have.
    """
    header = json.loads(encode(message))
    field = data.draw(st.sampled_from(sorted(header)))
    header[field] = value
    try:
        read = decode(json.dumps(header).encode() + b"\n")
    except ChannelError:
        return
    assert json.loads(encode(read)) == header


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("generation", True),
        ("generation", 2.0),
        ("generation", "2"),
        ("generation", None),
        ("upgradeTimeout", "60"),
        ("upgradeTimeout", True),
        ("pidFile", 1),
        ("entries", {}),
        ("entries", [[]]),
        ("entries", [[["listener", "tcp", "x", True], 2, 1, [1, 2], None, None, None]]),
        ("entries", [[["listener", "tcp", "x", 0], 2, 1, [1], None, None, None]]),
        ("entries", [[["listener", "tcp", "x", 0], 2, 1, None, None, None, None]]),
    ],
)
def test_types_are_exact(field, value):
    """
    A bool is no number, a number no text, and a list of the wrong length no
    entry.
    """
    header = json.loads(encode(Manifest(2, 60.0, None, ())))
    header[field] = value
    with pytest.raises(ChannelError):
        decode(json.dumps(header).encode() + b"\n")


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_a_time_that_is_no_number_is_refused(constant):
    """
    What JSON does not have is refused: nobody can wait for NaN seconds.
    """
    frame = encode(Manifest(2, 60.0, None, ())).replace(b"60.0", constant.encode())
    with pytest.raises(ChannelError):
        decode(frame)


def test_a_field_more_or_less_is_refused():
    """
    A message has exactly its fields.
    """
    header = json.loads(encode(Hello(5)))
    for changed in ({**header, "more": 1}, {"message": "Hello", "version": VERSION}):
        with pytest.raises(ChannelError, match="other fields"):
            decode(json.dumps(changed).encode() + b"\n")


@pytest.mark.parametrize("message", [Manifest(2, 60.0, None, ()), Hello(5)])
def test_another_version_is_a_clear_error(message):
    """
    The first message of another version names both, and what to do; even if its
    fields are others.
    """
    header = {**json.loads(encode(message)), "version": VERSION + 1, "new": []}
    with pytest.raises(
        ChannelError, match=rf"speaks version {VERSION + 1} .* {VERSION}: .* restart"
    ):
        decode(json.dumps(header).encode() + b"\n")


def test_a_message_that_is_too_long_is_not_sent(monkeypatch):
    """
    Nobody begins to send what the other side would refuse.
    """
    monkeypatch.setattr(_handover, "MAX_FRAME", 50)
    with pytest.raises(ChannelError, match="too long"):
        encode(Refused("x" * 50))


# -- over the channel


class Heard:
    """
    Keeps what comes over a channel.
    """

    def __init__(self):
        self.heard = []

    def messageReceived(self, message):
        self.heard.append(message)

    def channelGarbled(self, error):
        self.heard.append("garbled")

    def channelLost(self):
        self.heard.append("lost")


class Transport(StringTransport):
    """
    A transport in memory that can be told to write at once.
    """

    def doWrite(self):
        pass


def channel():
    """
    Return a connected channel and what hears it.
    """
    heard = Heard()
    made = Channel(heard)
    made.makeConnection(Transport())
    return made, heard.heard


@given(st.lists(MESSAGES, max_size=4), st.data())
def test_messages_arrive_however_the_bytes_are_cut(messages, data):
    """
    What one channel sends, another hears, in order and once, wherever the
    stream is divided.
    """
    sender, _ = channel()
    for message in messages:
        sender.send(message)
    stream = sender.transport.value()
    receiver, heard = channel()
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        receiver.dataReceived(stream[:size])
        stream = stream[size:]
    assert heard == messages


@given(st.binary(min_size=1, max_size=40), MESSAGES)
def test_after_noise_nothing_is_heard(noise, message):
    """
    A frame that is no message is reported once, and ends the conversation.
    """
    sender, _ = channel()
    sender.send(message)
    receiver, heard = channel()
    receiver.dataReceived(struct.pack("!I", len(noise)) + noise + sender.transport.value())
    assert heard == ["garbled"]


@given(st.integers(MAX_FRAME + 1, 2**32 - 1), st.binary())
def test_a_frame_that_would_be_too_long_is_reported_at_once(length, data):
    """
    Nobody waits for the end of a frame that is longer than any message.
    """
    receiver, heard = channel()
    receiver.dataReceived(struct.pack("!I", length) + data)
    assert heard == ["garbled"]


def test_to_a_peer_that_is_gone_nothing_is_sent():
    """
    A message to a lost channel is dropped, and the loss is told once.
    """
    made, heard = channel()
    made.connectionLost()
    made.send(Ready())
    assert made.transport.value() == b""
    assert heard == ["lost"]
