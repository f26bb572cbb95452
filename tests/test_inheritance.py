"""
Everything that can be inherited is, in real processes, and nobody who uses it
notices.
"""

import json
import os
import socket
import struct
import sys
import threading
import time
from pathlib import Path

import pytest
from processes import APPS, DEADLINE, Clients, fewOrMany, until

GROUP = "239.255.71.9"
UPGRADES = 4
ENOUGH = 10_000
"""
How many datagrams there are to be, at the least.
"""


class Everything:
    """
    A running tests/apps/everything.py.
    """

    def __init__(self, service, *companions):
        self.service = service
        self.directory = service.directory
        with (service.directory / "output").open("wb") as output:
            self.process = service.start(
                *(sys.executable, str(APPS / "everything.py"), str(service.directory)),
                *companions,
                stdout=output,
                stderr=output,
            )
        self.addresses = self.generation(1)

    def generation(self, number):
        """
        Wait until a generation serves, and return what it has written.
        """
        path = self.directory / f"addresses.{number}"
        until(path.exists, f"generation {number}")
        return json.loads(path.read_text())

    def path(self, name):
        return str(self.directory / name)


@pytest.fixture
def everything(service):
    """
    The program that holds one of everything, and has what applications start.
    """
    companions = service.directory / "companions"
    companions.mkdir()
    return Everything(service, str(companions))


@pytest.fixture
def alone(service):
    """
    The same, but that it starts nothing.
    """
    return Everything(service)


class Numbered:
    """
    Sends numbered datagrams, and keeps each answer; some are always under way,
    but no more than the shortest queue holds (10, net.unix.max_dgram_qlen of
    unix(7)): Twisted drops an answer that does not fit.
    """

    WINDOW = 8

    def __init__(self, sock, address):
        self.sock = sock
        self.address = address
        self.answers = []
        self.sent = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self.sock.settimeout(DEADLINE)
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._stop.set()
        self._thread.join(DEADLINE)
        self.sock.close()

    def _run(self):
        while not (self._stop.is_set() and self.sent >= ENOUGH):
            if self.sent - len(self.answers) < self.WINDOW:
                self.sock.sendto(b"%d" % self.sent, self.address)
                self.sent += 1
            else:
                self._receive()
        while len(self.answers) < self.sent:
            self._receive()

    def _receive(self):
        number, generation = self.sock.recv(100).split()
        self.answers.append((int(number), int(generation)))


def unixClient(path):
    """
    Make a datagram socket that can be answered.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(path)
    return sock


def groupClient():
    """
    Make a datagram socket that sends to a group, on this machine only.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    mreq = struct.pack("4s4s", socket.inet_aton("0.0.0.0"), socket.inet_aton("127.0.0.1"))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, mreq[4:])
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)
    return sock


@pytest.mark.parametrize("kind", ["udp", "multicast", "unixgram", "abstract unixgram"])
def test_no_datagram_is_lost_and_none_comes_twice(everything, kind):
    """
    Of ten thousand numbered datagrams over ten upgrades, each is answered once,
    and every generation has answered some.
    """
    sock, address = {
        "udp": lambda: (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
            ("127.0.0.1", everything.addresses["udp"]),
        ),
        "multicast": lambda: (groupClient(), (GROUP, everything.addresses["multicast"])),
        "unixgram": lambda: (
            unixClient(everything.path("client")),
            everything.path("d"),
        ),
        "abstract unixgram": lambda: (
            unixClient(everything.path("client")),
            "\0" + everything.path("d"),
        ),
    }[kind]()
    with Numbered(sock, address) as numbered:
        for number in range(2, 2 + UPGRADES):
            everything.service.redeploy()
            everything.generation(number)
            until(lambda number=number: numbered.answers[-1][1] == number, "its answer")
    assert numbered.sent >= ENOUGH
    assert sorted(number for number, _ in numbered.answers) == list(range(numbered.sent))
    assert {generation for _, generation in numbered.answers} == set(range(1, 2 + UPGRADES))


def test_every_stream_listener_answers_in_every_generation(everything):
    """
    Clients of TCP, of ports that the kernel chose, of a socket made by a
    callback, and of UNIX paths and abstract names meet ten upgrades, and each
    question is answered.
    """
    addresses = [
        ("127.0.0.1", everything.addresses["tcp"]),
        ("127.0.0.1", everything.addresses["again"]),
        ("127.0.0.1", everything.addresses["with"]),
        everything.path("s"),
        everything.path("t"),
        "\0" + everything.path("abstract"),
    ]
    crowds = [Clients(address, 2) for address in addresses]
    for crowd in crowds:
        crowd.__enter__()
    try:
        for number in range(2, 2 + UPGRADES):
            everything.service.redeploy()
            for crowd in crowds:
                until(
                    lambda number=number, crowd=crowd: (
                        number in crowd.generations or crowd.failures
                    ),
                    f"generation {number} at {crowd.address}",
                )
    finally:
        for crowd in crowds:
            crowd.__exit__(None, None, None)
    assert [failure for crowd in crowds for failure in crowd.failures] == []
    assert {frozenset(crowd.generations) for crowd in crowds} == {
        frozenset(range(1, 2 + UPGRADES))
    }


@pytest.mark.parametrize("name", ["q", "\0q"])
def test_a_socket_of_a_kind_that_twisted_does_not_know_is_inherited(everything, name):
    """
    A seqpacket listener that the application serves by itself answers every
    question over ten upgrades, and in every generation.
    """
    address = everything.path("q") if name == "q" else "\0" + everything.path("q")
    generations = []
    stop = threading.Event()

    def asking():
        while not stop.is_set():
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.settimeout(DEADLINE)
                sock.connect(address)
                sock.send(b"hello")
                question, generation = sock.recv(100).split()
                assert question == b"hello"
                generations.append(int(generation))

    thread = threading.Thread(target=asking)
    thread.start()
    try:
        for number in range(2, 2 + UPGRADES):
            everything.service.redeploy()
            until(
                lambda number=number: number in generations or not thread.is_alive(),
                f"generation {number}",
            )
    finally:
        stop.set()
        thread.join(DEADLINE)
    assert sorted(set(generations)) == list(range(1, 2 + UPGRADES))


def test_a_file_stays_open_over_all_upgrades(everything):
    """
    A file that was opened once is written to by each generation.
    """
    for number in range(2, 2 + UPGRADES):
        everything.service.redeploy()
        everything.generation(number)
    written = Path(everything.path("diary")).read_text().split()
    assert written == [str(number) for number in range(1, 2 + UPGRADES)]


def resources(pid):
    """
    Return what a process holds: its descriptors by kind, and its environment.
    """
    links = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            link = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue
        # A pipe of the reactor's, and its epoll, are new in each process.
        links.append(link if link.startswith("socket:") else link.split(":")[0])
    environment = Path(f"/proc/{pid}/environ").read_text().split("\0")
    names = sorted(entry.partition("=")[0] for entry in environment)
    return sorted(links), names


def atRest(pid):
    """
    Return the resources of a process without a connection that is just closing:
    the least that it holds within some seconds.
    """
    found = []
    for _ in range(100):
        found.append(resources(pid))
        time.sleep(0.03)
    return min(found, key=lambda one: len(one[0]))


@fewOrMany(10, 100)
def test_many_upgrades_leave_no_trace(alone, upgrades):
    """
    After all of them, with everything in use, the process has the same
    sockets, ports and paths as the third, as many descriptors, and the same
    environment; and it is alone.
    """
    service = alone.service
    for _ in range(2):
        service.redeploy()
    before = alone.generation(3)
    held = atRest(before["pid"])
    paths = {path.name: path.lstat().st_ino for path in service.directory.glob("[sdqt]")}
    for _ in range(upgrades):
        service.redeploy()
    after = alone.generation(3 + upgrades)
    until(lambda: service.processes() == [after["pid"]], "the old processes to be gone")
    channel = [link for link in held[0] if link.startswith("socket:")]
    heldNow = atRest(after["pid"])
    assert len(heldNow[0]) == len(held[0])
    # All but the channel to the parent, of which each process has its own.
    assert len(set(channel) - set(heldNow[0])) <= 1
    assert heldNow[1] == held[1]
    assert {**after, "pid": 0} == {**before, "pid": 0}
    assert paths == {
        path.name: path.lstat().st_ino for path in service.directory.glob("[sdqt]")
    }
