"""
C{tableflip run} as its operator sees it, for tests.
"""

import json
import os
import shutil
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from processes import APPS, DEADLINE, TWISTD, connect, descriptors, until

from txtableflip import keeper
from txtableflip.testing._service import freePort, isAlive

# What measures how much of it the tests run does not reach into an isolated Python.
ISOLATED = () if "COVERAGE_PROCESS_CONFIG" in os.environ else ("-I", "-S")
KEEPER = (sys.executable, *ISOLATED, keeper.__file__)
SERVE = "serve()"
TABLEFLIP = shutil.which("tableflip", path=os.path.dirname(sys.executable))
PROGRAM = (TWISTD, "--nodaemon", "--pidfile=", "tableflip", "--app", str(APPS / "answering.py"))


class Kept:
    """
    A keeper, and the programs (tests/apps/kept.py) below it.

    @ivar process: the keeper's.
    """

    def __init__(self, service):
        self.service = service
        self.port = freePort()
        service.environment |= {"PORT": str(self.port)}
        self.program = service.directory / "program.py"
        self._log = service.directory / "keeper.log"
        self.process = None
        self._before = 0

    def start(self, code=SERVE, *options, command=None, before=(), **more):
        """
        Start it, with a program, and do not wait.
        """
        self.program.write_text(code)
        command = command or (sys.executable, str(APPS / "kept.py"), str(self.program))
        self._before = len(self.log) if self._log.exists() else 0
        with self._log.open("ab") as log:
            words = (*before, *KEEPER, *options, "--", *command)
            self.process = self.service.start(*words, stdout=log, stderr=log, **more)
        return self

    def serving(self, *arguments, **more):
        """
        Start it, and wait until it serves.
        """
        self.start(*arguments, **more)
        self.waitFor(" serves\n")
        return self

    @property
    def pid(self):
        return self.process.pid

    @property
    def log(self):
        """
        What the keeper, and those below it, have said.
        """
        return self._log.read_text()[self._before :]

    def waitFor(self, text, count=1):
        """
        Wait until it has said that so often.
        """
        until(lambda: self.log.count(text) >= count, lambda: f"{text!r} in\n{self.log}")

    def do(self, code):
        """
        Have whoever accepts run a line of Python, and return the value.
        """
        with socket.create_connection(("127.0.0.1", self.port), DEADLINE) as sock:
            sock.sendall(code.encode() + b"\n")
            said = b""
            while part := sock.recv(1 << 16):
                said += part
        return json.loads(said)

    def main(self):
        """
        Return the process id of who accepts.
        """
        return self.do("os.getpid()")

    def kill(self, number=signal.SIGKILL):
        """
        End whoever accepts, and return who it was.
        """
        main = self.main()
        os.kill(main, number)
        # A process that is about to end may accept yet.
        until(lambda: not isAlive(main), "its end")
        return main

    def wait(self):
        """
        Return the keeper's exit status.
        """
        try:
            return self.process.wait(DEADLINE)
        except Exception:
            pytest.fail(f"it does not end:\n{self.log}")

    def stop(self):
        """
        End it, and return its exit status.
        """
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def status(self):
        """
        Return what the keeper says of itself.
        """
        told = self.ask({"command": "status"})
        return told["result"]["status"]

    def descriptors(self):
        """
        Return what it has open, when it has nothing else to do.
        """
        found = []

        def isAtRest():
            with suppress(FileNotFoundError):
                found.append(descriptors(self.pid))
            return len(found) > 3 and found[-3:] == found[-1:] * 3

        until(isAtRest, "an end of what it opens")
        return found[-1]

    def ask(self, request):
        """
        Return the first answer to a request.
        """
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(DEADLINE)
            sock.connect(addressOf(self.pid))
            sock.sendall(json.dumps(request).encode() + b"\n")
            with sock.makefile() as stream:
                return json.loads(stream.readline())


def addressOf(pid):
    """
    Return where a process listens, as the command computes it.
    """
    from txtableflip._control.address import addressOf  # noqa: PLC0415 - the same name

    return addressOf(pid)


class Real(Kept):
    """
    A keeper with twistd below it.
    """

    keeper = None
    inside = ()

    @property
    def pid(self):
        return self.keeper or self.process.pid

    @property
    def address(self):
        return ("127.0.0.1", self.port)

    def begin(self, *options, program=PROGRAM, before=(), depth=1):
        """
        Start it, and wait until it serves.

        @param before: what starts it, as its own child, or behind so many processes.
        """
        self.service.environment["ENDPOINTS"] = f"tableflip:tcp:{self.port}:interface=127.0.0.1"
        self.start("", *options, command=program, before=before)
        self.waitFor("generation 1 serves")
        if before:
            self.keeper = self.find(depth)
        until(lambda: self.status()["keeper"]["stored"], "what is stored")
        return self

    def find(self, depth):
        """
        Return the process id of the keeper, behind so many processes.
        """
        pid = self.process.pid
        for _ in range(depth):
            (pid,) = map(int, childrenOf(pid))
        return pid

    def main(self):
        """
        Return who serves, by what the keeper says.
        """
        return until(
            lambda: self.status()["keeper"]["isReady"] and self.status()["child"], self.log
        )

    def crash(self):
        """
        Kill who serves, and wait until the next one does and has stored what it has.
        """
        main = self.main()
        os.kill(main, signal.SIGKILL)
        until(lambda: self.main() != main, lambda: self.log)
        until(lambda: self.status()["keeper"]["before"] is None, lambda: self.log)
        return main

    def hold(self):
        """
        Return a connection that stays, to whoever serves.
        """
        sock = connect(self.address)
        sock.sendall(b"stay\n")
        assert sock.recv(100)
        return sock

    def upgrade(self, *words):
        """
        Ask for an upgrade, by the keeper's process id.
        """
        words = ("upgrade", str(self.pid), "--timeout", "300", *words)
        return self.service.run(*self.inside, TABLEFLIP, *words, timeout=310)


def childrenOf(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def isRefused(address):
    """
    Say whether nobody listens.
    """
    try:
        connect(address).close()
    except ConnectionRefusedError:
        return True


class Manager:
    """
    A service manager above, as far as a keeper is concerned: a socket.
    """

    def __init__(self, directory):
        self.path = str(Path(directory) / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(DEADLINE)
        self.stored = []

    def read(self):
        """
        Return one datagram, as lines; descriptors are closed, which answers a barrier.
        """
        data, fds, _, _ = socket.recv_fds(self.socket, 8192, 253)
        for fd in fds:
            os.close(fd)
        return data.decode().split("\n")

    def until(self, line):
        """
        Return all lines up to this one.
        """
        lines = []
        while line not in lines:
            lines += self.read()
        return lines


@pytest.fixture
def kept(service):
    """
    A keeper that has not been started.
    """
    return Kept(service)


@pytest.fixture
def above(tmp_path):
    """
    A service manager.
    """
    manager = Manager(tmp_path)
    yield manager
    manager.socket.close()


@pytest.fixture
def real(service):
    """
    A keeper that has not been started.
    """
    return Real(service)
