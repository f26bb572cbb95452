"""
How HTTP/1.1 connections of L{twisted.web} migrate: between two requests as they are, and in
the middle of an answer if the code that answers can continue it.

Such an answer is continued by asking for it again: the next process gets the same request,
and does not send the header, which the client already has.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from twisted.web.http import HTTPChannel, HTTPFactory, _GenericHTTPChannelProtocol
from zope.interface import implementer

from txtableflip._journal import ProcessLogger
from txtableflip._migration.claims import findMigratable
from txtableflip.interfaces import IMigratable, IMigratableFactory, Snapshot

_FORMAT = 1

_NOT_AGAIN = (b"expect", b"transfer-encoding", b"content-length")
"""
The headers of a request that are not to be repeated as they are.
"""

_SWITCHING_PROTOCOLS = b"HTTP/1.1 101 "

streams: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""
What can continue its answer, by the request: each has a method C{snapshot}.
"""

_left: WeakKeyDictionary[Any, bytes] = WeakKeyDictionary()
"""
What the process before has handed to the code that answers on a channel.
"""

_log = ProcessLogger()


def migratedState(request: Any) -> bytes | None:
    """
    @return: what the process before has handed to the code that continues to answer a
        request: the C{state} of a L{Snapshot}; or C{None} if the request has just been
        made.
    """
    return _left.get(request.channel)


@implementer(IMigratable)
class HTTPMigration:
    """
    Hands over a connection.

    @ivar idleProducer: what is the transport's producer all the time.
    """

    def __init__(self, protocol: Any) -> None:
        self._channel = self.idleProducer = protocol._channel  # noqa: SLF001 - no other way to it

    def snapshot(self) -> Any:
        """
        See L{IMigratable.snapshot}.
        """
        channel = self._channel
        if type(channel) is not HTTPChannel or not channel.persistent:
            return None
        if not channel.requests:
            return Snapshot(unread=channel.clearLineBuffer())
        request = channel.requests[0]
        websocket = getattr(vars(channel).get("dataReceived"), "__self__", None)
        if websocket is not None:
            migratable = findMigratable(websocket)
            return None if migratable is None else _leave(request, migratable, isStream=False)
        # A request that is still being received is not a stream yet.
        stream = streams.get(request)
        if stream is None:
            return request.notifyFinish()
        return _leave(request, stream, isStream=True)


def _leave(request: Any, migratable: Any, *, isStream: bool) -> Any:
    """
    @return: the snapshot of a channel, which contains that of the code that answers on it.
    """
    channel = request.channel
    if request.requestHeaders.hasHeader(b"transfer-encoding"):
        return None
    inner = migratable.snapshot()
    if not isinstance(inner, Snapshot):
        return inner
    asked = _Asked(isStream, _repeat(request), inner.state)
    unread = inner.unread + b"".join(channel._dataBuffer) + channel.clearLineBuffer()  # noqa: SLF001 - pipelined requests are nowhere else
    return Snapshot(asked.toBytes(), unread)


def _repeat(request: Any) -> bytes:
    """
    @return: a request as it may be received again.
    """
    request.content.seek(0)
    body = request.content.read()
    lines = [b"%s %s %s" % (request.method, request.uri, request.clientproto)]
    for name, values in request.requestHeaders.getAllRawHeaders():
        if name.lower() not in _NOT_AGAIN:
            lines += [b"%s: %s" % (name, value) for value in values]
    if body:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body])


class _Asked(NamedTuple):
    """
    An answer that is in progress.

    @ivar isStream: whether it is an HTTP answer, and not a WebSocket.
    @ivar state: what the code that answers hands over.
    """

    isStream: bool
    request: bytes
    state: bytes

    def toBytes(self) -> bytes:
        """
        @return: it, as the next process reads it.
        """
        texts = [self.request.decode("latin-1"), self.state.decode("latin-1")]
        return json.dumps([_FORMAT, self.isStream, *texts]).encode("ascii")

    @classmethod
    def fromBytes(cls, data: bytes) -> _Asked:
        """
        @raise ValueError: if this release does not know the format.
        """
        version, *fields = json.loads(data)
        if version != _FORMAT:
            raise ValueError(f"an answer in progress has format {version}, and not {_FORMAT}")
        isStream, request, state = fields
        return cls(isStream, request.encode("latin-1"), state.encode("latin-1"))


@implementer(IMigratableFactory)
@dataclass
class SiteMigration:
    """
    Continues the connections of a L{twisted.web.server.Site}.
    """

    site: Any

    def resume(self, snapshot: Snapshot, address: Any) -> Any:
        """
        See L{IMigratableFactory.resume}.
        """
        protocol = self.site.buildProtocol(address)
        if protocol is not None and snapshot.state:
            _Again(protocol._channel, _Asked.fromBytes(snapshot.state))  # noqa: SLF001 - as above
        return protocol


class _Again:
    """
    Makes a channel receive a request again when it is connected, and keeps what the client
    already has from being sent again.
    """

    def __init__(self, channel: Any, asked: _Asked) -> None:
        self._channel = channel
        self._asked = asked
        self._isUpgraded = False
        self._connect = channel.makeConnection
        channel.makeConnection = self._makeConnection
        _left[channel] = asked.state

    def _makeConnection(self, transport: Any) -> None:
        channel = self._channel
        del channel.makeConnection
        self._connect(transport)
        channel.writeHeaders = self._writeHeaders
        if not self._asked.isStream:
            transport.write = self._handshake
        channel.dataReceived(self._asked.request)
        if not self._asked.isStream and not self._isUpgraded:
            self._fail("nothing")

    def _writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Any) -> None:
        """
        Called instead of the channel's.
        """
        del self._channel.writeHeaders
        if not self._asked.isStream or self._channel.requests[0] not in streams:
            self._fail(code.decode("latin-1"))

    def _handshake(self, data: bytes) -> None:
        """
        Called instead of the transport's C{write}.
        """
        del self._channel.transport.write
        self._isUpgraded = data.startswith(_SWITCHING_PROTOCOLS)

    def _fail(self, answer: str) -> None:
        _log.warn(
            "cannot continue {connection}: asked again, this release answers {answer} to "
            "{request}",
            connection=str(self._channel.transport),
            answer=answer,
            request=self._asked.request.partition(b"\r\n")[0].decode("latin-1"),
        )
        self._channel.transport.abortConnection()


ADAPTERS = (
    (HTTPMigration, _GenericHTTPChannelProtocol, IMigratable),
    (SiteMigration, HTTPFactory, IMigratableFactory),
)
