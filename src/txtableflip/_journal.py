"""
What happened to this process, as frozen events, and what listens to them.

Any code that has to know what happens listens here: the log, which is called first, and the
torture kit.  No functions are replaced for that.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from twisted.logger import Logger, LogLevel

Peer = Literal["parent", "child"]
"""
The process at the other end of a channel.
"""


@dataclass(frozen=True)
class Event:
    """
    Something that happened.

    @ivar pid: the process to which it happened.
    @ivar generation: which one that is in its chain.
    @ivar time: when, in seconds since the epoch.
    @ivar release: what people call the release that it runs, if they do.
    """

    pid: int
    generation: int
    time: float
    release: str | None


@dataclass(frozen=True)
class Requested(Event):
    """
    An upgrade was requested.

    @ivar isDeferred: whether it has to wait until this process may start it.
    """

    isDeferred: bool


@dataclass(frozen=True)
class Starting(Event):
    """
    A child is about to be started.
    """


@dataclass(frozen=True)
class Started(Event):
    """
    A child was started.

    @ivar child: its process id.
    @ivar childGeneration: which one it is in the chain.
    @ivar command: what was started, as a shell would have it.
    @ivar where: in which directory, with all links resolved, in words.
    """

    child: int
    childGeneration: int
    command: str
    where: str


@dataclass(frozen=True)
class Greeted(Event):
    """
    The child has read the manifest.

    @ivar child: its process id.
    @ivar childRelease: what it calls its release.
    """

    child: int
    childRelease: str | None


@dataclass(frozen=True)
class Ready(Event):
    """
    This process has initialised, and asks its parent to commit.
    """


@dataclass(frozen=True)
class Committed(Event):
    """
    This process has stopped accepting, and told its child to serve.
    """


@dataclass(frozen=True)
class Serving(Event):
    """
    This process has taken over, and accepts.
    """


@dataclass(frozen=True)
class Failed(Event):
    """
    An upgrade failed: this process continues to serve, or stops.

    @ivar reason: why, with the last output of the child.
    @ivar outcome: C{"failed"}, C{"rolledBack"}, or C{"stopped"}.
    """

    reason: str
    outcome: str


@dataclass(frozen=True)
class ToldToStop(Event):
    """
    This process, and a child that it may have, are to end without a successor.
    """


@dataclass(frozen=True)
class Rehearsing(Event):
    """
    The requested upgrade goes only as far as it can be undone without a trace.
    """


@dataclass(frozen=True)
class Rehearsed(Event):
    """
    A child was ready, and has exited when told to, as it should.

    @ivar child: its process id.
    """

    child: int | None


@dataclass(frozen=True)
class RehearsalFailed(Event):
    """
    The child of a rehearsal was not ready.

    @ivar reason: why, with its last output.
    """

    reason: str


@dataclass(frozen=True)
class Final(Event):
    """
    The child serves, and this process never will again.
    """


@dataclass(frozen=True)
class Watching(Event):
    """
    The child serves, and is on probation.

    @ivar child: its process id.
    @ivar seconds: for how long.
    """

    child: int | None
    seconds: float


@dataclass(frozen=True)
class SuccessorExited(Event):
    """
    The child that took over has ended, while this process still drains.

    @ivar child: its process id.
    """

    child: int | None


@dataclass(frozen=True)
class Draining(Event):
    """
    The open connections begin to drain.

    @ivar connections: how many there are.
    @ivar seconds: how long they have.
    @ivar isReplaced: whether a child serves, permanently or on probation.
    """

    connections: int
    seconds: float
    isReplaced: bool


@dataclass(frozen=True)
class DrainCancelled(Event):
    """
    This process serves again, and so continue the connections that were to finish.

    @ivar connections: how many there are.
    @ivar told: how many of them end all the same, as their clients have been told.
    @ivar cut: how many were closed at their deadline.
    """

    connections: int
    told: int
    cut: int


@dataclass(frozen=True)
class Drained(Event):
    """
    No connection is open any more.

    @ivar finished: how many closed by themselves.
    @ivar told: how many had a protocol that could be told.
    @ivar cut: how many were closed at their deadline.
    """

    finished: int
    told: int
    cut: int


@dataclass(frozen=True)
class Migrated(Event):
    """
    Connections of this process were to continue in its child.

    @ivar connections: how many do.
    @ivar returned: how many were offered, and continue here.
    @ivar stayed: how many could not be offered.
    @ivar why: of both, in words, for the end of a line.
    """

    connections: int
    returned: int
    stayed: int
    why: str


@dataclass(frozen=True)
class Returning(Event):
    """
    Connections that were offered are about to continue here.

    @ivar connections: how many.
    """

    connections: int


@dataclass(frozen=True)
class TakenOver(Event):
    """
    Connections of the parent continue here.

    @ivar connections: how many.
    @ivar refused: how many of those that were offered do not.
    """

    connections: int
    refused: int


@dataclass(frozen=True)
class Left(Event):
    """
    This process has tidied up, and exits.
    """


@dataclass(frozen=True)
class Saying(Event):
    """
    A message is about to be sent.

    @ivar message: its name.
    @ivar peer: the other process.
    @ivar peerPid: the process id of that one, if it is known.
    """

    message: str
    peer: Peer
    peerPid: int | None


@dataclass(frozen=True)
class Said(Saying):
    """
    A message has been sent, as far as it fitted into the socket's buffer.
    """


@dataclass(frozen=True)
class Hearing(Saying):
    """
    A message has come, and nothing has been done about it yet.
    """


@dataclass(frozen=True)
class HearingTheEnd(Event):
    """
    The channel has ended, and nothing has been done about it yet.

    @ivar peer: whose end it is.
    @ivar peerPid: the process id of that one, if it is known.
    """

    peer: Peer
    peerPid: int | None


class ProcessLogger(Logger):
    """
    Twisted's logger, except that each line says which process wrote it: two of them write
    to the same log.

    @cvar generation: which one this process is in its chain, as soon as that is
        known.
    @cvar release: what people call its release, if they do.
    """

    generation: ClassVar[int] = 1
    release: ClassVar[str | None] = None

    def emit(self, level: Any, format: str | None = None, **fields: object) -> None:  # noqa: A002 - as Twisted's
        """
        See L{Logger.emit}.
        """
        pid = os.getpid()
        system = f"txtableflip#{level.name} generation {self.generation} pid {pid}"
        ours: dict[str, Any] = {"pid": pid, "generation": self.generation}
        if self.release is not None:
            system += f" release {self.release}"
            ours["release"] = self.release
        super().emit(level, format, log_system=system, **ours, **fields)


_LINES: dict[type[Event], tuple[Any, str]] = {
    Requested: (
        LogLevel.info,
        (
            "upgrade requested; deferred until it is final that this process serves, and no "
            "upgrade is running"
        ),
    ),
    Started: (
        LogLevel.info,
        (
            "upgrade: started generation {childGeneration} as process {child}: {command} "
            "in {where}"
        ),
    ),
    Serving: (LogLevel.info, "generation {generation} serves"),
    Failed: (LogLevel.error, "upgrade failed: {reason}"),
    Rehearsing: (
        LogLevel.info,
        "rehearsal: the next version initialises, and then exits",
    ),
    Rehearsed: (
        LogLevel.info,
        "rehearsal: process {child} was ready, and has exited; nothing else has changed",
    ),
    RehearsalFailed: (LogLevel.error, "rehearsal failed: {reason}"),
    Watching: (
        LogLevel.info,
        "upgrade: process {child} serves, on probation for {seconds:g} s",
    ),
    Final: (
        LogLevel.info,
        "upgrade done: the new process serves, this one drains and exits",
    ),
    SuccessorExited: (
        LogLevel.critical,
        (
            "process {child}, which took over, has exited while this one still drains: nobody "
            "accepts connections. Start the service again"
        ),
    ),
    Draining: (
        LogLevel.info,
        "draining: {connections} open connections have {seconds} s to finish",
    ),
    DrainCancelled: (
        LogLevel.info,
        (
            "drain cancelled: {connections} open connections are still served, except {told} "
            "whose clients were told goodbye"
        ),
    ),
    Migrated: (
        LogLevel.info,
        (
            "migrated: {connections} connections continue in the new process; {returned} were "
            "returned, and {stayed} never left{why}"
        ),
    ),
    Drained: (
        LogLevel.info,
        (
            "drained: {finished} connections closed ({told} after a protocol goodbye), {cut} "
            "aborted at the deadline"
        ),
    ),
}
"""
What the log says of an event, if anything.
"""

_OF_ANY_EVENT = {each.name for each in fields(Event)}
_log = ProcessLogger()


def logEvent(event: Event) -> None:
    """
    Write an event into the log, if it is one for the operator.
    """
    level, line = _LINES.get(type(event), (None, ""))
    if level is None or (isinstance(event, Requested) and not event.isDeferred):
        return
    if isinstance(event, Watching) and not event.seconds:
        return
    own = {name: value for name, value in vars(event).items() if name not in _OF_ANY_EVENT}
    _log.emit(level, line, **own)


class Journal:
    """
    Tells all listeners what happens, at once and in order.

    @cvar listeners: are called with everything that happens in this process.
    """

    listeners: ClassVar[list[Callable[[Event], object]]] = [logEvent]

    def tell(self, kind: type[Event], **more: Any) -> None:
        """
        Something has happened.  A listener that raises does not keep the others from
        hearing of it.

        @param more: the fields of C{kind}, besides the ones that any event has.
        """
        event = kind(
            pid=os.getpid(),
            generation=ProcessLogger.generation,
            time=time.time(),
            release=ProcessLogger.release,
            **more,
        )
        for listener in list(self.listeners):
            try:
                listener(event)
            except Exception:  # noqa: BLE001 - it is whoever listens'
                _log.failure("a listener of the journal failed")
