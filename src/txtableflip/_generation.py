"""
This process, as one of its chain: carries out everything that the rules of the L{lifecycle
<txtableflip._lifecycle>} can ask for (L{txtableflip._steps.Steps}).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks

from txtableflip._counters import Counters
from txtableflip._draining.connections import Connections
from txtableflip._draining.drain import LAST_BYTES_TIMEOUT
from txtableflip._draining.goodbyes import loadKnownProtocols
from txtableflip._draining.leaving import Leaving
from txtableflip._handover.messages import CHANGES, MIGRATION, OUTPUT, Manifest
from txtableflip._handover.nobody import NoParent
from txtableflip._handover.parent import Parent
from txtableflip._journal import Left, ProcessLogger, Starting
from txtableflip._launch import exitstatus
from txtableflip._launch.command import Command
from txtableflip._launch.logfile import shareAccessLog
from txtableflip._launch.pidfile import PidFile
from txtableflip._launch.shutdown import Shutdown
from txtableflip._launch.watchdog import Watchdog
from txtableflip._lifecycle import Lifecycle
from txtableflip._migration.known import registerKnown
from txtableflip._migration.migration import BUDGET, Migration
from txtableflip._migration.taking import Taking
from txtableflip._observers import Deadline
from txtableflip._older import Older
from txtableflip._relatives import Relatives
from txtableflip._sockets.inuse import whyInUse
from txtableflip._sockets.inventory import Inventory
from txtableflip._sockets.named import Fds
from txtableflip._sockets.ports import Ports, acceptQueued
from txtableflip._sockets.shared import learn
from txtableflip._sockets.uninherited import foreignListeners
from txtableflip._steps import Order
from txtableflip.errors import PidFileError
from txtableflip.interfaces import Reactor

MAX_GENERATIONS = 4
"""
How many generations may run by default.
"""

STOP_TIMEOUT = 10.0
"""
How long a process may take to exit once its connections have ended, in seconds.
"""

PID_FILE_INTERVAL = 1.0
"""
How long to wait before a pid file that could not be written is tried again, in seconds.
"""

_log = ProcessLogger()


class Generation(Relatives, Leaving):
    """
    Joins parent and child, the ports and the pid file.  It implements
    L{txtableflip._steps.Steps}.

    @ivar command: says how a child is to be started.
    @ivar upgradeTimeout: how long a child may take to become ready, in seconds.
    @ivar number: which one it is in the chain, counted from 1.
    @ivar service: what runs the upgrades of this process, if something does.
    @ivar maxGenerations: how many may run when this one serves permanently, this one
        included: the oldest are terminated.
    @ivar olderAreGone: that no older process is left; where the parent has handed on none,
        that the parent has exited.
    @ivar isReplaced: whether a child has taken over permanently.
    @ivar ownInodes: those of sockets that belong to this process only, as they should.
    @ivar manifest: what the parent has handed over.
    @ivar counters: what this process and all before it have counted.
    @ivar finalSince: when it became final that no parent rolls back, in seconds since the
        epoch; C{None} before that.
    """

    def __init__(
        self,
        reactor: Reactor,
        parent: Parent | NoParent | None,
        upgradeTimeout: float,
        pidFile: str | None,
        command: Callable[[], Command],
    ) -> None:
        """
        @param command: what L{command} is to be.
        @raise ChannelError: if a socket that the parent sent is not what its
            name says.
        """
        super().__init__(reactor, parent)
        self.service: object = None
        self.isReplaced = False
        self.finalSince: float | None = None
        self.ownInodes: set[int] = set()
        self.upgradeTimeout = upgradeTimeout
        self.command = command
        self.inventory = Inventory()
        self.counters = Counters(self.inventory)
        self.connections = Connections()
        self.connections.tellAccepted = lambda: self.counters.add("accepted")
        self.ports = Ports(
            *(reactor, self.inventory, self.connections),
            accepting=parent is None,
            prepareFactory=shareAccessLog,
        )
        self.fds = Fds(self.inventory, self.ports)
        self.migration = Migration(reactor, self.connections)
        taking = Taking(self.ports.portOf, self.migration.arrived)
        self._parent.offered = taking.offered
        self._parent.isGone.wait().addCallback(lambda ignored: taking.parentIsGone())
        self._insisting = Deadline(reactor)
        self.maxGenerations = MAX_GENERATIONS
        self.ports.isFirst = not isinstance(parent, Parent)  # a launcher's, with its sockets
        self.manifest = manifest = self._parent.manifest
        self._pidFile = PidFile(pidFile or manifest.pidFile)
        self.number = ProcessLogger.generation = manifest.generation
        self.inventory.inherit(manifest.entries, self._parent.descriptors)
        self._older = older = Older(reactor, self.inventory)
        self.olderAreGone = older.areGone if older.areKnown else self._parent.isGone
        self._parent.lastOutput.hint = lambda error: whyInUse(error, self.inventory.inherited)

    def connect(self, lifecycle: Lifecycle) -> None:
        """
        Begin to talk with the parent, if there is one.
        """
        self._older.watch()
        super().connect(lifecycle)

    @property
    def olderPids(self) -> list[int]:
        """
        The older processes that still run, the oldest first.
        """
        return self._older.pids

    @property
    def stored(self) -> Sequence[str]:
        """
        The names of what was stored by a parent that died before this process was started.
        """
        return self._parent.stored

    @property
    def pidFile(self) -> str | None:
        """
        The path of the pid file, if there is one.
        """
        return self._pidFile.path

    def suggestPidFile(self, path: str) -> None:
        """
        Use this pid file, unless the application has named one.
        """
        if self._pidFile.path is None:
            self._pidFile = PidFile(path)

    def prepare(self) -> None:
        """
        Do what may fail, or take time, before this process asks to take over.

        @raise PidFileError: if the pid file cannot be written.
        """
        loadKnownProtocols()
        registerKnown()
        self.ports.isReady = True
        self._pidFile.prepare()
        self.counters.begin()

    def leave(self) -> None:
        """
        Tidy up, after everything has been stopped.
        """
        self.ports.factories.stop()
        self.letGoOfAll()
        self.counters.end()
        self._journal.tell(Left)

    def letGoOfAll(self) -> None:
        """
        This process serves no more clients: close what listens, and remove the pid file, so
        that the service can be started again.
        """
        self.ports.forgetAll()
        self._pidFile.remove()

    # -- txtableflip._steps.Steps

    def startChild(self, order: Order) -> None:
        self._journal.tell(Starting)
        self.timeoutOnce = order.drainTimeout
        self._older.include(self.number)
        manifest = Manifest(
            generation=self.number + 1,
            upgradeTimeout=self.upgradeTimeout,
            pidFile=self.pidFile,
            entries=(*self.inventory.entries(), *self._parent.lastOutput.entries()),
            release=ProcessLogger.release,
        )
        ends = self._parent.lastOutput.descriptors()
        descriptors = [*self.inventory.descriptors(), *ends]
        self.begin(self.command(), manifest, descriptors, order)
        self.ports.shared.tell()

    def commitChild(self) -> None:
        if not self._child.can(CHANGES):
            self._child.commit(self.terms.seconds)
            return
        self._child.commit(self.terms.seconds, self.ports.shared.news())
        self.ports.shared.tell()

    def confirmChild(self) -> None:
        self._child.confirm()
        if self._child.can(OUTPUT):
            self._parent.lastOutput.letGo()

    def park(self) -> None:
        self._insisting.stop()
        self.ports.park()

    def learn(self) -> None:
        learn(self.inventory, self._parent.takeNews())

    def accept(self) -> None:
        self.ports.resume()

    def takeBack(self) -> None:
        self.ports.shared.takeBack()
        pid = self.child.pid
        if pid is not None and self._child.mayDrain:
            self._older.includeFailed(self.number + 1, pid)

    def beginDrain(self) -> None:
        if self.child.can(MIGRATION):
            self.connections.stays = set()
        super().beginDrain()

    def cancelDrain(self) -> None:
        self.connections.stays = None
        super().cancelDrain()

    def takePidFile(self) -> None:
        self._pidFile.take()

    def insistOnPidFile(self) -> None:
        try:
            self.takePidFile()
        except PidFileError as error:
            _log.error("{error}; trying again", error=str(error))
            self._insisting.after(PID_FILE_INTERVAL, self.insistOnPidFile)

    def finalise(self) -> None:
        self.finalSince = time.time()
        self.ports.finalise()
        self._older.limit(self.maxGenerations)
        self.inventory.isSettled = True
        inodes = self.inventory.inodes() | self.ownInodes
        _tellChanges(self.inventory, inodes, isFirst=self.number == 1)

    def letGo(self) -> None:
        self.isReplaced = True
        self.ports.letGo()
        # An older process that still drains must not take the end of this one for the end
        # of the service.
        self._parent.sayGoodbye()
        if self.child.can(MIGRATION):
            self.migration.begin(self._child.offer)
            self._awaitOffers()

    def _awaitOffers(self) -> None:
        """
        What the parent has not handed over yet reaches the child through this process.
        """
        if self.parentPid is not None and self.ports.areMigrating:
            what = f"connections that process {self.parentPid} may hand over"
            task = self.connections.tasks.begin(what)
            self.whenParentIsGone().addCallback(lambda ignored: task.finish())

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
        self._shutdown = Shutdown(reactor)
        self._watchdog = Watchdog(self._shutdown.unfinished)
        self._stopTimeout: float | None = None

    @inlineCallbacks
    def finish(self, timeout: float, stopTimeout: float) -> Any:
        """
        Drain, and make sure that this process exits after that.

        @param stopTimeout: how long that may take, in seconds: after that it is killed.
        @return: a Deferred that fires with how many connections were aborted.
        """
        self._stopTimeout = stopTimeout
        longest = self._generation.connections.longestTimeout(timeout)
        self.endIn(BUDGET + longest + LAST_BYTES_TIMEOUT + stopTimeout)
        outcome = yield self.drain(timeout)
        self._shutdown.watch()
        self.endIn(stopTimeout)
        return outcome.cut

    @inlineCallbacks
    def drain(self, timeout: float) -> Any:
        """
        Finish what is open, and close what listens, if that has not been let go of; the
        factories are stopped after their last connections, and not before.
        """
        ours = self._generation
        if not ours.isReplaced:
            if ours.finalSince is not None:
                # Connections that no process has accepted are reset when the last one
                # closes the socket.
                yield acceptQueued(self._reactor, ours.ports, timeout)
            # Clients should learn at once that no process accepts.
            yield ours.ports.stop()
            ours.letGoOfAll()
            ours.connections.stays = None
        yield ours.migration.whenOver()
        outcome = yield ours.drain(timeout, isReplaced=ours.isReplaced)
        yield ours.ports.stop()
        ours.ports.factories.stop()
        return outcome

    def endIn(self, seconds: float) -> None:
        """
        Make sure that this process has exited after some time: see L{Watchdog.endIn}.
        """
        self._watchdog.endIn(seconds)

    def shutDown(self, stop: Callable[[], Deferred[None]]) -> Deferred[None]:
        """
        The reactor shuts down.

        @param stop: refuses upgrades, and waits for a child that does not serve.
        """
        self.isShuttingDown = True
        if self._stopTimeout is not None:
            # Also if the operator does not want to wait for the drain.
            self._shutdown.watch()
            self.endIn(self._stopTimeout)
        return stop().addCallback(lambda ignored: self._generation.sayGoodbye())


def _tellChanges(inventory: Inventory, known: set[int], *, isFirst: bool) -> None:
    """
    Log what is inherited differently than before, and what never will be inherited.

    @param known: the inodes of what is inherited, or is not the application's.
    """
    changes = inventory.changes
    changes.foreign = foreignListeners(known)
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
