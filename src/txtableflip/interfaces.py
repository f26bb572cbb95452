"""
What applications call, as interfaces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamServerEndpoint
from zope.interface import Attribute, Interface


class Reactor(Protocol):
    """
    The reactor, as far as we call it: the seam between this package and the
    world.  Whatever Twisted's own classes want of a reactor besides, such as
    C{addReader}, they get from the same object.
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
    What this process has been left by its parent, and leaves to its child.
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
    changes: Any = Attribute(
        "How what this process uses differs from what its parent used, "
        "L{txtableflip.Changes}: complete when L{IUpgrader.whenFinal} fires."
    )

    def endpoint(description: str, drainTimeout: float | None = None) -> IStreamServerEndpoint:
        """
        Make an endpoint whose listening socket is inherited: what the string
        C{tableflip:} plus C{description} makes.

        @param description: an endpoint string, such as C{tcp:8080}.
        @param drainTimeout: how long its connections have to finish when this
            process leaves, in seconds, if not as long as all (L{IUpgrader.drain}).
        @raise ValueError: if C{description} describes no endpoint, or
            C{drainTimeout} is not positive.
        """

    def whenListening() -> Deferred[None]:
        """
        @return: a Deferred that fires when every endpoint that has been made
            (L{endpoint}, and C{tableflip:} strings) listens, or has been garbage
            collected: an endpoint that somebody keeps and that never listens
            keeps this process from being ready; when everything has fired that
            L{notReadyUntil} was told of; and when each listener of the parent's is
            listened on, or has not been for 10 seconds after all else.  It fails as
            the first of them did, and with L{NothingListens
            <txtableflip.NothingListens>} if none of the parent's listeners is
            listened on, nor any other.
        """

    def notReadyUntil(happening: Deferred[Any]) -> Deferred[Any]:
        """
        Have L{whenListening} wait for something, such as the connection to a
        database.  If it fails, this process never will be ready, for that reason.

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
        Say that this process has initialised: everything listens that is to.
        In the first generation it serves already; in any other the parent now
        stops accepting, and this process begins to (tableflip's C{Ready}).

        @return: a Deferred that fires when this process serves.  It fails with
            L{PidFileError <txtableflip.PidFileError>} if the pid file cannot be
            written, with L{Abandoned <txtableflip.Abandoned>}, L{ParentTimedOut
            <txtableflip.ParentTimedOut>} or L{Stopping <txtableflip.Stopping>}
            if this process is not to serve any more: it should leave then.
        """

    def refuse(error: Exception) -> None:
        """
        Say that this process will not be ready, and why: the parent's upgrade
        fails with the reason (L{ChildRefused <txtableflip.ChildRefused>}),
        without waiting for the deadline.
        """

    def whenServing() -> Deferred[None]:
        """
        @return: a Deferred that fires when this process serves, and fails as
            L{ready}'s does: for jobs that may run beside a parent that drains.
        """

    def whenFinal() -> Deferred[None]:
        """
        @return: a Deferred that fires when this process serves and nobody can take
            that back, and fails if it never will: for what must not be undone.
        """

    def upgrade() -> Deferred[None]:
        """
        Start this program anew, and have the new process take over
        (tableflip's C{Upgrade}).

        @return: a Deferred that fires when it has, for good.  It fails at once with
            a L{Refusal <txtableflip.Refusal>} if this is not the moment, and with
            an L{UpgradeFailed <txtableflip.UpgradeFailed>} if the new process did
            not take over, or was taken back (L{RolledBack
            <txtableflip.RolledBack>}); this one serves on.
        """

    def rollback(reason: str) -> None:
        """
        Have the release before serve again.  In the process that has started the
        new one, that is done; in the new one itself, its parent is asked to.

        @raise NotOnProbation: if there is nothing to take back.
        """

    def confirm() -> None:
        """
        End the probation: the new process is to serve for good.  In the new one
        itself, its parent is asked to confirm.

        @raise NotOnProbation: if there is nothing to confirm.
        """

    def redeploy() -> None:
        """
        Upgrade as soon as that may be, as an operator's signal asks for: a
        request that comes while an upgrade runs, or before it is final that this
        process serves, is deferred, once, and reaches whoever may act on it.  The outcome
        is in the log.
        """

    def redeployOn(name: str) -> None:
        """
        Make a signal call L{redeploy}, until the reactor stops.  A signal that
        comes while a process starts waits for it to be ready.

        @param name: the signal's, with or without C{SIG}: C{"HUP"}.
        @raise ValueError: if there is none of that name.
        """

    def stopOn(name: str) -> Any:
        """
        Make a signal call L{stop}, the first time that it comes, so that what
        is open can be finished; the second time, it does what it did before.
        That begins when the reactor runs, which has handlers of its own by then;
        a signal that nobody has handled goes on to end the process.

        @param name: the signal's, with or without C{SIG}: C{"TERM"}.
        @return: what listens for it: C{wasReceived} says whether it has come, and
            C{again()} has it do what it did before.
        @raise ValueError: if there is none of that name.
        """

    def whenExiting() -> Deferred[None]:
        """
        @return: a Deferred that fires when this process should finish what it
            began, and exit: its successor serves, or it was told to stop
            (tableflip's C{Exit}).
        """

    def whenParentExits() -> Deferred[None]:
        """
        @return: a Deferred that fires when the parent is gone, and everybody who
            was there before it, or at once if there is none; cancel it to stop waiting
            (tableflip's C{WaitForParent}).
        """

    def stop() -> Deferred[None]:
        """
        Refuse upgrades from now on; end a child that has not taken over yet
        (tableflip's C{Stop}).  The reactor's shutdown calls this.

        @return: a Deferred that fires when there is no such child.
        """

    def drain(timeout: float) -> Deferred[int]:
        """
        Let the connections finish that were accepted by inheritable listeners,
        then stop these listeners and their factories.  How each protocol does
        that is described at L{IDrainable}.

        @param timeout: how long the connections have, in seconds.
        @return: a Deferred that fires with how many were aborted.
        @raise ValueError: if C{timeout} is not positive.
        """


class IDrainable(Interface):
    """
    What knows how to end one connection when its process leaves.

    A protocol may provide this; or its factory may answer for it
    (L{IDrainableFactory}); or an adapter from its class may be registered
    (L{twisted.python.components.registerAdapter}).  A connection of which
    nothing is known lives until it closes, or until its time is over.
    """

    def drain(seconds: float) -> Deferred[None] | None:
        """
        Finish what is under way, begin nothing new, and close the connection.
        This is called once.

        @param seconds: how long there is; then the connection is closed.
        @return: a Deferred that fires when the connection is to be closed; or
            C{None} if the protocol closes it by itself.
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
