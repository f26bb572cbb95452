"""
The process that this one starts, to be replaced by it: the conversation.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence

from txtableflip._handover.channel import connectChannel
from txtableflip._handover.ending import Ending
from txtableflip._handover.messages import (
    Commit,
    Hello,
    Manifest,
    Message,
    Ready,
    Redeploy,
    Refused,
    Serving,
)
from txtableflip._handover.spawned import Spawned, isOpen
from txtableflip._journal import Greeted, Journal, ProcessLogger
from txtableflip._lifecycle import Lifecycle
from txtableflip._observers import Deadline
from txtableflip.errors import (
    ChannelError,
    ChildExited,
    ChildProtocolError,
    ChildRefused,
    ChildTimedOut,
    HandoverFailed,
    UpgradeFailed,
)
from txtableflip.interfaces import Reactor

COMMIT_TIMEOUT = 5.0
"""
How long a child that said Ready may take to serve, in seconds.  It has only to
reach its reactor, and meanwhile clients wait.
"""


class Child:
    """
    A child, as it is started and told what to do; what it says is heard by
    L{Answers}.
    """

    def __init__(self, reactor: Reactor, lifecycle: Lifecycle) -> None:
        # Closed with this object at the latest, should the rest not be had.
        self._stderr = open(os.dup(2) if isOpen(2) else os.devnull, "wb", 0)  # noqa: SIM115
        ours, self._theirs = socket.socketpair()
        self._reactor = reactor
        self._lifecycle = lifecycle
        self._deadline = Deadline(reactor)
        self._process = Spawned(self._exited)
        self._ending = Ending(self._process, self._deadline, self._say, self._report)
        self._answers = Answers(self._process, self._deadline, self._ending, lifecycle)
        self._channel = connectChannel(reactor, ours, self._answers, "child")

    @property
    def pid(self) -> int | None:
        """
        Its process id, or C{None} if it could not be started.
        """
        return self._process.pid

    @property
    def hasTakenOver(self) -> bool:
        """
        Whether it has said that it serves.
        """
        return self._answers.hasTakenOver

    def start(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        number: int,
        blocked: Sequence[int],
    ) -> None:
        """
        Start it.

        @param number: of the channel's descriptor in the child.
        @param blocked: the numbers of signals that must not kill it before it
            has handlers for them.
        @raise OSError: if the operating system cannot.
        @raise ValueError: if there is a NUL in an argument.
        """
        with self._theirs as channel:
            self._process.start(
                self._reactor, argv, environment, {number: channel.fileno()}, blocked
            )

    def sendManifest(self, manifest: Manifest, descriptors: Sequence[int]) -> None:
        """
        Tell it what it inherits, and wait for it to be ready.

        @raise ChannelError: if that is too long to be told.
        """
        self._channel.send(manifest, [self._stderr.fileno(), *descriptors])
        self._deadline.after(
            manifest.upgradeTimeout,
            self._ending.giveUp,
            ChildTimedOut,
            f"was not ready after {manifest.upgradeTimeout:g} seconds",
        )

    def commit(self) -> None:
        """
        Tell it to serve.
        """
        self._ending.phase = "commit"
        self._deadline.after(
            COMMIT_TIMEOUT,
            self._ending.kill,
            ChildTimedOut,
            f"was ready, and then did not serve within {COMMIT_TIMEOUT:g} seconds",
        )
        self._channel.send(Commit())

    def redeploy(self) -> None:
        """
        Tell it that a newer version still is wanted.
        """
        self._channel.send(Redeploy())

    def end(self) -> None:
        """
        Make it leave, because this process stops.
        """
        self._ending.giveUp(ChildExited, "was ended, because the old one was told to stop")

    def kill(self, reason: str) -> None:
        """
        End it at once, because this process can neither hand over nor tell it
        so.
        """
        what = f"was killed, because the old one failed to hand over: {reason}"
        self._ending.kill(HandoverFailed, what)

    def abandon(self) -> None:
        """
        Have no more to do with one that could not be started whole.
        """
        self._ending.abandon()
        self._stderr.close()

    def keepChannelUntilExit(self) -> None:
        """
        Leave the channel open until this process has ended, which is what its
        end tells a child that has taken over.
        """
        if self.hasTakenOver:
            self._channel.keepOpenUntilExit()

    def _exited(self) -> None:
        # One that has taken over is known by its channel.
        if not self.hasTakenOver:
            self._ending.exited()

    def _say(self, message: Message) -> None:
        self._channel.send(message)

    def _report(self, error: UpgradeFailed) -> None:
        self._stderr.close()
        self._lifecycle.childFailed(error)


class Answers:
    """
    Hears a child, and reports what it says: C{childReady}, C{childServing}; or
    has it end.  What counts is the channel; the exit status only adds the reason.

    @ivar hasTakenOver: whether it has said that it serves.
    """

    _log = ProcessLogger()
    _journal = Journal()

    def __init__(
        self, process: Spawned, deadline: Deadline, ending: Ending, lifecycle: Lifecycle
    ) -> None:
        self.hasTakenOver = False
        self._process = process
        self._deadline = deadline
        self._ending = ending
        self._lifecycle = lifecycle

    @property
    def peerPid(self) -> int | None:
        """
        Its process id, or C{None} if it could not be started.
        """
        return self._process.pid

    def messageReceived(self, message: Message) -> None:
        """
        The child said something.
        """
        if self._ending.hasBegun:
            return
        if isinstance(message, Refused) and not self.hasTakenOver:
            self._ending.giveUp(ChildRefused, f"refused to take over: {message.reason}")
        elif isinstance(message, Hello) and message.pid <= 0:
            # To kill(2), that is a group, or everybody.
            self.channelGarbled(ChannelError(f"process {message.pid} greets"))
        elif isinstance(message, Hello) and self._ending.phase == "start":
            self._ending.phase = "initialise"
            self._ending.greeted = message.pid
            self._journal.tell(Greeted, child=message.pid)
        elif isinstance(message, Ready) and self._ending.phase == "initialise":
            self._deadline.stop()
            self._lifecycle.childReady()
        elif isinstance(message, Serving) and self._ending.phase == "commit":
            self._deadline.stop()
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
                "process {child} said what is not understood: {error}",
                child=self.peerPid,
                error=str(error),
            )
            return
        self._ending.giveUp(ChildProtocolError, f"sent what cannot be understood: {error}")

    def channelLost(self) -> None:
        """
        The child has ended, or should have.
        """
        if self.hasTakenOver:
            self._ending.conclude(ChildExited, "ended after it had taken over")
        else:
            self._ending.channelLost()
