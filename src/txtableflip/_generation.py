"""
This process, as one of its chain: everything that the rules of the L{lifecycle
<txtableflip._lifecycle>} can have done, carried out (L{txtableflip._steps.Steps}).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks

from txtableflip._draining.connections import Connections
from txtableflip._draining.drain import Drain, loadKnownProtocols
from txtableflip._handover.messages import Manifest
from txtableflip._handover.parent import Parent
from txtableflip._journal import Journal, Left, ProcessLogger, Starting
from txtableflip._launch import exitstatus, watchdog
from txtableflip._launch.command import Command
from txtableflip._launch.logfile import shareAccessLog
from txtableflip._launch.pidfile import PidFile
from txtableflip._lifecycle import Lifecycle
from txtableflip._observers import Deadline, OneShot
from txtableflip._older import Older
from txtableflip._relatives import Relatives
from txtableflip._sockets.inventory import Inventory
from txtableflip._sockets.named import Fds
from txtableflip._sockets.ports import Ports
from txtableflip._sockets.uninherited import foreignListeners
from txtableflip.errors import PidFileError
from txtableflip.interfaces import Reactor

MAX_GENERATIONS = 4
"""
How many generations may live if nothing else is said.
"""

PID_FILE_INTERVAL = 1.0
"""
How long to wait until a pid file that could not be written is tried again, in
seconds.
"""

_log = ProcessLogger()


class Generation(Relatives):
    """
    Joins parent and child, the ports and the pid file.  It implements
    L{txtableflip._steps.Steps}.

    @ivar number: which one it is in the chain, counted from 1.
    @ivar service: what runs the upgrades of this process, if something does.
    @ivar maxGenerations: how many may live when this one serves for good, this one
        included: the oldest are ended.
    @ivar isReplaced: whether a child has taken over for good.
    """

    def __init__(
        self,
        reactor: Reactor,
        parent: Parent | None,
        upgradeTimeout: float,
        pidFile: str | None,
        command: Callable[[], Command],
    ) -> None:
        """
        @param command: says how a child is to be started.
        @raise ChannelError: if a socket that the parent sent is not what its
            name says.
        """
        super().__init__(reactor, parent)
        self.service: object = None
        self.isReplaced = False
        self._upgradeTimeout = upgradeTimeout
        self._command = command
        self.inventory = Inventory()
        self.connections = Connections()
        self.ports = Ports(
            *(reactor, self.inventory, self.connections),
            accepting=parent is None,
            prepareFactory=shareAccessLog,
        )
        self.fds = Fds(reactor, self.inventory, self.ports, self.connections)
        self._insisting = Deadline(reactor)
        self.maxGenerations = MAX_GENERATIONS
        manifest = self._parent.manifest
        path = pidFile or manifest.pidFile
        self._pidFile = PidFile(path) if path else None
        self.number = ProcessLogger.generation = manifest.generation
        self.inventory.inherit(manifest.entries, self._parent.descriptors)
        self._older = Older(reactor, self.inventory)

    @property
    def olderAreGone(self) -> OneShot:
        """
        That nobody is left who was there before; as far as is known, where the parent
        has handed on nobody.
        """
        return self._older.areGone if self._older.areKnown else self._parent.isGone

    def connect(self, lifecycle: Lifecycle) -> None:
        """
        Begin to talk with the parent, if there is one.
        """
        self._older.watch()
        super().connect(lifecycle)

    def suggestPidFile(self, path: str) -> None:
        """
        Use this pid file, unless the application has named one.
        """
        if self._pidFile is None:
            self._pidFile = PidFile(path)

    def prepare(self) -> None:
        """
        Do what may fail, or take time, before this process asks to take over.

        @raise PidFileError: if the pid file cannot be written.
        """
        loadKnownProtocols()
        if self._pidFile is not None:
            self._pidFile.prepare()

    def leave(self) -> None:
        """
        Tidy up, after everything has been stopped.
        """
        self.ports.factories.stop()
        self.ports.forgetAll()
        if self._pidFile is not None:
            self._pidFile.remove()
        self._journal.tell(Left)

    # -- txtableflip._steps.Steps

    def startChild(self) -> None:
        self._journal.tell(Starting)
        command = self._command()
        self._older.include(self.number)
        manifest = Manifest(
            generation=self.number + 1,
            upgradeTimeout=self._upgradeTimeout,
            pidFile=self._pidFile.path if self._pidFile is not None else None,
            entries=self.inventory.entries(),
        )
        self.begin(command, manifest, self.inventory.descriptors())

    def confirmChild(self) -> None:
        try:
            self.fds.park()
        finally:
            super().confirmChild()

    def park(self) -> None:
        self._insisting.stop()
        self.ports.park()

    def accept(self) -> None:
        self.ports.resume()

    def takePidFile(self) -> None:
        if self._pidFile is not None:
            self._pidFile.take()

    def insistOnPidFile(self) -> None:
        try:
            self.takePidFile()
        except PidFileError as error:
            _log.error("{error}; trying again", error=str(error))
            self._insisting.after(PID_FILE_INTERVAL, self.insistOnPidFile)

    def finalise(self) -> None:
        self.ports.finalise()
        self.fds.resume()
        self._older.limit(self.maxGenerations)
        self._parent.lastWords.end()
        _tellChanges(self.inventory, isFirst=self.number == 1)

    def letGo(self) -> None:
        self.isReplaced = True
        self.fds.closeHandedOver()
        self.ports.letGo()
        # Whoever drains still is not to think that nobody serves when this one ends.
        self._parent.sayGoodbye()

    def exitWithFailure(self) -> None:
        exitstatus.fail()

    def die(self) -> None:
        os._exit(1)


class Exit:
    """
    How this process ends.

    @ivar isShuttingDown: whether the reactor is.
    """

    def __init__(self, reactor: Reactor, generation: Generation) -> None:
        self.isShuttingDown = False
        self._reactor = reactor
        self._generation = generation

    @inlineCallbacks
    def drain(self, timeout: float) -> Any:
        """
        Finish what is open, and close what listens, if that has not been let go of;
        the factories are stopped after their last connections, and not before.
        """
        ours = self._generation
        if not ours.isReplaced:
            # Clients should learn at once that nobody accepts.
            yield ours.ports.stop()
            ours.ports.forgetAll()
        drain = Drain(self._reactor, ours.connections, timeout, Journal(), ours.isReplaced)
        outcome = yield drain.run()
        yield ours.ports.stop()
        ours.ports.factories.stop()
        return outcome

    def endIn(self, seconds: float) -> None:
        """
        Be sure that this process has ended in some time: it is ended then,
        whatever it does, with a last entry in the log that says what held it.

        @param seconds: how long it may take.
        """
        watchdog.endIn(seconds, exitStatus=0 if self._generation.isReplaced else 1)

    def shutDown(self, stop: Callable[[], Deferred[None]]) -> Deferred[None]:
        """
        The reactor does.

        @param stop: refuses upgrades, and waits for a child that does not serve.
        """
        self.isShuttingDown = True
        return stop().addCallback(lambda ignored: self._generation.sayGoodbye())


def _tellChanges(inventory: Inventory, *, isFirst: bool) -> None:
    """
    Log what is inherited otherwise than before, and what never will be.
    """
    changes = inventory.changes
    changes.foreign = foreignListeners(inventory.inodes())
    if not isFirst:
        _log.info(
            "kept {kept}, newly bound {bound}, dropped {dropped}, changed {changed}",
            **{name: value for name, value in vars(changes).items() if name != "foreign"},
        )
    if changes.foreign:
        _log.warn(
            "{foreign} is not inheritable (no tableflip: prefix): the next version cannot "
            "bind it while this process runs",
            foreign=", ".join(changes.foreign),
        )
