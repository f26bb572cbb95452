"""
The descriptors that go from generation to generation, and the names in the file
system that go with them.
"""

import os
import socket
import stat
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import deadProcess, until
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock

from txtableflip._generation import PID_FILE_INTERVAL, Generation
from txtableflip._handover.manifest import Identity, Key
from txtableflip._journal import ProcessLogger
from txtableflip._kernel import isZombie
from txtableflip._launch.command import successorCommand
from txtableflip._launch.pidfile import PidFile, isLocked, removeStale
from txtableflip._sockets import unixpaths
from txtableflip._sockets.inventory import Descriptor, HeldDescriptor, Inventory, identify
from txtableflip._sockets.ordinals import Ordinals
from txtableflip.errors import ChannelError, PidFileError


@pytest.fixture
def sockets():
    """
    Makes sockets, and closes them in the end.
    """
    made = []

    def make(family=socket.AF_INET, kind=socket.SOCK_STREAM):
        sock = socket.socket(family, kind)
        sock.setblocking(False)
        made.append(sock)
        return sock

    yield make
    for sock in made:
        sock.close()


def key(address="127.0.0.1:80", ordinal=0, network="tcp"):
    """
    Name a listener.
    """
    return Key("listener", network, address, ordinal)


def handOver(parent):
    """
    Return the inventory of a child that inherits from a parent.
    """
    child = Inventory()
    child.inherit(parent.entries(), [os.dup(fileno) for fileno in parent.descriptors()])
    return child


def close(inventory):
    """
    Close all that an inventory holds.
    """
    for held in [*inventory.used.values(), *inventory.inherited.values()]:
        held.handle.close()


# -- names


def test_two_of_the_same_address_have_different_names(sockets):
    """
    The first name that is not in use is the next.
    """
    inventory = Inventory()
    for ordinal in (0, 1, 2):
        assert inventory.nextKey("tcp", "127.0.0.1:80") == key(ordinal=ordinal)
        inventory.add(key(ordinal=ordinal), HeldDescriptor(sockets()))
    inventory.remove(key(ordinal=1), inventory.used[key(ordinal=1)])
    assert inventory.nextKey("tcp", "127.0.0.1:80") == key(ordinal=1)
    assert inventory.nextKey("tcp", "127.0.0.1:81") == key("127.0.0.1:81")


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6))))
def test_the_next_name_is_the_first_that_is_free(steps):
    """
    Whatever has come and gone, in whatever order, the lowest number that is not in use is
    the next; and of what has gone, nothing is remembered.
    """
    ordinals, used = Ordinals(), set()
    for isTaken, number in steps:
        if isTaken:
            ordinals.take("name", number)
            used.add(number)
        elif used:
            gone = sorted(used)[number % len(used)]
            ordinals.release("name", gone)
            used.remove(gone)
        assert ordinals.lowest("name") == min(set(range(9)) - used)
    for number in used:
        ordinals.release("name", number)
    assert ordinals._names == {}


def test_a_name_that_comes_and_goes_is_remembered_once():
    """
    A thousand times the same number take no more room than one.
    """
    ordinals = Ordinals()
    ordinals.take("name", 0)
    for _ in range(1000):
        ordinals.take("name", ordinals.lowest("name"))
        ordinals.release("name", 1)
    assert len(ordinals._names["name"]._heap) == 1


def test_changes_are_those_of_the_release(sockets):
    """
    What comes and goes when the process serves for good is no change of release, however
    much it is.
    """
    inventory = Inventory()
    inventory.add(key(), HeldDescriptor(sockets()))
    inventory.isSettled = True
    for _ in range(3):
        later = inventory.add(key(ordinal=1), HeldDescriptor(sockets()))
        inventory.remove(key(ordinal=1), later)
    assert inventory.changes.bound == ["tcp 127.0.0.1:80"]


def test_what_a_child_inherits_is_what_its_parent_used(sockets):
    """
    The same sockets come under the same names, in whatever order they are asked
    for, and each once.
    """
    parent = Inventory()
    first, second = sockets(), sockets()
    parent.add(key(), HeldDescriptor(first, backlog=5))
    parent.add(key(ordinal=1), HeldDescriptor(second))
    child = handOver(parent)
    assert child.used == {}
    claimed = child.claim(key(ordinal=1))
    assert identify(claimed.handle.fileno()) == identify(second.fileno())
    assert child.claim(key(ordinal=1)) is None
    claimed = child.claim(key())
    assert identify(claimed.handle.fileno()) == identify(first.fileno())
    assert claimed.backlog == 5
    assert child.inherited == {}
    assert child.changes.kept == ["tcp 127.0.0.1:80 (number 2)", "tcp 127.0.0.1:80"]
    close(child)


def test_what_is_inherited_does_not_block(sockets):
    """
    Nothing that is done with an inherited socket makes it block, for that would
    make it block in the parent.
    """
    parent = Inventory()
    sock = sockets()
    parent.add(key(), HeldDescriptor(sock))
    child = handOver(parent)
    with child.claim(key()).handle.dup():
        assert not os.get_blocking(sock.fileno())
    close(child)


def test_what_the_application_closes_leaves_the_inventory(sockets):
    """
    A closed socket or file is not handed over.
    """
    inventory = Inventory()
    sock, file = sockets(), Descriptor(os.dup(2))
    inventory.add(key(), HeldDescriptor(sock))
    inventory.add(Key("file", "", "x", 0), HeldDescriptor(file))
    sock.close()
    file.close()
    assert inventory.entries() == ()
    assert inventory.descriptors() == inventory.names() == []


@pytest.mark.parametrize("isAsked", [False, True])
def test_a_number_that_the_application_closes_is_nothing_to_us(isAsked):
    """
    A descriptor that is closed by its number, as by a file object made of it, is
    not handed over; nor is whatever gets that number next, or closed.
    """
    inventory = Inventory()
    file, sock = Descriptor(os.dup(2)), socket.socket()
    names = [Key("file", "", "x", 0), Key("socket", "", "x", 0)]
    inventory.add(names[0], HeldDescriptor(file))
    inventory.add(names[1], HeldDescriptor(sock))
    numbers = inventory.descriptors()
    with open(os.devnull, "rb") as other:
        for number in numbers:
            os.dup2(other.fileno(), number)
        if isAsked:
            for name in names:
                inventory.remove(name, inventory.used[name])
        assert inventory.entries() == ()
        assert inventory.descriptors() == inventory.names() == []
        del sock
        for number in numbers:
            assert identify(number) == identify(other.fileno())
            os.close(number)


def test_a_number_that_is_closed_is_not_handed_over():
    """
    The same, where the number is nobody's.
    """
    inventory = Inventory()
    file = Descriptor(os.dup(2))
    inventory.add(Key("file", "", "x", 0), HeldDescriptor(file))
    os.close(file.fileno())
    assert inventory.entries() == ()
    assert file.fileno() == -1


def test_what_is_not_claimed_is_closed_and_told(sockets):
    """
    Dropping what was inherited closes it.
    """
    parent = Inventory()
    parent.add(key(), HeldDescriptor(sockets()))
    child = handOver(parent)
    (held,) = child.inherited.values()
    child.dropInherited()
    assert held.handle.fileno() == -1
    assert child.changes.dropped == ["tcp 127.0.0.1:80"]
    assert child.inherited == {}


def test_what_was_removed_before_is_not_what_has_the_name_now(sockets):
    """
    Removing a descriptor once more leaves the one alone that has its name now;
    and what is added under a name that is in use replaces what had it.
    """
    inventory = Inventory()
    old, new, newest = (HeldDescriptor(sockets()) for _ in range(3))
    inventory.add(key(), old)
    inventory.remove(key(), old)
    inventory.add(key(), new)
    inventory.remove(key(), old)
    assert inventory.used == {key(): new}
    assert new.isOpen
    inventory.add(key(), newest)
    assert inventory.used == {key(): newest}
    assert not new.isOpen


def test_a_path_that_cannot_be_removed_keeps_no_other_from_it(sockets, monkeypatch):
    """
    What was inherited and not claimed is closed, and its path removed, behind
    one with which that fails.
    """
    parent = Inventory()
    for name in "abc":
        parent.add(key(name), HeldDescriptor(sockets()))
    child = handOver(parent)
    left, removed = list(child.inherited.values()), []

    def abandon(path, identity):
        removed.append(path)
        if path == "b":
            raise RuntimeError("unruly")

    monkeypatch.setattr(unixpaths, "abandon", abandon)
    child.dropInherited()
    assert removed == ["a", "b", "c"]
    assert child.changes.dropped == ["tcp a", "tcp b", "tcp c"]
    assert not left[2].isOpen
    assert child.inherited == {}
    left[1].close()


# -- what is checked


@pytest.mark.parametrize(
    ("network", "family", "kind"),
    [
        ("tcp", socket.AF_INET6, socket.SOCK_STREAM),
        ("tcp", socket.AF_INET, socket.SOCK_DGRAM),
        ("udp", socket.AF_INET, socket.SOCK_STREAM),
        ("unix", socket.AF_INET, socket.SOCK_STREAM),
        ("unix", socket.AF_UNIX, socket.SOCK_DGRAM),
        ("unixgram", socket.AF_UNIX, socket.SOCK_STREAM),
        ("tcp6", socket.AF_INET, socket.SOCK_STREAM),
    ],
)
def test_a_socket_that_does_not_suit_its_name_is_refused(sockets, network, family, kind):
    """
    A socket of the wrong family or type for its network is not adopted.
    """
    parent = Inventory()
    parent.add(key(network=network), HeldDescriptor(sockets(family, kind)))
    with pytest.raises(ChannelError, match=f"inherited as {network} .* does not suit"):
        close(handOver(parent))


def test_a_descriptor_that_is_another_than_its_entry_says_is_refused(sockets):
    """
    A socket or a file in the place of another is noticed.
    """
    parent = Inventory()
    parent.add(key(), HeldDescriptor(sockets()))
    for other in (sockets().fileno(), 2):
        with pytest.raises(ChannelError, match="is another one"):
            Inventory().inherit(parent.entries(), [os.dup(other)])


# -- the pid file


@pytest.mark.parametrize("step", [-7200, 0, 7200])
@pytest.mark.parametrize("writer", ["us", "twistd"])
def test_the_pid_file_of_a_process_that_lives_is_never_stale(
    tmp_path, monkeypatch, writer, step
):
    """
    However the clock has been set since the file was written, by us or by twistd and taken
    over, its process keeps it; when it is gone, a number that is another's by now does not
    count.
    """
    path = tmp_path / "twistd.pid"
    pidFile = PidFile(str(path))
    if writer == "twistd":
        path.write_text(str(os.getpid()))
    pidFile.take()
    written = path.stat().st_mtime - step
    os.utime(path, (written, written))
    removeStale(str(path))
    assert path.read_text() == str(os.getpid())
    pidFile._keep(None)
    removeStale(str(path))
    assert not path.exists()


def test_a_pid_file_is_locked_from_the_moment_that_it_is_there(tmp_path):
    """
    Also while the next generation takes it, and when this one takes it back, the file is
    locked; and no more descriptors are open for that than one.
    """
    path = tmp_path / "twistd.pid"
    before = len(os.listdir("/proc/self/fd"))
    old, new = PidFile(str(path)), PidFile(str(path))
    for each in (old, new, old, new):
        each.prepare()
        each.take()
        assert isLocked(str(path))
    old.remove()
    new.remove()
    assert not path.exists()
    assert len(os.listdir("/proc/self/fd")) == before


# -- paths


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o777, 0o000])
@pytest.mark.parametrize("mask", [0o000, 0o027, 0o777])
def test_a_path_never_allows_more_than_its_mode(sockets, tmp_path, monkeypatch, mask, mode):
    """
    The permissions are those that were asked for, whatever the umask is, and at no moment
    more than those; the umask is left alone, for it is also that of other threads.
    """
    previous, setUmask, seen = os.umask(mask), os.umask, []

    class Seen(socket.socket):
        def bind(self, address):
            super().bind(address)
            seen.append(stat.S_IMODE(os.stat(address).st_mode))

    monkeypatch.setattr(os, "umask", None)
    try:
        with Seen(socket.AF_UNIX) as sock:
            identity = unixpaths.bind(sock, str(tmp_path / "s"), mode)
    finally:
        setUmask(previous)
    assert seen == [mode & ~mask]
    status = (tmp_path / "s").stat()
    assert stat.S_IMODE(status.st_mode) == mode
    assert identity == Identity(status.st_dev, status.st_ino)


def test_only_our_own_path_is_removed(sockets, tmp_path):
    """
    A path that somebody has replaced is left alone, and so is one that is gone.
    """
    path = tmp_path / "s"
    identity = unixpaths.bind(sockets(socket.AF_UNIX), str(path), 0o600)
    path.rename(tmp_path / "ours")
    path.write_text("somebody else's")
    unixpaths.remove(str(path), identity)
    assert path.exists()
    path.unlink()
    unixpaths.remove(str(path), identity)
    (tmp_path / "ours").rename(path)
    unixpaths.remove(str(path), identity)
    assert not path.exists()


def refusal(sockets, path):
    """
    Return the reason why a path cannot be bound.
    """
    with pytest.raises(CannotListenError) as raised:
        unixpaths.bind(sockets(socket.AF_UNIX), str(path), 0o600)
    return str(raised.value)


def test_a_path_that_is_taken_says_by_what(sockets, tmp_path):
    """
    A file, a living server and a socket of a dead one are told apart, and none
    is removed.
    """
    (tmp_path / "file").write_text("x")
    assert "is not a socket" in refusal(sockets, tmp_path / "file")
    server = sockets(socket.AF_UNIX)
    server.bind(str(tmp_path / "server"))
    server.listen(0)
    assert "another process accepts connections there" in refusal(sockets, tmp_path / "server")
    server.close()
    assert "left there by a process that is gone" in refusal(sockets, tmp_path / "server")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "server"]


def test_a_server_with_a_full_queue_is_alive(sockets, tmp_path):
    """
    Looking whether somebody listens does not wait for its queue.
    """
    server = sockets(socket.AF_UNIX)
    server.bind(str(tmp_path / "s"))
    server.listen(0)
    for _ in range(5):
        sockets(socket.AF_UNIX).connect_ex(str(tmp_path / "s"))
    assert "another process accepts connections there" in refusal(sockets, tmp_path / "s")


@pytest.mark.parametrize("backlog", [7, None])
def test_what_is_dropped_is_ended_for_all_if_we_have_made_it(backlog):
    """
    Whoever else has the socket does not keep clients waiting; but a socket that came
    from somebody else, such as systemd, stays his.
    """
    with socket.create_server(("127.0.0.1", 0)) as theirs:
        inventory = Inventory()
        held = HeldDescriptor(theirs.dup(), backlog=backlog)
        inventory.inherited[Key("listener", "tcp", "x", 0)] = held
        inventory.dropInherited()
        if backlog is None:
            socket.create_connection(theirs.getsockname()).close()
            theirs.accept()[0].close()
        else:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(theirs.getsockname())


# -- locks


def test_a_lock_of_a_living_process_is_respected(tmp_path):
    """
    The lock names who has it.
    """
    os.symlink("1", tmp_path / "s.lock")
    with pytest.raises(CannotListenError, match="process 1 holds"):
        unixpaths.lock(str(tmp_path / "s"))


def test_a_lock_of_a_dead_process_is_taken_with_what_it_left(sockets, tmp_path):
    """
    The socket that the dead owner left is removed, unless it is none.
    """
    sockets(socket.AF_UNIX).bind(str(tmp_path / "s"))
    os.symlink(str(deadProcess()), tmp_path / "s.lock")
    unixpaths.lock(str(tmp_path / "s"))
    assert not (tmp_path / "s").exists()
    assert os.readlink(tmp_path / "s.lock") == str(os.getpid())

    (tmp_path / "t").write_text("a file")
    os.symlink(str(deadProcess()), tmp_path / "t.lock")
    unixpaths.lock(str(tmp_path / "t"))
    assert (tmp_path / "t").exists()


@pytest.mark.process
def test_a_lock_of_a_zombie_is_that_of_a_dead_process(sockets, tmp_path):
    """
    In a container there may be nobody who waits for what was killed.
    """
    with subprocess.Popen(["true"], stdout=subprocess.PIPE) as owner:
        owner.stdout.read()
        until(lambda: isZombie(owner.pid), "its end")
        sockets(socket.AF_UNIX).bind(str(tmp_path / "s"))
        os.symlink(str(owner.pid), tmp_path / "s.lock")
        unixpaths.lock(str(tmp_path / "s"))
    assert not (tmp_path / "s").exists()
    assert os.readlink(tmp_path / "s.lock") == str(os.getpid())


def test_a_lock_is_taken_over_and_released_by_its_owner_only(tmp_path):
    """
    Taking a lock over replaces it; releasing it removes it if it is ours.
    """
    lock = tmp_path / "s.lock"
    os.symlink("1", lock)
    unixpaths.releaseLock(str(tmp_path / "s"))
    assert os.readlink(lock) == "1"
    unixpaths.takeLock(str(tmp_path / "s"))
    assert os.readlink(lock) == str(os.getpid())
    assert list(tmp_path.iterdir()) == [lock]
    unixpaths.releaseLock(str(tmp_path / "s"))
    assert not lock.is_symlink()


def test_names_that_cannot_be_changed_do_not_stop_the_process(tmp_path):
    """
    What the file system refuses is logged, and not raised.
    """
    nowhere = str(tmp_path / "no" / "directory" / "s")
    unixpaths.takeLock(nowhere)
    unixpaths.releaseLock(nowhere)
    unixpaths.remove(nowhere, Identity(1, 2))


# -- the pid file


def test_a_pid_file_changes_hands_in_one_step(tmp_path):
    """
    Preparing leaves the file as it is; taking it replaces it by another inode,
    which names this process.
    """
    path = tmp_path / "twistd.pid"
    path.write_text("1")
    inode = path.stat().st_ino
    pidFile = PidFile(str(path))
    pidFile.prepare()
    assert path.read_text() == "1"
    pidFile.take()
    assert path.read_text() == str(os.getpid())
    assert path.stat().st_ino != inode
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_child_has_prepared_does_not_stand_in_the_way(tmp_path):
    """
    A sibling of the pid file that was left behind is replaced, also when it is a
    symbolic link, which is not followed.
    """
    path, victim = tmp_path / "twistd.pid", tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "twistd.pid.new").symlink_to(victim)
    pidFile = PidFile(str(path))
    pidFile.take()
    assert path.read_text() == str(os.getpid())
    assert victim.read_text() == "precious"


def test_a_pid_file_that_cannot_be_written_is_a_named_error(tmp_path):
    """
    The error comes before there is anything to take over, and says what to do.
    """
    (tmp_path / "file").write_text("")
    pidFile = PidFile(str(tmp_path / "file" / "twistd.pid"))
    with pytest.raises(PidFileError, match=r"Not a directory\. Make its directory, or"):
        pidFile.prepare()
    with pytest.raises(PidFileError, match=r"Not a directory\. Make its directory, or"):
        pidFile.take()
    pidFile.remove()


def test_a_pid_file_is_taken_by_whoever_serves_and_again(tmp_path):
    """
    To take it twice is to take it once; what another process has taken meanwhile is
    taken back; and what could not be taken, when it can.
    """
    path = tmp_path / "twistd.pid"
    pidFile = PidFile(str(path))
    pidFile.prepare()
    pidFile.prepare()
    pidFile.take()
    ours = path.stat().st_ino
    pidFile.take()
    assert path.stat().st_ino == ours
    path.write_text("1")
    pidFile.take()
    assert path.read_text() == str(os.getpid())
    path.unlink()
    path.mkdir()
    for _ in range(2):
        with pytest.raises(PidFileError, match="Is a directory"):
            pidFile.take()
    path.rmdir()
    pidFile.take()
    assert path.read_text() == str(os.getpid())
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_that_serves_insists_on_its_pid_file(tmp_path, monkeypatch):
    """
    What cannot be written is tried again each second, as long as it accepts, and
    keeps nobody from being served.
    """
    path = tmp_path / "twistd.pid"
    path.mkdir()
    monkeypatch.setattr(ProcessLogger, "generation", 1)
    clock = MemoryReactorClock()
    serving = Generation(clock, None, 60.0, str(path), successorCommand)
    serving.insistOnPidFile()
    clock.pump([PID_FILE_INTERVAL] * 5)
    assert len(clock.getDelayedCalls()) == 1
    path.rmdir()
    clock.pump([PID_FILE_INTERVAL, 0, 0])
    assert path.read_text() == str(os.getpid())
    assert clock.getDelayedCalls() == []
    path.unlink()
    path.mkdir()
    serving.insistOnPidFile()
    serving.park()
    assert clock.getDelayedCalls() == []
    serving.leave()
    assert path.is_dir()


def test_a_pid_file_is_removed_by_the_process_it_names_only(tmp_path):
    """
    A process that leaves removes the file if it is the one, and always what it
    has prepared.
    """
    path = tmp_path / "twistd.pid"
    path.write_text("1")
    pidFile = PidFile(str(path))
    pidFile.prepare()
    pidFile.remove()
    assert path.read_text() == "1"
    assert list(tmp_path.iterdir()) == [path]
    pidFile = PidFile(str(path))
    pidFile.take()
    pidFile.remove()
    assert not path.exists()
