"""
Answers of L{twisted.web} that outlive the process: event streams and WebSockets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.web.iweb import IRequest

from txtableflip._migration.http1 import migratedState, streams
from txtableflip.interfaces import Snapshot

__all__ = ["EventStream", "migratedState"]


class EventStream:
    """
    An answer of server-sent events (C{text/event-stream}), which migrates with its
    connection.  A resource makes it in C{render_GET} and returns C{NOT_DONE_YET}.

    In the next process the same request is rendered again, and L{migratedState} says what
    was left; what that C{EventStream} sends comes next in the same answer.  Here,
    C{request.notifyFinish()} fails with L{ConnectionMigrated
    <txtableflip.ConnectionMigrated>}, as with any lost connection.
    """

    def __init__(self, request: IRequest, state: Callable[[], bytes] = lambda: b"") -> None:
        """
        Send the header.

        @param request: to which nothing has been written.
        @param state: called when the connection migrates, for what to leave: the number of
            the last event, say.
        """
        self._request: Any = request
        self._state = state
        headers = self._request.responseHeaders
        headers.setRawHeaders(b"content-type", [b"text/event-stream"])
        headers.setRawHeaders(b"cache-control", [b"no-store"])
        streams[self._request] = self
        self._request.write(b"")

    def send(self, data: str, *, event: str | None = None, id: str | None = None) -> None:  # noqa: A002 - the field's name
        """
        Send an event.

        @param event: of which kind it is.
        @param id: what a client that connects again says that it has got last.
        @raise ValueError: if one of these two has more than one line.
        """
        lines = [f"{name}: {value}" for name, value in (("event", event), ("id", id)) if value]
        if any("\n" in line or "\r" in line for line in lines):
            raise ValueError("the kind and the id of an event have one line each")
        lines += [f"data: {line}" for line in data.splitlines() or [""]]
        text = "".join(f"{line}\n" for line in lines)
        self._request.write(f"{text}\n".encode())

    def finish(self) -> None:
        """
        End the answer.
        """
        del streams[self._request]
        self._request.finish()

    def snapshot(self) -> Snapshot:
        """
        @return: what is left to the next process.
        """
        return Snapshot(self._state())
