"""
What can go wrong: one class for each refusal and each failure.

There are two bases. A L{Refusal} says that nothing was tried, and when to try again. An
L{UpgradeFailed} says that a child was started and did not take over; the process that
started it keeps serving.
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
    The file with the environment of the next version has a malformed line: the message says
    which.
    """


class UpgradeError(TableflipError):
    """
    L{Upgrader.upgrade} did not end in a new process; this one keeps serving.
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
    The process that started this one may still roll back: wait for C{whenFinal()}.
    """


class NotOnProbation(TableflipError):
    """
    There is nothing to roll back or to confirm: no upgrade has been made, or it is final,
    or is being rolled back already; or only the other process may do it.
    """


class AlreadyUpgraded(Refusal):
    """
    This process has been replaced and is exiting: ask its successor.
    """


class Stopping(Refusal):
    """
    This process was told to stop, and cannot be upgraded any more.
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

    @property
    def headline(self) -> str:
        """
        What happened, in one sentence.
        """
        child = "the new process" if self.pid is None else f"the new process {self.pid}"
        serves = "serves again" if self.phase == "probation" else "keeps serving"
        return f"{child} {self.what} (phase: {self.phase}); the old one {serves}"

    def __str__(self) -> str:
        text = self.headline
        return f"{text}. Its last output:\n{self.stderr}" if self.stderr else text


class ChildNotStarted(UpgradeFailed):
    """
    The operating system could not start the child: see the reason it gives,
    and check the interpreter and the limits of this process.
    """


class ChildExited(UpgradeFailed):
    """
    The child exited, by itself or by a signal, before it had taken over: its last lines of
    output say why.
    """


class ChildTimedOut(UpgradeFailed):
    """
    The child timed out, and was terminated: look at what it waits for, or raise
    C{upgradeTimeout}.
    """


class RolledBack(UpgradeFailed):
    """
    The child served, and does not any more: it exited, its health check failed, or a
    rollback was requested. The process that started it serves again.
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
    The child closed the channel but kept running, or sent what is not a valid message: is
    something else writing to its descriptors, or is it another program?
    """


class NotExpected(UpgradeFailed):
    """
    The child was ready, and runs in another directory than the one that the caller has
    named: was the link to the release moved?
    """


class Rehearsed(UpgradeFailed):
    """
    The child was ready, and was told to exit, because this was a dry run: it has not
    failed, and neither does C{upgrade()}.
    """


class NotSupported(TableflipError):
    """
    This platform or this reactor cannot hand sockets to another process. C{tableflip:}
    endpoints listen all the same, but upgrades are disabled.
    """


class UpgraderExists(TableflipError):
    """
    There is one L{Upgrader} per process, and it has already been made, explicitly or by the
    first C{tableflip:} endpoint string: make yours before that.
    """


class ParentTimedOut(TableflipError):
    """
    The parent did not answer when this process was ready. It may wake up and continue to
    serve, so this process must exit.
    """


class Abandoned(TableflipError):
    """
    The parent has aborted the upgrade, for the reason in the message, and keeps serving.
    This process must exit.
    """


class SentAway(Abandoned):
    """
    The upgrade was a rehearsal (C{tableflip upgrade --dry-run}), and this process was
    ready, which is all that was asked. It must exit.
    """


class ChannelError(TableflipError):
    """
    What the parent sent cannot be used: another version of the protocol, not a valid
    message, or sockets that are not what their names say.
    """


class InvalidEndpoint(TableflipError, ValueError):
    """
    The string after C{tableflip:} is not an endpoint string.
    """


class NotInheritable(TableflipError):
    """
    The endpoint listens without making a listening socket through its reactor
    (C{stdio:} does), so there is nothing that a child could inherit: use it
    without C{tableflip:}.
    """


class NothingListens(TableflipError):
    """
    The parent has handed over listening sockets, and this process listens on none: does it
    wait for something that does not come? If the release is not meant to listen any more,
    stop the service and start it.
    """


class PidFileError(TableflipError):
    """
    The pid file cannot be written: the message says what to do, such as to make its
    directory writable for the user that the service runs as.
    """


class NobodyThere(TableflipError):
    """
    There is no such process, or it does not answer: the message says why, and what to do.
    """


class InvalidRequest(TableflipError, ValueError):
    """
    The request to a process is not valid: the message says what is.
    """


class NoAnswer(TableflipError):
    """
    The process has not answered: it is not known whether it has done what was requested.
    """
