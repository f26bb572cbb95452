"""
A command that checks whether a service works.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from txtableflip._observers import Deadline
from txtableflip.interfaces import Reactor

_KEPT = 500
"""
How much of the end of its output is reported, in bytes.
"""

_LAST_OUTPUT = 0.5
"""
How long to wait for that when it has exited, in seconds, if another process holds its
output open.
"""


class HealthCommand:
    """
    Runs a command, which exits with status 0 if all is well.
    """

    def __init__(self, reactor: Reactor, command: Sequence[str]) -> None:
        """
        @raise ValueError: if there is no such program.
        """
        program = shutil.which(command[0])
        if program is None:
            raise ValueError(f"the health check {command[0]} is not a program")
        self._reactor = reactor
        self._program = program
        self._command = list(command)

    def ask(self) -> Deferred[None]:
        """
        @return: a Deferred that fires if the command exits with status 0, and fails
            with L{Unwell} if it does not, or cannot be executed.  If it is cancelled,
            the command is killed.
        """
        asked = _Asked(self._reactor)
        try:
            self._reactor.spawnProcess(
                asked,
                self._program,
                self._command,
                dict(os.environ),
                childFDs={0: "w", 1: "r", 2: "r"},
            )
        except OSError as error:
            return fail(Unwell(f"{self._program} cannot be executed: {error.strerror}"))
        return asked.answer


class Unwell(Exception):
    """
    The health check did not exit with status 0.
    """


class _Asked(ProcessProtocol):
    """
    A health check that runs.  Processes that it started may hold its output open: its own
    exit is what counts.
    """

    def __init__(self, reactor: Reactor) -> None:
        self.answer: Deferred[None] = Deferred(lambda answer: self._end())
        self._lastOutput = Deadline(reactor)
        self._printed = b""

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.closeStdin()

    def outReceived(self, data: bytes) -> None:
        self._printed = (self._printed + data)[-_KEPT:]

    errReceived = outReceived

    def processExited(self, reason: Failure) -> None:
        status: Any = reason.value
        if status.exitCode == 0 or self.answer.called:
            self._tell(status)
        else:
            self._lastOutput.after(_LAST_OUTPUT, self._tell, status)

    def processEnded(self, reason: Failure) -> None:
        self._tell(reason.value)

    def _tell(self, status: Any) -> None:
        self._lastOutput.stop()
        transport: Any = self.transport
        transport.loseConnection()
        if self.answer.called:
            return
        if status.exitCode == 0:
            self.answer.callback(None)
            return
        printed = self._printed.decode("utf-8", "replace").strip()
        ended = (
            f"status {status.exitCode}" if status.signal is None else f"signal {status.signal}"
        )
        self.answer.errback(Unwell(": ".join(filter(None, [ended, printed]))))

    def _end(self) -> None:
        transport: Any = self.transport
        with suppress(ProcessExitedAlready, PermissionError):
            transport.signalProcess("KILL")
