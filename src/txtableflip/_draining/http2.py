"""
How HTTP/2 connections end when their process leaves: by GOAWAY, as section 6.8
of RFC 9113 wants it of a server that leaves gracefully: at first with the highest
stream there can be, and when the client has heard of that, with the last one
that there was.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from h2.events import PingAckReceived
from h2.exceptions import ProtocolError
from hyperframe.frame import GoAwayFrame
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import LoopingCall
from twisted.web._http2 import H2Connection
from zope.interface import implementer

from txtableflip.interfaces import IDrainable

QUIET_SHARE = 0.25
"""
How much of its time an HTTP/2 connection has to be without open streams before
it is told to open no more.
"""

_INTERVAL = 0.05
"""
How often to look whether it is, in seconds.
"""

_LOOKS = 4
"""
How often in a row: who has just had an answer may be asking again.
"""

_HIGHEST_STREAM = 2**31 - 1
_MARK = b"draining"


@implementer(IDrainable)
@dataclass(frozen=True)
class HTTP2Drain:
    """
    Drains an HTTP/2 connection.
    """

    channel: Any

    @inlineCallbacks
    def drain(self, seconds: float) -> Any:
        """
        See L{IDrainable.drain}.

        Clients that are made with the h2 library can receive nothing after
        GOAWAY.  For their sake it is not sent while streams are open, if there
        is a moment soon when none are.
        """
        yield self._whenQuiet(seconds * QUIET_SHARE)
        # An error: the client has closed the connection in the meantime.
        with suppress(ProtocolError):
            self._sayGoAway(_HIGHEST_STREAM)
            yield self._roundTrip()
            self._sayGoAway(self.channel.conn.highest_inbound_stream_id)
            yield self._whenQuiet(seconds)

    def _whenQuiet(self, seconds: float) -> Deferred[Any]:
        """
        @return: a Deferred that fires when there have been streams, and none
            has been open for a moment, or when it has waited for that so long.
        """
        channel, quiet = self.channel, 0

        def look() -> None:
            nonlocal quiet
            isQuiet = channel.conn.highest_inbound_stream_id and not channel.streams
            quiet = quiet + 1 if isQuiet else 0
            if quiet == _LOOKS or waiting.clock.seconds() >= deadline:
                waiting.stop()

        waiting = LoopingCall(look)
        deadline = waiting.clock.seconds() + seconds
        return waiting.start(_INTERVAL)

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


def adapters() -> dict[type, Any]:
    """
    @return: what makes an L{IDrainable} of whose objects.
    """
    return {H2Connection: HTTP2Drain}
