"""
What stands in the place of a parent or a child that there is not.
"""

from __future__ import annotations

from txtableflip._handover.lastwords import LastWords
from txtableflip._handover.messages import Manifest, Message
from txtableflip._lifecycle import Lifecycle
from txtableflip._observers import OneShot
from txtableflip.interfaces import Reactor


class NoParent:
    """
    The parent of a first generation: leaves nothing, and hears nothing.
    """

    manifest = Manifest(generation=1, upgradeTimeout=0.0, pidFile=None, entries=())
    descriptors: tuple[int, ...] = ()

    def __init__(self) -> None:
        self.isGone = OneShot()
        self.isGone.fire()
        self.lastWords = LastWords(None)

    def connect(self, reactor: Reactor, lifecycle: Lifecycle) -> None:
        """
        There is nobody to greet.
        """

    def say(self, message: Message) -> None:
        """
        There is nobody to hear it.
        """

    ask = say

    def sayReady(self) -> None:
        """
        There is nobody to ask.
        """

    def sayGoodbye(self) -> None:
        """
        There is nobody to tell.
        """

    def kill(self) -> None:
        """
        There is nobody to end.
        """


class NoChild:
    """
    The child of a process that has started none.
    """

    pid = None

    def keepChannelUntilExit(self) -> None:
        """
        There is no channel.
        """
