"""
The listening sockets of this process, and the ports on them.

Each socket is made here and then adopted by the reactor, in the first
generation as in any other: a port that the reactor makes itself calls
shutdown(2) when it closes, which ends the listening in every process that
shares the socket.  Nothing here may make a socket blocking, either: that flag
is shared, too.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from twisted.internet.defer import Deferred, DeferredList, inlineCallbacks, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from txtableflip._draining.connections import (
    AcceptedConnections,
    Connections,
    CountedTCPServer,
    countedTransport,
)
from txtableflip._draining.goodbyes import findDrainable
from txtableflip._draining.work import Task, Tasks
from txtableflip._handover.manifest import Key
from txtableflip._journal import ProcessLogger
from txtableflip._observers import OneShot
from txtableflip._sockets import unixpaths
from txtableflip._sockets.datagram import AdoptedPort
from txtableflip._sockets.each import forEach, requireEach
from txtableflip._sockets.inuse import explaining
from txtableflip._sockets.inventory import (
    HeldDescriptor,
    Inventory,
    SocketOptions,
    stopForAll,
)
from txtableflip._sockets.migrating import whetherToMigrate
from txtableflip._sockets.shared import Shared
from txtableflip._sockets.unixport import UNIXPort
from txtableflip.interfaces import Reactor

MOST_TURNS = 100
"""
In how many reactor turns queues are emptied at most, a hundred connections in each: new
ones may come all the time.
"""

_LONGEST_QUEUE = 2**31 - 1
"""
The longest queue that listen(2) takes; the kernel then shortens it to what is configured.
"""

ANY = SocketOptions()
"""
The socket stays as it was made.
"""

_log = ProcessLogger()


@dataclass(eq=False)
class _Listener:
    """
    A socket of the inventory, and the reactor's port on it.

    @ivar wanted: the socket's options in this release.
    @ivar ownsPath: whether its path is ours to remove: if this process has made it, or it
        is final that it serves; and until it is final that a child serves.
    @ivar answering: what it has still to do when a child has the socket.
    @ivar isLent: whether the parent may still take it back, as nothing is final yet.
    @ivar hasLock: whether the lock beside the path has been ours.
    @ivar isStopping: whether its port has been told to close.
    @ivar isReleased: whether the application has stopped listening on it.
    """

    key: Key
    held: HeldDescriptor
    wanted: SocketOptions
    ownsPath: bool
    port: Any = None
    answering: Task | None = None

    def __post_init__(self) -> None:
        self.isLent = not self.ownsPath
        self.hasLock = self.ownsPath and self.wanted.isLocked
        self.isStopping = self.isReleased = False
        self._closed = OneShot()

    def __str__(self) -> str:
        return str(self.key)

    def begin(
        self,
        adopt: Callable[[socket.socket], Any],
        release: Callable[[], None],
        forget: Callable[[], None],
        *,
        accepting: bool,
    ) -> IListeningPort:
        """
        Make a port of it.

        @param release: called when the application stops listening on it.
        @param forget: called when the port is closed.
        """
        try:
            self.port = adopt(cast(socket.socket, self.held.handle))
        except BaseException:
            forget()
            raise
        callWhenClosed(self.port, forget)
        how = "new" if self.ownsPath else "inherited"
        if not accepting:
            self.park()
        elif not self.ownsPath:
            self.accept()
        _log.info("listening on {key} ({how} socket)", key=str(self.key), how=how)
        return _ListeningPort(self, release)

    def park(self) -> None:
        self.port.stopReading()

    def accept(self) -> None:
        self.port.startReading()
        if self.wanted.isLocked:
            self.hasLock = True
            unixpaths.takeLock(self.key.address)

    def finalise(self, changed: list[str]) -> None:
        """
        @param changed: gets, in words, what is changed of the socket.
        """
        self.ownsPath, self.isLent = True, False
        self._applyOptions(changed)

    def _applyOptions(self, changed: list[str]) -> None:
        """
        Give an inherited socket the options of this release, if they differ from those of
        the last.
        """
        backlog, mode = self.wanted.backlog, self.wanted.mode
        if backlog is not None and self.held.backlog not in (None, backlog):
            changed.append(f"{self.key}: backlog {self.held.backlog}, now {backlog}")
            self.held.backlog = backlog
            cast(socket.socket, self.held.handle).listen(backlog)
        if mode is not None and self.held.mode not in (None, mode):
            changed.append(f"{self.key}: mode {self.held.mode:o}, now {mode:o}")
            self.held.mode = mode
            unixpaths.change(self.key.address, self.held.path, mode)

    @property
    def isStream(self) -> bool:
        """
        Whether it accepts connections.
        """
        return cast(socket.socket, self.held.handle).type == socket.SOCK_STREAM

    def isAwaited(self) -> bool:
        """
        Whether clients wait in its queue.
        """
        poll = select.poll()
        poll.register(self.held.handle.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def acceptSome(self) -> None:
        """
        Accept up to a hundred of the clients that wait, though it is parked.
        """
        self.port.doRead()

    def stop(self) -> Deferred[None]:
        """
        Close the port, once: the application may want that when we do.
        """
        if not self.isStopping:
            self.isStopping = True
            closing: Deferred[Any] = maybeDeferred(self.port.stopListening)
            closing.addCallbacks(lambda ignored: self._closed.fire(), self._stopFailed)
        return self._closed.wait()

    def _stopFailed(self, failure: Failure) -> None:
        _log.failure("cannot stop {key}", failure=failure, key=str(self.key))
        self._closed.error(failure.value or CannotListenError(None, str(self.key), failure))

    def disown(self) -> None:
        """
        Its path, and the lock beside it, are another process's from now on.
        """
        self.ownsPath = self.hasLock = False

    def answerIn(self, tasks: Tasks) -> None:
        """
        Make the drain wait for what a port that receives datagrams may have to send.
        """
        if _mayAnswer(self.port):
            self.answering = tasks.begin(str(self), self.port.protocol, self.port.stopListening)

    def answered(self) -> None:
        """
        The port is closed.
        """
        if self.answering is not None:
            self.answering.finish()

    def removePath(self) -> None:
        """
        Remove its path if it is ours; and its lock if that names us.
        """
        if self.ownsPath:
            unixpaths.remove(self.key.address, self.held.path)
        if self.hasLock:
            unixpaths.releaseLock(self.key.address)


class KeptFactories:
    """
    The factories of ports that have been closed, which are not stopped while there may be
    connections.
    """

    def __init__(self) -> None:
        self._kept: list[Any] = []

    def keep(self, port: Any) -> None:
        """
        That port is about to be closed.
        """
        factory = getattr(port, "factory", None)
        if factory is not None:
            factory.doStart()
            self._kept.append(factory)

    def stop(self) -> None:
        """
        The last connections have been closed, too.
        """
        kept, self._kept = self._kept, []
        forEach("stop", kept, lambda factory: factory.doStop())


class Ports:
    """
    Adopts listening sockets, and parks and resumes them all.

    @ivar accepting: whether this is the generation that accepts.
    @ivar shared: what a child has, too.
    @ivar isFirst: whether there was no generation before it.
    @ivar isReady: whether this process has said that it is.
    @ivar factories: those of the ports that have been closed.
    @ivar migrates: whether connections migrate unless their listener says otherwise.
    """

    def __init__(
        self,
        reactor: Reactor,
        inventory: Inventory,
        connections: Connections,
        *,
        accepting: bool,
        prepareFactory: Callable[[Any], object] = lambda factory: None,
    ) -> None:
        """
        @param prepareFactory: called with each factory before it is listened
            with.
        """
        self.accepting: bool = accepting
        self.isFirst: bool = accepting
        self.isReady = False
        self._adoptPort = reactor.adoptStreamPort  # services.py may replace that
        self._reactor = reactor
        self.inventory = inventory
        self.connections = connections
        self._prepareFactory = prepareFactory
        self.migrates: bool | str = False
        self._listeners: dict[_Listener, None] = {}
        self._migrating: dict[Key, _Listener] = {}
        self._isReplaced = False
        self.shared = Shared(inventory)
        self.factories = KeptFactories()

    def listenOn(
        self,
        key: Key,
        create: Callable[[], HeldDescriptor],
        factory: Any,
        options: SocketOptions = ANY,
        drainTimeout: float | None = None,
        *,
        migrates: bool | str | None = None,
    ) -> IListeningPort:
        """
        Accept connections on the socket of a name.

        @param create: makes the socket if none was inherited.
        @param options: those that an inherited one gets.
        @param drainTimeout: how long its connections have to finish when this process
            exits, in seconds, if not as long as all.
        @param migrates: whether they go to the next generation, and if so, whether
            C{"together"}; C{None} for what L{migrates} says.
        @raise ValueError: if listen(2) would not take the backlog.
        @raise NotInheritable: if its connections are to migrate, and cannot.
        """
        _checkBacklog(key, options)
        self._prepareFactory(factory)
        accepted = self.connections.acceptedBy(str(key), drainTimeout)
        accepted.key = key
        accepted.migrates = whetherToMigrate(key, factory, migrates, self.migrates)
        adopt = partial(_adoptStream, self._reactor, self._adoptPort, factory, accepted)
        port: Any = self.open(key, create, adopt, options)
        if accepted.migrates:
            self._migrating[key] = port.listener
        return cast(IListeningPort, port)

    def portOf(self, key: Key) -> Any:
        """
        @return: the reactor's port on a listener of which connections migrate, or
            C{None} if there is none.
        """
        listener = self._migrating.get(key)
        return None if listener is None else listener.port

    @property
    def areMigrating(self) -> bool:
        """
        Whether there is a listener of which connections migrate.
        """
        return bool(self._migrating)

    def open(
        self,
        key: Key,
        create: Callable[[], HeldDescriptor],
        adopt: Callable[[socket.socket], Any],
        options: SocketOptions = ANY,
    ) -> IListeningPort:
        """
        Find the socket of a name among what was inherited, or create it; and
        make a port of it, parked if this is not the generation that accepts.

        @param adopt: makes the reactor's port on a copy of the socket.
        """
        again = self.shared.claim(key)
        found = again or self.inventory.claim(key)
        held = found or self.inventory.add(key, explaining(create, self.inventory.inherited))
        listener = _Listener(key, held, options, ownsPath=found is None)
        release, forget = partial(self._release, listener), partial(self._forget, listener)
        port = listener.begin(adopt, release, forget, accepting=self.accepting)
        self._listeners[listener] = None
        if again is not None:
            listener.finalise(self.inventory.changes.changed)
        return port

    def park(self) -> None:
        """
        Stop accepting, everywhere and at once, and keep the sockets.

        @raise Exception: the first error, when all have had their turn.
        """
        self.accepting = False
        requireEach("park", self._listening(), _Listener.park)

    def resume(self) -> None:
        """
        Start accepting, everywhere, and take the locks.

        @raise Exception: the first error, when all have had their turn.
        """
        self.accepting = True
        requireEach("resume", self._listening(), _Listener.accept)

    def _listening(self) -> list[_Listener]:
        return [each for each in self._listeners if not each.isStopping]

    def finalise(self) -> None:
        """
        Give what was inherited the options of this release, own the paths, and drop what
        was not claimed.
        """
        changed = self.inventory.changes.changed
        forEach("finalise", self._listening(), lambda listener: listener.finalise(changed))
        self.inventory.dropInherited()

    def letGo(self) -> None:
        """
        A child has everything permanently: close what accepts.  Ports that receive
        datagrams may still have some to answer, and the parent may still hand over
        connections.
        """
        self._isReplaced = True
        for listener in self._listeners:
            if self.shared.isTold(listener.held):
                listener.disown()
        self.shared.letGo()
        _close([each for each in self._listeners if each.isStream], self.factories)
        forEach("ask", self._listeners, lambda each: each.answerIn(self.connections.tasks))

    def stop(self) -> Deferred[Any]:
        """
        Close all ports, which no child is to inherit then.  Their factories are not stopped
        yet, because they may have connections: see L{KeptFactories}.

        @return: a Deferred that fires when they are closed.
        """
        return _close(list(self._listeners), self.factories)

    def forgetAll(self) -> None:
        """
        This process exits: close all sockets, and remove the names that are ours.
        """
        self.shared.leave()
        forEach("forget", self._listeners, self._forget)
        self.inventory.closeInherited()

    def _forget(self, listener: _Listener) -> None:
        self._release(listener)
        self._listeners.pop(listener, None)
        listener.answered()

    def _release(self, listener: _Listener) -> None:
        if listener.isReleased:
            # Its name and path may be used by another listener by now.
            return
        listener.isReleased = True
        if not self._isReplaced and self._migrating.get(listener.key) is listener:
            del self._migrating[listener.key]
        if listener.isLent:
            # It is dropped when it is final that this process serves.
            self.inventory.giveBack(listener.key, listener.held)
        elif not self.shared.stop(listener.key, listener.held):
            listener.removePath()
            if self.inventory.isStored and self.accepting:
                # The service manager closes it a moment later.
                stopForAll(listener.held)
            self.inventory.remove(listener.key, listener.held)


def _close(listeners: list[_Listener], factories: KeptFactories) -> Deferred[Any]:
    for listener in listeners:
        factories.keep(listener.port)
    return DeferredList([each.stop() for each in listeners], consumeErrors=True)


def _checkBacklog(key: Key, options: SocketOptions) -> None:
    if options.backlog is not None and abs(options.backlog) > _LONGEST_QUEUE:
        raise ValueError(f"{key}: the backlog must be {_LONGEST_QUEUE} at most")


@inlineCallbacks
def acceptQueued(reactor: Reactor, ports: Ports, seconds: float) -> Any:
    """
    Accept the clients in the queues, though all ports are parked: for when no other process
    will, and the sockets are about to be closed.

    @param seconds: how long that may take.
    @return: a Deferred that fires when the queues are empty, or after that time.
    """
    end = reactor.seconds() + seconds
    for _ in range(MOST_TURNS):
        streams = [each for each in ports._listeners if each.isStream]  # noqa: SLF001 - of this module
        awaited = [each for each in streams if each.isAwaited()]
        if not awaited or reactor.seconds() >= end:
            return
        forEach("accept on", awaited, _Listener.acceptSome)
        yield deferLater(cast(Any, reactor), 0, lambda: None)


def _adoptStream(
    reactor: Reactor,
    adoptPort: Callable[..., Any],
    factory: Any,
    accepted: AcceptedConnections,
    sock: socket.socket,
) -> Any:
    """
    @param adoptPort: as L{twisted.internet.interfaces.IReactorSocket.adoptStreamPort}.
    @return: a port that accepts on a copy of a socket, and counts.
    """
    port: Any
    if sock.family == socket.AF_UNIX:
        port = UNIXPort(reactor, sock.dup(), factory, accepted)
        port.startListening()
    else:
        port = adoptPort(sock.fileno(), sock.family, factory)
        port.transport = countedTransport(CountedTCPServer, accepted)
    return port


def _mayAnswer(port: Any) -> bool:
    """
    @return: whether the protocol of a port, which receives nothing any more, may still have
        something to send; one that can be drained may say goodbye.
    """
    if not isinstance(port, AdoptedPort):
        return False
    return port.hasReceived or findDrainable(port) is not None


def callWhenClosed(port: Any, call: Callable[[], object]) -> None:
    """
    Call something before a port of the reactor's is closed, by whatever code: a datagram
    protocol may close it, as the port is its transport, and so may the reactor, if the
    kernel reports that the socket is dead.
    """
    lost = port.connectionLost

    def connectionLost(*reason: Any) -> None:
        call()
        lost(*reason)

    port.connectionLost = connectionLost


@implementer(IListeningPort)
class _ListeningPort:
    """
    A port of the reactor's, which leaves the inventory when it is stopped.
    """

    def __init__(self, listener: _Listener, release: Callable[[], None]) -> None:
        self.listener = listener
        self._port = listener.port
        self._release = release

    def __repr__(self) -> str:
        return f"<inheritable {self._port!r}>"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)

    @property
    def _type(self) -> str:
        """
        What a TCP port calls itself in the log: Twisted's listenSSL sets it to C{"TLS"}.
        """
        return cast(str, self._port._type)  # noqa: SLF001 - the wrapped port's own

    @_type.setter
    def _type(self, kind: str) -> None:
        self._port._type = kind  # noqa: SLF001 - the wrapped port's own

    def startListening(self) -> None:
        """
        @raise CannotListenError: always, because this port listens already, or
            is closed: to listen again, listen on its endpoint.
        """
        raise CannotListenError(None, str(self.listener), "a port cannot be started twice")

    def stopListening(self) -> Any:
        """
        Close the port.

        @return: a Deferred that fires when that has been done.
        """
        self._release()
        return self.listener.stop()

    def getHost(self) -> Any:
        """
        @return: the address that clients connect to.
        """
        return self._port.getHost()
