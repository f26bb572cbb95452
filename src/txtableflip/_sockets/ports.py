"""
The listening sockets of this process, and the ports on them.

Each socket is made here and then adopted by the reactor, in the first
generation as in any other: a port that the reactor makes itself calls
shutdown(2) when it closes, which ends the listening in every process that
shares the socket.  Nothing here may make a socket blocking, either: that flag
is shared, too.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.python.failure import Failure
from zope.interface import implementer

from txtableflip._draining.connections import (
    AcceptedConnections,
    Connections,
    CountedTCPServer,
    countedTransport,
)
from txtableflip._handover.manifest import Key
from txtableflip._journal import ProcessLogger
from txtableflip._observers import OneShot
from txtableflip._sockets import unixpaths
from txtableflip._sockets.each import forEach, requireEach
from txtableflip._sockets.inventory import HeldDescriptor, Inventory, SocketOptions
from txtableflip._sockets.unixport import UNIXPort
from txtableflip.interfaces import Reactor

_LONGEST_QUEUE = 2**31 - 1
"""
What listen(2) takes at most, which shortens it as the system is configured.
"""

ANY = SocketOptions()
"""
The socket is as it was made.
"""

_log = ProcessLogger()


@dataclass(eq=False)
class _Listener:
    """
    A socket of the inventory, and the reactor's port on it.

    @ivar wanted: what the socket is to be like in this release.
    @ivar ownsPath: whether its path is ours to remove: if this process has made it,
        and from when it is final that it serves; until that is final of a child.
    @ivar hasLock: whether the lock beside the path has been ours.
    """

    key: Key
    held: HeldDescriptor
    wanted: SocketOptions
    ownsPath: bool
    port: Any = None

    def __post_init__(self) -> None:
        self.hasLock = self.ownsPath and self.wanted.isLocked
        self._isStopping = False
        self._closed = OneShot()

    def __str__(self) -> str:
        return str(self.key)

    def begin(self, *, accepting: bool) -> None:
        how = "new" if self.ownsPath else "inherited"
        if not accepting:
            self.park()
        elif not self.ownsPath:
            self.accept()
        _log.info("listening on {key} ({how} socket)", key=str(self.key), how=how)

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
        self.ownsPath = True
        self._applyOptions(changed)

    def _applyOptions(self, changed: list[str]) -> None:
        """
        Give an inherited socket the options of this release, if they are
        others than those of the last.
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

    def stop(self) -> Deferred[None]:
        """
        Close the port, once: the application may want that when we do.
        """
        if not self._isStopping:
            self._isStopping = True
            closing: Deferred[Any] = maybeDeferred(self.port.stopListening)
            closing.addCallbacks(lambda ignored: self._closed.fire(), self._stopFailed)
        return self._closed.wait()

    def _stopFailed(self, failure: Failure) -> None:
        _log.failure("cannot stop {key}", failure=failure, key=str(self.key))
        self._closed.error(failure.value or CannotListenError(None, str(self.key), failure))

    def removePath(self) -> None:
        """
        Remove its path, once, if it is ours; and its lock if that names us.
        """
        if self.ownsPath:
            self.ownsPath = False
            unixpaths.remove(self.key.address, self.held.path)
        if self.hasLock:
            self.hasLock = False
            unixpaths.releaseLock(self.key.address)


class KeptFactories:
    """
    The factories of ports that have been closed, which are not stopped as long as
    there may be connections.
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
    @ivar factories: those of the ports that have been closed.
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
        self._reactor = reactor
        self.inventory = inventory
        self._connections = connections
        self._prepareFactory = prepareFactory
        self._listeners: list[_Listener] = []
        self.factories = KeptFactories()

    def nextKey(self, network: str, address: str) -> Key:
        """
        @return: the name of the next listener with this address.
        """
        return self.inventory.nextKey("listener", network, address)

    def listenOn(
        self,
        key: Key,
        create: Callable[[], HeldDescriptor],
        factory: Any,
        options: SocketOptions = ANY,
        drainTimeout: float | None = None,
    ) -> IListeningPort:
        """
        Accept connections on the socket of a name.

        @param create: makes the socket if none was inherited.
        @param options: what it is to be like if it was.
        @param drainTimeout: how long its connections have to finish when this
            process leaves, in seconds, if not as long as all.
        @raise ValueError: if listen(2) would not take the backlog.
        """
        if options.backlog is not None and abs(options.backlog) > _LONGEST_QUEUE:
            raise ValueError(f"{key}: the backlog must be {_LONGEST_QUEUE} at most")
        self._prepareFactory(factory)
        accepted = self._connections.acceptedBy(str(key), drainTimeout)
        adopt = partial(_adoptStream, self._reactor, factory, accepted)
        return self.open(key, create, adopt, options)

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
        isNew = key not in self.inventory.inherited
        held = self.inventory.claim(key) or self.inventory.add(key, create())
        listener = _Listener(key, held, options, ownsPath=isNew)
        forget = partial(self._forget, listener)
        try:
            listener.port = adopt(cast(socket.socket, held.handle))
        except BaseException:
            forget()
            raise
        listener.begin(accepting=self.accepting)
        self._listeners.append(listener)
        _callWhenClosed(listener.port, forget)
        return _ListeningPort(listener, forget)

    def park(self) -> None:
        """
        Stop accepting, everywhere and at once, and keep the sockets.

        @raise Exception: the first error, when all have had their turn.
        """
        self.accepting = False
        requireEach("park", self._listeners, _Listener.park)

    def resume(self) -> None:
        """
        Start accepting, everywhere, and take the locks.

        @raise Exception: the first error, when all have had their turn.
        """
        self.accepting = True
        requireEach("resume", self._listeners, _Listener.accept)

    def finalise(self) -> None:
        """
        Make of what was inherited what this release wants, own the paths, and let go
        of what nobody has claimed.
        """
        changed = self.inventory.changes.changed
        forEach("finalise", self._listeners, lambda listener: listener.finalise(changed))
        self.inventory.dropInherited()

    def letGo(self) -> None:
        """
        A child has everything for good: close what listens.  What receives datagrams
        has still to answer some.
        """
        for listener in self._listeners:
            listener.ownsPath = listener.hasLock = False
        self._close([each for each in self._listeners if each.isStream])

    def stop(self) -> Deferred[Any]:
        """
        Close all ports, which no child is to inherit then.  Their factories are not
        stopped yet, for they may have connections: see L{KeptFactories}.

        @return: a Deferred that fires when they are closed.
        """
        return self._close(list(self._listeners))

    def _close(self, listeners: list[_Listener]) -> Deferred[Any]:
        for listener in listeners:
            self.factories.keep(listener.port)
        return DeferredList([each.stop() for each in listeners], consumeErrors=True)

    def forgetAll(self) -> None:
        """
        This process ends: close all sockets, and remove the names that are ours.
        """
        forEach("forget", self._listeners, self._forget)

    def _forget(self, listener: _Listener) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)
        listener.removePath()
        self.inventory.remove(listener.key, listener.held)


def _adoptStream(
    reactor: Reactor, factory: Any, accepted: AcceptedConnections, sock: socket.socket
) -> Any:
    """
    @return: a port that accepts on a copy of a socket, and counts.
    """
    port: Any
    if sock.family == socket.AF_UNIX:
        port = UNIXPort(reactor, sock.dup(), factory, accepted)
        port.startListening()
    else:
        port = reactor.adoptStreamPort(sock.fileno(), sock.family, factory)
        port.transport = countedTransport(CountedTCPServer, accepted)
    return port


def _callWhenClosed(port: Any, call: Callable[[], object]) -> None:
    """
    Have something done before a port of the reactor's is closed, whoever does
    that: a datagram protocol may, as it has the port for its transport, and the
    reactor may, if the kernel says that the socket is dead.
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

    def __init__(self, listener: _Listener, forget: Callable[[], None]) -> None:
        self._listener = listener
        self._port = listener.port
        self._forget = forget

    def __repr__(self) -> str:
        return f"<inheritable {self._port!r}>"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)

    def startListening(self) -> None:
        """
        @raise CannotListenError: always, because this port listens already, or
            is closed: to listen again, listen on its endpoint.
        """
        raise CannotListenError(None, str(self._listener), "a port cannot be started twice")

    def stopListening(self) -> Any:
        """
        Close the port.

        @return: a Deferred that fires when that has been done.
        """
        self._forget()
        return self._listener.stop()

    def getHost(self) -> Any:
        """
        @return: the address that clients connect to.
        """
        return self._port.getHost()
