"""
What a child believes, and what it makes of what its parent sends.
"""

import os
import socket
import struct
import threading

import pytest

from txtableflip._handover import parent
from txtableflip._handover.manifest import Entry, Identity, Key
from txtableflip._handover.messages import MAX_FRAME, Commit, Manifest, encode
from txtableflip._handover.parent import _distrust, receiveManifest
from txtableflip._launch.origin import CHANNEL_VARIABLE
from txtableflip._launch.origin import recordChannel as takeChannel
from txtableflip._sockets.inventory import identify
from txtableflip.errors import ChannelError


def openDescriptors():
    """
    Count the descriptors of this process.
    """
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def pair():
    """
    The two ends of a channel.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def entry(number, fileno):
    """
    Describe a descriptor that is a file.
    """
    return Entry(Key("file", "", str(number), 0), 0, 0, identify(fileno))


def send(sock, message, descriptors):
    """
    Send a message with descriptors, as many at a time as go.
    """
    frame = encode(message) if not isinstance(message, bytes) else message
    data = struct.pack("!I", len(frame)) + frame
    while descriptors:
        socket.send_fds(sock, [data[:1]], descriptors[:253])
        data, descriptors = data[1:], descriptors[253:]
    sock.sendall(data)


# -- the environment variable


def test_without_the_variable_there_is_no_channel():
    """
    A process that was not started by a parent has none.
    """
    assert takeChannel({"HOME": "/"}) is None


def test_the_channel_is_taken_out_of_the_environment_and_kept_from_others(pair):
    """
    No process that this one starts sees the variable or gets the descriptor.
    """
    os.set_inheritable(pair[1].fileno(), True)
    environment = {CHANNEL_VARIABLE: str(pair[1].fileno()), "HOME": "/"}
    assert takeChannel(environment) == pair[1].fileno()
    assert environment == {"HOME": "/"}
    assert not os.get_inheritable(pair[1].fileno())


@pytest.mark.parametrize("value", ["", "x", "-1", "1e3", "99999", "2147483648" * 5])
def test_a_value_that_names_no_socket_is_not_believed(value):
    """
    A forged variable leaves a first generation, and does not stay.
    """
    environment = {CHANNEL_VARIABLE: value}
    assert takeChannel(environment) is None
    assert environment == {}


def test_a_descriptor_that_is_a_file_is_not_believed(tmp_path):
    """
    A forged variable that names an open file leaves a first generation.
    """
    with open(tmp_path / "file", "w") as file:
        assert takeChannel({CHANNEL_VARIABLE: str(file.fileno())}) is None


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        (socket.AF_INET, socket.SOCK_STREAM),
        (socket.AF_UNIX, socket.SOCK_DGRAM),
        (socket.AF_UNIX, socket.SOCK_SEQPACKET),
    ],
)
def test_a_socket_of_another_kind_is_distrusted(family, kind):
    """
    Only a UNIX stream socket can be the channel.
    """
    with socket.socket(family, kind) as sock:
        assert "no UNIX stream socket" in _distrust(sock)


def test_our_own_channel_is_trusted(pair):
    """
    A socket whose other end belongs to our user is believed.
    """
    assert _distrust(pair[1]) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_channel_of_another_user_is_distrusted():
    """
    A socket whose other end belongs to somebody else is not believed.
    """
    os.seteuid(65534)
    try:
        ours, theirs = socket.socketpair()
    finally:
        os.seteuid(0)
    with ours, theirs:
        os.seteuid(65533)
        try:
            assert "belongs to user 65534" in _distrust(theirs)
        finally:
            os.seteuid(0)


def test_root_is_trusted_by_everybody():
    """
    A parent that is root is believed whoever we are.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        os.seteuid(65534)
        try:
            assert _distrust(theirs) is None
        finally:
            os.seteuid(0)


def test_a_forged_channel_makes_a_first_generation():
    """
    A process with a channel that it does not trust goes on without a parent,
    and closes it.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        copy = os.dup(sock.fileno())
    assert parent.findParent(copy) is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(copy)


# -- the manifest


@pytest.mark.parametrize("count", [0, 1, 252, 253, 254, 600])
def test_a_manifest_comes_with_its_descriptors(pair, count):
    """
    The manifest arrives whole, with all descriptors in its order, close-on-exec,
    and what follows is left on the socket.
    """
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(count)]
    manifest = Manifest(7, 2.5, "/run/p", tuple(entry(n, fd) for n, fd in enumerate(files)))
    sender = threading.Thread(target=send, args=(pair[0], manifest, [2, *files]))
    sender.start()
    parent = receiveManifest(pair[1], 20)
    sender.join()
    try:
        assert parent.manifest == manifest
        assert len(parent.descriptors) == count
        assert not any(map(os.get_inheritable, parent.descriptors))
        pair[0].send(b"next")
        pair[1].settimeout(20)
        assert pair[1].recv(10) == b"next"
    finally:
        for fileno in [*files, *parent.descriptors, parent._stderr]:
            os.close(fileno)


EMPTY = Manifest(2, 60.0, None, ())
ONE = Manifest(2, 60.0, None, (Entry(Key("file", "", "x", 0), 0, 0, Identity(1, 2)),))


@pytest.mark.parametrize(
    ("message", "count", "reason"),
    [
        (ONE, 1, "1 descriptors came with a manifest of 1 entries"),
        (EMPTY, 0, "0 descriptors came with a manifest of 0 entries"),
        (EMPTY, 2, "2 descriptors came with a manifest of 0 entries"),
        (Commit(), 1, "the parent began with a Commit"),
        (b"", 1, "does not begin with JSON"),
        (b"noise\n", 1, "does not begin with JSON"),
        (encode(EMPTY).replace(b'"version":1', b'"version":2'), 1, "speaks version 2"),
    ],
)
def test_what_is_no_manifest_is_refused_and_nothing_leaks(pair, message, count, reason):
    """
    A manifest with the wrong number of descriptors, of another version, or none
    at all raises ChannelError, and its descriptors are closed.
    """
    before = openDescriptors()
    send(pair[0], message, [2] * count)
    with pytest.raises(ChannelError, match=reason):
        receiveManifest(pair[1], 20)
    assert openDescriptors() == before


def test_a_manifest_that_would_be_too_long_is_refused(pair):
    """
    The length is looked at before anything of that length is read.
    """
    pair[0].sendall(struct.pack("!I", MAX_FRAME + 1))
    with pytest.raises(ChannelError, match=f"{MAX_FRAME + 1} bytes long"):
        receiveManifest(pair[1], 20)


@pytest.mark.parametrize("length", [0, 3, 4, 20])
def test_a_parent_that_dies_while_it_sends_is_an_error(pair, length):
    """
    An end of the channel at any place in the manifest is told from silence.
    """
    frame = encode(EMPTY)
    data = struct.pack("!I", len(frame)) + frame
    before = openDescriptors()
    if length:
        socket.send_fds(pair[0], [data[:length]], [2])
    pair[0].shutdown(socket.SHUT_WR)
    with pytest.raises(ChannelError, match="closed the channel before"):
        receiveManifest(pair[1], 20)
    assert openDescriptors() == before


@pytest.mark.parametrize("sent", [b"", b"\0\0", b"\0\0\0\x20half"])
def test_a_parent_that_falls_silent_is_an_error_after_the_deadline(pair, sent):
    """
    A manifest that does not come, or not whole, is waited for so long only.
    """
    pair[0].sendall(sent)
    with pytest.raises(ChannelError, match="not sent its manifest in time"):
        receiveManifest(pair[1], 0.01)
