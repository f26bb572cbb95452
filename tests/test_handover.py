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
from strategies import (
    JSON,
    commits,
    entries,
    finite,
    manifestsOf,
    messages,
    texts,
    unknownEntries,
)
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from txtableflip._handover import frames as wire
from txtableflip._handover.channel import Channel
from txtableflip._handover.frames import MAX_FRAME, FrameReader
from txtableflip._handover.manifest import Entry, Identity, Key, UnknownEntry
from txtableflip._handover.messages import (
    SPEAKS,
    Abort,
    Commit,
    Hello,
    Manifest,
    Range,
    Ready,
    Redeploy,
    Refused,
    Serving,
    Withdraw,
    agree,
    decode,
    encode,
)
from txtableflip._journal import Event, Hearing, HearingTheEnd, Journal, Said, Saying
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


def contentOf(message):
    """
    Return what a frame has behind its length.
    """
    return encode(message)[4:]


def framed(content):
    """
    Return the bytes of a frame on the wire.
    """
    return struct.pack("!I", len(content)) + content


def decoded(content):
    """
    Return the message that a frame with this content is.
    """
    [frame] = FrameReader().receive(framed(content))
    return decode(frame)


def valuesOf(message):
    """
    Return the header of a message.
    """
    return json.loads(contentOf(message))


def line(values):
    """
    Return the content of a frame with this header.
    """
    return json.dumps(values).encode() + b"\n"


def frame(**changes):
    """
    Return a good manifest as the content of a frame, but for some of its fields.
    """
    return line({**valuesOf(MANIFEST), **changes})


def changedEntry(**changes):
    """
    Return a good manifest as the content of a frame, but for some fields of its
    first entry, or of that one's key.
    """
    entries = valuesOf(MANIFEST)["entries"]
    for name, value in changes.items():
        place = entries[0]["key"] if name in entries[0]["key"] else entries[0]
        place[name] = value
    return frame(entries=entries)


def without(field, of=MANIFEST):
    """
    Return a message as the content of a frame, but for one of its fields.
    """
    values = valuesOf(of)
    del values[field]
    return line(values)


def refusal(content):
    """
    Return the message of the error with which a frame is refused.
    """
    with pytest.raises(ChannelError) as info:
        decoded(content)
    return str(info.value)


def test_the_manifest_of_these_tests_is_good():
    """
    What is spoiled below is the reason why it is refused.
    """
    assert decoded(frame()) == decoded(changedEntry()) == MANIFEST


@given(messages | commits)
def test_every_message_survives(message):
    """
    What is decoded is what was encoded: equal, and of the same types.
    """
    found = decoded(contentOf(message))
    assert found == message
    assert repr(found) == repr(message)


@given(messages, st.data())
def test_a_truncated_frame_is_refused(message, data):
    """
    No beginning of a frame is a frame.
    """
    whole = contentOf(message)
    cut = data.draw(st.integers(0, len(whole) - 1))
    assert refusal(whole[:cut])


@given(messages, st.binary(min_size=1))
def test_a_frame_with_a_body_is_refused(message, body):
    """
    No message has a body yet, so a frame ends with its newline.
    """
    assert "ends where it should not" in refusal(contentOf(message) + body)


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
    values = valuesOf(message)
    place, name = values, data.draw(st.sampled_from(sorted(values)))
    while isinstance(place[name], (list, dict)) and place[name] and data.draw(st.booleans()):
        place = place[name]
        indices = sorted(place) if isinstance(place, dict) else range(len(place))
        name = data.draw(st.sampled_from(indices))
    place[name] = data.draw(JSON)
    try:
        found = decoded(line(values))
    except ChannelError:
        return
    if found is not None:
        # Nothing that the types do not allow came through: it can be said again.
        assert decoded(contentOf(found)) == found
        assert repr(decoded(contentOf(found))) == repr(found)


@given(messages, st.dictionaries(texts, finite, min_size=1), st.data())
def test_fields_that_are_not_known_are_ignored(message, novelties, data):
    """
    A message is the same with more fields, in its header, in an entry, or in a
    part of one.
    """
    values = valuesOf(message)
    places = [values]
    for entry in values.get("entries", []):
        places += [entry, entry["key"], entry["identity"]]
    place = data.draw(st.sampled_from(places))
    known = {*place, "must", "descriptors"}
    place.update({name: value for name, value in novelties.items() if name not in known})
    assert decoded(line(values)) == message


@given(messages, texts, finite, st.data())
def test_a_field_that_must_be_known_and_is_not_is_refused(message, name, value, data):
    """
    What is named in the header's "must" is not ignored, whether it is there or
    not: the error names it.
    """
    values = valuesOf(message)
    musts = data.draw(st.lists(st.sampled_from(sorted(values)), unique=True))
    assert decoded(line({**values, "must": musts})) == message
    assume(name not in {*values, "must", "descriptors"})
    values = {**values, "must": [*musts, name]}
    if data.draw(st.booleans()):
        values[name] = value
    text = refusal(line(values))
    assert f"{name!r:.60}"[:60] in text


@pytest.mark.parametrize("must", ["generation", None, 1, {}, [1], [["generation"]]])
def test_a_must_is_a_list_of_names(must):
    """
    Anything else in its place is refused.
    """
    assert "is not of type" in refusal(frame(must=must))


def test_a_message_that_is_not_known_is_ignored_unless_it_must_be_known():
    """
    A later version may say more, with any fields and a body; what it says may
    not be taken for what is known.
    """
    novelty = {"message": "Novelty", "speaks": "Latin", "must": ["speaks"]}
    assert decoded(line(novelty) + b"body") is None
    text = refusal(line({**novelty, "must": ["message"]}))
    assert "'message'" in text
    assert "'Novelty'" in text


@pytest.mark.parametrize("name", [None, 7, True, ["Ready"], {"Ready": 1}])
def test_a_message_has_a_name(name):
    """
    A frame whose message has no name is refused, and not ignored.
    """
    assert "not a message" in refusal(line({"message": name}))
    assert "not a message" in refusal(line({}))


FIELDS = [
    *((MANIFEST, name) for name in ("generation", "upgradeTimeout", "pidFile", "entries")),
    *((MANIFEST, name) for name in ("speaks", "can", "message")),
    *((Hello(7), name) for name in ("pid", "version", "speaks", "can")),
    *((message, "reason") for message in (Refused("x"), Abort("x"), Withdraw("x"))),
]


@pytest.mark.parametrize(("message", "field"), FIELDS)
def test_a_field_without_a_default_is_needed(message, field):
    """
    What version 1 has, each version has; and nobody is taken to speak, or to be
    able to do, what he does not say.
    """
    assert field in refusal(without(field, message))


@pytest.mark.parametrize("field", ["key", "family", "type", "identity"])
def test_an_entry_without_a_field_that_is_needed_is_refused(field):
    """
    As for the message itself.
    """
    values = valuesOf(MANIFEST)
    del values["entries"][0][field]
    assert field in refusal(line(values))


def test_a_field_that_is_absent_has_its_default():
    """
    What may have been added since the first version need not be there.
    """
    assert decoded(without("stderr")) == MANIFEST
    assert decoded(without("probation", Commit(7.5))) == Commit(0.0)
    values = valuesOf(MANIFEST)
    for name in ("path", "backlog", "mode"):
        del values["entries"][0][name]
    assert decoded(line(values)) == MANIFEST


@given(manifestsOf(entries | unknownEntries()))
def test_an_entry_of_a_kind_that_is_not_known_stays_as_it_came(manifest):
    """
    It may have any fields of its own, and each goes on to the next generation.
    """
    found = decoded(contentOf(manifest))
    assert found == manifest
    assert list(map(type, found.entries)) == list(map(type, manifest.entries))
    assert decoded(contentOf(found)) == manifest


def test_an_entry_of_a_kind_that_is_not_known_says_what_becomes_of_it():
    """
    It is closed unless it says that it is kept, and may say nothing else.
    """
    key = {"kind": "novelty"}
    kept = [
        UnknownEntry(key=key),
        UnknownEntry(key=key, unknown="close"),
        UnknownEntry(key=key, unknown="keep"),
    ]
    assert [entry.isKept for entry in kept] == [False, False, True]
    for wrong in ("eat", None, True, ["keep"]):
        assert "not what to do" in refusal(frame(entries=[{"key": key, "unknown": wrong}]))


def test_every_message_is_one_line_of_ascii():
    """
    A frame can be read in a trace: JSON, and a newline, and room for a body.
    """
    content = contentOf(Refused("línea\n\ud800"))
    assert content.isascii()
    assert content.index(b"\n") == len(content) - 1
    assert json.loads(content) == {"message": "Refused", "reason": "línea\n\ud800"}


@pytest.mark.parametrize("cls", [Manifest, Hello])
@pytest.mark.parametrize(
    ("speaks", "words"),
    [([2, 4], "versions 2 to 4"), ([-3, 0], "versions -3 to 0"), ([2, 2], "version 2")],
)
def test_a_peer_that_is_too_old_or_too_new_is_an_error_that_names_both(cls, speaks, words):
    """
    The first frame of another version says so, and what to do, whatever else
    that version would have in it.
    """
    content = {"message": cls.__name__, "speaks": speaks, "novelty": 1, "must": ["novelty"]}
    text = refusal(line(content) + b"body")
    assert f"speaks {words} of the hand-over" in text
    assert f"this one {SPEAKS}" in text
    assert "stop the service and start it once" in text


@pytest.mark.parametrize(
    ("ours", "theirs", "version"),
    [
        ((1, 1), (1, 1), 1),
        ((1, 3), (1, 2), 2),
        ((1, 2), (1, 3), 2),
        ((2, 3), (3, 9), 3),
        ((1, 2), (2, 2), 2),
        ((1, 2), (3, 4), None),
        ((3, 4), (1, 2), None),
    ],
)
def test_two_processes_speak_the_lower_of_their_newest_versions(ours, theirs, version):
    """
    If one of them does not speak that any more, they cannot speak.
    """
    if version is None:
        with pytest.raises(
            ChannelError, match=f"{Range(*theirs)}.* and this one {Range(*ours)}"
        ):
            agree(Range(*ours), Range(*theirs))
    else:
        assert agree(Range(*ours), Range(*theirs)) == version


@pytest.mark.parametrize("version", [SPEAKS.oldest - 1, SPEAKS.newest + 1])
def test_a_child_that_goes_on_in_a_version_that_the_parent_lacks_is_refused(version):
    """
    What Hello names is what will be spoken, whatever else the child can speak.
    """
    hello = Hello(7, version, Range(-9, 9))
    assert f"version {version}" in refusal(contentOf(hello))


@pytest.mark.parametrize(
    "speaks", [None, 1, [], [1], [1, 1, 1], [1, True], [1.0, 1], [2, 1], "11", {}]
)
def test_a_range_is_two_versions_in_order(speaks):
    """
    It has integers, and not what Python takes for the same.
    """
    assert refusal(frame(speaks=speaks))


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
        partial(frame, entries=["listener"]),
        partial(frame, stderr=1),
        partial(frame, stderr=None),
        partial(frame, can=None),
        partial(frame, can="probation"),
        partial(frame, can=[1]),
        partial(changedEntry, key="listener"),
        partial(changedEntry, key={}),
        partial(changedEntry, key=["listener", "tcp", "0.0.0.0:80", 0]),
        partial(changedEntry, key=None),
        partial(changedEntry, kind=None),
        partial(changedEntry, kind=["listener"]),
        partial(changedEntry, ordinal=False),
        partial(changedEntry, address=80),
        partial(changedEntry, identity=None),
        partial(changedEntry, identity=[8, 90]),
        partial(changedEntry, identity={"device": 8}),
        partial(changedEntry, identity={"device": 8, "inode": True}),
        partial(changedEntry, path={"device": 8, "inode": 1.0}),
        partial(changedEntry, path=[]),
        partial(changedEntry, path=False),
        partial(changedEntry, backlog="50"),
    ],
    ids=lambda spoil: str(spoil.keywords),
)
def test_a_field_of_another_type_is_refused(spoil):
    """
    Each field has its own type: no bool is an integer, no integer a string.  The
    error says which field it is.
    """
    assert [*spoil.keywords][-1] in refusal(spoil())


def test_a_whole_number_of_seconds_is_a_time():
    """
    JSON does not tell 60 from 60.0; the message has a float.
    """
    found = decoded(frame(upgradeTimeout=60))
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
@pytest.mark.parametrize("name", [b'"/run/web.pid"', b"60.0", b'"Manifest"', b'"speaks":[1,1]'])
def test_json_of_any_depth_is_refused(name, depth):
    """
    JSON that is nested too deeply to be read, or to be shown, is no message.
    """
    nested = b"[" * depth + b"]" * depth
    if b"speaks" in name:
        nested = b'"speaks":' + nested
    whole = contentOf(MANIFEST)
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
        frame(message=big, must=["message"]),
        frame(must=[big]),
        frame(pidFile=[big]),
        changedEntry(key=[big]),
        changedEntry(kind=big, unknown=big),
    ):
        assert len(refusal(content)) < 500


@pytest.mark.parametrize("unknown", ["keep", "close"])
def test_json_that_is_ignored_may_be_of_any_depth_that_can_be_read(unknown):
    """
    What is not for us is not looked into.
    """
    deep = json.loads("[" * 300 + "]" * 300)
    entry = {"key": {"kind": "novelty", "x": deep}, "unknown": unknown}
    found = decoded(frame(entries=[entry], novelty=deep))
    assert decoded(contentOf(found)) == found


def test_a_message_that_is_too_long_is_refused_by_who_sends_it(monkeypatch):
    """
    A frame of MAX_FRAME bytes can be sent, and one more byte cannot.
    """
    message = Abort("x" * 50)
    length = len(contentOf(message))
    monkeypatch.setattr(wire, "MAX_FRAME", length)
    assert decoded(contentOf(message)) == message
    monkeypatch.setattr(wire, "MAX_FRAME", length - 1)
    with pytest.raises(ChannelError, match=f"{length} bytes is too long to send: .*Abort"):
        encode(message)


def test_what_is_no_json_is_refused_by_who_sends_it():
    """
    Whatever an application may have named a descriptor, the error is one that
    the upgrade fails with.
    """
    entry = Entry(Key("file", "", b"bytes", 0), 0, 0, Identity(1, 2))
    with pytest.raises(ChannelError, match="not JSON"):
        encode(Manifest(2, 60.0, None, (entry,)))


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
    found = decoded(contentOf(manifest))
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

    def write(self, data, descriptors=()):
        if descriptors:
            self.done.append((len(data), list(descriptors)))
        super().write(data)

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

    peerPid = 77

    def __init__(self):
        self.heard = []

    def messageReceived(self, message):
        self.heard.append(message)

    def channelGarbled(self, error):
        self.heard.append("garbled" if type(error) is ChannelError else error)

    def channelLost(self):
        self.heard.append("lost")


def connected():
    """
    Return a channel, its transport, and what is heard over it.
    """
    listener, transport = MessageReceiver(), Transport()
    channel = Channel(listener, "parent")
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
    content = b'{"message":"Hello","pid":7,"version":1,"speaks":[1,1],"can":[]}\n'
    assert sent(Hello(7, can=())) == b"\0\0\0\x40" + content


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
    They go with its first byte, in order, and its header says how many.
    """
    channel, transport, _ = connected()
    channel.send(MANIFEST, [5, 3, 9])
    assert transport.done == [(len(transport.value()), [5, 3, 9]), "doWrite"]
    assert transport.value() == encode(MANIFEST, 3)
    assert b'"descriptors":3' in transport.value()


@pytest.mark.parametrize(
    "nonsense",
    [
        framed(b""),
        framed(b"hello\n"),
        framed(b'{"message":"Hello","pid":7,"version":2,"speaks":[2,2],"can":[]}\n'),
        framed(b'{"message":"Ready","must":["novelty"]}\n'),
        framed(b'{"message":"Ready","descriptors":1}\n'),
        framed(contentOf(Ready()) + b"body"),
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
    padding = b" " * (MAX_FRAME - len(contentOf(Ready())))
    channel.dataReceived(padding + contentOf(Ready()))
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
    Channel(MessageReceiver(), "parent").send(Ready())
    assert heard == ["lost"]
    assert (transport.value(), transport.done) == (b"", [])


def test_a_channel_that_is_kept_open_until_the_exit_is_taken_from_the_reactor():
    """
    The reactor neither reads nor writes it any more, and closes nothing; and
    nothing that is in the air is heard, or said.
    """
    channel, transport, heard = connected()
    channel.keepOpenUntilExit()
    channel.dataReceived(sent(Redeploy()))
    channel.send(Redeploy())
    channel.keepOpenUntilExit()
    assert transport.done == ["stopReading", "stopWriting"]
    assert not transport.disconnecting
    assert (transport.value(), heard) == (b"", [])


def test_a_message_that_is_not_known_is_ignored_and_what_follows_is_heard():
    """
    A later version may say more to us than we know.
    """
    channel, _, heard = connected()
    channel.dataReceived(framed(line({"message": "Novelty", "x": 1})) + sent(Ready()))
    assert heard == [Ready()]


# -- whoever hears it raises


class Raising(MessageReceiver):
    """
    Hears, and then raises.
    """

    def messageReceived(self, message):
        super().messageReceived(message)
        raise RuntimeError("cannot act")

    def channelGarbled(self, error):
        self.heard.append(str(error))
        raise RuntimeError("cannot act on that either")

    def channelLost(self):
        super().channelLost()
        raise RuntimeError("nor on this")


@pytest.fixture
def logged():
    """
    What has been logged as a failure.
    """
    seen = []
    globalLogPublisher.addObserver(seen.append)
    yield seen
    globalLogPublisher.removeObserver(seen.append)


@pytest.mark.parametrize("peer", ["parent", "child"])
def test_a_receiver_that_raises_makes_a_garbled_peer_and_nothing_propagates(peer, logged):
    """
    An exception would close the channel, and the peer would take that for the
    end of this process: it is logged instead, and nothing more is heard.
    """
    receiver, transport = Raising(), Transport()
    channel = Channel(receiver, peer)
    channel.makeConnection(transport)
    channel.dataReceived(sent(Ready(), Serving()))
    channel.dataReceived(sent(Serving()))
    assert receiver.heard == [Ready(), "a Ready could not be acted upon: cannot act"]
    assert not transport.disconnecting
    channel.send(Abort("sorry"))
    assert transport.value() == sent(Abort("sorry"))
    channel.connectionLost(Failure(ConnectionDone()))
    assert receiver.heard[2:] == ["lost"]
    raised = [str(event["log_failure"].value) for event in logged if "log_failure" in event]
    assert raised == ["cannot act", "cannot act on that either", "nor on this"]


def test_a_receiver_that_raises_about_a_garbled_peer_is_logged(logged):
    """
    What is no message makes no exception, whoever hears of it.
    """
    receiver = Raising()
    channel = Channel(receiver, "child")
    channel.makeConnection(Transport())
    channel.dataReceived(framed(b"?"))
    assert len(receiver.heard) == 1
    assert [event["log_failure"].type for event in logged] == [RuntimeError]


# -- the journal


def test_the_journal_is_told_what_is_said_and_heard(monkeypatch):
    """
    Each thing is told just before and just after it happens, with the peer.
    """
    channel, transport, heard = connected()
    # All of it in one list.
    transport.done = heard
    monkeypatch.setattr(Journal, "listeners", [heard.append])
    channel.send(Redeploy())
    channel.dataReceived(framed(line({"message": "Novelty"})) + encode(Ready())[:-1])
    channel.dataReceived(encode(Ready())[-1:])
    channel.connectionLost(Failure(ConnectionDone()))
    channel.send(Redeploy())
    events = [entry for entry in heard if isinstance(entry, Event)]
    assert [type(event) for event in events] == [Saying, Said, Hearing, HearingTheEnd]
    assert [event.message for event in events[:3]] == ["Redeploy", "Redeploy", "Ready"]
    assert {(event.peer, event.peerPid) for event in events} == {("parent", 77)}
    said, written, done, hears, message, end, lost = heard
    assert [said, done, hears, end] == events
    assert (written, message, lost) == ("doWrite", Ready(), "lost")
