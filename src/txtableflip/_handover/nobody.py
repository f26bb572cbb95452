"""
What stands in the place of a parent or a child that there is not.
"""

from __future__ import annotations

from txtableflip._handover.messages import Manifest
from txtableflip._lifecycle import Lifecycle
from txtableflip.interfaces import Reactor


class NoParent:
    """
    The parent of a first generation: leaves nothing, and hears nothing.
    """

    manifest = Manifest(generation=1, upgradeTimeout=0.0, pidFile=None, entries=())
    descriptors: tuple[int, ...] = ()

    def connect(self, reactor: Reactor, lifecycle: Lifecycle) -> None:
        """
        There is nobody to greet.
        """

    def sayReady(self) -> None:
        """
        There is nobody to ask.
        """

    def sayServing(self) -> None:
        """
        There is nobody who waits for it.
        """

    def sayRefused(self, reason: str) -> None:
        """
        There is nobody to go on instead.
        """

    def releaseStderr(self) -> None:
        """
        It is our own.
        """


class NoChild:
    """
    The child of a process that has started none.
    """

    hasTakenOver = False
    pid = None

    def commit(self) -> None:
        """
        There is nobody to take over.
        """

    def end(self) -> None:
        """
        There is nobody to end.
        """

    def kill(self, reason: str) -> None:
        """
        There is nobody to kill.
        """

    def redeploy(self) -> None:
        """
        There is nobody to tell.
        """

    def keepChannelUntilExit(self) -> None:
        """
        There is no channel.
        """
