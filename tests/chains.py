"""
Real processes that do what a test tells them: a script with an Upgrader, and its
successors.
"""

import json
import select
import socket
import subprocess
import sys
from contextlib import suppress

from processes import APPS, DEADLINE, until

from txtableflip.testing._service import isAlive


class Chain:
    """
    A script with an Upgrader, and its successors.
    """

    def __init__(self, service):
        self.service = service
        self.heard = service.directory / "stderr"

    def start(self, options=None, code="", **environment):
        """
        Start generation 1, which is not ready yet.

        @param code: what the release does besides.
        """
        self.service.environment.update(environment)
        self.service.release(f"options = {options or {}!r}\n{code}")
        with self.heard.open("w") as stderr:
            process = self.service.start(
                sys.executable,
                str(APPS / "remote.py"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        return process, self.generation(1)

    def startReady(self, options=None, code="", **environment):
        """
        Start generation 1, and let it serve.
        """
        process, first = self.start(options, code, **environment)
        assert first.ask("upgrader.ready()") == {"result": None}
        return process, first

    def generation(self, number):
        """
        Wait for the process of this generation.
        """
        return Process(self.service.directory / f"control.{number}")

    def upgrade(self, first):
        """
        Upgrade as far as it goes: the old process is left to drain.
        """
        upgrading = first.begin("upgrader.upgrade()")
        second = self.generation(first.ask("upgrader.generation")["result"] + 1)
        assert second.ask("upgrader.ready()") == {"result": None}
        assert upgrading.outcome() == {"result": None}
        return second


class Process:
    """
    One process of the chain, which evaluates what it is sent.
    """

    def __init__(self, path):
        self._path = path
        until(self._answers, lambda: f"{path}")
        self.pid = self.ask("os.getpid()")["result"]

    def _answers(self):
        with suppress(OSError):
            return self.ask("1") == {"result": 1}
        return False

    def begin(self, expression):
        """
        Have an expression evaluated, and return what waits for its outcome.
        """
        return Pending(self, self._path, expression)

    def ask(self, expression):
        """
        Have an expression evaluated, and return the outcome.
        """
        return self.begin(expression).outcome()

    def leave(self):
        """
        Stop the process's reactor, and wait for its end.
        """
        self.begin("reactor.stop()").forget()
        until(lambda: not isAlive(self.pid), f"the end of {self.pid}")


class Pending:
    """
    An expression that is being evaluated in another process.
    """

    def __init__(self, process, path, expression):
        self._process = process
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(DEADLINE)
        try:
            self._socket.connect(str(path))
            self._socket.sendall(expression.encode() + b"\n")
        except OSError:
            self._socket.close()
            raise

    def isPending(self):
        """
        Say whether there is no outcome yet, though the process has had the time.
        """
        self._process.ask("1")
        return not select.select([self._socket], [], [], 0)[0]

    def forget(self):
        """
        Do not wait for the outcome: the process may be ended before it has said.
        """
        self._socket.close()

    def outcome(self):
        """
        Wait for the outcome.
        """
        with self._socket, self._socket.makefile() as stream:
            return json.loads(stream.readline())
