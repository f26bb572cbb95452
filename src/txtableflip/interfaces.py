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

    def adoptDatagramPort(
        self, fileDescriptor: int, addressFamily: int, protocol: Any, maxPacketSize: int
    ) -> Any:
        """
        See L{twisted.internet.interfaces.IReactorSocket}.
        """


class IUpgrader(Interface):
    """
    This process as one in a chain of generations: L{txtableflip.Upgrader}, or
    L{txtableflip.testing.FakeUpgrader} in unit tests.
    """

    hasParent: bool = Attribute("Whether this process was started in an upgrade.")
    generation: int = Attribute("Which one this is in its chain, counted from 1.")
    reactor: Any = Attribute("The reactor, but that what listens through it is inherited.")
    fds: Any = Attribute("What is handed over by name: L{txtableflip._sockets.named.Fds}.")
    used: list[str] = Attribute("What a child would inherit, in words.")
    descriptions: list[str] = Attribute("The strings that endpoints were made of.")
    pending: list[str] = Attribute("Which endpoints have not been told to listen.")
    connections: list[Any] = Attribute("Those open, with listener, peer and seconds.")
    changes: Any = Attribute("How that differs from what the parent used.")

    def endpoint(description: str, drainTimeout: float | None = None) -> IStreamServerEndpoint:
        """
        Make an endpoint whose listening socket is inherited.

        @param description: an endpoint string, such as C{tcp:8080}.
        @param drainTimeout: how long its connections have to finish when this
            process leaves, in seconds, if not as long as all.
        @raise ValueError: if it describes no endpoint.
        """

    def whenListening() -> Deferred[None]:
        """
        @return: a Deferred that fires when every endpoint that was made
            listens, or fails as the first of them did.
        """

    def ready() -> Deferred[None]:
        """
        Say that this process has initialised.

        @return: a Deferred that fires when this process serves, or fails if it
            is not to: it should leave then.
        """

    def refuse(error: Exception) -> None:
        """
        Say that this process will not be ready, and why.
        """

    def upgrade() -> Deferred[None]:
        """
        Start this program anew, and have the new process take over.

        @return: a Deferred that fires when it has, or fails with an
            L{UpgradeError <txtableflip.UpgradeError>}: this process serves on.
        """

    def redeploy() -> None:
        """
        Upgrade as soon as that may be.  The outcome is in the log.
        """

    def hold(name: str) -> None:
        """
        Have a signal wait until L{redeployOn} handles it.

        @param name: the signal's, with or without C{SIG}: C{"HUP"}.
        @raise ValueError: if there is none of that name.
        """

    def redeployOn(name: str) -> None:
        """
        Make a signal call L{redeploy}.

        @param name: the signal's, with or without C{SIG}: C{"HUP"}.
        @raise ValueError: if there is none of that name.
        """

    def stopOn(name: str) -> Any:
        """
        Make a signal call L{stop}, the first time that it comes.

        @param name: the signal's, with or without C{SIG}: C{"TERM"}.
        @return: what listens for it: C{wasReceived} says whether it has come, and
            C{again()} has it do what it did before.
        @raise ValueError: if there is none of that name.
        """

    def whenExiting() -> Deferred[None]:
        """
        @return: a Deferred that fires when this process should finish what it
            began, and go.
        """

    def whenParentExits() -> Deferred[None]:
        """
        @return: a Deferred that fires when the parent is gone, or at once if
            there is none.
        """

    def stop() -> Deferred[None]:
        """
        Refuse upgrades from now on; end a child that has not taken over yet.

        @return: a Deferred that fires when there is no such child.
        """

    def endIn(seconds: float) -> None:
        """
        Be sure that this process has ended in some time.

        @param seconds: how long it may take.
        """

    def drain(timeout: float) -> Deferred[int]:
        """
        Let the connections finish that were accepted by inheritable listeners,
        then stop these listeners and their factories.

        @param timeout: how long the connections have, in seconds.
        @return: a Deferred that fires with how many were cut.
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
