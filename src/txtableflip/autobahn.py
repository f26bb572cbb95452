"""
WebSocket connections of U{autobahn<https://pypi.org/project/autobahn/>} that outlive the
process.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.compress import PerMessageDeflate
from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from txtableflip._migration.moving import ConnectionMigrated
from txtableflip.interfaces import IMigratableFactory, Snapshot

__all__ = ["MigratingServerFactory", "MigratingServerProtocol"]

_FORMAT = 1


class MigratingServerProtocol(WebSocketServerProtocol):
    """
    A server's protocol that can leave its connection between two messages, compressed ones
    included.  A subclass says that it does, and what it leaves::

        @implementer(IMigratable)
        class Chat(MigratingServerProtocol):
            def snapshot(self):
                return self.leave(self.name.encode())

    In the next process the client's request is received again: C{onConnect} and C{onOpen}
    are called as always, and what the client has got is not sent again.

    @ivar migrated: what the process before has left, if the connection comes from there.
    @ivar hasMigrated: whether it goes on in the next process: for C{onClose}.
    """

    migrated: bytes | None = None
    hasMigrated = False
    _request = b""
    _window = b""
    _waiting: Deferred[None] | None = None

    def leave(self, state: bytes = b"") -> Snapshot | Deferred[None] | None:
        """
        @param state: what the subclass has to leave.
        @return: what C{snapshot()} is to return: C{None} if the connection is closing, or
            compressed in a way that we do not know; a Deferred within a message.
        """
        pmce: Any = self._perMessageCompress
        if self.state not in (self.STATE_CONNECTING, self.STATE_OPEN):
            return None
        if pmce is not None and type(pmce) is not PerMessageDeflate:
            return None
        if not self._isBetweenMessages():
            self._waiting = self._waiting or Deferred()
            return self._waiting
        window = base64.b64encode(self._window).decode("ascii")
        texts = [self.http_request_data.decode("latin-1"), window, state.decode("latin-1")]
        return Snapshot(json.dumps([_FORMAT, *texts]).encode("ascii"), self.data)

    def goOn(self, snapshot: Snapshot) -> None:
        """
        Be the protocol of a connection that another one has left.

        @raise ValueError: if this release does not know what that has left.
        """
        version, *texts = json.loads(snapshot.state)
        if version != _FORMAT:
            raise ValueError(f"a WebSocket has format {version}, and not {_FORMAT}")
        request, window, state = texts
        self._request, self.migrated = request.encode("latin-1"), state.encode("latin-1")
        self._window = base64.b64decode(window)

    def connectionMade(self) -> None:
        """
        See L{twisted.internet.interfaces.IProtocol.makeConnection}.
        """
        super().connectionMade()
        if self._request:
            self.sendData = self._keepAnswer  # type: ignore[method-assign]
            self.dataReceived(self._request)

    def _keepAnswer(self, data: bytes, *more: Any, **options: Any) -> None:
        """
        Replace C{sendData}, once: the client has the answer to its handshake already.
        """
        del self.sendData

    def _onOpen(self) -> None:
        self._rememberWindow()
        super()._onOpen()

    def _rememberWindow(self) -> None:
        """
        Keep what the client's next message may refer to: zlib does not expose it.
        """
        pmce: Any = self._perMessageCompress
        if type(pmce) is not PerMessageDeflate or pmce.client_no_context_takeover:
            return
        bits = pmce.client_max_window_bits
        if self._window:
            pmce._decompressor = zlib.decompressobj(-bits, zdict=self._window)  # noqa: SLF001 - it would make an empty one
        decompress = pmce.decompress_message_data

        def remember(*arguments: Any, **options: Any) -> bytes:
            data: bytes = decompress(*arguments, **options)
            self._window = (self._window + data)[-(1 << bits) :]
            return data

        pmce.decompress_message_data = remember  # type: ignore[method-assign]

    def dataReceived(self, data: bytes) -> None:
        """
        See L{twisted.internet.interfaces.IProtocol.dataReceived}.
        """
        super().dataReceived(data)
        self._tell()

    def endMessage(self) -> None:
        """
        See C{IWebSocketChannelStreamingApi.endMessage} of autobahn.
        """
        super().endMessage()
        self._tell()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        See L{twisted.internet.interfaces.IProtocol.connectionLost}.
        """
        self.hasMigrated = reason.check(ConnectionMigrated) is not None
        super().connectionLost(reason)

    def _isBetweenMessages(self) -> bool:
        isReceiving = self.current_frame is not None or self.inside_message
        isSending = self.send_state != self.SEND_STATE_GROUND or self.send_queue
        return self.state == self.STATE_OPEN and not isReceiving and not isSending

    def _tell(self) -> None:
        waiting = self._waiting
        if waiting is not None and self._isBetweenMessages():
            self._waiting = None
            waiting.callback(None)


@implementer(IMigratableFactory)
class MigratingServerFactory(WebSocketServerFactory):
    """
    A factory of those.
    """

    protocol = MigratingServerProtocol

    def resume(self, snapshot: Snapshot, address: Any) -> Any:
        """
        See L{IMigratableFactory.resume <txtableflip.IMigratableFactory.resume>}.
        """
        protocol: Any = self.buildProtocol(address)
        if protocol is not None:
            protocol.goOn(snapshot)
        return protocol
