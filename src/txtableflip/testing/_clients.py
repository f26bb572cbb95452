"""
Clients that never retry: whatever is not a complete and correct answer is a failure.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Protocol

DEADLINE = 60.0
"""
How long an answer may take, in seconds.
"""

KEPT_FOR = 20
"""
How many requests are sent over a connection that is kept.
"""

LASTING = 2
"""
How many upgrades a lasting connection outlives: fewer than would make the oldest generation
a surplus one, which is terminated.
"""

BETWEEN_REQUESTS = 0.005
SLOW_PIECES = 5
SLOW_PAUSE = 0.1
SILENCE = 0.3

_READ = 65536
_RESET = struct.pack("ii", 1, 0)


class WrongAnswer(Exception):
    """
    What came is not a complete answer, or not the right one.
    """


class Question(Protocol):
    """
    How to ask a service, and how to tell an answer.
    """

    def request(self, *, isLast: bool) -> bytes:
        """
        @param isLast: whether the connection is not to be kept.
        @return: what to send.
        """

    def readAnswer(self, sock: socket.socket) -> bool:
        """
        Read one answer.

        @return: whether the service closes the connection now.
        @raise WrongAnswer: if it is not as it should be.
        """


@dataclass(frozen=True)
class Http:
    """
    A GET request of HTTP/1.1.

    @ivar path: what to get.
    @ivar expect: a regular expression that is to be found in the body; the
        status must be 200 in any case.
    """

    path: str = "/"
    expect: str = ""

    def request(self, *, isLast: bool) -> bytes:
        """
        See L{Question.request}.
        """
        close = "Connection: close\r\n" if isLast else ""
        return f"GET {self.path} HTTP/1.1\r\nHost: localhost\r\n{close}\r\n".encode()

    def readAnswer(self, sock: socket.socket) -> bool:
        """
        See L{Question.readAnswer}.
        """
        with HTTPResponse(sock, method="GET") as response:
            try:
                response.begin()
                body = response.read().decode("utf-8", "replace")
            except HTTPException as error:
                raise WrongAnswer(f"no whole answer: {error!r}") from error
            if response.status != 200:  # noqa: PLR2004 - known to everybody
                raise WrongAnswer(f"status {response.status}: {body[:60]!r}")
            if not re.search(self.expect, body):
                raise WrongAnswer(f"{body[:60]!r} is not what was expected")
            return bool(response.will_close)


@dataclass(frozen=True)
class Exchange:
    """
    Some bytes, and what is to come back.

    @ivar send: the question.
    @ivar expect: a regular expression for the whole answer.
    """

    send: bytes
    expect: str

    def request(self, *, isLast: bool) -> bytes:
        """
        See L{Question.request}.
        """
        return self.send

    def readAnswer(self, sock: socket.socket) -> bool:
        """
        See L{Question.readAnswer}.
        """
        received = b""
        while True:
            text = received.decode("utf-8", "replace")
            if re.fullmatch(self.expect, text):
                return False
            part = sock.recv(_READ)
            if not part:
                raise WrongAnswer(f"the connection was closed after {text[:60]!r}")
            received += part


@dataclass(frozen=True)
class Sample:
    """
    What one client saw when it asked once.

    @ivar kind: which kind of client: see L{KINDS}; or C{lasting}.
    @ivar connected: when it connected, in seconds since the epoch.
    @ivar begun: when it asked; the same, but on a connection that is kept.
    @ivar took: how long until it had the answer, in seconds, without the pauses
        that it made itself.
    @ivar error: why there was no answer.
    """

    kind: str
    connected: float
    begun: float
    took: float
    error: str = ""


class Client:
    """
    One client, which asks again and again.
    """

    def __init__(
        self, address: tuple[str, int], question: Question, heard: Callable[[Sample], None]
    ) -> None:
        """
        @param heard: is called with each sample.
        """
        self._address = address
        self._question = question
        self._heard = heard
        self._connected = 0.0
        self._paused = 0.0

    def alone(self) -> None:
        """
        A connection for each request.
        """

        def ask() -> None:
            with self._connect() as sock:
                sock.sendall(self._question.request(isLast=True))
                self._question.readAnswer(sock)

        self._sample("alone", ask)

    def kept(self) -> None:
        """
        Many requests over one connection, until the service closes it.
        """
        isKept = True
        connections: list[socket.socket] = []

        def ask() -> None:
            nonlocal isKept
            if not connections:
                connections.append(self._connect())
            (sock,) = connections
            sock.sendall(self._question.request(isLast=False))
            isKept = not self._question.readAnswer(sock)

        for _ in range(KEPT_FOR):
            if not (self._sample("kept", ask) and isKept):
                break
            time.sleep(BETWEEN_REQUESTS)
        for sock in connections:
            sock.close()

    def slow(self) -> None:
        """
        A request in pieces, with pauses.
        """

        def ask() -> None:
            request = self._question.request(isLast=True)
            length = -(-len(request) // SLOW_PIECES)
            with self._connect() as sock:
                for start in range(0, len(request), length):
                    sock.sendall(request[start : start + length])
                    self._pause(SLOW_PAUSE)
                self._question.readAnswer(sock)

        self._sample("slow", ask)

    def raw(self) -> None:
        """
        A connection on which nothing is sent for a while, and which is reset after the
        answer.
        """

        def ask() -> None:
            with self._connect() as sock:
                self._pause(SILENCE)
                sock.sendall(self._question.request(isLast=False))
                self._question.readAnswer(sock)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

        self._sample("raw", ask)

    def lasting(self, kept: deque[socket.socket]) -> None:
        """
        A connection that stays open, on which nothing is sent after the first answer.

        @param kept: what it is added to.
        """

        def ask() -> None:
            sock = self._connect()
            kept.append(sock)
            sock.sendall(self._question.request(isLast=False))
            self._question.readAnswer(sock)

        self._sample("lasting", ask)

    def _connect(self) -> socket.socket:
        self._connected = time.time()
        sock = socket.create_connection(self._address, DEADLINE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _pause(self, seconds: float) -> None:
        before = time.monotonic()
        time.sleep(seconds)
        self._paused += time.monotonic() - before

    def _sample(self, kind: str, ask: Callable[[], None]) -> bool:
        """
        @return: whether there was an answer.
        """
        begun, start, self._paused = time.time(), time.monotonic(), 0.0
        error = ""
        try:
            ask()
        except (OSError, WrongAnswer) as failure:
            error = f"{type(failure).__name__}: {failure}"
        took = time.monotonic() - start - self._paused
        self._heard(Sample(kind, self._connected, begun, took, error))
        return not error


KINDS: dict[str, Callable[[Client], None]] = {
    "alone": Client.alone,
    "kept": Client.kept,
    "slow": Client.slow,
    "raw": Client.raw,
}
"""
The kinds of clients.
"""


class Lasting:
    """
    Connections that outlive upgrades, so that several generations live at the same time.
    """

    def __init__(
        self, address: tuple[str, int], question: Question, heard: Callable[[Sample], None]
    ) -> None:
        self._client = Client(address, question, heard)
        self._kept: deque[socket.socket] = deque()

    def another(self) -> None:
        """
        Connect, and close the connection that was made L{LASTING} connections ago.
        """
        self._client.lasting(self._kept)
        if len(self._kept) > LASTING:
            self._kept.popleft().close()

    def close(self) -> None:
        """
        Close all of them.
        """
        while self._kept:
            self._kept.popleft().close()


class Clients:
    """
    Clients of all kinds, at the same time, each in a thread of its own.

    @ivar samples: what they have seen.
    """

    def __init__(self, address: tuple[str, int], question: Question, ofEach: int) -> None:
        """
        @param ofEach: how many there are of each kind.
        """
        self.samples: list[Sample] = []
        self._isOver = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._run, args=(act, Client(address, question, self.samples.append))
            )
            for act in KINDS.values()
            for _ in range(ofEach)
        ]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *exception: object) -> None:
        self._isOver.set()
        for thread in self._threads:
            thread.join()

    def _run(self, act: Callable[[Client], None], client: Client) -> None:
        while not self._isOver.wait(BETWEEN_REQUESTS):
            act(client)
