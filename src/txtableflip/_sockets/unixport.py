"""
A listening UNIX socket.

Twisted's own (L{twisted.internet.unix.Port}) cannot be shared by two processes:
an adopted one changes the mode of the path to 0666 and the backlog to 50, and
on closing it unlinks the path and calls shutdown(2), which ends the listening
in every process.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet import unix
from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.main import CONNECTION_DONE
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from txtableflip._draining.connections import (
    AcceptedConnections,
    CountedTransport,
    countedTransport,
)
from txtableflip._journal import ProcessLogger
from txtableflip._sockets import unixpaths
from txtableflip._sockets.inventory import HeldDescriptor
from txtableflip.interfaces import Reactor

ACCEPTS_PER_TURN = 100
"""
How many connections are accepted before others of the reactor have their turn.
"""

PAUSE = 1.0
"""
How long to accept nothing when the kernel will not let us, in seconds: those who
want to connect wait in the queue.
"""


_log = ProcessLogger()


class CountedUNIXServer(CountedTransport, unix.Server):
    """
    Twisted's transport of an accepted UNIX connection, counted.
    """

    __slots__ = ("accepted", "since")


@implementer(IListeningPort)
class UNIXPort(FileDescriptor):
    """
    Accepts connections on a socket that is shared with other processes, and
    which it closes in the end without further ado.
    """

    # The transport of a connection shows this in its repr.
    _realPortNumber = None

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        factory: Any,
        accepted: AcceptedConnections,
    ) -> None:
        clock: Any = reactor
        super().__init__(clock)
        self._clock = clock
        self.socket = sock
        self.factory = factory
        self._transport = countedTransport(CountedUNIXServer, accepted)
        self._sessions = 0
        self._pause: Any = None

    def fileno(self) -> int:
        return self.socket.fileno()

    def logPrefix(self) -> str:
        return type(self.factory).__qualname__

    def getHost(self) -> UNIXAddress:
        """
        @return: the address that clients connect to.
        """
        return UNIXAddress(self.socket.getsockname())

    def startListening(self) -> None:
        """
        Begin to accept.
        """
        self.factory.doStart()
        self.connected = True
        self.startReading()

    def startReading(self) -> None:
        self._cancelPause()
        super().startReading()

    def stopReading(self) -> None:
        self._cancelPause()
        super().stopReading()

    def _cancelPause(self) -> None:
        if self._pause is not None and self._pause.active():
            self._pause.cancel()
        self._pause = None

    def doRead(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if not self.connected:
                return
            try:
                connection, peer = self.socket.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                _log.warn(
                    "cannot accept at {address}, trying again in {pause} s: {error}",
                    address=str(self.getHost()),
                    pause=PAUSE,
                    error=str(error),
                )
                self.stopReading()
                self._pause = self._clock.callLater(PAUSE, self.startReading)
                return
            self._connect(connection, peer)

    def _connect(self, connection: socket.socket, peer: Any) -> None:
        connection.setblocking(False)
        try:
            protocol = self.factory.buildProtocol(UNIXAddress(peer))
            if protocol is None:
                connection.close()
                return
            self._sessions += 1
            transport = self._transport(
                connection, protocol, peer, self, self._sessions, self.reactor
            )
            protocol.makeConnection(transport)
        except Exception:  # noqa: BLE001 - the port must outlive it
            _log.failure("building a protocol for a connection")

    def stopListening(self) -> Deferred[None]:
        """
        Close this port.

        @return: a Deferred that fires when that has been done.
        """
        self.stopReading()
        return deferLater(self._clock, 0, self.connectionLost, Failure(CONNECTION_DONE))

    loseConnection = stopListening

    def connectionLost(self, reason: Failure) -> None:
        if not self.connected:
            return
        super().connectionLost(reason)
        self.socket.close()
        self.factory.doStop()


def bindUNIX(
    address: str, kind: int, mode: int, backlog: int | None = None, *, isLocked: bool = False
) -> HeldDescriptor:
    """
    Make a UNIX socket at a path, or with an abstract name.

    @param kind: the type of the socket (socket(2)).
    @param mode: the permissions of the path.
    @param backlog: the length of its queue, if it is to listen.
    @param isLocked: whether to take the lock beside the path, first.
    @raise CannotListenError: if the path or the lock cannot be had.
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
