"""
What --inherit-all takes of a program that knows nothing of us: its services; and what
belongs to the session of one client stays with that.
"""

import ftplib
import io
import os
import re
import signal
import socket
import struct
import threading
import time

import pytest
from processes import APPS, DEADLINE, TWISTD, Clients, Threads, until
from twisted.names import dns

from txtableflip.testing._service import freePort

SIZE = 300_000


class Sessions(Threads):
    """
    Clients that do not forgive, and have one session after the other.

    @ivar processes: which processes have served one, to its end.
    """

    def __init__(self, session, count=4):
        super().__init__(*[self._run] * count)
        self.processes = []
        self.failures = []
        self._session = session

    def _run(self):
        while not self._stop.is_set() and not self.failures:
            try:
                self.processes.append(self._session())
            except Exception as error:
                self.failures.append(repr(error))

    def waitFor(self, process, count=8):
        """
        Wait until a process has served some.
        """
        until(
            lambda: self.failures or self.processes.count(process) >= count,
            lambda: f"sessions of {process}, not only {self.processes[-20:]}",
        )


def upgradeAmong(service, sessions, times=3):
    """
    Upgrade, and see that there is a session in each process, and none that fails.
    """
    for _ in range(times):
        sessions.waitFor(service.pid)
        old = service.pid
        os.kill(old, signal.SIGHUP)
        until(
            lambda old=old: sessions.failures or service.pid != old,
            lambda: service.log[-3000:],
        )
    sessions.waitFor(service.pid)
    assert sessions.failures == []


@pytest.mark.parametrize("range_", [1, 20])
def test_files_are_fetched_by_ftp_in_passive_mode_over_upgrades(service, range_):
    """
    The port for each file is the session's, whether the kernel has chosen it or it is
    one of a range: none is handed over, also while its process drains.
    """
    first = 0 if range_ == 1 else 30_000 + freePort() % 2_000
    port = freePort()
    root = service.directory / "files"
    root.mkdir()
    content = os.urandom(SIZE)
    (root / "file").write_bytes(content)
    service.environment.update(
        PORT=str(port), ROOT=str(root), FIRST=str(first), LAST=str(first + range_ - 1)
    )
    service.twistd("tableflip", "--inherit-all", "--app", str(APPS / "ftp.py"))

    def session():
        with ftplib.FTP(timeout=DEADLINE) as ftp:
            welcome = ftp.connect("127.0.0.1", port)
            ftp.login()
            for _ in range(4):
                received = io.BytesIO()
                ftp.retrbinary("RETR file", received.write)
                assert received.getvalue() == content
                time.sleep(0.1)
        return int(re.search(r"process (\d+)", welcome).group(1))

    with Sessions(session) as sessions:
        upgradeAmong(service, sessions)
    assert service.log.count(f"kept ['tcp 127.0.0.1:{port}'], newly bound [], dropped []") == 3
    assert service.log.count("continuing without") == 0


@pytest.mark.parametrize("after", [0, 0.2])
def test_files_are_fetched_by_tftp_over_upgrades(service, after):
    """
    The port of a transfer is not handed over, and the old process lives until it has
    ended, also if it was opened some time after the request.
    """
    port = freePort()
    service.environment.update(PORT=str(port), AFTER=str(after))
    options = ["--inherit-all", "--drain-timeout", "5"]
    service.twistd("tableflip", *options, "--app", str(APPS / "tftp.py"))

    def session():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(DEADLINE)
            sock.sendto(struct.pack("!H", 1) + b"10\0octet\0", ("127.0.0.1", port))
            servers = set()
            for number in range(1, 11):
                data, address = sock.recvfrom(1000)
                found, process = data[4:].split(b".")[0].split()
                servers.add((address, int(process)))
                assert (int(found), len(data)) == (number, 516 - (number == 10))
                time.sleep(0.05)
                sock.sendto(struct.pack("!HH", 4, number), address)
        ((_, process),) = servers
        return process

    with Sessions(session) as sessions:
        upgradeAmong(service, sessions)
    assert service.log.count("draining: not finished yet: udp 127.0.0.1:") >= 3
    assert service.log.count(f"kept ['udp 127.0.0.1:{port}'], newly bound [], dropped []") == 3


class NameServer:
    """
    Answers each question of a name with the same address.
    """

    def __init__(self):
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", 0))
        self.port = self._sock.getsockname()[1]
        self.asked = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._sock.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join(DEADLINE)
        self._sock.close()

    def _run(self):
        while True:
            datagram, client = self._sock.recvfrom(1000)
            if not datagram:
                return
            self.asked += 1
            message = dns.Message()
            message.fromStr(datagram)
            message.answer = True
            name = message.queries[0].name.name
            message.answers = [dns.RRHeader(name, payload=dns.Record_A("192.0.2.1"))]
            self._sock.sendto(message.toStr(), client)


def test_names_are_looked_up_while_a_process_starts_and_serves(service):
    """
    What asks a name server gets the answer, though its port has a number that somebody
    chose, by lot: a process that needs one to be ready is ready, and none is lost.
    """
    port = freePort()
    with NameServer() as names:
        service.environment.update(PORT=str(port), NAMES=str(names.port))
        service.twistd("tableflip", "--inherit-all", "--app", str(APPS / "lookups.py"))
        until(lambda: "listening on" in service.log, "the listener")
        with Clients(("127.0.0.1", port)) as clients:
            for number in (2, 3, 4):
                service.redeploy()
                until(lambda n=number: n in clients.generations or clients.failures, "it")
                clients.waitForMore()
        assert names.asked > 20
    assert clients.failures == []
    assert clients.generations == {1, 2, 3, 4}
    assert service.log.count("dropped []") == 3
    assert (
        "udp 0.0.0.0" in service.log.partition("is not inherited: it is for a query")[0][-100:]
    )


NUMBERS = """
import socket
from twisted.internet.endpoints import AdoptedStreamServerEndpoint
from twisted.internet.interfaces import IStreamServerEndpointStringParser
from twisted.plugin import IPlugin
from zope.interface import implementer

@implementer(IPlugin, IStreamServerEndpointStringParser)
class Numbers:
    prefix = "fd"

    def parseStreamServer(self, reactor, fileno):
        return AdoptedStreamServerEndpoint(reactor, int(fileno), socket.AF_INET)

numbers = Numbers()
"""


@pytest.mark.parametrize("number", [3, 9])
def test_a_socket_that_a_launcher_has_opened_is_inherited(service, number):
    """
    Under whichever number it was given to the first process: also the one that is the
    channel's in all others (the fd: endpoint is daphne's, and not Twisted's own).
    """
    plugins = service.directory / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "numbers.py").write_text(NUMBERS)
    service.environment["PYTHONPATH"] = str(service.directory)
    service.environment["ENDPOINTS"] = f"tableflip:fd:fileno={number}"
    with socket.create_server(("127.0.0.1", 0)) as given:
        address = given.getsockname()
        service.start(
            *("bash", "-c", f'exec {number}<&{given.fileno()}; exec "$@"', "bash"),
            *(TWISTD, "--nodaemon", "--logfile=twistd.log", "tableflip"),
            *("--app", str(APPS / "answering.py")),
            pass_fds=[given.fileno()],
        )
    service.waitFor("generation 1 serves")
    with Clients(address, 4) as clients:
        for generation in (2, 3):
            service.redeploy()
            until(lambda n=generation: n in clients.generations or clients.failures, "it")
    assert clients.failures == []
    assert service.log.count(f"kept ['fd {number}'], newly bound [], dropped []") == 2
