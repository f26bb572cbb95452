"""
How WebSocket connections end when their process leaves: by a close frame, at a
random moment in the first half of the time there is, so that not all clients
come back at once.
"""

from __future__ import annotations

import random
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from zope.interface import implementer

from txtableflip.interfaces import IDrainable

GOING_AWAY = 1001
"""
The code by which a server says that it leaves (section 7.4.1 of RFC 6455).
"""


@dataclass(frozen=True)
class _Later:
    """
    Closes a connection in some time.
    """

    protocol: Any

    def drain(self, seconds: float) -> None:
        """
        See L{IDrainable.drain}.
        """
        from twisted.internet import reactor  # noqa: PLC0415 - it is chosen by now

        clock: Any = reactor
        clock.callLater(random.uniform(0, seconds / 2), self.close)  # noqa: S311 - no secret

    def close(self) -> None:
        raise NotImplementedError


@implementer(IDrainable)
class TwistedDrain(_Later):
    """
    Drains a connection of L{twisted.web.websocket}.
    """

    def close(self) -> None:
        """
        Say so, and close the connection.
        """
        from wsproto.utilities import LocalProtocolError  # noqa: PLC0415 - Twisted's has it

        # The HTTP channel that this was: with it, TLS would wait for more.
        self.protocol.transport.unregisterProducer()
        with suppress(LocalProtocolError):
            self.protocol.loseConnection(GOING_AWAY)


@implementer(IDrainable)
class AutobahnDrain(_Later):
    """
    Drains a connection of C{autobahn.twisted.websocket}.
    """

    def close(self) -> None:
        """
        Say so; when the client has answered, autobahn closes the connection.
        """
        # Not by sendClose(), which refuses the codes that are a server's.
        self.protocol.sendCloseFrame(code=GOING_AWAY, isReply=False)


def _drainAutobahn(protocol: Any) -> AutobahnDrain | None:
    """
    @return: what drains a connection, unless it is not open yet.
    """
    return AutobahnDrain(protocol) if protocol.state == protocol.STATE_OPEN else None


def adapters() -> dict[type, Any]:
    """
    @return: what makes an L{IDrainable} of whose objects, of the libraries that
        are loaded.
    """
    found: dict[type, Any] = {}
    autobahn: Any = sys.modules.get("autobahn.twisted.websocket")
    twisted: Any = sys.modules.get("twisted.web._websocket_impl")
    if autobahn is not None:
        found[autobahn.WebSocketServerProtocol] = _drainAutobahn
    if twisted is not None:
        found[twisted._WebSocketWireProtocol] = TwistedDrain  # noqa: SLF001 - no other way to it
    return found
