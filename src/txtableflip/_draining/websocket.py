"""
How WebSocket connections end when their process exits: by a close frame.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

from txtableflip._draining.later import Later

GOING_AWAY = 1001
"""
The code by which a server says that it goes away (section 7.4.1 of RFC 6455).
"""


class TwistedDrain(Later):
    """
    Drains a connection of L{twisted.web.websocket}.
    """

    def close(self) -> None:
        """
        Send a close frame, and close the connection.
        """
        from wsproto.utilities import LocalProtocolError  # noqa: PLC0415 - Twisted's has it

        # That is the HTTP channel that this was: with it registered, TLS would wait for
        # more.
        self.protocol.transport.unregisterProducer()
        with suppress(LocalProtocolError):
            self.protocol.loseConnection(GOING_AWAY)


class AutobahnDrain(Later):
    """
    Drains a connection of C{autobahn.twisted.websocket}.
    """

    def close(self) -> None:
        """
        Send a close frame; when the client has answered, autobahn closes the connection.
        """
        # Not by sendClose(), which refuses the codes that only a server may send.
        self.protocol.sendCloseFrame(code=GOING_AWAY, isReply=False)


def _drainAutobahn(protocol: Any) -> AutobahnDrain | None:
    """
    @return: what drains a connection, unless it is not open yet.
    """
    return AutobahnDrain(protocol) if protocol.state == protocol.STATE_OPEN else None


def adapters() -> dict[type, Any]:
    """
    @return: for each class of the libraries that are loaded, what makes an L{IDrainable} of
        its objects.
    """
    found: dict[type, Any] = {}
    autobahn: Any = sys.modules.get("autobahn.twisted.websocket")
    twisted: Any = sys.modules.get("twisted.web._websocket_impl")
    if autobahn is not None:
        found[autobahn.WebSocketServerProtocol] = _drainAutobahn
    if twisted is not None:
        found[twisted._WebSocketWireProtocol] = TwistedDrain  # noqa: SLF001 - no other way to it
    return found
