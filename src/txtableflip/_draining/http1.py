"""
How HTTP/1.1 connections end when their process leaves: nothing is closed under
the client's hands.  The next answer that is begun says C{Connection: close}, and
the connection closes behind it.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

from twisted.web.http import HTTPChannel, _GenericHTTPChannelProtocol
from twisted.web.http_headers import Headers
from zope.interface import implementer

from txtableflip.interfaces import IDrainable

_SWITCHING_PROTOCOLS = b"101"


@implementer(IDrainable)
@dataclass(frozen=True)
class HTTP1Drain:
    """
    Drains an HTTP/1.1 connection.
    """

    channel: Any

    def drain(self, seconds: float) -> None:
        """
        See L{IDrainable.drain}.
        """
        channel = self.channel
        writeHeaders = channel.writeHeaders

        def writeLastHeaders(version: bytes, code: bytes, reason: bytes, headers: Any) -> None:
            if channel.persistent and code != _SWITCHING_PROTOCOLS and not self._hasMore():
                channel.persistent = False
                headers = _withClose(headers)
            writeHeaders(version, code, reason, headers)

        channel.writeHeaders = writeLastHeaders

    def _hasMore(self) -> bool:
        """
        @return: whether the client has sent more requests than the one which is
            being answered: these are answered, too.
        """
        channel = self.channel
        if channel._buffer or any(channel._dataBuffer):  # noqa: SLF001 - it tells in no other way
            return True
        try:
            return bool(channel.transport.socket.recv(1, socket.MSG_PEEK))
        except OSError:
            return False


def _withClose(headers: Any) -> Any:
    """
    @param headers: L{Headers}, or pairs up to Twisted 24.
    """
    if isinstance(headers, Headers):
        headers.setRawHeaders(b"Connection", [b"close"])
        return headers
    others = [(name, value) for name, value in headers if name.lower() != b"connection"]
    return [*others, (b"Connection", b"close")]


def _drainChannel(channel: Any) -> Any:
    """
    @return: what drains an L{HTTPChannel}, which may have become a WebSocket.
    """
    received = vars(channel).get("dataReceived")
    if received is None:
        return HTTP1Drain(channel)
    return IDrainable(getattr(received, "__self__", None), None)


def _drainEither(protocol: Any) -> Any:
    """
    @return: what drains the channel of either version that a protocol has.
    """
    return IDrainable(protocol._channel, None)  # noqa: SLF001 - there is no other way to it


def adapters() -> dict[type, Any]:
    """
    @return: what makes an L{IDrainable} of whose objects.
    """
    return {HTTPChannel: _drainChannel, _GenericHTTPChannelProtocol: _drainEither}
