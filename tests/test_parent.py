"""
What a child believes, and what it makes of what its parent sends.
"""

import gc
import os
import socket
import struct
import subprocess
import sys
import threading

import pytest
from processes import DEADLINE
from reactors import Turns
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from txtableflip._handover.frames import MAX_FRAME, FrameReader, divide, writeFrame
from txtableflip._handover.manifest import Entry, Identity, Key, UnknownEntry
from txtableflip._handover.messages import (
    CAPABILITIES,
    Abort,
    Commit,
    Confirm,
    Hello,
    Manifest,
    Range,
    Ready,
    Redeploy,
    Serving,
    Stopping,
    Withdraw,
    decode,
    encode,
)
from txtableflip._handover.parent import (
    CONFIRM_TIMEOUT,
    _distrust,
    findParent,
    receiveManifest,
)
from txtableflip._journal import Hearing, Journal, ProcessLogger
from txtableflip._kernel import peerOf
from txtableflip._launch.origin import CHANNEL_VARIABLE
from txtableflip._launch.origin import recordChannel as takeChannel
from txtableflip._sockets.inventory import identify
from txtableflip.errors import ChannelError


def openDescriptors():
    """
    Count the descriptors of this process.
    """
    # What other tests have left is closed when it is collected, and not meanwhile.
    gc.collect()
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
    Send a message with descriptors.
    """
    frame = message if isinstance(message, bytes) else encode(message, len(descriptors))
    for data, batch in divide(frame, descriptors):
        socket.send_fds(sock, [data], batch)


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
        assert "not a UNIX stream socket" in _distrust(sock)


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
    assert findParent(copy) is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(copy)
    assert findParent(None) is None


# -- the manifest


@pytest.mark.parametrize("count", [0, 1, 252, 253, 254, 1000])
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
        for fileno in [*files, *parent.descriptors, parent.lastOutput.stderr]:
            os.close(fileno)


EMPTY = Manifest(2, 60.0, None, ())
ONE = Manifest(2, 60.0, None, (Entry(Key("file", "", "x", 0), 0, 0, Identity(1, 2)),))


NEWER = Manifest(2, 60.0, None, (), speaks=Range(2, 5))
BARE = Manifest(2, 60.0, None, (), stderr=False)


@pytest.mark.parametrize(
    ("message", "count", "reason"),
    [
        (ONE, 1, "1 descriptors came with a manifest of 1 entries"),
        (EMPTY, 0, "0 descriptors came with a manifest of 0 entries"),
        (EMPTY, 2, "2 descriptors came with a manifest of 0 entries"),
        (BARE, 1, "1 descriptors came with a manifest of 0 entries and 0 standard"),
        (encode(EMPTY), 1, "1 descriptors came with a frame that has 0"),
        (encode(EMPTY, 3), 1, "1 descriptors came with a frame that has 3"),
        (encode(EMPTY, -1), 1, "number of descriptors that is not one"),
        (Commit(), 1, "the parent began with a 'Commit'"),
        (writeFrame({"message": "Novelty"}, 1), 1, "the parent began with a 'Novelty'"),
        (struct.pack("!I", 0), 1, "does not begin with JSON"),
        (struct.pack("!I", 6) + b"noise\n", 1, "does not begin with JSON"),
        (NEWER, 1, "speaks versions 2 to 5 of the hand-over and this one version 1"),
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


def test_a_manifest_says_whether_the_standard_error_comes(pair):
    """
    A later version may keep its own to itself.
    """
    send(pair[0], BARE, [])
    found = receiveManifest(pair[1], 20)
    assert (found.descriptors, found.lastOutput.stderr) == ([], None)
    found.lastOutput.end()


def test_a_descriptor_of_a_kind_that_is_not_known_comes_with_the_others(pair):
    """
    It is counted, and left to the inventory.
    """
    unknown = UnknownEntry(key={"kind": "novelty"}, unknown="keep")
    send(pair[0], Manifest(2, 60.0, None, (unknown,)), [2, 0])
    found = receiveManifest(pair[1], 20)
    assert found.manifest.entries == (unknown,)
    assert len(found.descriptors) == 1
    for fileno in [*found.descriptors, found.lastOutput.stderr]:
        os.close(fileno)


def test_the_journal_is_told_of_a_whole_manifest(pair, monkeypatch):
    """
    From then on it is known which generation this is.
    """
    told = []
    monkeypatch.setattr(Journal, "listeners", [told.append])
    monkeypatch.setattr(ProcessLogger, "generation", 1)
    send(pair[0], Manifest(7, 60.0, None, (), stderr=False), [])
    receiveManifest(pair[1], 20)
    [event] = told
    assert type(event) is Hearing
    assert (event.message, event.peer, event.peerPid) == ("Manifest", "parent", os.getppid())
    assert event.generation == 7


def test_a_manifest_that_would_be_too_long_is_refused(pair):
    """
    The length is looked at before anything of that length is read.
    """
    pair[0].sendall(struct.pack("!I", MAX_FRAME + 1))
    with pytest.raises(ChannelError, match=f"{MAX_FRAME + 1} bytes is too long"):
        receiveManifest(pair[1], 20)


@pytest.mark.parametrize("length", [0, 3, 4, 20])
def test_a_parent_that_dies_while_it_sends_is_an_error(pair, length):
    """
    An end of the channel at any place in the manifest is told from silence.
    """
    data = encode(EMPTY, 1)
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


# -- the conversation


class Rules:
    """
    Keeps what the rules of this process hear.
    """

    def __init__(self):
        self.heard = []

    def __getattr__(self, name):
        return lambda *arguments: self.heard.append(name)


@pytest.fixture(params=[("probation", "novelty")])
def can(request):
    """
    What the parent can.
    """
    return request.param


@pytest.fixture
def begun(pair, monkeypatch, can):
    """
    A reactor, a parent's end, what the rules hear, and the Parent that has been
    greeted.
    """
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(ProcessLogger, "generation", 1)
    manifest = Manifest(2, 60.0, None, (), stderr=False, speaks=Range(1, 9), can=can)
    send(pair[0], manifest, [])
    found = receiveManifest(pair[1].dup(), 20)
    pair[1].close()
    reactor, rules = Turns(), Rules()
    found.connect(reactor, rules)
    yield reactor, pair[0], rules.heard, found
    while reactor.readers:
        reactor.readers.pop().connectionLost(Failure(ConnectionDone()))


def test_a_child_greets_with_the_version_that_both_speak(begun):
    """
    The lower one of the two newest is named in the first frame.
    """
    assert begun[1].recv(999) == encode(Hello(os.getpid(), 1, Range(1, 1), CAPABILITIES))


def test_a_parent_that_says_nothing_is_given_up_after_the_deadline(begun):
    """
    The time counts from Ready, and is the parent's own.
    """
    reactor, _, heard, parent = begun
    parent.sayReady()
    reactor.turn(59.9)
    assert heard == []
    for _ in range(3):
        reactor.turn(0.2)
    assert heard == ["parentTimedOut"]
    assert reactor.getDelayedCalls() == []


SAID = {
    "parentCommitted": [Commit()],
    "parentAborted": [Abort("x")],
    "parentExited": [],
}


@pytest.mark.parametrize("outcome", SAID)
@pytest.mark.parametrize("others", [0, 1, 3])
def test_what_has_come_counts_however_late_it_is_read(begun, outcome, others):
    """
    A child that was asleep past its deadline reads first what the parent has said
    meanwhile, its end included, and gives nobody up who has answered.
    """
    reactor, ours, heard, parent = begun
    parent.sayReady()
    for message in [*[Redeploy()] * others, *SAID[outcome]]:
        ours.sendall(encode(message))
    if outcome == "parentExited":
        ours.close()
    for _ in range(4):
        reactor.turn(100)
    assert heard[: others + 1] == [*["told"] * others, outcome]
    # What it waits for next is another matter.
    assert heard[others + 1 :] == (["parentTimedOut"] if outcome == "parentCommitted" else [])


def test_rules_that_raise_make_a_garbled_parent(begun):
    """
    A child that cannot act on what its parent says must not serve beside it.
    """
    reactor, ours, heard, parent = begun

    def fail():
        heard.append("failed")
        raise RuntimeError

    parent._lifecycle.parentCommitted = fail
    parent.sayReady()
    ours.sendall(encode(Commit()) + encode(Commit()))
    reactor.turn()
    assert heard == ["failed", "quit"]
    assert list(reactor.readers)
    parent._lifecycle.parentExited = fail
    ours.close()
    reactor.turn()
    assert heard == ["failed", "quit", "failed"]
    assert reactor.getDelayedCalls() == []


def test_a_message_with_descriptors_that_it_should_not_have_is_refused(begun):
    """
    They are closed, and the parent counts as garbled.
    """
    reactor, ours, heard, _ = begun
    before = openDescriptors()
    ours.sendall(encode(Redeploy()))
    send(ours, Manifest(3, 60.0, None, ()), [2])
    send(ours, Ready(), [2] * 300)
    for _ in range(4):
        reactor.turn()
    assert heard == ["told", "quit"]
    assert openDescriptors() == before


def said(sock):
    """
    Return what a child has said meanwhile, but for Hello.
    """
    sock.setblocking(False)
    try:
        data = sock.recv(65536)
    except BlockingIOError:
        return []
    found = [decode(frame) for frame in FrameReader().receive(data)]
    return [message for message in found if not isinstance(message, Hello)]


def tell(begun, *messages):
    """
    Have the parent say something.

    @return: what the rules hear by that.
    """
    reactor, ours, heard, _ = begun
    before = len(heard)
    for message in messages:
        ours.sendall(encode(message))
    reactor.turn(times=5)
    return heard[before:]


def test_each_decision_of_the_parent_is_heard(begun):
    """
    Committed, withdrawn, committed again, and confirmed; then nothing is waited for.
    """
    assert tell(begun, Commit(5.0)) == ["parentCommitted"]
    assert tell(begun, Withdraw("x")) == ["parentWithdrew"]
    assert tell(begun, Commit(5.0)) == ["parentCommitted"]
    assert tell(begun, Redeploy()) == ["told"]
    assert tell(begun, Confirm()) == ["parentConfirmed"]
    assert begun[0].getDelayedCalls() == []
    # Only this one can do that now.
    assert tell(begun, Redeploy(), Redeploy()) == ["redeploy", "redeploy"]


def test_a_child_on_probation_waits_so_long_for_the_decision(begun):
    """
    As long as the parent has said, and then some; each wait has an end.
    """
    tell(begun, Commit(5.0))
    reactor, _, heard, _ = begun
    reactor.turn(5 + CONFIRM_TIMEOUT - 0.1)
    assert heard == ["parentCommitted"]
    reactor.turn(0.2)
    reactor.turn(times=3)
    assert heard == ["parentCommitted", "parentTimedOut"]


def test_a_parent_that_cannot_be_ended_is_tried_again(begun, monkeypatch):
    """
    Nobody may wait for ever: it is overdue again after the same time.
    """
    tell(begun, Commit(5.0))
    reactor, _, heard, parent = begun
    monkeypatch.setattr(parent._process, "_fileno", -1)
    for times in (1, 2):
        reactor.turn(5 + CONFIRM_TIMEOUT + 0.1)
        reactor.turn(times=3)
        assert heard == ["parentCommitted", *["parentTimedOut"] * times]
        with pytest.raises(OSError):
            parent.kill()


def test_a_child_that_stands_by_again_waits_as_before(begun):
    """
    It is committed again, or aborted, within the time of the upgrade.
    """
    tell(begun, Commit(500.0), Withdraw("x"))
    reactor, _, heard, parent = begun
    assert reactor.getDelayedCalls() == []
    parent.sayReady()
    reactor.turn(59.9)
    assert heard[2:] == []
    reactor.turn(0.2)
    reactor.turn(times=3)
    assert heard[2:] == ["parentTimedOut"]


def test_a_confirmation_that_came_late_is_heard_before_the_parent_is_ended(begun):
    """
    A child that was asleep past its deadline reads first.
    """
    tell(begun, Commit(5.0))
    reactor, ours, heard, _ = begun
    ours.sendall(encode(Confirm()))
    reactor.turn(1000, times=4)
    assert heard == ["parentCommitted", "parentConfirmed"]


WISHES = [Withdraw("x"), Confirm(), Stopping(), Redeploy()]


def test_wishes_are_sent_up(begun):
    """
    To a parent that can act upon them.
    """
    for wish in WISHES:
        begun[3].ask(wish)
    assert said(begun[1]) == WISHES


@pytest.mark.parametrize("can", [(), ("novelty",)], indirect=True)
def test_below_a_parent_of_the_release_before_serving_is_final(begun):
    """
    It never rolls back, and never says so; no wish is sent up; and what has come of
    it is heard first.
    """
    for wish in WISHES:
        begun[3].ask(wish)
    begun[3].say(Serving())
    assert said(begun[1]) == [Serving()]
    assert tell(begun, Commit()) == ["parentCommitted", "parentConfirmed"]
    assert begun[0].getDelayedCalls() == []
    assert tell(begun, Redeploy()) == ["redeploy"]


@pytest.mark.parametrize("can", [()], indirect=True)
@pytest.mark.parametrize("isDead", [False, True])
def test_below_a_parent_of_the_release_before_its_last_word_counts(begun, isDead):
    """
    An end or an Abort right behind Commit is not overtaken.
    """
    _, ours, heard, _ = begun
    ours.sendall(encode(Commit()))
    if isDead:
        ours.close()
    else:
        ours.sendall(encode(Abort("x")))
    begun[0].turn(times=6)
    assert heard == ["parentCommitted", "parentExited" if isDead else "parentAborted"]


def test_the_end_of_the_parent_is_final(begun):
    """
    Whoever waits for it is told; there is nobody else to hear from.
    """
    reactor, ours, heard, parent = begun
    gone = []
    parent.isGone.wait().addCallback(gone.append)
    tell(begun, Commit(5.0))
    assert gone == []
    ours.close()
    reactor.turn(times=2)
    assert heard == ["parentCommitted", "parentExited"]
    assert gone == [None]
    assert reactor.getDelayedCalls() == []


@pytest.fixture
def living(begun):
    """
    What C{begun} is, and the process that is the parent.
    """
    with subprocess.Popen(["sleep", "600"]) as process:
        begun[3]._process.close()
        begun[3]._process.__init__(process.pid)
        yield (*begun, process)
        process.kill()


@pytest.mark.process
@pytest.mark.parametrize("ends", [True, False])
def test_a_parent_that_closes_the_channel_has_ended_when_it_has(living, ends):
    """
    Until then it may accept: if it lives on for some seconds, this process must not
    serve; and it is gone when it has ended in the end.
    """
    reactor, ours, heard, parent, process = living
    ours.close()
    reactor.turn(times=3)
    assert heard == []
    if not ends:
        reactor.turn(2.1)
        reactor.turn(times=3)
        assert heard == ["quit"]
    assert parent.isGone.outcome is None
    process.kill()
    process.wait(DEADLINE)
    reactor.turn()
    assert heard == [*(["quit"] * (not ends)), "parentExited"]
    assert parent.isGone.outcome
    assert reactor.getDelayedCalls() == []


def test_the_kernel_says_who_made_the_channel(pair):
    """
    Whoever may have started this process in between.
    """
    assert peerOf(pair[1]) == (os.getpid(), os.geteuid())


def test_where_the_kernel_says_nothing_it_is_who_started_this_process(pair, monkeypatch):
    """
    That may be a wrapper.
    """
    monkeypatch.delattr(socket, "SO_PEERCRED")
    assert peerOf(pair[1]) == (os.getppid(), os.geteuid())
    assert _distrust(pair[1]) is None


PARENT = """
import socket, subprocess, sys
ours, theirs = socket.socketpair()
number = theirs.fileno()
subprocess.run([sys.executable, "-c", sys.argv[1], str(number)], pass_fds=[number])
print("lives")
"""

OVERDUE = """
import os, socket, sys
from txtableflip._handover.messages import Manifest
from txtableflip._handover.lastoutput import LastOutput
from txtableflip._handover.parent import Parent
sock = socket.socket(fileno=int(sys.argv[1]))
from unittest.mock import Mock
from twisted.internet.testing import MemoryReactorClock
parent = Parent(sock, Manifest(2, 60.0, None, (), stderr=False), LastOutput(None), [])
parent.connect(MemoryReactorClock(), Mock())
print(os.getppid(), flush=True)
parent.kill()
"""


@pytest.mark.process
def test_a_parent_that_is_overdue_is_ended():
    """
    It is the process that made the channel.
    """
    command = [sys.executable, "-c", PARENT, OVERDUE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        printed, _ = process.communicate(timeout=DEADLINE)
    assert printed.split() == [str(process.pid)]
    assert process.returncode == -9


# -- what has changed since the manifest


def test_what_came_with_commit_is_the_rules_to_take(begun):
    """
    While they hear of it; what they leave is closed.
    """
    reactor, ours, heard, parent = begun
    entries = tuple(entry(number, 2) for number in range(2))
    taken = []
    before = openDescriptors()
    send(ours, Commit(5.0, entries), [2, 2])
    reactor.turn(times=4)
    assert (heard, openDescriptors()) == (["parentCommitted"], before)
    parent._lifecycle.parentCommitted = lambda: taken.append(parent.takeNews())
    send(ours, Commit(5.0, entries), [2, 2])
    reactor.turn(times=4)
    [news] = taken
    assert news.entries == entries
    assert [identify(fileno) for fileno in news.descriptors] == [identify(2)] * 2
    for fileno in news.descriptors:
        os.close(fileno)
    assert openDescriptors() == before


@pytest.mark.parametrize(("said", "count"), [(0, 1), (1, 0), (1, 2), (300, 299)])
def test_a_commit_with_another_number_of_descriptors_than_it_says_is_refused(
    begun, said, count
):
    """
    They are closed, and the parent counts as garbled.
    """
    reactor, ours, heard, _ = begun
    before = openDescriptors()
    entries = tuple(entry(number, 2) for number in range(said))
    send(ours, Commit(5.0, entries), [2] * count)
    reactor.turn(times=6)
    assert (heard, openDescriptors()) == (["quit"], before)
