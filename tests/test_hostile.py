"""
Bad input of any kind, and the tricks of another user of the machine: what the
table in docs/security.md says that happens.
"""

import gc
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import traceback
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from getopt import GetoptError
from pathlib import Path
from types import SimpleNamespace

import pytest
from commandlines import FOREGROUND, parse
from hypothesis import example, given, settings
from hypothesis import strategies as st
from processes import APPS, DEADLINE, TWISTD, Gate, ask, deadProcess, until
from strategies import manifests
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorProcess
from twisted.internet.testing import MemoryReactorClock
from zope.interface import alsoProvides

import txtableflip
from txtableflip import EnvironmentFileError, InvalidEndpoint
from txtableflip._generation import Generation
from txtableflip._handover.child import Child
from txtableflip._handover.manifest import Entry, Key
from txtableflip._handover.messages import Hello, Manifest, encode
from txtableflip._handover.parent import receiveManifest
from txtableflip._launch.command import Command, successorCommand
from txtableflip._launch.envfile import readEnvironment
from txtableflip._launch.origin import CHANNEL_VARIABLE, recordChannel
from txtableflip._launch.pidfile import PidFile, removeStale
from txtableflip._launch.twistd import keepInForeground
from txtableflip._sockets import unixpaths
from txtableflip._sockets.endpoint import InheritableEndpoint
from txtableflip._sockets.inventory import Descriptor, HeldDescriptor, Inventory, identify
from txtableflip._sockets.reactor import InheritingReactor
from txtableflip._sockets.readiness import Readiness
from txtableflip.errors import ChannelError, ChildExited, PidFileError
from txtableflip.testing._service import isAlive

NOBODY = 65534
OURS = Path(txtableflip.__file__).parent
ANSWERING = ["tableflip", "--app", str(APPS / "answering.py")]

needsRoot = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def opened():
    """
    Return the open descriptors of this process, each with what it is.
    """
    found = set()
    for name in os.listdir("/proc/self/fd"):
        # The one by which the directory was read is closed again.
        with suppress(OSError):
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))
    return found


@contextmanager
def nothingLeaks():
    """
    Check that no descriptor is open in the end that was not in the beginning.
    """
    before = opened()
    yield
    assert opened() <= before


@contextmanager
def inTime():
    """
    Interrupt what waits for ever.
    """

    def late(number, frame):
        pytest.fail("it waits")

    previous = signal.signal(signal.SIGALRM, late)
    signal.alarm(int(DEADLINE))
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


@contextmanager
def asNobody():
    """
    Be another user for a while.
    """
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shared():
    """
    A directory like /tmp, in which everybody may write, and nobody may remove
    what is another's.
    """
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        os.chmod(directory, 0o1777)
        yield Path(directory)


def status(path):
    """
    Return what tells whether something has been replaced or written to; to look
    at it does not count.
    """
    found = path.lstat()
    return found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns


def contents(directory):
    """
    Return what is in a directory and below, and what that is.
    """
    found = {}
    # Not by rglob(), which does not survive a link that is too long in Python 3.10.
    for top, directories, files in os.walk(directory):
        for path in [Path(top, name) for name in (*directories, *files)]:
            status = path.lstat()
            said = os.readlink(path) if path.is_symlink() else ""
            if stat.S_ISREG(status.st_mode):
                said = path.read_text()
            found[path.relative_to(directory)] = (status.st_ino, status.st_mode, said)
    return found


# -- the manifest

KINDS = {
    "file": lambda: os.open("/dev/null", os.O_RDWR),
    "directory": lambda: os.open("/", os.O_RDONLY),
    "tcp": lambda: socket.socket().detach(),
    "udp": lambda: socket.socket(type=socket.SOCK_DGRAM).detach(),
    "unix": lambda: socket.socket(socket.AF_UNIX).detach(),
    "unixgram": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach(),
    "seqpacket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).detach(),
}
"""
What may come as a descriptor.
"""


@contextmanager
def descriptors(kinds):
    """
    HasDescriptor one of each of these kinds.
    """
    with ExitStack() as stack:
        made = []
        for kind in kinds:
            made.append(KINDS[kind]())
            stack.callback(os.close, made[-1])
        yield made


def framed(manifest):
    """
    Return a manifest as it goes over the channel.
    """
    return encode(manifest, 1 + len(manifest.entries))


def deliver(data, filenos, pieces=1):
    """
    Send these bytes and descriptors as a parent does, and make of them what a
    child does.

    @return: the child's inventory, or None if it has refused.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        share = -(-len(filenos) // pieces)
        while filenos and data:
            socket.send_fds(ours, [data[:1]], filenos[:share])
            data, filenos = data[1:], filenos[share:]
        ours.sendall(data)
        ours.shutdown(socket.SHUT_WR)
        try:
            parent = receiveManifest(theirs, DEADLINE)
        except ChannelError:
            return None
        os.close(parent.lastOutput.stderr)
        inventory = Inventory()
        try:
            inventory.inherit(parent.manifest.entries, parent.descriptors)
        except ChannelError:
            assert inventory.inherited == {}
            return None
        return inventory


def close(inventory):
    """
    Close all that a child has inherited.
    """
    for held in inventory.inherited.values():
        held.handle.close()


@st.composite
def spoiled(draw):
    """
    Make the bytes of a manifest of which some are others, more or fewer, and
    the kinds of the descriptors that come with it.
    """
    manifest = draw(manifests)
    data = bytearray(framed(manifest))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(data)))
        data[place : place + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    if draw(st.booleans()):
        del data[draw(st.integers(0, len(data))) :]
    count = len(manifest.entries) + draw(st.sampled_from([1, 1, 1, 0, 2, 5]))
    kinds = st.lists(st.sampled_from(sorted(KINDS)), min_size=count, max_size=count)
    return bytes(data), draw(kinds), draw(st.integers(1, 3))


@settings(max_examples=3 * settings.default.max_examples)
@given(spoiled())
def test_whatever_comes_as_a_manifest_is_one_or_is_refused_and_nothing_leaks(delivery):
    """
    Bytes changed, lost or added, and descriptors too many, too few or of any
    kind, are a manifest or a ChannelError, and all descriptors are closed.
    """
    data, kinds, pieces = delivery
    with descriptors(kinds) as filenos, nothingLeaks():
        inventory = deliver(data, filenos, pieces)
        if inventory is not None:
            close(inventory)


def entries(kinds, filenos):
    """
    Describe descriptors truthfully.
    """
    parent = Inventory()
    with ExitStack() as copies:
        for number, (kind, fileno) in enumerate(zip(kinds, filenos, strict=True)):
            copy = os.dup(fileno)
            copies.callback(os.close, copy)
            network = kind if kind in ("tcp", "udp", "unix", "unixgram") else "named"
            isSocket = stat.S_ISSOCK(os.fstat(copy).st_mode)
            found = socket.socket(fileno=copy) if isSocket else Descriptor(copy)
            if isSocket:
                copies.callback(found.detach)
            parent.add(Key("listener", network, "here", number), HeldDescriptor(found))
        return list(parent.entries())


def spoilings(kinds, filenos):
    """
    Return every way to have one descriptor be another than its entry says.
    """
    said = entries(kinds, filenos)
    first, *others = said

    def changed(**changes):
        return [replace(first, **changes), *others], filenos

    yield "family", changed(family=first.family + 1)
    yield "type", changed(type=first.type + 1)
    yield "device", changed(identity=replace(first.identity, device=-1))
    yield "inode", changed(identity=replace(first.identity, inode=2**70))
    for network in ("tcp", "tcp6", "udp", "udp6", "unix", "unixgram"):
        if network != kinds[0]:
            yield network, changed(key=replace(first.key, network=network))
    if others:
        yield "order", (said, [*filenos[1:], filenos[0]])
        yield "name", ([first, replace(others[0], key=first.key), *others[1:]], filenos)


@given(st.data())
def test_a_descriptor_is_what_its_entry_says_or_nothing_is_inherited(data):
    """
    What is described truthfully is inherited, each under its name; if the
    family, the type, the identity or the network of one is another, if two are
    exchanged, or have one name, that is a ChannelError, and all are closed.
    """
    kinds = data.draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, unique=True))
    with descriptors(kinds) as filenos, nothingLeaks():
        said = entries(kinds, filenos)
        whole = deliver(framed(Manifest(2, 60.0, None, tuple(said))), [2, *filenos])
        assert {
            key: identify(held.handle.fileno()) for key, held in whole.inherited.items()
        } == {entry.key: entry.identity for entry in said}
        close(whole)
        _, (lies, order) = data.draw(st.sampled_from(list(spoilings(kinds, filenos))))
        assert deliver(framed(Manifest(2, 60.0, None, tuple(lies))), [2, *order]) is None


def test_two_files_of_one_name_are_refused_and_closed():
    """
    The second would take the place of the first, which nobody could close.
    """
    with descriptors(["file", "file"]) as filenos, nothingLeaks():
        entry = Entry(Key("file", "", "log", 0), 0, 0, identify(filenos[0]))
        assert deliver(framed(Manifest(2, 60.0, None, (entry, entry))), [2, *filenos]) is None


def test_credentials_are_not_taken_for_descriptors():
    """
    What else the kernel tells of a peer, a process and a user, are numbers,
    and no descriptors.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs, nothingLeaks():
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        data = framed(Manifest(2, 60.0, None, ()))
        socket.send_fds(ours, [data[:6]], [2])
        ours.sendall(data[6:])
        parent = receiveManifest(theirs, DEADLINE)
        assert parent.descriptors == []
        os.close(parent.lastOutput.stderr)
        # It has a descriptor by which its process is known.
        del parent


@pytest.mark.parametrize("pid", [0, -1, -77, 2**70])
def test_a_child_cannot_have_others_ended_by_the_number_that_it_greets_with(pid, monkeypatch):
    """
    To kill(2), 0 and what is negative are a group, or everybody: none of that
    gets a signal, nor is a number that is no process id an error.
    """
    killed = []

    def kill(pid, number):
        if abs(pid) >= 2**31:
            raise OverflowError
        killed.append(pid)

    monkeypatch.setattr(os, "kill", kill)
    signalled = []
    child = Child(MemoryReactorClock(), SimpleNamespace())
    child._process.makeConnection(SimpleNamespace(pid=77, signalProcess=signalled.append))
    child._answers.messageReceived(Hello(pid))
    child.end(None)
    assert signalled[-1] == "TERM"
    assert killed == []


def test_a_child_that_may_not_be_signalled_is_given_up_all_the_same():
    """
    A child that has become another user's, and hangs, fails at its deadlines.
    """

    def signalProcess(name):
        raise PermissionError

    failed = []
    clock = MemoryReactorClock()
    child = Child(clock, SimpleNamespace(childFailed=failed.append))
    child._process.makeConnection(SimpleNamespace(pid=77, signalProcess=signalProcess))
    child.end(None)
    clock.pump([0.1] * 200)
    (error,) = failed
    assert isinstance(error, ChildExited)


# -- the environment variable and the environment file


@given(st.text(st.characters(categories=None, codec=None, exclude_characters="\0")))
@example("\u0663")
@example("0x3")
@example("1" * 5000)
def test_any_value_of_the_variable_names_a_socket_or_is_not_believed(value):
    """
    A forged variable, whatever it says, is taken away and raises nothing.
    """
    environment = {CHANNEL_VARIABLE: value}
    found = recordChannel(environment)
    assert environment == {}
    assert found is None or stat.S_ISSOCK(os.fstat(found).st_mode)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """
    The path of a file that each example writes anew.
    """
    return tmp_path_factory.mktemp("environment") / "file"


LINES = st.one_of(
    st.binary(max_size=40),
    st.lists(
        st.sampled_from(
            [b"A", b"=", b"'", b'"', b"\\", b" ", b"#", b"\n", b"\r", b"\xff", b"\0"]
        )
    ).map(b"".join),
)


@given(st.lists(LINES).map(b"\n".join))
def test_any_file_is_an_environment_or_an_error_that_says_the_line(file, content):
    """
    Whatever is in the file, it is variables that a process can be given, or an
    EnvironmentFileError; and the channel of the successor is ours to name.
    """
    file.write_bytes(content)
    try:
        found = readEnvironment(str(file))
    except EnvironmentFileError as error:
        assert re.match(rf"{file}, line \d+: ", str(error))  # noqa: PT017 - one of two outcomes
        return
    for name, value in found.items():
        assert re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name)
        assert b"\0" not in os.fsencode(value)
    command = Command("/bin/x", (), "/", str(file))
    assert command.environment({}) == {**found, "PWD": "/", CHANNEL_VARIABLE: "3"}


@pytest.mark.parametrize("forged", ["environment", "file"])
def test_neither_the_environment_nor_its_file_names_the_channel_of_a_successor(file, forged):
    """
    A forged variable does not go on to the next generation.
    """
    file.write_text(f"{CHANNEL_VARIABLE}=9\n" if forged == "file" else "")
    ours = {CHANNEL_VARIABLE: "9"} if forged == "environment" else {}
    given_ = Command("/bin/x", (), "/", str(file)).environment(ours)
    assert given_[CHANNEL_VARIABLE] == "3"


# -- the command line

WORDS = st.one_of(
    # Bytes that are no UTF-8 are lone surrogates in sys.argv.
    st.text(st.characters(categories=None, codec=None, exclude_characters="\0"), max_size=5),
    st.sampled_from(
        [
            *("", "-", "--", "-n", "-l", "-nl", "-y", "--logfile", "--logfile=", "--pidfile="),
            *(
                "--nodaemon",
                "--originalname",
                "-o",
                "--pidf",
                "--n",
                "--nosuch",
                "web",
                "\udcff",
            ),
        ]
    ),
)


@given(st.lists(WORDS, max_size=8))
@example(["-l", *FOREGROUND, "web"])
@example(["-l", "--nodaemon", "--pidfile", "", "--originalname"])
@example(["--logfile", "--", *FOREGROUND])
@example(["--", *FOREGROUND])
def test_any_arguments_keep_their_order_and_are_mapped_once(arguments):
    """
    Whatever is on the command line, what is inserted is in one place, the
    options that make a child of twistd count last, and the child's child has
    the same command line.
    """
    once = keepInForeground(arguments)
    assert keepInForeground(once) == once
    inserted = len(once) - len(arguments)
    assert any(
        once[:place] + once[place + inserted :] == arguments
        for place in range(len(arguments) + 1)
    )
    try:
        before, beforeRest = parse(arguments)
    except GetoptError:
        assert inserted == 0
        return
    after, afterRest = parse(once)
    assert afterRest == beforeRest
    assert after[: len(before)] == before
    assert after[-3:] == [("--nodaemon", ""), ("--pidfile", ""), ("--originalname", "")]


# -- endpoint strings


class Reactor(MemoryReactorClock):
    """
    A reactor in memory that says it can do what an upgrade needs.
    """

    def __init__(self):
        super().__init__()
        alsoProvides(self, IReactorProcess)


@pytest.fixture(scope="module")
def parsing():
    """
    What stands for the Upgrader while endpoint strings are parsed, its reactor
    and its state.
    """
    reactor = Reactor()
    process = Generation(reactor, None, DEADLINE, None, successorCommand)
    listens = Readiness(reactor, process.inventory)

    def endpoint(description):
        return InheritableEndpoint(
            InheritingReactor(reactor, process.ports), listens, description
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "txtableflip.upgrader.Upgrader._current", SimpleNamespace(endpoint=endpoint)
        )
        yield SimpleNamespace(reactor=reactor, inventory=process.inventory, listens=listens)


def outcome(reactor, description):
    """
    Return the endpoint that a string makes, or the error.
    """
    try:
        return serverFromString(reactor, description)
    except Exception as error:
        return error


def raisedBy(error):
    """
    Return the file whose code has raised an error.
    """
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_code.co_filename


TOKENS = st.sampled_from(
    [
        *("tcp", "tcp6", "unix", "ssl", "tls", "haproxy", "stdio", "systemd", "tableflip"),
        *(":", ":", ":", ":", "=", "\\", "80", "0", "-1", "x", "/s", "☃", "\0", "\udcff"),
        *("interface=127.0.0.1", "port=", "mode=", "backlog=", "self=", "reactor="),
        *("domain=INET", "nosuch", "9" * 5000),
    ]
)
DESCRIPTIONS = st.text() | st.lists(TOKENS).map("".join) | st.lists(TOKENS).map(":".join)


@given(DESCRIPTIONS)
@example("haproxy:" * 3 + "tcp:80")
@example("haproxy:tableflip:tcp:80")
@example("haproxy:tableflip:tcp:80:nosuch=1")
@example("tls:tableflip:tableflip:tcp:80")
@example("systemd:domain=INET:index=0")
@example("systemd:")
@example(":" * 2000)
@example("tcp:" + "x=" * 2000)
def test_any_endpoint_string_is_what_twisted_makes_of_it(parsing, description):
    """
    With tableflip: before it, any text is an endpoint where it is one without,
    and else an error of the same kind, or ours that says what to write; a text
    that is none leaves nothing behind.
    """
    # What Twisted opens by itself, without us, is not ours.
    plain = outcome(parsing.reactor, description)
    with nothingLeaks():
        ours = outcome(parsing.reactor, f"tableflip:{description}")
    if isinstance(ours, InheritableEndpoint):
        assert not isinstance(plain, Exception)
    elif not isinstance(ours, InvalidEndpoint):
        # A keyword of the name of an argument of parseStreamServer.
        isClash = "multiple values for" in str(ours)
        assert isClash or type(ours) is type(plain)
        assert str(OURS) not in raisedBy(ours)
    del ours, plain
    if parsing.listens.pending():
        # Errors hold their traceback, and that holds them.
        gc.collect()
    assert parsing.listens.pending() == []
    assert parsing.inventory.used == {}
    assert parsing.reactor.getDelayedCalls() == []


# -- the pid file


def plantFile(path):
    path.write_text("precious")


def plantMuch(path):
    # A hole, which takes no room on the disk.
    with open(path, "wb") as file:
        file.truncate(2**40)


def plantLink(path):
    path.with_name("victim").write_text("precious")
    path.symlink_to("victim")


def plantDanglingLink(path):
    path.symlink_to("nothing")


def plantDirectory(path):
    path.mkdir()
    (path / "file").write_text("precious")


PLANTED = {
    "a file": plantFile,
    "a large file": plantMuch,
    "a link": plantLink,
    "a dangling link": plantDanglingLink,
    "a directory": plantDirectory,
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/tty"),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_no_pid_file_of_ours_is_left_alone_and_not_waited_for(tmp_path, planted):
    """
    Whatever stands where the pid file should be when a process leaves, or looks
    for a stale one, stays as it was, and keeps nobody waiting.
    """
    path = tmp_path / "twistd.pid"
    PLANTED[planted](path)
    before = {name: status(tmp_path / name) for name in os.listdir(tmp_path)}
    with inTime(), nothingLeaks():
        PidFile(str(path)).remove()
        with suppress(PidFileError):
            removeStale(str(path))
    assert {name: status(tmp_path / name) for name in os.listdir(tmp_path)} == before


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_planted_beside_the_pid_file_is_not_written_to(tmp_path, planted):
    """
    The name at which the pid is written before it is renamed holds nothing of
    anybody's: a file or a link there is removed and not followed, and a
    directory is an error, with all that is in it left alone.
    """
    beside = tmp_path / "beside"
    beside.mkdir()
    (beside / "victim").write_text("precious")
    sibling = tmp_path / "twistd.pid.new"
    PLANTED[planted](sibling)
    pidFile = PidFile(str(tmp_path / "twistd.pid"))
    with inTime(), nothingLeaks():
        if planted == "a directory":
            before = contents(tmp_path)
            with pytest.raises(PidFileError):
                pidFile.prepare()
            pidFile.remove()
            assert contents(tmp_path) == before
        else:
            pidFile.take()
            assert (tmp_path / "twistd.pid").read_text() == str(os.getpid())
            assert not os.path.lexists(sibling)
            pidFile.remove()
    for path in tmp_path.rglob("victim"):
        assert path.read_text() == "precious"


def test_a_link_that_is_planted_at_the_last_moment_is_not_followed(tmp_path, monkeypatch):
    """
    Between the look at the name and the writing, nothing can be put there.
    """
    victim, path = tmp_path / "victim", tmp_path / "twistd.pid"
    victim.write_text("precious")
    unlink = os.unlink

    def plantAfterwards(name):
        with suppress(FileNotFoundError):
            unlink(name)
        os.symlink(victim, name)

    pidFile = PidFile(str(path))
    monkeypatch.setattr(os, "unlink", plantAfterwards)
    with pytest.raises(PidFileError, match="File exists"):
        pidFile.prepare()
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("mask", [0, 0o022, 0o077])
def test_nobody_else_may_write_to_the_pid_file(tmp_path, mask):
    """
    Whatever the umask is: who writes to the pid file says whom the operator
    signals.
    """
    path = tmp_path / "twistd.pid"
    previous = os.umask(mask)
    try:
        PidFile(str(path)).take()
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644 & ~mask


def test_a_link_in_the_place_of_the_pid_file_is_replaced_and_not_followed(tmp_path):
    """
    The file that it leads to stays as it was, when the pid file is taken and
    when it is removed; also if it says what ours would.
    """
    victim, path = tmp_path / "victim", tmp_path / "twistd.pid"
    for text in ("precious", str(os.getpid())):
        victim.write_text(text)
        path.symlink_to(victim)
        pidFile = PidFile(str(path))
        pidFile.take()
        assert not path.is_symlink()
        assert path.read_text() == str(os.getpid())
        pidFile.remove()
        assert os.listdir(tmp_path) == ["victim"]
        assert victim.read_text() == text


@needsRoot
@pytest.mark.parametrize("name", ["twistd.pid", "twistd.pid.new"])
def test_a_foreign_pid_file_in_a_shared_directory_is_left_to_its_owner(shared, name):
    """
    Another user's file at the place of ours, or beside it, is an error or an
    entry in the log, and stays as it is.
    """
    (shared / name).write_text("1")
    path = str(shared / "twistd.pid")
    before = contents(shared)
    with asNobody():
        pidFile = PidFile(path)
        if name == "twistd.pid.new":
            with pytest.raises(PidFileError, match="Operation not permitted"):
                pidFile.prepare()
        with pytest.raises(PidFileError, match="Operation not permitted"):
            pidFile.take()
        pidFile.remove()
        removeStale(path)
    assert {key: value for key, value in contents(shared).items() if str(key) == name} == before


@needsRoot
@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_a_pid_file_in_a_directory_of_somebody_else_is_an_error(shared, mode):
    """
    Where this user may not write, or not even look, the error says so before
    it is too late.
    """
    (shared / "twistd.pid").write_text("1")
    os.chmod(shared, mode)
    before = contents(shared)
    with asNobody():
        pidFile = PidFile(str(shared / "twistd.pid"))
        with pytest.raises(PidFileError, match="Make its directory writable"):
            pidFile.prepare()
        with pytest.raises(PidFileError, match="Make its directory writable"):
            pidFile.take()
        pidFile.remove()
        removeStale(pidFile.path)
    assert contents(shared) == before


@pytest.mark.parametrize(
    ("planted", "reason"),
    [
        ("a file", "contains non-numeric value"),
        ("a link", "contains non-numeric value"),
        ("a directory", "is not a regular file: remove it, or name another file"),
        ("a pipe", "is not a regular file: remove it, or name another file"),
    ],
)
def test_a_service_does_not_start_on_what_is_no_pid_file(service, address, planted, reason):
    """
    The command ends at once and says what is there; all stays as it was.
    """
    PLANTED[planted](service.pidFile)
    before = status(service.pidFile)
    # Not its status: older Twisteds end with 0 after a wrong command line.
    done = service.run(TWISTD, *ANSWERING)
    assert reason in done.stdout + done.stderr
    assert service.processes() == []
    assert status(service.pidFile) == before
    for path in service.directory.rglob("victim"):
        assert path.read_text() == "precious"


def test_a_pid_file_that_is_replaced_while_the_service_runs_is_not_followed(service, address):
    """
    A link in its place leads nobody to write elsewhere: the successor replaces
    it. A pipe that is there when the service stops neither holds it up nor is
    removed.
    """
    service.twistd(*ANSWERING)
    first, victim = service.pid, service.directory / "victim"
    victim.write_text(str(first))
    service.pidFile.unlink()
    service.pidFile.symlink_to("victim")
    second = service.redeploy()
    assert not service.pidFile.is_symlink()
    assert victim.read_text() == str(first)
    assert ask(address) == ("1", 2)
    service.pidFile.unlink()
    os.mkfifo(service.pidFile)
    os.kill(second, signal.SIGTERM)
    until(lambda: not isAlive(second), lambda: f"the end of {second}:\n{service.log}")
    assert service.pidFile.is_fifo()


# -- paths and locks


def plantSocket(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def plantLinkToSocket(path):
    plantSocket(path.with_name("theirs"))
    path.symlink_to("theirs")


@pytest.mark.parametrize(
    ("plant", "hint"),
    [
        (plantLink, "there is a file that is not a socket"),
        (plantDanglingLink, "there is a file that is not a socket"),
        (plantDirectory, "there is a file that is not a socket"),
        (os.mkfifo, "there is a file that is not a socket"),
        (plantSocket, "a socket was left there by a process that is gone"),
        (plantLinkToSocket, "a socket was left there by a process that is gone"),
    ],
)
def test_what_is_planted_at_a_path_is_named_and_left_alone(tmp_path, plant, hint):
    """
    A link is not followed, whether it leads to a file, a socket or nowhere; and
    nothing that is there is removed.
    """
    plant(tmp_path / "s.sock")
    before = contents(tmp_path)
    with socket.socket(socket.AF_UNIX) as sock, inTime(), pytest.raises(CannotListenError) as e:
        unixpaths.bind(sock, str(tmp_path / "s.sock"), 0o600)
    assert hint in str(e.value)
    assert contents(tmp_path) == before


def test_a_forged_lock_does_not_have_anything_removed_but_the_socket_beside_it(tmp_path):
    """
    A lock of a process that is gone has the path beside it removed, if a socket
    is there; of a link to a socket, that is the link.
    """
    path = tmp_path / "s.sock"
    plantLinkToSocket(path)
    theirs = status(tmp_path / "theirs")
    (tmp_path / "s.sock.lock").symlink_to(str(deadProcess()))
    unixpaths.lock(str(path))
    assert not path.is_symlink()
    assert status(tmp_path / "theirs") == theirs


@pytest.mark.parametrize(
    "plant",
    [
        plantFile,
        plantDirectory,
        plantLink,
        plantDanglingLink,
        os.mkfifo,
        lambda path: path.symlink_to("9" * 4000),
        lambda path: path.symlink_to("1.5"),
    ],
)
def test_what_is_no_lock_is_named_and_left_alone(tmp_path, plant):
    """
    A lock is a link that says a process id.  Anything else at its place is a
    CannotListenError, and nobody follows or removes it, also when a path is
    given up or a lock taken over.
    """
    lock = tmp_path / "s.sock.lock"
    plant(lock)
    before = contents(tmp_path)
    with inTime(), pytest.raises(CannotListenError, match="lock is not a lock: remove it"):
        unixpaths.lock(str(tmp_path / "s.sock"))
    assert contents(tmp_path) == before
    with socket.socket(socket.AF_UNIX) as sock:
        identity = unixpaths.bind(sock, str(tmp_path / "s.sock"), 0o600)
    unixpaths.abandon(str(tmp_path / "s.sock"), identity)
    unixpaths.releaseLock(str(tmp_path / "s.sock"))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("plant", [plantFile, plantLink, plantDanglingLink, os.mkfifo])
def test_a_lock_is_taken_over_whatever_is_planted_beside_it(tmp_path, plant):
    """
    The name by which a lock changes hands may be taken: what is there is
    removed, and not followed.
    """
    lock = tmp_path / "s.sock.lock"
    lock.symlink_to("1")
    plant(tmp_path / f"s.sock.lock.{os.getpid()}")
    unixpaths.takeLock(str(tmp_path / "s.sock"))
    assert os.readlink(lock) == str(os.getpid())
    assert set(os.listdir(tmp_path)) <= {"s.sock.lock", "victim"}
    for path in tmp_path.rglob("victim"):
        assert path.read_text() == "precious"


@needsRoot
def test_a_lock_that_cannot_be_made_says_why(shared):
    """
    Where this user may not write, the error is that, and not that there is no
    lock.
    """
    os.chmod(shared, 0o755)
    with asNobody(), pytest.raises(PermissionError):
        unixpaths.lock(str(shared / "s.sock"))


def test_a_path_that_is_replaced_in_an_upgrade_is_left_alone_for_ever(service, address):
    """
    Somebody puts a link, and then a socket of his own, where our socket was,
    while we run and while the successor initialises, which is to change the
    mode of the path: what they lead to keeps its mode, the successor keeps serving
    its other port, and all is still there when it has stopped.
    """
    directory = service.directory / "run"
    directory.mkdir()
    path, victim = directory / "s.sock", directory / "victim"
    string = f"{service.environment['ENDPOINTS']} tableflip:unix:{path}:mode=%s"
    service.environment["ENDPOINTS"] = string % "600"
    service.twistd(*ANSWERING)
    assert ask(str(path)) == ("1", 1)
    path.rename(directory / "ours")
    victim.write_text("precious")
    victim.chmod(0o640)
    path.symlink_to(victim)
    gate = Gate(service)
    changed = f"import os\nos.environ['ENDPOINTS'] = {string % '666'!r}\nname = '2'\n"
    service.release(changed + gate.code)
    first = service.pid
    os.kill(first, signal.SIGHUP)
    gate.reached()
    gate.open()
    until(lambda: service.pid != first, lambda: f"a successor:\n{service.log}")
    until(lambda: not isAlive(first), lambda: f"the end of {first}:\n{service.log}")
    assert ask(address) == ("2", 2)
    assert ask(str(directory / "ours")) == ("2", 2)
    assert stat.S_IMODE(victim.stat().st_mode) == 0o640
    assert os.readlink(path) == str(victim)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
        theirs.listen()
        second = service.redeploy()
        assert ask(address) == ("2", 3)
        os.kill(second, signal.SIGTERM)
        until(lambda: not isAlive(second), lambda: f"the end of {second}:\n{service.log}")
        assert sorted(os.listdir(directory)) == ["ours", "s.sock", "victim"]
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert victim.read_text() == "precious"


# -- another user's process


def becomeNobody():
    """
    Return what to put before a command that another user is to run, who may
    nothing at all.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    if shutil.which("setpriv") is None:
        pytest.skip("there is no setpriv(1) with which to become another user")
    return ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")


TRICKS = """
for pid in "$@"; do
    kill -HUP $pid && echo "$pid got SIGHUP"
    kill -TERM $pid && echo "$pid got SIGTERM"
    cat /proc/$pid/environ && echo "the environment of $pid can be read"
    ls /proc/$pid/fd/ && echo "the descriptors of $pid can be seen"
    for number in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
        (echo noise >>/proc/$pid/fd/$number) && echo "$pid was written to on $number"
    done
done
echo tried everything
"""


def test_another_user_can_neither_signal_nor_speak_to_the_processes(service, address):
    """
    While an upgrade runs, a process of another user's sends both processes
    SIGHUP and SIGTERM, and writes to each of their descriptors: the kernel
    refuses it all, the upgrade goes on, and no other is begun.
    """
    command = becomeNobody()
    service.twistd(*ANSWERING)
    first, gate = service.pid, Gate(service)
    service.release(f"name = '2'\n{gate.code}")
    os.kill(first, signal.SIGHUP)
    gate.reached()
    child = service.childOf(1)
    done = subprocess.run(
        [*command, "sh", "-c", TRICKS, "sh", str(first), str(child)],
        cwd="/",
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    assert done.stdout == "tried everything\n"
    assert done.stderr.count("not permitted") >= 4, done.stderr
    assert done.stderr.count("Permission denied") >= 2 * (2 + 16), done.stderr
    assert ask(address) == ("1", 1)
    gate.open()
    until(lambda: not isAlive(first), lambda: f"a successor:\n{service.log}")
    assert service.pid == child
    assert ask(address) == ("2", 2)
    assert service.log.count("upgrade: started") == 1
    assert "deferred" not in service.log
    assert "SIGTERM" not in service.log


@pytest.mark.parametrize("forged", ["nonsense", "a file", "a socket of another user"])
def test_a_forged_variable_does_not_keep_a_service_from_serving(service, address, forged):
    """
    A service that is started with a channel that is none, or leads to another
    user's process, is a first generation, says so, and can be upgraded.
    """
    with ExitStack() as stack:
        fileno = None
        if forged == "a file":
            fileno = stack.enter_context(open(os.devnull, "rb")).fileno()
        elif forged == "a socket of another user":
            becomeNobody()
            with asNobody():
                ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            fileno = stack.enter_context(theirs).fileno()
            # What would be taken for a manifest, if it were read.
            ours.sendall(framed(Manifest(7, 60.0, "/nowhere/pid", ())))
        service.environment[CHANNEL_VARIABLE] = "nonsense" if fileno is None else str(fileno)
        given_ = () if fileno is None else (fileno,)
        done = service.run(TWISTD, *ANSWERING, pass_fds=given_)
        assert done.returncode == 0, done.stdout + done.stderr
        service.waitFor("generation 1 serves")
    assert "starting as generation 1" in service.log
    assert ask(address) == ("1", 1)
    service.release("name = '2'")
    service.redeploy()
    assert ask(address) == ("2", 2)
