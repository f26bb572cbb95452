"""
The parent and the child of this process: what the rules can tell them.
"""

from __future__ import annotations

import os

from twisted.internet.defer import Deferred

from txtableflip._handover.child import Child, Verdict
from txtableflip._handover.messages import (
    Confirm,
    Manifest,
    Redeploy,
    Refused,
    Serving,
    Withdraw,
)
from txtableflip._handover.nobody import NoChild, NoParent
from txtableflip._handover.parent import Parent
from txtableflip._handover.probation import Terms
from txtableflip._journal import Journal, ProcessLogger, Started, Watching
from txtableflip._launch.command import Command
from txtableflip._launch.limits import STARTED_WITH, VARIABLE
from txtableflip._launch.origin import (
    CHANNEL_DESCRIPTOR,
    KEEPER,
    KEEPER_DESCRIPTOR,
    KEEPER_VARIABLE,
    START,
)
from txtableflip._lifecycle import Lifecycle
from txtableflip._steps import Order
from txtableflip.errors import ChannelError, ChildNotStarted, NotExpected, Rehearsed
from txtableflip.interfaces import Reactor


class Relatives:
    """
    The part of L{txtableflip._steps.Steps} that is conversation.

    @ivar child: the last one that was started.
    @ivar signals: the numbers of the signals that must not kill a child which
        has no handler for them yet.
    @ivar terms: on what terms a child is on probation.
    """

    _journal = Journal()

    def __init__(self, reactor: Reactor, parent: Parent | NoParent | None) -> None:
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
        self._parent.connect(self._reactor, lifecycle, ProcessLogger.release)

    def sayGoodbye(self) -> None:
        """
        This process exits in good order: its parent and its child must not think that it
        has crashed, or that it has exited before it has.
        """
        self._parent.sayGoodbye()
        self.child.keepChannelUntilExit()

    def hurry(self) -> None:
        """
        Decide now whether the child serves permanently: C{confirm} follows, if it runs, and
        its last answer was good.
        """
        self._child.probation.timeIsOver()

    @property
    def parentRelease(self) -> str | None:
        """
        What people call the parent's release.
        """
        return self._parent.manifest.release

    @property
    def parentPid(self) -> int | None:
        """
        The parent, if it still runs.
        """
        return self._parent.livingPid

    def whenParentIsGone(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when there is no parent, or it has exited.
        """
        return self._parent.isGone.wait()

    def begin(
        self, command: Command, manifest: Manifest, descriptors: list[int], order: Order
    ) -> None:
        """
        Start a child, and hand over what the manifest says.

        @raise ChildNotStarted: if that cannot be done.
        """
        child = self.child = Child(
            self._reactor, self._lifecycle, lambda pid: _inspect(order, pid)
        )
        try:
            environment = {**command.environment(START.environment), VARIABLE: STARTED_WITH}
            others = {}
            if KEEPER is not None:
                others[KEEPER_DESCRIPTOR] = KEEPER
                environment[KEEPER_VARIABLE] = str(KEEPER_DESCRIPTOR)
            child.start(command.argv(), environment, CHANNEL_DESCRIPTOR, self.signals, others)
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
            where=command.where,
        )

    @property
    def _child(self) -> Child:
        if isinstance(self.child, NoChild):
            raise TypeError("there is no child")
        return self.child

    # -- txtableflip._steps.Steps

    def watchChild(self) -> None:
        self._journal.tell(Watching, child=self.child.pid, seconds=self.terms.seconds)
        self._child.watch(self.terms)

    def withdrawChild(self, why: Exception | None) -> None:
        self._child.withdraw(why)

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
        self._parent.sayStopping()

    def askToBeWithdrawn(self, reason: str) -> None:
        self._parent.ask(Withdraw(reason))

    def askToBeConfirmed(self) -> None:
        self._parent.ask(Confirm())

    def tellParentToRedeploy(self) -> None:
        self._parent.ask(Redeploy())

    def killParent(self) -> None:
        self._parent.kill()


def _inspect(order: Order, pid: int | None) -> Verdict | None:
    """
    @param pid: of a child that is ready.
    @return: why it is not to take over, if so.
    """
    if order.expect is not None:
        wanted = os.path.realpath(order.expect)
        try:
            found = os.readlink(f"/proc/{pid}/cwd")
        except OSError as error:
            return NotExpected, f"runs in a directory that cannot be read ({error})"
        if found != wanted:
            return NotExpected, f"runs in {found}, and not in {wanted}"
    if order.dryRun:
        return Rehearsed, "was ready, and was told to exit, because this is a rehearsal"
    return None
