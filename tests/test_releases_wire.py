"""
The wire between two versions of txtableflip: what was frozen of the one before,
and this one.
"""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from golden.wire1 import FROM_LATER, PROBATION, WIRE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import APPS, DEADLINE, Clients, until
from strategies import commits, messages

from txtableflip._handover.frames import FrameReader
from txtableflip._handover.manifest import Entry, Identity, Key, UnknownEntry
from txtableflip._handover.messages import (
    Commit,
    Confirm,
    Stopping,
    Withdraw,
    decode,
    encode,
)
from txtableflip._sockets.inventory import Inventory
from txtableflip.errors import ChannelError
from txtableflip.testing._service import freePort, isAlive

FROZEN = Path(__file__).parent / "releases" / "wire-1.zip"

DECODE = """
import sys
from txtableflip import __path__
from txtableflip._handover.frames import FrameReader
from txtableflip._handover.messages import decode

assert "wire-1.zip" in __path__[0], __path__
reader = FrameReader()
for frame in reader.receive(sys.stdin.buffer.read()):
    print(ascii(decode(frame)))
"""
"""
A program that says what its version of txtableflip makes of some frames.
"""


def descriptorsOf(wire):
    """
    Return numbers that stand for as many descriptors as belong to a frame.
    """
    announced = re.search(rb'"descriptors":(\d+)', wire)
    return list(range(int(announced[1]) if announced else 0))


@pytest.mark.parametrize(("wire", "message"), [*WIRE, *PROBATION, *FROM_LATER])
def test_golden_frames_decode(wire, message):
    """
    What any release has written is read by this one, and each descriptor belongs
    to it that did.
    """
    [frame] = FrameReader().receive(wire, descriptorsOf(wire))
    found = decode(frame)
    assert found == message
    assert repr(found) == repr(message)


@pytest.mark.parametrize(("wire", "message"), [*WIRE, *PROBATION])
def test_what_is_said_now_is_what_was_said_then_and_perhaps_more(wire, message):
    """
    A release writes all that the one before wrote, and in the same form.
    """
    [then] = FrameReader().receive(wire, descriptorsOf(wire))
    [now] = FrameReader().receive(encode(message, len(then.descriptors)), then.descriptors)
    assert {**now.header, **then.header} == now.header


def decodedThen(said):
    """
    Return what the frozen release makes of these messages.
    """
    done = subprocess.run(
        [sys.executable, "-c", DECODE],
        input=b"".join(map(encode, said)),
        env={**os.environ, "PYTHONPATH": str(FROZEN)},
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().splitlines()


@pytest.mark.process
@settings(max_examples=3, suppress_health_check=list(HealthCheck))
@given(st.lists(messages | commits, min_size=30, max_size=60))
def test_the_release_before_reads_what_is_said_now(said):
    """
    Each message means the same to it, or is ignored: it has no capabilities.
    """
    assert decodedThen(said) == list(map(asciiThen, said))


SINCE_THEN = {"release", "rehearsal"}
"""
Fields that the frozen release ignores.
"""


def asciiThen(message):
    """
    Return what a message is to the frozen release.
    """
    if isinstance(message, Confirm | Withdraw | Stopping):
        return "None"
    if isinstance(message, Commit):
        return "Commit()"
    known = ((name, value) for name, value in vars(message).items() if name not in SINCE_THEN)
    fields = ", ".join(f"{name}={value!a}" for name, value in known)
    return f"{type(message).__name__}({fields})"


@pytest.fixture
def novelties():
    """
    Two sockets that block, and the entries of a kind that this version does not
    know, of which one is to be kept.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        kept = UnknownEntry(key={"kind": "novelty", "of": 1}, unknown="keep", more=[2])
        closed = UnknownEntry(key={"kind": "novelty"})
        yield (kept, closed), (ours, theirs)


def test_what_only_another_version_knows_is_passed_on_or_closed_as_its_entry_says(novelties):
    """
    A version in between hands on the same entry with the same descriptor, and
    leaves that as it is.
    """
    entries, sockets = novelties
    kept, closed = (os.dup(sock.fileno()) for sock in sockets)
    inventory = Inventory()
    inventory.inherit(entries, [kept, closed])
    inventory.dropInherited()
    assert inventory.entries() == entries[:1]
    assert inventory.descriptors() == [kept]
    assert inventory.names() == inventory.changes.kept == inventory.changes.dropped == []
    assert os.get_blocking(kept)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(closed)
    os.close(kept)


def test_what_is_not_known_is_closed_with_all_else_that_is_refused(novelties):
    """
    Nothing is inherited if one descriptor is not what its entry says.
    """
    entries, sockets = novelties
    wrong = Entry(Key("file", "", "x", 0), 0, 0, Identity(1, 2))
    filenos = [os.dup(sock.fileno()) for sock in (*sockets, sockets[0])]
    inventory = Inventory()
    with pytest.raises(ChannelError, match="is another one"):
        inventory.inherit([*entries, wrong], filenos)
    assert (inventory.entries(), inventory.descriptors()) == ((), [])
    for fileno in filenos:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fileno)


class Versions:
    """
    A running tests/apps/releases.py, of one version of txtableflip or the other.
    """

    def __init__(self, service):
        self.service = service
        self.current = service.directory / "current"
        self._empty = service.directory / "installed"
        self._empty.mkdir()
        service.environment["PYTHONPATH"] = str(self.current)

    def deploy(self, package):
        """
        Have the next process import txtableflip from there; from where it is
        installed, if that is None.
        """
        new = self.current.with_name("new")
        new.symlink_to(package or self._empty)
        new.replace(self.current)

    def start(self, *endpoints):
        """
        Start the program, and wait until it serves.
        """
        listen = "".join(
            f"    await upgrader.endpoint({e!r}).listen(factory)\n" for e in endpoints
        )
        self.service.release(
            "import txtableflip\n"
            "async def listen(upgrader):\n"
            f"{listen}"
            "    with open(f'package.{upgrader.generation}', 'w') as file:\n"
            "        file.write(txtableflip.__file__)\n"
        )
        directory = str(self.service.directory)
        self.service.start(sys.executable, str(APPS / "releases.py"), directory)
        self.service.waitFor("generation 1 serves")

    def packageOf(self, generation):
        """
        Return where a generation has its txtableflip from.
        """
        path = Path((self.service.directory / f"package.{generation}").read_text())
        # Through the link, which leads elsewhere by now.
        return "frozen" if self.current in path.parents else "current"

    def upgrade(self):
        """
        Send SIGHUP, and wait until the old process is gone.
        """
        old = self.service.pid
        os.kill(old, signal.SIGHUP)
        until(
            lambda: not isAlive(old), lambda: f"the end of {old}:\n{self.service.log[-3000:]}"
        )


def test_from_the_release_before_to_this_one_and_back_under_load(service):
    """
    Either version replaces the other, and no client notices.
    """
    versions = Versions(service)
    versions.deploy(FROZEN)
    port, path = freePort(), service.directory / "socket"
    versions.start(f"tcp:{port}:interface=127.0.0.1", f"unix:{path}")
    with Clients(("127.0.0.1", port), 4) as overTCP, Clients(str(path), 4) as overUNIX:
        for package in (None, FROZEN, FROZEN, None, None):
            versions.deploy(package)
            versions.upgrade()
            overTCP.waitForMore()
            overUNIX.waitForMore()
    assert overTCP.failures == overUNIX.failures == []
    assert overTCP.generations == overUNIX.generations == set(range(1, 7))
    assert [versions.packageOf(n) for n in range(1, 7)] == [
        "frozen",
        *("current", "frozen", "frozen", "current", "current"),
    ]
    assert service.failures() == []
    assert "upgrade failed" not in service.log
