"""
Stand-ins for a parent or a child that does not exist.
"""

from __future__ import annotations

from collections.abc import Sequence

from txtableflip._handover.lastoutput import LastOutput
from txtableflip._handover.manifest import NO_NEWS, News
from txtableflip._handover.messages import Manifest, Message
from txtableflip._lifecycle import Lifecycle
from txtableflip._observers import OneShot
from txtableflip.interfaces import Reactor


class NoParent:
    """
    The parent of a first generation: it hands over nothing, and receives nothing.
    """

    manifest = Manifest(generation=1, upgradeTimeout=0.0, pidFile=None, entries=())
    descriptors: Sequence[int] = ()
    stored: Sequence[str] = ()
    livingPid = None
    offered: object = None

    def __init__(self) -> None:
        self.isGone = OneShot()
        self.isGone.fire()
        self.lastOutput = LastOutput(None)

    def connect(
        self, reactor: Reactor, lifecycle: Lifecycle, release: str | None = None
    ) -> None:
        """
        There is no parent to greet.
        """

    def say(self, message: Message) -> None:
        """
        There is no parent to send it to.
        """

    ask = say

    def takeNews(self) -> News:
        """
        There is no parent to commit.
        """
        return NO_NEWS

    def sayReady(self) -> None:
        """
        There is no parent to ask.
        """

    def sayGoodbye(self) -> None:
        """
        There is no parent to notify.
        """

    sayStopping = sayGoodbye

    def kill(self) -> None:
        """
        There is no parent to kill.
        """


class DeadParent(NoParent):
    """
    A parent that exited before this process was started, and has stored something for it.

    @ivar stored: the names of what it has stored.
    """

    def __init__(
        self, manifest: Manifest, descriptors: Sequence[int], stored: Sequence[str]
    ) -> None:
        super().__init__()
        self.manifest = manifest
        self.descriptors = descriptors
        self.stored = stored


class NoChild:
    """
    The child of a process that has started none.
    """

    pid = None
    livingPid = None
    release = None

    def can(self, capability: str) -> bool:
        """
        There is no child that could have it.
        """
        return False

    def keepChannelUntilExit(self) -> None:
        """
        There is no channel.
        """
