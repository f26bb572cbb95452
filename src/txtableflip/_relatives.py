"""
The parent and the child of this process: what the rules can have said to them.
"""

from __future__ import annotations

import os

from txtableflip._handover.child import Child
from txtableflip._handover.messages import (
    Confirm,
    Manifest,
    Redeploy,
    Refused,
    Serving,
    Stopping,
    Withdraw,
)
from txtableflip._handover.nobody import NoChild, NoParent
from txtableflip._handover.parent import Parent
from txtableflip._handover.probation import Terms
from txtableflip._journal import Journal, Started, Watching
from txtableflip._launch.command import Command
from txtableflip._launch.origin import CHANNEL_DESCRIPTOR
from txtableflip._lifecycle import Lifecycle
from txtableflip.errors import ChannelError, ChildNotStarted
from txtableflip.interfaces import Reactor


class Relatives:
    """
    That part of L{txtableflip._steps.Steps} which is conversation.

    @ivar child: the last one that was started.
    @ivar signals: the numbers of the signals that must not kill a child which
        has no handler for them yet.
    @ivar terms: on what terms a child is on probation.
    """

    _journal = Journal()

    def __init__(self, reactor: Reactor, parent: Parent | None) -> None:
        self.signals: list[int] = []
        self.terms = Terms()
        self.child: Child | NoChild = NoChild()
        self._reactor = reactor
        self._parent = parent or NoParent()

    def connect(self, lifecycle: Lifecycle) -> None:
        """
        Begin to talk with the parent, if there is one.
        """
        self._lifecycle = lifecycle
        self._parent.connect(self._reactor, lifecycle)

    def sayGoodbye(self) -> None:
        """
        This process ends in good order: those who know of it are not to think that it
        has crashed, or that it has gone before it has.
        """
        self._parent.sayGoodbye()
        self.child.keepChannelUntilExit()

    def hurry(self) -> None:
        """
        Have it decided now whether the child serves for good: C{confirm} follows, if
        it lives, and its last answer was good.
        """
        self._child.probation.timeIsOver()

    def begin(self, command: Command, manifest: Manifest, descriptors: list[int]) -> None:
        """
        Start a child, and hand over what the manifest says.

        @raise ChildNotStarted: if that cannot be done.
        """
        child = self.child = Child(self._reactor, self._lifecycle)
        try:
            environment = command.environment(os.environ)
            child.start(command.argv(), environment, CHANNEL_DESCRIPTOR, self.signals)
            child.sendManifest(manifest, descriptors)
        except Exception as error:
            child.abandon()
            if not isinstance(error, (OSError, ValueError, ChannelError)):
                raise
            what = f"could not be started as {command}: {error}"
            raise ChildNotStarted(what, phase="start", pid=child.pid) from error
        self._journal.tell(
            Started,
            child=child.pid,
            childGeneration=manifest.generation,
            command=str(command),
        )

    @property
    def _child(self) -> Child:
        if isinstance(self.child, NoChild):
            raise TypeError("there is no child")
        return self.child

    # -- txtableflip._steps.Steps

    def commitChild(self) -> None:
        self._child.commit(self.terms.seconds)

    def watchChild(self) -> None:
        self._journal.tell(Watching, child=self.child.pid, seconds=self.terms.seconds)
        self._child.watch(self.terms)

    def withdrawChild(self, why: Exception | None) -> None:
        self._child.withdraw(why)

    def confirmChild(self) -> None:
        self._child.confirm()

    def endChild(self, why: Exception | None) -> None:
        self._child.end(why)

    def killChild(self, why: Exception | None) -> None:
        self._child.kill(why)

    def dismissChild(self) -> None:
        self._child.dismiss()

    def tellChildToRedeploy(self) -> None:
        self._child.redeploy()

    def sayReady(self) -> None:
        self._parent.sayReady()

    def sayServing(self) -> None:
        self._parent.say(Serving())

    def sayRefused(self, reason: str) -> None:
        self._parent.say(Refused(reason))

    def sayStopping(self) -> None:
        self._parent.ask(Stopping())

    def askToBeWithdrawn(self, reason: str) -> None:
        self._parent.ask(Withdraw(reason))

    def askToBeConfirmed(self) -> None:
        self._parent.ask(Confirm())

    def tellParentToRedeploy(self) -> None:
        self._parent.ask(Redeploy())

    def killParent(self) -> None:
        self._parent.kill()
