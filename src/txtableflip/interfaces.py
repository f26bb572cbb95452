"""
What applications call, as interfaces.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamServerEndpoint
from zope.interface import Attribute, Interface


class IUpgrader(Interface):
    """
    This process as one in a chain of generations: L{txtableflip.Upgrader}, or
    L{txtableflip.testing.FakeUpgrader} in unit tests.
    """

    hasParent: bool = Attribute("Whether this process was started in an upgrade.")
    generation: int = Attribute("Which one this is in its chain, counted from 1.")
    reactor: Any = Attribute("The reactor, but that what listens through it is inherited.")
    fds: Any = Attribute("What is handed over by name: L{txtableflip.fds.Fds}.")
    used: list[str] = Attribute("What a child would inherit, in words.")
    changes: Any = Attribute("How that differs from what the parent used.")

    def endpoint(description: str) -> IStreamServerEndpoint:
        """
        Make an endpoint whose listening socket is inherited.

        @param description: an endpoint string, such as C{tcp:8080}.
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

    def redeployOn(name: str) -> None:
        """
        Make a signal call L{redeploy}.

        @param name: the signal's, with or without C{SIG}: C{"HUP"}.
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

    def drain(timeout: float) -> Deferred[int]:
        """
        Let the connections finish that were accepted by inheritable listeners,
        then stop these listeners and their factories.

        @param timeout: how long the connections have, in seconds.
        @return: a Deferred that fires with how many were cut.
        """
