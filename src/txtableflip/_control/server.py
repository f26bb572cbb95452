"""
The control socket: where a process listens for commands, and which users it answers.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineOnlyReceiver
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure
from zope.interface import implementer

from txtableflip._control.address import addressOf
from txtableflip._control.requests import MAX_LINE, Request, decode, encode
from txtableflip._handover.forks import keepFromForks
from txtableflip._journal import ProcessLogger
from txtableflip._kernel import peerOf
from txtableflip.errors import InvalidRequest, NobodyThere

REQUEST_TIMEOUT = 30.0
"""
How long a client that has connected may take to send its request, in seconds.
"""

MAX_UNREAD = 1 << 20
"""
How much may wait for a client that does not read, in bytes, before it is disconnected.
"""

MAX_SESSIONS = 100
"""
How many clients may be connected at a time.
"""

FLUSH_TIMEOUT = 1.0
"""
How long clients may take to read that this process exits, in seconds.
"""

Answer = Callable[[Request, "Session"], Any]
"""
Carries out a request, and returns the result, or a Deferred of it.
"""

_log = ProcessLogger()


@implementer(IPushProducer)
class Session(LineOnlyReceiver, TimeoutMixin):
    """
    A connection of a client, for one request.
    """

    delimiter = b"\n"
    MAX_LENGTH = MAX_LINE

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.whenClosed: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.bufferSize = MAX_UNREAD
        transport.registerProducer(self, True)
        self.setTimeout(REQUEST_TIMEOUT)
        keepFromForks(transport.socket)
        _, uid = peerOf(transport.socket)
        if uid not in (0, os.geteuid()):
            _log.warn("user {user} may not ask this process anything", user=uid)
            self.conclude(error(f"this process is of user {os.geteuid()}, not of {uid}"))

    @property
    def isThere(self) -> bool:
        """
        Whether the client still waits.
        """
        transport: Any = self.transport
        return bool(transport.connected and not transport.disconnecting)

    def lineReceived(self, line: bytes) -> None:
        """
        The request has come; anything after it is ignored.
        """
        self.setTimeout(None)
        self.lineReceived = lambda line: None  # type: ignore[method-assign]
        try:
            request = decode(line)
        except InvalidRequest as invalid:
            self.conclude(error(str(invalid)))
            return
        answering = maybeDeferred(self._answer, request, self)
        answering.addErrback(_failed, request).addCallback(self.conclude)

    def lineLengthExceeded(self, line: bytes) -> None:
        """
        See L{LineOnlyReceiver.lineLengthExceeded}.
        """
        self.conclude(error(f"a request is a line of {MAX_LINE} bytes at most"))

    def timeoutConnection(self) -> None:
        """
        See L{TimeoutMixin.timeoutConnection}.
        """
        self.conclude(error(f"no request came within {REQUEST_TIMEOUT:g} seconds"))

    def tell(self, event: Mapping[str, Any]) -> None:
        """
        Send the client an event.
        """
        self._write({"event": event})

    def conclude(self, result: Mapping[str, Any]) -> None:
        """
        Send the client the result, and close the connection.
        """
        self.setTimeout(None)
        self._write({"result": result})
        transport: Any = self.transport
        transport.unregisterProducer()
        transport.loseConnection()

    def _write(self, answer: Mapping[str, Any]) -> None:
        transport: Any = self.transport
        if self.isThere:
            transport.write(encode(answer))

    def connectionLost(self, reason: Failure = Failure(ConnectionError())) -> None:  # noqa: B008 - as Twisted's
        self.setTimeout(None)
        self.whenClosed.callback(None)

    # -- IPushProducer

    def pauseProducing(self) -> None:
        """
        The client does not read.
        """
        transport: Any = self.transport
        transport.abortConnection()

    def resumeProducing(self) -> None:
        """
        See L{IPushProducer.resumeProducing}.
        """

    def stopProducing(self) -> None:
        """
        See L{IPushProducer.stopProducing}.
        """


class _Port(unix.Port):
    """
    A port that starts and stops without a line in the log, which is the service's.
    """

    def __init__(self, sock: socket.socket, factory: Factory, reactor: Any) -> None:
        super().__init__(sock.getsockname(), factory, reactor=reactor)
        self.socket = sock
        self._factory = factory

    def startListening(self) -> None:
        # Without it, clients in the queue could not be refused when descriptors run out.
        tcp._reservedFD.reserve()  # noqa: SLF001 - as Twisted's own port does
        self._factory.doStart()
        self.connected = True
        self.fileno = self.socket.fileno  # type: ignore[method-assign]
        self.numberAccepts = 100
        self.startReading()

    def _logConnectionLostMsg(self) -> None:
        pass


def _listenAt(address: str, factory: Factory, reactor: Any) -> _Port:
    """
    @raise OSError: if that name is in use.
    """
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.bind(address)
        sock.listen(MAX_SESSIONS)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    keepFromForks(sock)
    port = _Port(sock, factory, reactor)
    port.startListening()
    return port


class Control(Factory):
    """
    Listens at this process's address, for the rest of its life.
    """

    noisy = False

    def __init__(self, reactor: Any, answer: Answer, inodes: set[int]) -> None:
        """
        @param reactor: the plain one: this socket is not inherited.
        @param inodes: the socket's is added, as it is not a listener of the application's.
        """
        self._inodes = inodes
        self._reactor = reactor
        self._answer = answer
        self._sessions: set[Session] = set()
        self._port: Any = None

    def listen(self) -> None:
        """
        Begin.  Not before the process has its final id: one that becomes a daemon gets
        another.
        """
        try:
            self._port = _listenAt(addressOf(os.getpid()), self, self._reactor)
            self._inodes.add(os.fstat(self._port.fileno()).st_ino)
        except (OSError, NobodyThere) as reason:
            _log.warn(
                "the tableflip command cannot reach this process: {reason}",
                reason=str(reason),
            )

    def buildProtocol(self, addr: object) -> Session | None:
        """
        See L{Factory.buildProtocol}.
        """
        if len(self._sessions) >= MAX_SESSIONS:
            return None
        session = Session(self._answer)
        self._sessions.add(session)
        session.whenClosed.addCallback(lambda ignored: self._sessions.discard(session))
        return session

    def stop(self) -> Deferred[Any]:
        """
        This process exits: answer all clients before the reactor closes their connections.

        @return: a Deferred that fires when all have read that, or took too long.
        """
        if self._port is not None:
            self._port.stopListening()
        for session in list(self._sessions):
            session.conclude(error("the process exits", outcome="nobody"))
        closed = DeferredList([session.whenClosed for session in self._sessions])
        return closed.addTimeout(FLUSH_TIMEOUT, self._reactor, lambda result, after: None)


def error(reason: str, outcome: str = "refused") -> dict[str, Any]:
    """
    @return: the result of a request that was not carried out.
    """
    return {"outcome": outcome, "reason": reason}


def _failed(failure: Failure, request: Request) -> dict[str, Any]:
    _log.failure("answering {command}", failure=failure, command=request.command)
    return error(f"a defect of txtableflip: {failure.getErrorMessage()}", outcome="unknown")
