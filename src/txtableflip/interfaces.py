"""
The interfaces that applications use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamServerEndpoint
from zope.interface import Attribute, Interface


class Reactor(Protocol):
    """
    The part of the reactor that this package calls. Twisted's own classes need more of a
    reactor, such as C{addReader}, and get it from the same object.
    """

    running: bool
    """
    See L{twisted.internet.interfaces.IReactorCore}.
    """

    def callLater(
        self,
        delay: float,
        call: Callable[..., object],
        /,
        *args: object,
        **kw: object,
    ) -> Any:
        """
        See L{twisted.internet.interfaces.IReactorTime}.
        """

    def seconds(self) -> float:
        """
        See L{twisted.internet.interfaces.IReactorTime}.
        """

    def callFromThread(self, call: Callable[..., object], /, *args: object) -> None:
        """
        See L{twisted.internet.interfaces.IReactorFromThreads}.
        """

    def callWhenRunning(self, call: Callable[..., object], /, *args: object) -> Any:
        """
        See L{twisted.internet.interfaces.IReactorCore}.
        """

    def addSystemEventTrigger(
        self,
        phase: str,
        eventType: str,
        call: Callable[..., object],
        /,
        *args: object,
    ) -> Any:
        """
        See L{twisted.internet.interfaces.IReactorCore}.
        """

    def stop(self) -> None:
        """
        See L{twisted.internet.interfaces.IReactorCore}.
        """

    def spawnProcess(
        self,
        processProtocol: Any,
        executable: str,
        args: Sequence[str],
        env: Mapping[str, str],
        *,
        childFDs: Mapping[int, Any],
    ) -> Any:
        """
        See L{twisted.internet.interfaces.IReactorProcess}.
        """

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: int, factory: Any) -> Any:
        """
        See L{twisted.internet.interfaces.IReactorSocket}.
        """


class IInheriting(Interface):
    """
    What this process inherits from its parent, and hands over to its child.
    """

    reactor: Any = Attribute(
        "The reactor, but that what listens through it is inherited: for "
        "C{TCPServer(..., reactor=upgrader.reactor)} and the like."
    )
    fds: Any = Attribute(
        "Files, connections and sockets that the application hands over by name: "
        "L{txtableflip.Fds} (tableflip's C{Fds})."
    )
    used: list[str] = Attribute("What a child would inherit, in words.")
    connections: list[Any] = Attribute(
        "The open connections that inheritable listeners have accepted, each a "
        "L{txtableflip.OpenConnection}."
    )
    work: list[Any] = Attribute(
        "What there is to finish besides connections, each a L{txtableflip.Work}: what "
        "L{busy} and L{busyUntil} were told of, and ports that sessions have open."
    )
    changes: Any = Attribute(
        "How what this process uses differs from what its parent used, "
        "L{txtableflip.Changes}: complete when L{IUpgrader.whenFinal} fires."
    )

    def endpoint(
        description: str,
        drainTimeout: float | None = None,
        migrate: bool | str | None = None,
    ) -> IStreamServerEndpoint:
        """
        Make an endpoint whose listening socket is inherited: what the string
        C{tableflip:} plus C{description} makes.

        @param description: an endpoint string, such as C{tcp:8080}.
        @param drainTimeout: how long its connections have to drain when this process exits,
            in seconds; by default as long as all others (L{IUpgrader.drain}).
        @param migrate: whether its open connections migrate to the next process when that
            serves and the switch is final, if their protocols support it (L{IMigratable}):
            a few at a time, or all of them C{"together"}, as a chat room needs it.
            C{None}: as for all others.  Listening fails with L{NotInheritable
            <txtableflip.NotInheritable>} if they are TLS.
        @raise ValueError: if C{description} is not an endpoint string, C{drainTimeout} is
            not positive, or C{migrate} is something else.
        """

    def whenListening() -> Deferred[None]:
        """
        @return: a Deferred that fires when every endpoint that has been made (L{endpoint},
            and C{tableflip:} strings) listens, or has been garbage collected (an endpoint
            that is referenced and never listens keeps this process from being ready); when
            every Deferred given to L{notReadyUntil} has fired; and when each listener of
            the parent is in use, or has not been for 10 seconds after all else. It fails as
            the first of them did, and with L{NothingListens <txtableflip.NothingListens>}
            if neither a listener of the parent nor any other is in use.
        """

    def notReadyUntil(happening: Deferred[Any]) -> Deferred[Any]:
        """
        Have L{whenListening} wait for something, such as the connection to a database.  If
        it fails, this process will never be ready, for that reason.

        @return: the same Deferred.
        """

    def busy(what: str) -> AbstractContextManager[None]:
        """
        Declare work that this process has to finish besides connections, such as a job:
        C{with upgrader.busy("the nightly report"):}.  L{IUpgrader.drain} waits for it, for
        as long as for connections, and the log names it.

        @param what: what it is, in words.
        @return: a context manager, at whose exit it is finished.
        """

    def busyUntil(what: str, happening: Deferred[Any]) -> Deferred[Any]:
        """
        The same, for work that is finished when a Deferred fires or fails: a call to
        another service, a child process.

        @return: the same Deferred.
        """


class IUpgrader(IInheriting):
    """
    This process as one in a chain of generations: L{txtableflip.Upgrader}, or
    L{txtableflip.testing.FakeUpgrader} in unit tests.
    """

    hasParent: bool = Attribute(
        "Whether this process was started in an upgrade (tableflip's C{HasParent})."
    )
    generation: int = Attribute("Which one this is in its chain, counted from 1.")

    def ready() -> Deferred[None]:
        """
        Say that this process has initialised: everything that should listen does. In the
        first generation it serves already; in any other the parent now stops accepting, and
        this process begins to (tableflip's C{Ready}). If the reactor does not run yet, this
        takes effect when everything that starts with the reactor has started.

        @return: a Deferred that fires when this process serves.  It fails with
            L{PidFileError <txtableflip.PidFileError>} if the pid file cannot be written,
            with L{Abandoned <txtableflip.Abandoned>}, L{ParentTimedOut
            <txtableflip.ParentTimedOut>} or L{Stopping <txtableflip.Stopping>} if this
            process must not serve any more: it should exit then.
        """

    def refuse(error: Exception) -> None:
        """
        Say that this process will not be ready, and why: the parent's upgrade fails with
        the reason (L{ChildRefused <txtableflip.ChildRefused>}), without waiting for the
        timeout.
        """

    def whenServing() -> Deferred[None]:
        """
        @return: a Deferred that fires when this process serves, and fails as
            L{ready}'s does: for jobs that may run beside a parent that drains.
        """

    def whenFinal() -> Deferred[None]:
        """
        @return: a Deferred that fires when this process serves and cannot be rolled back
            any more, and fails if it never will: for what must not be undone.
        """

    def upgrade(
        *, dryRun: bool = False, expect: str | None = None, drainTimeout: float | None = None
    ) -> Deferred[None]:
        """
        Start this program again, and have the new process take over (tableflip's
        C{Upgrade}).

        @param dryRun: whether to let the new process initialise until it is ready, and exit
            then: nothing has changed after that.
        @param expect: an absolute path: if the new process, when it is ready, does not run
            in that directory, links resolved, the upgrade fails with L{NotExpected
            <txtableflip.NotExpected>}.
        @param drainTimeout: how long the open connections of this process have to drain
            after this upgrade, in seconds, also those whose listener has a timeout of its
            own; at least 0.
        @raise ValueError: if C{expect} is relative, or C{drainTimeout} is negative.
        @return: a Deferred that fires when it has, and that is final; or when it could
            have, if this is a dry run.  It fails at once with a L{Refusal
            <txtableflip.Refusal>} if this is not the moment, and with an L{UpgradeFailed
            <txtableflip.UpgradeFailed>} if the new process did not take over, or was rolled
            back (L{RolledBack <txtableflip.RolledBack>}); this one keeps serving.
        """

    def status() -> dict[str, Any]:
        """
        @return: what this process is and does, and which others it knows: what C{tableflip
            status --json} reports, field by field in docs/deploying.md.
        """

    def rollback(reason: str) -> None:
        """
        Have this process serve again, and the new one, which it has started, exit: the
        upgrade fails with L{RolledBack <txtableflip.RolledBack>}.

        @param reason: for the log, and for whoever requested the upgrade.
        @raise NotOnProbation: if there is nothing to roll back, and why.
        """

    def withdraw(reason: str) -> None:
        """
        Have the parent serve again, and this process, which is on probation, exit. The
        parent decides: if the switch is final by then, it stays so.

        @param reason: for the logs of both, and for whoever requested the upgrade.
        @raise NotOnProbation: if this process is not on probation.
        """

    def confirm() -> None:
        """
        End the probation now: the upgrade is final. Called in the new process, this asks
        its parent to confirm.

        @raise NotOnProbation: if there is nothing to confirm.
        """

    def redeploy() -> None:
        """
        Upgrade as soon as possible, as on an operator's signal: a request that comes while
        an upgrade runs, or before it is final that this process serves, is deferred, once,
        to the process that may act on it. The outcome is in the log.
        """

    def redeployOn(name: str) -> None:
        """
        Make a signal call L{redeploy}, until the reactor stops.  A signal that comes while
        a process starts is deferred until it is ready.

        @param name: the signal's, with or without C{SIG}: C{"HUP"}.
        @raise ValueError: if there is none of that name.
        @raise NotSupported: if this is not the main thread, the only one that can handle
            signals.
        """

    def stopOn(name: str) -> Any:
        """
        Make a signal call L{stop} the first time that it comes, so that open connections
        can drain; the second time, it does what it did before. This takes effect when the
        reactor runs, which has installed its own handlers by then; a signal without a
        handler terminates the process as before.

        @param name: the signal's, with or without C{SIG}: C{"TERM"}.
        @return: the handler: C{wasReceived} says whether the signal has come, and
            C{again()} does what it did before.
        @raise ValueError: if there is none of that name.
        """

    def whenExiting() -> Deferred[None]:
        """
        @return: a Deferred that fires when this process should drain and exit: its
            successor serves, and that is final, or it was told to stop (tableflip's
            C{Exit}).
        """

    def whenParentExits() -> Deferred[None]:
        """
        @return: a Deferred that fires when the parent and all older generations have
            exited, or at once if there are none; cancel it to stop waiting (tableflip's
            C{WaitForParent}).
        """

    def stop() -> Deferred[None]:
        """
        Refuse upgrades from now on; terminate a child that has not taken over yet
        (tableflip's C{Stop}).  The reactor's shutdown calls this.

        @return: a Deferred that fires when there is no such child.
        """

    def drain(timeout: float, stopTimeout: float = 10.0) -> Deferred[int]:
        """
        Let the connections that inheritable listeners have accepted finish, let protocols
        answer the datagrams that they have received, and let L{work} finish; then stop
        these listeners and their factories. L{IDrainable} describes how a protocol takes
        part. Call this when L{whenExiting} has fired. Under an L{UpgradeService
        <txtableflip.UpgradeService>} connections begin to drain earlier, when the new
        process serves; this waits for them then.

        After that the process has to exit: if it has not when C{stopTimeout} expires, it is
        killed, with exit status 1, and the log says what was still running.

        @param timeout: how long all of them have, in seconds from the start of the drain.
        @param stopTimeout: how long the process may take to exit after that, with
            C{stopService}, shutdown triggers and threads, in seconds.
        @return: a Deferred that fires with the number of connections that were aborted.
        @raise ValueError: if one of the two is not positive.
        """


class IDrainable(Interface):
    """
    What knows how to end one connection when its process exits; or one port that receives
    datagrams.

    A protocol may provide this; or its factory may answer for it (L{IDrainableFactory}); or
    an adapter from its class may be registered
    (L{twisted.python.components.registerAdapter}).  Any other connection stays open until
    it closes, or until the drain timeout.

    A datagram protocol may do the same when its process has been replaced.  By then it
    receives nothing more: datagrams go to the new process.  But it can still send, and may
    have received what it has not answered.  A port whose protocol does not provide this,
    and that has received anything, stays open as long as a connection.
    """

    def drain(seconds: float) -> Deferred[None] | None:
        """
        Finish what is in progress, begin nothing new, and close the connection, or the port
        (C{transport.stopListening()}). This is called once, under an L{UpgradeService
        <txtableflip.UpgradeService>} as soon as the new process serves; on probation that
        is before L{IUpgrader.whenExiting} fires. If the new process is rolled back then,
        the connection ends all the same, unless it is L{IResumable}.

        @param seconds: how long there is; then it is closed.
        @return: a Deferred that fires when it is to be closed; or C{None} if the
            protocol closes it by itself.
        """


class IResumable(IDrainable):
    """
    What can cancel a goodbye that its client has not received.
    """

    def resume() -> bool:
        """
        This process keeps serving after all: L{IDrainable.drain} is cancelled, and will be
        called again when the next release has taken over.

        @return: whether the connection continues. If not, its client has been told goodbye,
            and it ends as if this had not been called.
        """


class IDrainableFactory(Interface):
    """
    A factory that knows how the connections of its protocols end.
    """

    def drainable(protocol: object) -> IDrainable | None:
        """
        @param protocol: one whose attribute C{factory} is this.
        @return: what drains its connection, if that is known.
        """


class Snapshot(NamedTuple):
    """
    What a protocol hands over to the one that continues its connection.

    @ivar state: whatever L{IMigratableFactory.resume} needs.  Another release reads it,
        maybe an older one if the connection is returned: so give it a version, and use
        JSON, say, and not pickles, which name classes.
    @ivar unread: what has been received and not acted upon. The protocol that continues
        gets it by C{dataReceived}, before anything else is received.
    """

    state: bytes = b""
    unread: bytes = b""


class IMigratable(Interface):
    """
    What knows how to hand over one connection to another protocol, in the next process: it
    stays open, and its client cannot tell.

    A protocol may provide this, or an adapter from its class may be registered
    (L{twisted.python.components.registerAdapter}).  Either counts for that very class only:
    a subclass may have state of its own, and has to declare it itself.
    """

    def snapshot() -> Snapshot | Deferred[None] | None:
        """
        Hand over the connection, if it can be done now. If so, the protocol gets nothing
        more than C{connectionLost}, with L{ConnectionMigrated
        <txtableflip.ConnectionMigrated>}, right after this; what it has written and the
        client has not read is sent by the next process.

        This is called in a reactor turn of its own: not while the protocol receives
        anything.

        @return: what the other protocol gets; or C{None} if this connection must not
            migrate: it drains then. Or a Deferred, if it cannot migrate now: it fires with
            C{None} when to ask again, such as at the end of a message, and until then the
            connection is served here.
        """


class IMigratableFactory(Interface):
    """
    A factory of protocols that continue connections. An adapter works, too.
    """

    def resume(snapshot: Snapshot, address: Any) -> Any:
        """
        Make a protocol for a connection that another one has handed over; or that is
        returned, because the next process could not take it.  It is connected
        (C{makeConnection}) when all that migrate together have been made: C{connectionMade}
        must not greet again.

        @param address: of the client, as C{buildProtocol} gets it.
        @return: the protocol; or C{None} if this connection cannot be continued here.
            Raising an exception means the same, and the log says why.
        """
