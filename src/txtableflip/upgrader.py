"""
L{Upgrader}: this process as one in a chain of generations.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IReactorProcess,
    IReactorSocket,
    IReactorUNIX,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from zope.interface import implementer

from txtableflip import _lifecycle
from txtableflip._draining.connections import OpenConnection
from txtableflip._generation import Generation
from txtableflip._handover.parent import findParent
from txtableflip._handover.variable import takeChannel
from txtableflip._launch.relaunch import successorCommand
from txtableflip._launch.signals import SignalHandler, StopHandler, redeploySignal, signalNumber
from txtableflip._sockets.endpoint import InheritableEndpoint, Readiness
from txtableflip._sockets.inventory import Changes
from txtableflip._sockets.named import Fds
from txtableflip._sockets.reactor import InheritingReactor
from txtableflip.errors import NotSupported, PidFileError, UpgraderExists
from txtableflip.interfaces import IUpgrader

UPGRADE_TIMEOUT = 60.0
"""
How long a child has to become ready if nothing else is said, in seconds.
"""

_current: Upgrader | None = None


@implementer(IUpgrader)
class Upgrader:
    """
    The one object of a process that knows of its parent and its child.

    Make it before anything listens; let what is to be inherited listen through
    it (L{endpoint}, L{reactor}, or C{tableflip:} endpoint strings); say
    L{ready}; and leave when L{whenExiting} fires.

    @ivar hasParent: whether this process was started in an upgrade
        (tableflip's C{HasParent}).
    @ivar generation: which one this is in its chain, counted from 1.
    @ivar isShuttingDown: whether the reactor is.
    @ivar reactor: the reactor, but that what listens through it is inherited:
        for C{TCPServer(..., reactor=upgrader.reactor)} and the like.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        upgradeTimeout: float = UPGRADE_TIMEOUT,
        pidFile: str | None = None,
        command: Sequence[str] | None = None,
        envFile: str | None = None,
    ) -> None:
        """
        If this process was started in an upgrade, wait for what the parent has
        to hand over; that is there already.

        @param upgradeTimeout: how long a child may take until it is ready, in
            seconds; then it is ended, and the upgrade has failed.
        @param pidFile: the path of a file that is to name the process that
            serves.
        @param command: what to start as the next version, in the place of the
            command by which this process was started.  It must not become a
            daemon.
        @param envFile: the path of a file with environment variables for the
            next version, C{NAME=value} in each line, which is read when that
            is started.
        @raise NotSupported: if the platform or the reactor cannot do it.
        @raise UpgraderExists: if this process has one.
        @raise ValueError: if C{upgradeTimeout} is not positive, or C{command}
            is no list of words, of which the first names a program.
        @raise ChannelError: if what the parent sent cannot be used.
        """
        global _current  # noqa: PLW0603 - there is one to a process
        checkTimeout("upgradeTimeout", upgradeTimeout)
        if command is not None:
            checkCommand(command)
        checkSupport(reactor)
        if _current is not None:
            raise UpgraderExists(
                "this process has an Upgrader: make yours before the first tableflip: "
                "endpoint string, or pass the one there is (txtableflip.currentUpgrader())"
            )
        parent = findParent(takeChannel())
        self._process = Generation(
            *(reactor, parent, upgradeTimeout, pidFile),
            lambda: successorCommand(command, envFile),
        )
        self._core = _lifecycle.Core(self._process)
        self._lifecycle = _lifecycle.begin(self._core, hasParent=parent is not None)
        self._reactor = reactor
        self._listens = Readiness()
        self.isShuttingDown = False
        self.service: object = None
        self.hasParent = parent is not None
        self.generation = self._process.generation
        self.reactor = InheritingReactor(reactor, self._process.ports)
        self._process.connect(self._lifecycle)
        reactor.addSystemEventTrigger("before", "shutdown", self._shutDown)
        reactor.addSystemEventTrigger("after", "shutdown", self._process.leave)
        _current = self

    @property
    def fds(self) -> Fds:
        """
        Files, connections and sockets that the application hands over by name
        (tableflip's C{Fds}).
        """
        return self._process.fds

    @property
    def changes(self) -> Changes:
        """
        How what this process uses differs from what its parent used: complete
        when L{ready} fires.
        """
        return self._process.inventory.changes

    @property
    def used(self) -> list[str]:
        """
        What listens, and would be inherited by a child (tableflip's C{used}).
        """
        return self._process.inventory.names()

    @property
    def descriptions(self) -> list[str]:
        """
        The strings of which inheritable endpoints have been made.
        """
        return self._listens.descriptions

    @property
    def pending(self) -> list[str]:
        """
        Which endpoints have been made and not been told to listen: L{whenListening}
        waits for them.
        """
        return self._listens.pending()

    @property
    def connections(self) -> list[OpenConnection]:
        """
        The open connections that inheritable listeners have accepted.
        """
        listeners = self._process.connections.listeners
        return [each for accepted in listeners for each in accepted.describe()]

    def endpoint(
        self, description: str, drainTimeout: float | None = None
    ) -> IStreamServerEndpoint:
        """
        Make an endpoint whose listening socket is inherited: what the string
        C{tableflip:} plus C{description} makes.

        @param description: an endpoint string, such as C{tcp:8080}.
        @param drainTimeout: how long its connections have to finish when this
            process leaves, in seconds, if not as long as all (L{drain}).
        @raise ValueError: if C{description} describes no endpoint, or
            C{drainTimeout} is not positive.
        """
        if drainTimeout is not None:
            checkTimeout("drainTimeout", drainTimeout)
        return InheritableEndpoint(
            self._reactor, self._process.ports, self._listens, description, drainTimeout
        )

    def whenListening(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when every endpoint that has been made
            (L{endpoint}, and C{tableflip:} strings) listens, or is not held by
            anybody any more.  It fails as the first of them did that could not
            listen.
        """
        return self._listens.whenSettled()

    def ready(self) -> Deferred[None]:
        """
        Say that this process has initialised: everything listens that is to.
        In the first generation it serves already; in any other the parent now
        stops accepting, and this process begins to (tableflip's C{Ready}).

        @return: a Deferred that fires when this process serves.  It fails with
            L{PidFileError} if the pid file cannot be written, with
            L{Abandoned}, L{ParentTimedOut} or L{Stopping} if this process is
            not to serve any more: it should leave then.
        """
        try:
            self._process.prepare()
        except PidFileError as error:
            self._lifecycle.initialisationFailed(error)
        else:
            self._lifecycle.ready()
        return self._core.isReady.wait()

    def refuse(self, error: Exception) -> None:
        """
        Say that this process will not be ready, and why: the parent's upgrade
        fails with the reason (L{ChildRefused}), without waiting for the
        deadline.
        """
        self._lifecycle.initialisationFailed(error)

    def upgrade(self) -> Deferred[None]:
        """
        Start this program anew, and have the new process take over
        (tableflip's C{Upgrade}).

        @return: a Deferred that fires when it has.  It fails at once with a
            L{Refusal} if this is not the moment, and with an L{UpgradeFailed}
            if the new process did not take over; this one serves on.
        """
        result: Deferred[None] = Deferred()
        self._lifecycle.upgrade(result)
        return result

    def redeploy(self) -> None:
        """
        Upgrade as soon as that may be, as an operator's signal asks for: a
        request that comes while an upgrade runs, or while the parent is still
        there, is remembered, once, and reaches whoever may act on it.  The
        outcome is in the log.
        """
        self._lifecycle.redeploy()

    def hold(self, name: str) -> None:
        """
        Have a signal wait until L{redeployOn} handles it, for it would end this
        process if it came before.

        @param name: the signal's, with or without C{SIG}: C{"HUP"}.
        @raise ValueError: if there is none of that name.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, [redeploySignal(name)])

    def redeployOn(self, name: str) -> None:
        """
        Make a signal call L{redeploy}, until the reactor stops.  A signal that
        comes while a process starts waits for it to be ready.

        @param name: the signal's, with or without C{SIG}: C{"HUP"}.
        @raise ValueError: if there is none of that name.
        """
        handler = SignalHandler(
            redeploySignal(name),
            lambda: self._reactor.callFromThread(self._lifecycle.redeploy),
        )
        handler.install()
        self._process.signals.append(handler.number)
        self._reactor.addSystemEventTrigger("after", "shutdown", handler.restore)

    def stopOn(self, name: str) -> StopHandler:
        """
        Make a signal call L{stop}, the first time that it comes, so that what
        is open can be finished; the second time, it does what it did before.
        That begins when the reactor runs, which has handlers of its own by then;
        a signal that nobody has handled goes on to end the process.

        @param name: the signal's, with or without C{SIG}: C{"TERM"}.
        @return: what listens for the signal.
        @raise ValueError: if there is none of that name.
        """
        number = signalNumber(name)
        handler = StopHandler(
            number, lambda: self._reactor.callFromThread(self._stopBySignal, number)
        )
        self._reactor.callWhenRunning(handler.install)
        return handler

    def _stopBySignal(self, number: int) -> None:
        self._log.info(
            "stopping because of {name}, when what is open has finished; at once if it comes "
            "again",
            name=signal.Signals(number).name,
        )
        self.stop()

    def whenExiting(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when this process should finish what it
            began, and go: its successor serves, or it was told to stop
            (tableflip's C{Exit}).
        """
        return self._core.isExiting.wait()

    def whenParentExits(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when the parent is gone, or at once if
            there is none; cancel it to stop waiting (tableflip's
            C{WaitForParent}).
        """
        if not self.hasParent:
            self._core.parentIsGone.fire()
        return self._core.parentIsGone.wait()

    def stop(self) -> Deferred[None]:
        """
        Refuse upgrades from now on; end a child that has not taken over yet
        (tableflip's C{Stop}).  The reactor's shutdown calls this.

        @return: a Deferred that fires when there is no such child.
        """
        self._lifecycle.stop()
        return self._core.isExiting.wait()

    def _shutDown(self) -> Deferred[None]:
        self.isShuttingDown = True
        return self.stop().addCallback(lambda ignored: self._process.letGo())

    def endIn(self, seconds: float) -> None:
        """
        Be sure that this process has ended in some time: it is ended then,
        whatever it does, with a last entry in the log that says what held it,
        such as a thread that never returns.  Its exit status is 0 if a child
        has taken over, and else 1.

        @param seconds: how long it may take.
        """
        self._process.endIn(seconds)

    def usePidFile(self, path: str) -> None:
        """
        Name the file that is to tell which process serves, unless one has been
        named: before L{ready}.
        """
        self._process.suggestPidFile(path)

    def drain(self, timeout: float) -> Deferred[int]:
        """
        Let the connections finish that were accepted by inheritable listeners,
        then stop these listeners and their factories.

        How each protocol does that is described at
        L{IDrainable <txtableflip.interfaces.IDrainable>}.

        @param timeout: how long the connections have, in seconds.
        @return: a Deferred that fires with how many were cut.
        @raise ValueError: if C{timeout} is not positive.
        """
        checkTimeout("timeout", timeout)
        drained: Deferred[Any] = self._process.drain(timeout)
        return drained.addCallback(lambda outcome: outcome.cut)


def currentUpgrader() -> Upgrader | None:
    """
    @return: the L{Upgrader} of this process, if there is one.
    """
    return _current


def checkSupport(reactor: Any) -> None:
    """
    @raise NotSupported: if there can be no upgrades here.
    """
    if os.name != "posix":
        raise NotSupported("this platform cannot hand sockets to a new process")
    for interface in (IReactorSocket, IReactorUNIX, IReactorProcess):
        if not interface.providedBy(reactor):
            raise NotSupported(
                f"{type(reactor).__name__} cannot hand sockets to a new process: it does not "
                f"provide {interface.__name__}"
            )


def checkCommand(command: Sequence[str]) -> None:
    """
    @raise ValueError: if that cannot be started: it is empty, a whole command
        line in one string, or some of it no string.
    """
    isText = all(isinstance(word, str) for word in command)
    if isinstance(command, str) or not command or not isText:
        raise ValueError(
            f"command must be a list of strings, a program and its arguments, not {command!r}"
        )


def checkTimeout(name: str, seconds: float) -> None:
    """
    @raise ValueError: if that is no time to wait.
    """
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ValueError(f"{name} must be a positive number of seconds, not {seconds!r}")
