"""
A process that this one has started: its signals, its status, its last output.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.error import ProcessExitedAlready
from twisted.internet.process import reapAllProcesses
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from txtableflip._handover.posixspawn import PosixProcess, isSupported
from txtableflip._journal import ProcessLogger
from txtableflip.interfaces import Reactor

_PIPE_SIZE = 1024 * 1024
"""
How much a child may write before it is read, in bytes: as much as the kernel lets an
ordinary user have.
"""

_PRINTED_KEPT = 2 * 1024
"""
How much of a standard output counts as last output, in bytes: it may be the log, which a
reader of the failure has seen already.
"""


class Spawned(ProcessProtocol):
    """
    A process, as the operating system sees it.

    @ivar pid: its process id, or C{None} if it could not be started.
    @ivar hasEnded: whether it has ended, and closed its standard error.
    """

    def __init__(self, whenEnded: Callable[[], object]) -> None:
        """
        @param whenEnded: is called when it has ended.
        """
        self.pid: int | None = None
        self.hasEnded = False
        self._whenEnded = whenEnded
        self._status: Any = None
        self._lastLines = _LastLines()
        self._printed = b""

    def start(
        self,
        reactor: Reactor,
        argv: Sequence[str],
        environment: Mapping[str, str],
        descriptors: Mapping[int, int],
        blocked: Sequence[int],
    ) -> None:
        """
        Start it.

        @param descriptors: our descriptors that it inherits, by their numbers there,
            besides standard input.
        @param blocked: the numbers of signals that must not kill it before it has a handler
            for them: a blocked one waits, and the child unblocks it in time.
        @raise OSError: if the operating system cannot.
        @raise ValueError: if there is a NUL in an argument.
        """
        given = {**({0: 0} if isOpen(0) else {}), **descriptors}
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        try:
            if isSupported():
                PosixProcess(reactor, self, argv, environment, given)
            else:
                reactor.spawnProcess(
                    *(self, argv[0], argv, environment), childFDs={1: "r", 2: "r", **given}
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)

    def connectionMade(self) -> None:
        # Here, because the process may have been reaped by the time that start() knows it.
        self.pid = self.transport.pid  # type: ignore[union-attr]

    def signal(self, name: str) -> None:
        """
        Send a signal, unless it has ended, or become another user's.

        @param name: without C{SIG}.
        """
        transport: Any = self.transport
        with suppress(ProcessExitedAlready, PermissionError):
            transport.signalProcess(name)

    def reap(self) -> None:
        """
        Learn how it has ended, if it has: the reactor may not have noticed yet, or may not
        handle SIGCHLD.
        """
        if isinstance(self.transport, PosixProcess):
            self.transport.reap()
        else:
            reapAllProcesses()

    @property
    def isReaped(self) -> bool:
        """
        Whether its status is known.
        """
        return self._status is not None

    @property
    def exitStatus(self) -> int | None:
        """
        The status that it exited with, if it did.
        """
        return getattr(self._status, "exitCode", None)

    @property
    def signalNumber(self) -> int | None:
        """
        The number of the signal that ended it, if one did.
        """
        return getattr(self._status, "signal", None)

    @property
    def lastLines(self) -> str:
        """
        The end of what it has written to its standard error and its standard output.
        """
        return "\n".join(filter(None, (self._lastLines.text(), _decode(self._printed))))

    def readingEnds(self) -> dict[int, int]:
        """
        @return: for its standard output and error, by their numbers, the descriptors
            by which this process reads them.
        """
        pipes: Any = getattr(self.transport, "pipes", {})
        ends = {stream: pipes[stream].fileno() for stream in (1, 2) if stream in pipes}
        for fileno in ends.values():
            # The child may write before any process reads, and should not block then.
            with suppress(AttributeError, OSError):
                fcntl.fcntl(fileno, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        return ends

    def leaveOutput(self) -> None:
        """
        Leave its output for another process to read.
        """
        transport: Any = self.transport
        for stream in self.readingEnds():
            transport.closeChildFD(stream)

    def howItEnded(self) -> str:
        """
        @return: in words, as far as that is known.
        """
        if self.signalNumber is not None:
            return f"was killed by {_signalName(self.signalNumber)}"
        if self.exitStatus is not None:
            return f"exited with status {self.exitStatus}"
        return "ended"

    def outReceived(self, data: bytes) -> None:
        self._printed = (self._printed + data)[-_PRINTED_KEPT:]

    def errReceived(self, data: bytes) -> None:
        self._lastLines.add(self.pid, data)

    def processExited(self, reason: Failure) -> None:
        self._status = reason.value

    def processEnded(self, reason: Failure) -> None:
        self._status = reason.value
        self.hasEnded = True
        self._whenEnded()


class _LastLines:
    """
    Copies a child's standard error to the log, and keeps its end.
    """

    _log = ProcessLogger()
    _KEPT = 16 * 1024

    def __init__(self) -> None:
        self._all = b""
        self._line = b""

    def add(self, child: int | None, data: bytes) -> None:
        self._all = (self._all + data)[-self._KEPT :]
        *lines, rest = (self._line + data).split(b"\n")
        self._line = rest[-self._KEPT :]
        for line in lines:
            text = line.decode("utf-8", "replace")
            self._log.info("stderr of process {child}: {line}", child=child, line=text)

    def text(self) -> str:
        return _decode(self._all)


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "replace").strip()


def _signalName(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        # Most of the real-time signals.
        return f"signal {number}"


def isOpen(fileno: int) -> bool:
    """
    @return: whether a descriptor is open.
    """
    try:
        os.fstat(fileno)
    except OSError:
        return False
    return True
