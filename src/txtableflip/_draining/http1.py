"""
How HTTP/1.1 connections end when their process exits: none is closed while its client may
be sending a request.  The next answer that is begun says C{Connection: close}, and the
connection closes after it.  A stream of events, which would not end by itself, is ended:
clients reconnect, and report the last event that they had.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred
from twisted.web.http import HTTPChannel, _GenericHTTPChannelProtocol
from twisted.web.http_headers import Headers
from zope.interface import implementer

from txtableflip._draining.later import Later, realClock
from txtableflip.interfaces import IDrainable, IResumable

_SWITCHING_PROTOCOLS = b"101"


class EventStream(Later):
    """
    Ends an answer that is a stream of events, as if it were complete: clients drop an
    incomplete event (section 9.2.6 of the HTML standard).
    """

    def __init__(self, channel: Any, ended: Deferred[None]) -> None:
        super().__init__(channel)
        self._request = channel.requests[0]
        self._ended = ended

    def close(self) -> None:
        """
        See L{Later.close}.
        """
        channel = self.protocol
        if channel.requests[:1] != [self._request]:
            # The application has ended it.
            return
        if self._request.chunked:
            channel.write(b"0\r\n\r\n")
        # To the application, its client is gone.
        channel.write = channel.writeSequence = lambda data: None
        self._ended.callback(None)


@implementer(IResumable)
@dataclass
class HTTP1Drain:
    """
    Drains an HTTP/1.1 connection.
    """

    channel: Any
    _before: Any = field(init=False)
    _stream: EventStream | None = field(init=False, default=None)

    def drain(self, seconds: float) -> Deferred[None]:
        """
        See L{IDrainable.drain}.
        """
        channel = self.channel
        clock = realClock()
        end = clock.seconds() + seconds
        ended: Deferred[None] = Deferred()

        def begun(headers: Any) -> None:
            if _isEventStream(headers) and channel.requests:
                self._stream = EventStream(channel, ended)
                self._stream.drain(max(0.0, end - clock.seconds()))

        writeHeaders = self._before = channel.writeHeaders

        def writeLastHeaders(version: bytes, code: bytes, reason: bytes, headers: Any) -> None:
            if channel.persistent and code != _SWITCHING_PROTOCOLS and not self._hasMore():
                channel.persistent = False
                headers = _withClose(headers)
            writeHeaders(version, code, reason, headers)
            begun(headers)

        channel.writeHeaders = writeLastHeaders
        if channel.requests and channel.requests[0].startedWriting:
            begun(channel.requests[0].responseHeaders)
        return ended

    def resume(self) -> bool:
        """
        See L{IResumable.resume}.
        """
        self.channel.writeHeaders = self._before
        if not self.channel.persistent:
            return False
        return self._stream is None or self._stream.resume()

    def _hasMore(self) -> bool:
        """
        @return: whether the client has sent more requests than the one which is
            being answered: these are answered, too.
        """
        channel = self.channel
        if channel._buffer or any(channel._dataBuffer):  # noqa: SLF001 - it tells in no other way
            return True
        # TLS delivers what it has buffered only once the answer has begun.
        tls = getattr(channel.transport, "_tlsConnection", None)
        return (tls is not None and _holds(tls)) or _holds(channel.transport.socket)


def _holds(source: Any) -> bool:
    """
    @param source: a socket, or a connection of pyOpenSSL's.
    @return: whether it has something to read.
    """
    try:
        return bool(source.recv(1, socket.MSG_PEEK))
    except Exception:  # noqa: BLE001 - pyOpenSSL, which has errors of its own, may not be there
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


def _isEventStream(headers: Any) -> bool:
    """
    @param headers: as those of L{_withClose}.
    """
    if isinstance(headers, Headers):
        kinds = headers.getRawHeaders(b"Content-Type", [])
    else:
        kinds = [value for name, value in headers if name.lower() == b"content-type"]
    return any(kind.lower().startswith(b"text/event-stream") for kind in kinds)


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
    @return: for each class, what makes an L{IDrainable} of its objects.
    """
    return {HTTPChannel: _drainChannel, _GenericHTTPChannelProtocol: _drainEither}
