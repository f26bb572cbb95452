"""
How HTTP/2 connections end when their process exits: by GOAWAY, as section 6.8 of RFC 9113
asks of a server that shuts down gracefully: first with the highest possible stream, and
once the client has received that, with the last one that there was.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from h2.events import PingAckReceived
from h2.exceptions import ProtocolError
from hyperframe.frame import GoAwayFrame
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.web._http2 import H2Connection
from zope.interface import implementer

from txtableflip.interfaces import IResumable

QUIET_SHARE = 0.25
"""
How much of its time an HTTP/2 connection has to be without open streams before
it is told to open no more.
"""

MOMENT = 0.2
"""
For how long there must be none open, in seconds: a client that has just had an answer may
be asking again.
"""

_HIGHEST_STREAM = 2**31 - 1
_MARK = b"draining"


@implementer(IResumable)
@dataclass
class HTTP2Drain:
    """
    Drains an HTTP/2 connection.
    """

    channel: Any
    _isSaid = _isOver = False
    _quiet: Any = field(default=None, init=False)

    @inlineCallbacks
    def drain(self, seconds: float) -> Any:
        """
        See L{IDrainable.drain}.

        Clients that are made with the h2 library can receive nothing after
        GOAWAY.  For their sake it is not sent while streams are open, if there
        is a moment soon when none are.
        """
        yield self._whenQuiet(seconds * QUIET_SHARE)
        if not self._isOver:
            self._isSaid = True
            yield self._leave(seconds)

    def resume(self) -> bool:
        """
        See L{IResumable.resume}.
        """
        self._isOver = not self._isSaid
        if self._isOver:
            self._quiet.end()
        return self._isOver

    @inlineCallbacks
    def _leave(self, seconds: float) -> Any:
        # That error means that the client has closed the connection in the meantime.
        with suppress(ProtocolError):
            self._sayGoAway(_HIGHEST_STREAM)
            yield self._roundTrip()
            self._sayGoAway(self.channel.conn.highest_inbound_stream_id)
            yield self._whenQuiet(seconds)

    def _whenQuiet(self, seconds: float) -> Deferred[Any]:
        """
        @return: a Deferred that fires when there have been streams, and none has been open
            for a moment, or after that many seconds.
        """
        self._quiet = quiet = _Quiet(self.channel, seconds)
        return quiet.happened

    def _roundTrip(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when the client has received all that has
            been sent so far.
        """
        answered: Deferred[None] = Deferred()
        connection = self.channel.conn
        receive = connection.receive_data

        def receiveAnswer(data: bytes) -> Any:
            events = receive(data)
            if any(isinstance(e, PingAckReceived) and e.ping_data == _MARK for e in events):
                connection.receive_data = receive
                answered.callback(None)
            return events

        connection.receive_data = receiveAnswer
        connection.ping(_MARK)
        self.channel.transport.write(connection.data_to_send())
        return answered

    def _sayGoAway(self, lastStream: int) -> None:
        # Not by close_connection() of h2, after which it would send no answers.
        frame = GoAwayFrame(stream_id=0, last_stream_id=lastStream)
        self.channel.transport.write(frame.serialize())


class _Streams(dict[int, Any]):
    """
    The open streams of a channel, in a dictionary that reports each change.
    """

    def __init__(self, streams: dict[int, Any], changed: Callable[[], object]) -> None:
        super().__init__(streams)
        self._changed = changed

    def __setitem__(self, number: int, stream: Any) -> None:
        super().__setitem__(number, stream)
        self._changed()

    def __delitem__(self, number: int) -> None:
        super().__delitem__(number)
        self._changed()


class _Quiet:
    """
    Waits until there have been streams, and none has been open for a moment.

    @ivar happened: fires then, or when the time is over.
    """

    def __init__(self, channel: Any, seconds: float) -> None:
        from twisted.internet import reactor  # noqa: PLC0415 - it is chosen by now

        self.happened: Deferred[None] = Deferred()
        self._channel = channel
        self._clock: Any = reactor
        self._moment: Any = None
        self._end = self._clock.callLater(seconds, self.end)
        channel.streams = _Streams(channel.streams, self._look)
        self._look()

    def _look(self) -> None:
        channel = self._channel
        isQuiet = channel.conn.highest_inbound_stream_id and not channel.streams
        if not isQuiet and self._moment is not None:
            self._moment.cancel()
            self._moment = None
        elif isQuiet and self._moment is None:
            self._moment = self._clock.callLater(MOMENT, self.end)

    def end(self) -> None:
        """
        Stop waiting.
        """
        self._channel.streams = dict(self._channel.streams)
        for call in (self._end, self._moment):
            if call is not None and call.active():
                call.cancel()
        self.happened.callback(None)


def adapters() -> dict[type, Any]:
    """
    @return: for each class, what makes an L{IDrainable} of its objects.
    """
    return {H2Connection: HTTP2Drain}
