"""
What can go wrong: one class for each refusal and each failure.

Two bases tell whose move it is.  A L{Refusal} says that nothing was tried, and
when to try again.  An L{UpgradeFailed} says that a child was started and did
not take over; the process that started it serves on.
"""

from __future__ import annotations

from typing import Literal

Phase = Literal["start", "initialise", "commit", "probation"]
"""
How far a child came: C{start} until it greets its parent (interpreter, imports),
C{initialise} until it says that it is ready, C{commit} until it serves, C{probation}
until that is final.
"""


class TableflipError(Exception):
    """
    The base of every error that txtableflip raises.
    """


class EnvironmentFileError(TableflipError, ValueError):
    """
    The file with the environment of the next version has a line that cannot be
    understood: the message says which.
    """


class UpgradeError(TableflipError):
    """
    L{Upgrader.upgrade} did not end in a new process; this one serves on.
    """


class Refusal(UpgradeError):
    """
    The upgrade was refused, and no child was started.
    """


class NotReady(Refusal):
    """
    This process has not said that it is ready: call C{ready()} first.
    """


class UpgradeInProgress(Refusal):
    """
    An upgrade is running already: wait for its outcome.
    """


class OnProbation(Refusal):
    """
    The process that started this one may still take back: wait for
    C{whenFinal()}.
    """


class NotOnProbation(TableflipError):
    """
    There is nothing to take back or to confirm: no upgrade has been made, or it is
    final, or has been taken back.
    """


class AlreadyUpgraded(Refusal):
    """
    This process has been replaced and is leaving: ask its successor.
    """


class Stopping(Refusal):
    """
    This process was told to stop, and is not to be replaced any more.
    """


class UpgradeFailed(UpgradeError):
    """
    A child was started and did not take over.

    @ivar pid: the child's process id, or C{None} if there never was one.
    @ivar phase: how far it came.
    @ivar exitStatus: the status it exited with, if it did.
    @ivar signal: the number of the signal that ended it, if one did.
    @ivar stderr: the last lines that it wrote to its standard error.
    """

    def __init__(
        self,
        what: str,
        *,
        phase: Phase,
        pid: int | None = None,
        exitStatus: int | None = None,
        signal: int | None = None,
        stderr: str = "",
    ) -> None:
        super().__init__(what)
        self.what = what
        self.phase: Phase = phase
        self.pid = pid
        self.exitStatus = exitStatus
        self.signal = signal
        self.stderr = stderr

    def __str__(self) -> str:
        child = "the new process" if self.pid is None else f"the new process {self.pid}"
        again = "again" if self.phase == "probation" else "on"
        text = f"{child} {self.what} (phase: {self.phase}); the old one serves {again}"
        return f"{text}. Its last words:\n{self.stderr}" if self.stderr else text


class ChildNotStarted(UpgradeFailed):
    """
    The operating system could not start the child: see the reason it gives,
    and check the interpreter and the limits of this process.
    """


class ChildExited(UpgradeFailed):
    """
    The child ended, by itself or by a signal, before it had taken over: its
    last words say why.
    """


class ChildTimedOut(UpgradeFailed):
    """
    The child did not do what it had to within the deadline, and was ended:
    look at what it waits for, or raise C{upgradeTimeout}.
    """


class RolledBack(UpgradeFailed):
    """
    The child served, and does not any more: it ended, its health check failed, or
    somebody wanted it back.  The process that started it serves again.
    """


class HandoverFailed(UpgradeFailed):
    """
    This process could not stop accepting, or tell the child to serve, so the
    child was killed: the traceback is in the log.
    """


class ChildRefused(UpgradeFailed):
    """
    The child said itself that it cannot take over, and why.
    """


class ChildProtocolError(UpgradeFailed):
    """
    The child closed the channel while it lived, or sent what is no message:
    is something else writing to its descriptors, or is it another program?
    """


class NotSupported(TableflipError):
    """
    This platform or this reactor cannot hand sockets to another process.
    C{tableflip:} endpoints listen all the same; there are no upgrades.
    """


class UpgraderExists(TableflipError):
    """
    There is one L{Upgrader} to a process, and it has been made already, by
    hand or by the first C{tableflip:} endpoint string: make yours before it.
    """


class ParentTimedOut(TableflipError):
    """
    The parent did not answer that this process is ready.  It may wake up and
    serve on, so this process must leave.
    """


class Abandoned(TableflipError):
    """
    The parent has given this process up, for the reason in the message, and
    serves on.  This process must leave.
    """


class ChannelError(TableflipError):
    """
    What the parent sent cannot be used: another version of the protocol, no
    message at all, or sockets that are not what their names say.
    """


class InvalidEndpoint(TableflipError, ValueError):
    """
    The string behind C{tableflip:} describes no endpoint.
    """


class NotInheritable(TableflipError):
    """
    The endpoint listens without making a listening socket through its reactor
    (C{stdio:} does), so there is nothing that a child could inherit: use it
    without C{tableflip:}.
    """


class NothingListens(TableflipError):
    """
    The parent has left listening sockets, and this process listens on none: does it
    wait for something that does not come?  If the release is to listen nowhere any
    more, stop the service and start it.
    """


class PidFileError(TableflipError):
    """
    The pid file cannot be written: make its directory writable for the user
    that the service runs as, or name another one.
    """
