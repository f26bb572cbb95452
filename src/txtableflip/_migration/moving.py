"""
One connection between two protocols: it is taken off its transport here, and continues with
another protocol and on another transport, in the next process or, if it is returned, in this
one.

The client sees nothing of that.  So nothing here may shut a socket down or set an option of
it, which would act on the connection itself: the transport's socket is detached from its
descriptor, after which Twisted's own cleaning up finds nothing to close.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from txtableflip._journal import ProcessLogger
from txtableflip._migration.claims import findFactory, findMigratable
from txtableflip.interfaces import Snapshot

_log = ProcessLogger()


class ConnectionMigrated(ConnectionDone):
    """
    The connection has not been lost: another protocol continues it, in the next
    process.  C{connectionLost} gets this as its reason.
    """


class Stays(Exception):
    """
    A connection does not migrate: the message says why.
    """


@dataclass(eq=False)
class Moving:
    """
    A connection that has no protocol: its descriptor, and all that is not in the kernel.

    @ivar sock: the connection, which is open as long as any process has a copy.
    @ivar unsent: what the protocol has written and the kernel has not taken.
    """

    sock: socket.socket
    snapshot: Snapshot
    unsent: bytes


def take(transport: Any) -> Moving | Deferred[None]:
    """
    Take a connection off its transport, at once: its protocol loses it for the reason
    L{ConnectionMigrated}.  Call this from a reactor turn of its own: in any other, what the
    protocol is receiving would be lost.

    The connection is not counted until it continues: make sure that the process does not
    exit before.

    @return: the connection; or, if its protocol is not at a boundary, a Deferred that fires
        when to call this again, in such a turn, and fails as the protocol's does.  It may
        never fire.
    @raise Stays: if it does not migrate, and is as it was.
    """
    migratable = _findMovable(transport)
    try:
        snapshot = migratable.snapshot()
    except Exception as error:
        _log.failure("asking {transport} for a snapshot", transport=str(transport))
        raise Stays(f"its snapshot() has failed: {error!r}") from error
    if isinstance(snapshot, Deferred):
        return snapshot.addCallback(_inAnotherTurn, transport)
    if snapshot is None:
        raise Stays("its protocol refuses")
    if not isinstance(snapshot, Snapshot) or not all(isinstance(x, bytes) for x in snapshot):
        kind = type(snapshot).__name__
        raise Stays(f"its snapshot() is not a Snapshot of bytes, but of {kind}")
    if transport.disconnecting or not transport.connected:
        raise Stays("its snapshot() has closed it")
    return _detach(transport, snapshot)


def _inAnotherTurn(answer: object, transport: Any) -> Deferred[None]:
    if answer is not None:
        raise TypeError(f"the Deferred of snapshot() has to fire with None, not {answer!r}")
    return deferLater(transport.reactor, 0, lambda: None)


def _findMovable(transport: Any) -> Any:
    """
    @return: what to ask for a snapshot.
    """
    if not transport.connected or transport.disconnecting or transport._aborting:  # noqa: SLF001 - nothing else tells
        raise Stays("it is closing")
    if transport.TLS:
        raise Stays("it has become TLS, whose keys cannot leave the process")
    if transport._writeDisconnecting or transport._writeDisconnected:  # noqa: SLF001 - as above
        raise Stays("its sending half is closed")
    if getattr(transport, "_sendmsgQueue", ()):
        raise Stays("descriptors are being sent over it")
    name = type(transport.protocol).__name__
    migratable = findMigratable(transport.protocol)
    if migratable is None:
        raise Stays(f"{name} does not say that it is IMigratable")
    if findFactory(transport.server) is None:
        raise Stays(f"the factory of {name} does not provide IMigratableFactory")
    own = (None, transport.protocol, getattr(migratable, "idleProducer", None))
    if not any(transport.producer is each for each in own):
        raise Stays("a producer is registered")
    return migratable


def _detach(transport: Any, snapshot: Snapshot) -> Moving:
    transport.unregisterProducer()
    # Before the descriptor is gone: otherwise epoll(7) would continue to report the open
    # connection.
    transport.stopReading()
    transport.stopWriting()
    unsent = _collectUnsent(transport)
    moving = Moving(socket.socket(fileno=transport.getHandle().detach()), snapshot, unsent)
    # Without a descriptor, the reactor would search through all it has.
    transport.stopReading = transport.stopWriting = lambda: None
    _lose(transport, Failure(ConnectionMigrated()))
    return moving


def _lose(transport: Any, reason: Failure) -> None:
    try:
        transport.connectionLost(reason)
    except Exception:  # noqa: BLE001 - its protocol's, which it has left by now
        _log.failure("telling {transport} that it is lost", transport=str(transport))


def _collectUnsent(transport: Any) -> bytes:
    """
    @return: what was still to be written to the kernel, and is not any more.
    """
    chunks: list[bytes] = []

    def collect(data: Any) -> int:
        chunks.append(bytes(data))
        return len(data)

    transport.writeSomeData = collect
    while not chunks or chunks[-1]:
        transport.doWrite()
    return b"".join(chunks)


class Held:
    """
    A connection that is to continue here: everything that can fail has been done, and the
    connection itself has not been touched.  It is another process's until L{begin} is
    called.

    @ivar transport: its transport, from then on.
    """

    transport: Any

    def __init__(self, moving: Moving, port: Any) -> None:
        """
        @param port: of the reactor, with whose factory and transports the connection
            continues as if that port had accepted it.  It may be closed.
        @raise Stays: if the factory does not want it.
        @raise OSError: if its client has reset it.
        @raise Exception: what the factory raises.
        """
        self.moving = moving
        self._port = port
        self._peer = _peerOf(moving.sock)
        factory = findFactory(port)
        if factory is None:
            raise Stays("the factory does not provide IMigratableFactory")
        self.protocol = factory.resume(moving.snapshot, _addressOf(moving.sock, self._peer))
        if self.protocol is None:
            raise Stays("the factory refuses it")

    def connect(self) -> None:
        """
        Connect its protocol.
        """
        port, sock = self._port, self.moving.sock
        port.sessionno += 1
        # In this turn of the reactor nothing is read yet.
        self.transport = port.transport(
            sock, self.protocol, self._peer, port, port.sessionno - 1, port.reactor
        )
        self.transport.write(self.moving.unsent)
        self._try(self.protocol.makeConnection, self.transport)

    def receive(self) -> None:
        """
        Give its protocol what the one before has not acted upon.
        """
        unread = self.moving.snapshot.unread
        if unread and self.transport.connected and not self.transport.disconnecting:
            self._try(self.protocol.dataReceived, unread)

    def _try(self, call: Any, argument: object) -> None:
        try:
            call(argument)
        except Exception:  # noqa: BLE001 - as in the reactor: one connection is lost
            _log.failure("continuing {connection}", connection=str(self.transport))
            _lose(self.transport, Failure())


def begin(held: Sequence[Held]) -> None:
    """
    Continue connections that are this process's from now on: all protocols are connected
    before any receives what was unread, so that a chat room is complete when a member
    speaks.
    """
    for each in held:
        each.connect()
    for each in held:
        each.receive()


def _peerOf(sock: socket.socket) -> Any:
    """
    @return: the client's address, as a port of Twisted's has it from accept(2).
    """
    peer = sock.getpeername()
    if sock.family != socket.AF_INET6:
        return peer
    flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    return (socket.getnameinfo(peer, flags)[0], *peer[1:])


def _addressOf(sock: socket.socket, peer: Any) -> Any:
    if sock.family == socket.AF_UNIX:
        return UNIXAddress(peer)
    kind = IPv6Address if sock.family == socket.AF_INET6 else IPv4Address
    return kind("TCP", *peer)
