"""
How HTTP connections end when their process leaves.

HTTP/1.1: nothing is closed under the client's hands.  The next answer that is
begun says C{Connection: close}, and the connection closes behind it.

HTTP/2: GOAWAY, as section 6.8 of RFC 9113 wants it of a server that leaves
gracefully: at first with the highest stream there can be, and when the client
has heard of that, with the last one that there was.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.python.components import getAdapterFactory, registerAdapter
from twisted.web.http import HTTPChannel, _GenericHTTPChannelProtocol
from twisted.web.http_headers import Headers
from zope.interface import implementer

from txtableflip.interfaces import IDrainable

try:
    from h2.events import PingAckReceived
    from hyperframe.frame import GoAwayFrame
    from twisted.web._http2 import H2Connection
except ImportError:
    H2Connection = None  # type: ignore[assignment,misc]

_INTERVAL = 0.05
"""
How often to see whether the last stream has ended, in seconds.
"""

_SWITCHING_PROTOCOLS = b"101"
_HIGHEST_STREAM = 2**31 - 1
_MARK = b"draining"


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


@implementer(IDrainable)
@dataclass(frozen=True)
class HTTP2Drain:
    """
    Drains an HTTP/2 connection.
    """

    channel: Any

    def drain(self, seconds: float) -> Deferred[None]:
        """
        See L{IDrainable.drain}.
        """
        drained: Deferred[None] = Deferred()
        connection = self.channel.conn
        receive = connection.receive_data

        def receiveAnswer(data: bytes) -> Any:
            events = receive(data)
            for event in events:
                if isinstance(event, PingAckReceived) and event.ping_data == _MARK:
                    connection.receive_data = receive
                    self._announceLast(drained)
            return events

        connection.receive_data = receiveAnswer
        self._sayGoAway(_HIGHEST_STREAM)
        connection.ping(_MARK)
        self.channel.transport.write(connection.data_to_send())
        return drained

    def _announceLast(self, drained: Deferred[None]) -> None:
        """
        The client opens no more streams: say which one was the last, and wait
        until all have ended.
        """
        self._sayGoAway(self.channel.conn.highest_inbound_stream_id)
        waiting = LoopingCall(lambda: None if self.channel.streams else waiting.stop())
        waiting.start(_INTERVAL, now=False).addCallback(lambda ignored: drained.callback(None))

    def _sayGoAway(self, lastStream: int) -> None:
        # Not by close_connection() of h2, after which it would send no answers.
        frame = GoAwayFrame(stream_id=0, last_stream_id=lastStream)
        self.channel.transport.write(frame.serialize())


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


def register() -> None:
    """
    Register the adapters, unless the application has registered others.
    """
    adapters = {
        HTTPChannel: _drainChannel,
        _GenericHTTPChannelProtocol: _drainEither,
        H2Connection: HTTP2Drain,
    }
    for cls, adapter in adapters.items():
        if cls is not None and getAdapterFactory(cls, IDrainable, None) is None:
            registerAdapter(adapter, cls, IDrainable)
