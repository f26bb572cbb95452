"""
How connections of L{twisted.web.websocket} migrate: between two messages.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

from twisted.internet.defer import Deferred
from twisted.web._websocket_impl import _WebSocketWireProtocol
from zope.interface import implementer

from txtableflip._migration.claims import findMigratable
from txtableflip.interfaces import IMigratable, Snapshot


@implementer(IMigratable)
class WebSocketMigration:
    """
    Hands over a connection, if the application's protocol on it is L{IMigratable}.
    """

    def __init__(self, wire: Any) -> None:
        self._wire = wire

    def snapshot(self) -> Any:
        """
        See L{IMigratable.snapshot}.
        """
        migratable = findMigratable(self._wire._wsp)  # noqa: SLF001 - no other way to it
        if migratable is None:
            return None
        if not self._isBetweenMessages():
            return self._whenBetweenMessages()
        inner = migratable.snapshot()
        if not isinstance(inner, Snapshot):
            return inner
        return Snapshot(inner.state, bytes(self._frames().buffer.buffer))

    def _frames(self) -> Any:
        return self._wire._wsconn._proto._frame_decoder  # noqa: SLF001 - as above

    def _isBetweenMessages(self) -> bool:
        # wsproto passes on each part of a message at once; Twisted collects them.
        decoder = self._wire._wsconn._proto._message_decoder  # noqa: SLF001 - as above
        return self._frames().header is None and decoder.opcode is None

    def _whenBetweenMessages(self) -> Deferred[None]:
        waiting: Deferred[None] = Deferred()
        channel = self._wire.transport.protocol._channel  # noqa: SLF001 - as above

        def dataReceived(wire: Any, data: bytes) -> None:
            wire.dataReceived(data)
            if self._isBetweenMessages():
                channel.dataReceived = wire.dataReceived
                if not waiting.called:
                    waiting.callback(None)

        # The WebSocket is looked up by the object of that method.
        channel.dataReceived = MethodType(dataReceived, self._wire)
        return waiting


ADAPTERS = ((WebSocketMigration, _WebSocketWireProtocol, IMigratable),)
