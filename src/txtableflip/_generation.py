"""
This process: everything that the rules of the L{lifecycle
<txtableflip._lifecycle>} can have done, carried out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import inlineCallbacks
from twisted.logger import Logger

from txtableflip._draining.connections import Connections
from txtableflip._draining.drain import Drain, loadKnownProtocols
from txtableflip._handover.child import Child
from txtableflip._handover.messages import Manifest
from txtableflip._handover.parent import Parent
from txtableflip._journal import Journal
from txtableflip._launch import watchdog
from txtableflip._launch.logfile import shareAccessLog
from txtableflip._launch.pidfile import PidFile
from txtableflip._launch.relaunch import Command
from txtableflip._lifecycle import Lifecycle
from txtableflip._sockets.inventory import Inventory
from txtableflip._sockets.named import Fds
from txtableflip._sockets.ports import Ports
from txtableflip._sockets.uninherited import foreignListeners


class Generation:
    """
    Joins the parent, the child, the ports and the pid file.  It implements
    L{txtableflip._lifecycle.Steps}.

    @ivar signals: the numbers of the signals that must not kill a child which
        has no handler for them yet.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
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
        self.generation = 1
        self.signals: list[int] = []
        self._child: Child | None = None
        self._reactor = reactor
        self._parent = parent
        self._upgradeTimeout = upgradeTimeout
        self._command = command
        self.inventory = Inventory()
        self.connections = Connections()
        self._pidFile = PidFile(pidFile) if pidFile else None
        self.ports = Ports(
            *(reactor, self.inventory, self.connections),
            accepting=parent is None,
            prepareFactory=shareAccessLog,
        )
        self.fds = Fds(reactor, self.inventory, self.ports, self.connections)
        if parent is not None:
            manifest = parent.manifest
            self.generation = manifest.generation
            self.inventory.inherit(manifest.entries, parent.descriptors)
            if manifest.pidFile:
                self.suggestPidFile(manifest.pidFile)

    def connect(self, lifecycle: Lifecycle) -> None:
        """
        Begin to talk with the parent, if there is one.
        """
        self._lifecycle = lifecycle
        if self._parent is not None:
            self._parent.connect(self._reactor, lifecycle)

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

    @inlineCallbacks
    def drain(self, timeout: float) -> Any:
        """
        Finish what is open, and close what listens; the factories are stopped
        after their last connections, and not before.  A parent keeps its
        sockets to the end, for nobody must think that they are free; otherwise
        clients should learn at once that nobody accepts.
        """
        factories = self.ports.deferFactoryStop()
        if self.isReplaced:
            self.fds.closeHandedOver()
        else:
            yield self.ports.stop()
            self.ports.forgetAll()
        outcome = yield Drain(
            self._reactor, self.connections, timeout, Journal(), self.isReplaced
        ).run()
        if self.isReplaced:
            yield self.ports.stop()
        for factory in factories:
            try:
                factory.doStop()
            except Exception:  # noqa: BLE001 - it is the application's
                self._log.failure("{factory} failed to stop", factory=factory)
        return outcome

    def endIn(self, seconds: float) -> None:
        """
        Be sure that this process has ended in some time.
        """
        watchdog.endIn(seconds, exitStatus=0 if self.isReplaced else 1)

    @property
    def isReplaced(self) -> bool:
        """
        Whether the child has taken over.
        """
        return self._child is not None and self._child.hasTakenOver

    def letGo(self) -> None:
        """
        Leave the channel to a child that serves open until the very end.
        """
        if self._child is not None and self.isReplaced:
            self._child.neverClose()

    def leave(self) -> None:
        """
        Tidy up, after everything has been stopped.
        """
        self.ports.forgetAll()
        if self._pidFile is not None:
            self._pidFile.leave()

    def _tellChanges(self) -> None:
        """
        Log what is inherited otherwise than before, and what never will be.
        """
        changes = self.inventory.changes
        changes.foreign = foreignListeners(self.inventory.inodes())
        if self._parent is not None:
            self._log.info(
                "kept {changes.kept}, newly bound {changes.bound}, dropped {changes.dropped}, "
                "changed {changes.changed}",
                changes=changes,
            )
        if changes.foreign:
            self._log.warn(
                "this process also listens at {foreign} without tableflip: its next version "
                "cannot listen there while this one runs, and clients there will notice",
                foreign=", ".join(changes.foreign),
            )

    # -- txtableflip._lifecycle.Steps

    def startChild(self) -> None:
        self._child = Child(self._reactor, self._lifecycle, self.signals)
        manifest = Manifest(
            generation=self.generation + 1,
            upgradeTimeout=self._upgradeTimeout,
            pidFile=self._pidFile.path if self._pidFile is not None else None,
            entries=self.inventory.entries(),
        )
        self._child.start(self._command(), manifest, self.inventory.descriptors())

    def commitChild(self) -> None:
        if self._child is not None:
            self._child.commit()

    def endChild(self) -> None:
        if self._child is not None:
            self._child.end()

    def forwardRedeploy(self) -> None:
        if self._child is not None:
            self._child.redeploy()

    def sayReady(self) -> None:
        if self._parent is not None:
            self._parent.sayReady()

    def sayServing(self) -> None:
        if self._parent is not None:
            self._parent.sayServing()

    def sayRefused(self, reason: str) -> None:
        if self._parent is not None:
            self._parent.sayRefused(reason)

    def park(self) -> None:
        self.ports.park()
        self.fds.park()

    def resume(self) -> None:
        self.ports.resume()
        self.fds.resume()
        if self._pidFile is not None:
            self._pidFile.take()

    def takeOver(self) -> None:
        self.resume()
        self.inventory.dropInherited()
        self._tellChanges()
        if self._parent is not None:
            self._parent.releaseStderr()
        self._log.info("generation {generation} serves", generation=self.generation)
