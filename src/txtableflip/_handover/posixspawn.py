"""
Starts a process without looking at each descriptor of this one.

C{reactor.spawnProcess} lists them all, and with as many as a busy server has, clients
wait for that.  Here the kernel starts the process, and its pidfd says when it has ended:
no handler of SIGCHLD is needed, and none gets in the way.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.main import CONNECTION_DONE
from twisted.internet.process import ProcessReader
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from txtableflip._handover.libc import canSpawn, spawn
from txtableflip._handover.pidfd import Pidfd
from txtableflip.interfaces import Reactor

_HEARD = (1, 2)
"""
The numbers of standard output and standard error.
"""


def isSupported() -> bool:
    """
    @return: whether this system has what is needed.
    """
    return canSpawn() and hasattr(os, "P_PIDFD") and Pidfd(os.getpid()).isKnown


class PosixProcess(FileDescriptor):
    """
    A process, and its protocol's transport: as much of
    L{twisted.internet.interfaces.IProcessTransport} as is used here.

    @ivar pid: its process id.
    @ivar pipes: what reads its standard output and error, by their numbers.
    """

    def __init__(
        self,
        reactor: Reactor,
        protocol: ProcessProtocol,
        argv: Sequence[str],
        environment: Mapping[str, str],
        descriptors: Mapping[int, int],
    ) -> None:
        """
        @param descriptors: our descriptors that it inherits, by their numbers there,
            besides standard output and error, which the protocol receives.
        @raise OSError: if it cannot be started.
        @raise ValueError: if there is a NUL in an argument.
        """
        clock: Any = reactor
        super().__init__(clock)
        self._protocol = protocol
        self._status: ProcessDone | ProcessTerminated | None = None
        read, written = {}, {}
        with ExitStack() as ours, ExitStack() as theirs:
            for stream in _HEARD:
                read[stream], written[stream] = os.pipe()
                ours.callback(os.close, read[stream])
                theirs.callback(os.close, written[stream])
            self.pid = _spawn(argv, environment, {**descriptors, **written})
            ours.pop_all()
        self.pipes: dict[int, Any] = {
            stream: ProcessReader(clock, self, stream, fileno)
            for stream, fileno in read.items()
        }
        self._pidfd = Pidfd(self.pid)
        self.startReading()
        protocol.makeConnection(self)

    def fileno(self) -> int:
        return self._pidfd.fileno()

    def signalProcess(self, name: str) -> None:
        """
        @param name: of the signal, without C{SIG}.
        @raise ProcessExitedAlready: if it has been waited for.
        @raise PermissionError: if it is another user's by now.
        """
        try:
            self._pidfd.send(getattr(signal, f"SIG{name}"))
        except PermissionError:
            raise
        except OSError as error:
            raise ProcessExitedAlready from error

    def childDataReceived(self, descriptor: int, data: bytes) -> None:
        """
        It has written to one of the two.
        """
        self._protocol.childDataReceived(descriptor, data)

    def childConnectionLost(self, descriptor: int, reason: Failure) -> None:
        """
        No process has that open any more.
        """
        os.close(self.pipes.pop(descriptor).fileno())
        self._end()

    def closeChildFD(self, descriptor: int) -> None:
        """
        Stop reading one of the two.
        """
        self.pipes[descriptor].loseConnection()

    def doRead(self) -> Any:
        self.reap()
        return None if self._status is None else CONNECTION_DONE

    def reap(self) -> None:
        """
        Learn how it has ended, if it has.
        """
        if self._status is None:
            self._status = _wait(self.fileno())
            if self._status is not None:
                for reader in list(self.pipes.values()):
                    # Its last output; the reactor finds the end of file by itself.
                    reader.doRead()
                self._protocol.processExited(Failure(self._status))

    def connectionLost(self, reason: Failure) -> None:
        super().connectionLost(reason)
        if self._status is None:
            # The reactor shuts down; the process may still have to be ended.
            return
        self._pidfd.close()
        self._end()

    def _end(self) -> None:
        if self._status is not None and not self.pipes:
            self._protocol.processEnded(Failure(self._status))


def _spawn(
    argv: Sequence[str], environment: Mapping[str, str], descriptors: Mapping[int, int]
) -> int:
    lowest = max(descriptors) + 1
    # exec(3) closes what Python has opened, but not what the application has made
    # inheritable.
    others = [fd for fd in range(lowest) if fd not in descriptors and _isInheritable(fd)]
    moved = {}
    with ExitStack() as stack:
        for there, here in descriptors.items():
            # Above all target numbers: no copy is overwritten before its turn, and none is
            # duplicated onto itself, which would leave it close-on-exec.
            moved[there] = fcntl.fcntl(here, fcntl.F_DUPFD_CLOEXEC, lowest)
            stack.callback(os.close, moved[there])
        return spawn(argv, environment, moved, others, _ignored())


def _isInheritable(fileno: int) -> bool:
    try:
        return os.get_inheritable(fileno)
    except OSError:
        return False


def _ignored() -> list[signal.Signals]:
    """
    @return: the signals that this process ignores and a new one should not, as with
        C{reactor.spawnProcess}.
    """
    return [each for each in signal.valid_signals() if signal.getsignal(each) == signal.SIG_IGN]


def _wait(pidfd: int) -> ProcessDone | ProcessTerminated | None:
    """
    @return: how a process has ended, as far as that is known; C{None} if it has not.
    """
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        # The application has waited for it, or has the kernel reap children (SIGCHLD
        # ignored).
        return ProcessTerminated()
    if result is None:
        return None
    if result.si_code != os.CLD_EXITED:
        return ProcessTerminated(signal=result.si_status)
    return ProcessTerminated(result.si_status) if result.si_status else ProcessDone(0)
