"""
C{tableflip run} as its operator sees it, for tests.
"""

import json
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from processes import APPS, DEADLINE, descriptors, until

from txtableflip import keeper
from txtableflip.testing._service import freePort, isAlive

# What measures how much of it the tests run does not reach into an isolated Python.
ISOLATED = () if "COVERAGE_PROCESS_CONFIG" in os.environ else ("-I", "-S")
KEEPER = (sys.executable, *ISOLATED, keeper.__file__)
SERVE = "serve()"


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
