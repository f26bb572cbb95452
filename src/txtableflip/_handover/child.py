"""
The process that this one starts, to be replaced by it.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

from twisted.internet.error import ProcessExitedAlready
from twisted.internet.process import reapAllProcesses
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from txtableflip._handover.channel import Channel, connectChannel
from txtableflip._handover.messages import (
    Abort,
    Commit,
    Hello,
    Manifest,
    Message,
    Ready,
    Redeploy,
    Refused,
    Serving,
)
from txtableflip._launch.relaunch import (
    CHANNEL_DESCRIPTOR,
    Command,
    inDirectory,
    successorEnvironment,
)
from txtableflip._lifecycle import Lifecycle
from txtableflip.errors import (
    ChannelError,
    ChildExited,
    ChildNotStarted,
    ChildProtocolError,
    ChildRefused,
    ChildTimedOut,
    Phase,
    UpgradeFailed,
)

COMMIT_TIMEOUT = 5.0
"""
How long a child that said Ready may take to serve, in seconds.  It has only to
reach its reactor, and meanwhile clients wait.
"""

TERM_GRACE = 5.0
"""
How long a child that is not wanted has to end by itself, in seconds.
"""

EXIT_GRACE = 2.0
"""
How long to wait for the exit status and the last words of a child that has
closed the channel, or was killed, in seconds.
"""

_REAP_INTERVAL = 0.05


@dataclass
class _Ending:
    """
    Why the child is not to take over, as far as that is known.
    """

    error: type[UpgradeFailed]
    what: str
    phase: Phase


class Child(ProcessProtocol):
    """
    Starts a child, talks with it, and reports what becomes of it: C{childReady}
    and C{childServing} as it says so, or C{childFailed}, once, when it is no
    more.  What counts is the channel; the exit status only adds the reason.

    @ivar hasTakenOver: whether it has said that it serves.
    """

    _log = Logger()

    def __init__(self, reactor: Any, lifecycle: Lifecycle, signals: Sequence[int]) -> None:
        self.pid: int | None = None
        self.phase: Phase = "start"
        self.hasTakenOver = False
        self._reactor = reactor
        self._lifecycle = lifecycle
        self._signals = signals
        self._channel: Channel | None = None
        self._timer: Any = None
        self._ending: _Ending | None = None
        self._greeted: int | None = None
        self._lastWords = _LastWords()
        self._noStderr: BinaryIO | None = None
        self._isLost = False
        self._isKilled = False
        self._hasEnded = False
        self._isOver = False
        self._status: Any = None

    @property
    def peerPid(self) -> int | None:
        return self.pid

    # -- what it is told

    def start(self, command: Command, manifest: Manifest, descriptors: Sequence[int]) -> None:
        """
        Start it, and send it what it inherits.
        """
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                self._channel = connectChannel(self._reactor, ours, self, "child")
                self._spawn(command, theirs)
            self._send(manifest, descriptors)
        except (OSError, ValueError, ChannelError) as error:
            if self.pid is not None:
                self._signal("KILL")
            self._conclude(ChildNotStarted, f"could not be started as {command}: {error}")
            return
        self._log.info(
            "upgrade: started generation {generation} as process {pid}",
            generation=manifest.generation,
            pid=self.pid,
        )
        self._after(
            manifest.upgradeTimeout,
            self._end,
            ChildTimedOut,
            f"was not ready after {manifest.upgradeTimeout:g} seconds",
        )

    def _send(self, manifest: Manifest, descriptors: Sequence[int]) -> None:
        if not _isOpen(2):
            self._noStderr = open(os.devnull, "wb")  # noqa: SIM115 - for as long as the child
        stderr = self._noStderr.fileno() if self._noStderr else 2
        self._say(manifest, [stderr, *descriptors])

    def _spawn(self, command: Command, channel: socket.socket) -> None:
        standard = {fd: fd for fd in (0, 1) if _isOpen(fd)}
        arguments = inDirectory(command)
        # The child must not die of a signal that comes before it has a handler
        # for it: a blocked one waits, and the child unblocks it in time.
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        try:
            process = self._reactor.spawnProcess(
                self,
                arguments[0],
                arguments,
                env=successorEnvironment(os.environ, command),
                childFDs={**standard, 2: "r", CHANNEL_DESCRIPTOR: channel.fileno()},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        self.pid = process.pid

    def commit(self) -> None:
        """
        Tell it to serve.
        """
        self.phase = "commit"
        self._after(
            COMMIT_TIMEOUT,
            self._kill,
            ChildTimedOut,
            f"was ready, and then did not serve within {COMMIT_TIMEOUT:g} seconds",
        )
        self._say(Commit())

    def redeploy(self) -> None:
        """
        Tell it that a newer version still is wanted.
        """
        self._say(Redeploy())

    def end(self) -> None:
        """
        Make it leave, because this process stops.
        """
        self._end(ChildExited, "was ended, because the old one was told to stop")

    def neverClose(self) -> None:
        """
        Leave the channel open until this process has ended, which is what its
        end tells the child.
        """
        if self._channel is not None:
            self._channel.keepOpenUntilExit()

    # -- what it says

    def messageReceived(self, message: Message) -> None:
        """
        The child said something.
        """
        if self._isOver or self._ending is not None:
            return
        if isinstance(message, Refused) and not self.hasTakenOver:
            self._end(ChildRefused, f"refused to take over: {message.reason}")
        elif isinstance(message, Hello) and message.pid <= 0:
            # To kill(2), that is a group, or everybody.
            self.channelGarbled(ChannelError(f"process {message.pid} greets"))
        elif isinstance(message, Hello) and self.phase == "start":
            self.phase = "initialise"
            self._greeted = message.pid
        elif isinstance(message, Ready) and self.phase == "initialise":
            self._stopTimer()
            self._lifecycle.childReady()
        elif isinstance(message, Serving) and self.phase == "commit":
            self._stopTimer()
            self.hasTakenOver = True
            self._lifecycle.childServing()
        else:
            self.channelGarbled(ChannelError(f"{message} at the wrong time"))

    def channelGarbled(self, error: ChannelError) -> None:
        """
        The child sent nonsense.
        """
        if self.hasTakenOver:
            # It serves, and this process does not any more: let it be.
            self._log.error(
                "process {pid} said what is not understood: {error}", pid=self.pid, error=error
            )
            return
        self._end(ChildProtocolError, f"sent what cannot be understood: {error}")

    def channelLost(self) -> None:
        """
        The child has ended, or should have.
        """
        self._isLost = True
        if self.hasTakenOver:
            self._log.critical(
                "process {pid}, which took over, has ended while this one still drains: "
                "nobody accepts connections. Start the service again",
                pid=self.pid,
            )
            return
        self._awaitExit(EXIT_GRACE if self._ending is None else TERM_GRACE)

    # -- how it ends

    def errReceived(self, data: bytes) -> None:
        self._lastWords.add(self.pid, data)

    def processExited(self, reason: Failure) -> None:
        self._status = reason.value

    def processEnded(self, reason: Failure) -> None:
        self._status = reason.value
        self._hasEnded = True
        if self._isLost:
            self._finish()
        elif self._greeted == self.pid and not self.hasTakenOver:
            # It was no wrapper.  What it said last is still on the channel.
            self._awaitExit(EXIT_GRACE)

    def _awaitExit(self, seconds: float) -> None:
        """
        Give the child time to be reaped, which the reactor does by itself only
        where it handles SIGCHLD; and its last words time to arrive.
        """
        reapAllProcesses()
        if self._isOver:
            return
        if self._isLost and self._hasEnded:
            self._finish()
        elif seconds > 0:
            self._stopTimer()
            self._timer = self._reactor.callLater(
                _REAP_INTERVAL, self._awaitExit, seconds - _REAP_INTERVAL
            )
        elif self._status is not None or self._isKilled:
            self._finish()
        elif self._ending is None:
            self._end(ChildProtocolError, "closed the channel, and lived on")
        else:
            self._kill(self._ending.error, self._ending.what)

    def _end(self, error: type[UpgradeFailed], what: str) -> None:
        """
        Make the child leave, politely at first.
        """
        if self._isOver:
            return
        if self._ending is None:
            self._ending = _Ending(error, what, self.phase)
        self._say(Abort(self._ending.what))
        self._signal("TERM")
        self._after(TERM_GRACE, self._kill, error, what)

    def _kill(self, error: type[UpgradeFailed], what: str) -> None:
        """
        End the child at once.  It runs no more code of its own after that, so
        there is no need to wait until it is really gone.
        """
        if self._ending is None:
            self._ending = _Ending(error, what, self.phase)
        self._signal("KILL")
        self._isLost = self._isKilled = True
        self._awaitExit(EXIT_GRACE)

    def _signal(self, name: str) -> None:
        """
        Send a signal to the child, and to the process that greeted us if a
        wrapper stands between.
        """
        transport: Any = self.transport
        # A child that has become another user's is told by the channel only.
        with suppress(ProcessExitedAlready, PermissionError):
            transport.signalProcess(name)
        if self._greeted not in (None, self.pid) and not self._isLost:
            with suppress(ProcessLookupError, PermissionError, OverflowError):
                os.kill(self._greeted, getattr(signal, f"SIG{name}"))

    def _finish(self) -> None:
        """
        The child is no more: say why.
        """
        if self._ending is not None:
            self._conclude(self._ending.error, self._ending.what, self._ending.phase)
        elif self._signalNumber is not None:
            name = _signalName(self._signalNumber)
            self._conclude(ChildExited, f"was ended by {name} before it had taken over")
        elif self._exitStatus is not None:
            self._conclude(
                ChildExited,
                f"exited with status {self._exitStatus} before it had taken over",
            )
        else:
            self._conclude(ChildExited, "ended before it had taken over")

    @property
    def _exitStatus(self) -> int | None:
        status: int | None = getattr(self._status, "exitCode", None)
        return status

    @property
    def _signalNumber(self) -> int | None:
        number: int | None = getattr(self._status, "signal", None)
        return number

    def _conclude(
        self, error: type[UpgradeFailed], what: str, phase: Phase | None = None
    ) -> None:
        if self._isOver:
            return
        self._isOver = True
        self._stopTimer()
        # Something of it may be left: a process that it has forked, which must
        # not take the end of this one for a reason to serve.
        self._say(Abort(what))
        if self._noStderr is not None:
            self._noStderr.close()
        self._lifecycle.childFailed(
            error(
                what,
                phase=phase or self.phase,
                pid=self.pid,
                exitStatus=self._exitStatus,
                signal=self._signalNumber,
                stderr=self._lastWords.text(),
            )
        )

    # -- small things

    def _say(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        if self._channel is not None:
            self._channel.send(message, descriptors)

    def _after(
        self, seconds: float, do: Callable[..., None], error: type[UpgradeFailed], what: str
    ) -> None:
        """
        Do something unless something else happens first.
        """
        self._stopTimer()
        self._timer = self._reactor.callLater(seconds, self._late, do, error, what)

    def _late(self, do: Callable[..., None], error: type[UpgradeFailed], what: str) -> None:
        """
        The time is over; but what has come meanwhile is heard first, for it may
        be this process that has been asleep.
        """
        self._timer = self._reactor.callLater(0, do, error, what)

    def _stopTimer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()


class _LastWords:
    """
    Copies a child's standard error to the log, and keeps its end.
    """

    _log = Logger()
    _KEPT = 16 * 1024

    def __init__(self) -> None:
        self._all = b""
        self._line = b""

    def add(self, pid: int | None, data: bytes) -> None:
        self._all = (self._all + data)[-self._KEPT :]
        *lines, rest = (self._line + data).split(b"\n")
        self._line = rest[-self._KEPT :]
        for line in lines:
            text = line.decode("utf-8", "replace")
            self._log.info("stderr of process {pid}: {line}", pid=pid, line=text)

    def text(self) -> str:
        return self._all.decode("utf-8", "replace").strip()


def _signalName(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        # Most of the real-time signals.
        return f"signal {number}"


def _isOpen(fileno: int) -> bool:
    try:
        os.fstat(fileno)
    except OSError:
        return False
    return True
