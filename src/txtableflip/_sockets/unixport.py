"""
A listening UNIX socket.

Twisted's own (L{twisted.internet.unix.Port}) cannot be shared by two processes:
an adopted one changes the mode of the path to 0666 and the backlog to 50, and
on closing it unlinks the path and calls shutdown(2), which ends the listening
in every process.  Ours starts and stops in another way, and is Twisted's in between.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet import tcp, unix
from twisted.python import log

from txtableflip._draining.connections import (
    AcceptedConnections,
    CountedTransport,
    countedTransport,
)
from txtableflip._sockets import unixpaths
from txtableflip._sockets.inventory import HeldDescriptor
from txtableflip.interfaces import Reactor


class CountedUNIXServer(CountedTransport, unix.Server):
    """
    Twisted's transport of an accepted UNIX connection, counted.
    """

    __slots__ = ("accepted", "isAnswered", "since")


class UNIXPort(unix.Port):
    """
    Accepts connections on a socket that is shared with other processes, and in the end only
    closes it.
    """

    _shouldShutdown = False

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        factory: Any,
        accepted: AcceptedConnections,
    ) -> None:
        self._name: Any = sock.getsockname()
        super().__init__(self._name, factory, reactor=reactor)
        self.factory: Any = factory
        self.socket = sock
        self.transport = countedTransport(CountedUNIXServer, accepted)

    def startListening(self) -> None:
        """
        Begin to accept.
        """
        # Without it, clients in the queue could not be refused when descriptors run out.
        tcp._reservedFD.reserve()  # noqa: SLF001 - as Twisted's own port does
        log.msg(f"{self._getLogPrefix(self.factory)} starting on {self._name!r}")
        self.factory.doStart()
        self.connected = True
        self.fileno = self.socket.fileno  # type: ignore[method-assign]
        self.numberAccepts = 100
        self.startReading()

    def connectionLost(self, reason: Any) -> None:
        if self.connected:
            tcp.Port.connectionLost(self, reason)


def bindUNIX(
    address: str, kind: int, mode: int, backlog: int | None = None, *, isLocked: bool = False
) -> HeldDescriptor:
    """
    Make a UNIX socket at a path, or with an abstract name.

    @param address: as it was given: a relative one may name a place whose whole path is too
        long for the kernel.
    @param kind: the type of the socket (socket(2)).
    @param mode: the permissions of the path.
    @param backlog: the length of its queue, if it is to listen.
    @param isLocked: whether to take the lock beside the path, first.
    @raise CannotListenError: if the path cannot be bound, or the lock taken.
    """
    if isLocked:
        unixpaths.lock(address)
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        identity = unixpaths.bind(sock, address, mode)
    except BaseException:
        sock.close()
        if isLocked:
            unixpaths.releaseLock(address)
        raise
    sock.setblocking(False)
    if backlog is not None:
        sock.listen(backlog)
    return HeldDescriptor(sock, identity, backlog, mode)
