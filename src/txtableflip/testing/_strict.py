"""
Clients that connect once, never again, and check every byte that they get: what becomes of
connections which migrate.
"""

from __future__ import annotations

import heapq
import random
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from typing_extensions import Self

PATIENCE = 60.0
"""
How long the last answers may take, in seconds.
"""

THINK = 0.05
"""
For how long a client thinks between two lines at most, in seconds.
"""


class Client:
    """
    One connection.

    @ivar early: in how many bytes of what it sends it makes every other pause: in those
        that a server may have received and not acted upon when it leaves a connection.
    @ivar lines: how much it has got, in what its protocol counts.
    @ivar generations: which have answered.
    """

    early = 1 << 16

    def __init__(self, sock: socket.socket, number: int, room: list[Any]) -> None:
        self.sock = sock
        self.number = number
        self.room = room
        self.lines = 0
        self.generations: set[int] = set()
        self.lastHeard = time.monotonic()
        self.worstGap = 0.0
        self._begun = b""

    def speak(self, *, mayBegin: bool) -> None:
        """
        Send half of something, or the other half.
        """
        if self._begun:
            data, self._begun = self._begun, b""
        elif mayBegin and (whole := self.compose()):
            most = random.choice((len(whole), min(self.early, len(whole))))  # noqa: S311
            cut = random.randrange(most)  # noqa: S311
            data, self._begun = whole[:cut], whole[cut:]
        else:
            return
        self.sock.sendall(data)

    def compose(self) -> bytes:
        """
        @return: what to send next, if anything.
        """
        raise NotImplementedError

    def hear(self, data: bytes) -> str | None:
        """
        @return: what is wrong, if anything.
        """
        now = time.monotonic()
        self.worstGap = max(self.worstGap, now - self.lastHeard)
        self.lastHeard = now
        return self.understand(data)

    def understand(self, data: bytes) -> str | None:
        """
        @return: what is wrong, if anything.
        """
        raise NotImplementedError

    @property
    def isComplete(self) -> bool:
        """
        Whether it has said all, and got all that it has to get.
        """
        return not self._begun


class Member(Client):
    """
    One that speaks in lines, which all of its room get.

    @ivar sent: how many it has sent.
    @ivar heard: of each member of its room, how many it has got.
    """

    def __init__(self, sock: socket.socket, number: int, room: list[Member]) -> None:
        super().__init__(sock, number, room)
        self.sent = 0
        self.heard: Counter[int] = Counter()
        self._buffer = b""

    def compose(self) -> bytes:
        line = b"%d %d %s\n" % (self.number, self.sent, b"x" * random.randrange(200))  # noqa: S311
        self.sent += 1
        return line

    def understand(self, data: bytes) -> str | None:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            try:
                number, count, padding, generation = line.split(b" ")
                who, what = int(number), int(count)
            except ValueError:
                return f"got {line[:60]!r}"
            if padding.strip(b"x") or what != self.heard[who]:
                return f"got line {what} of {who}, and not {self.heard[who]}"
            self.heard[who] += 1
            self.lines += 1
            self.generations.add(int(generation))
        return None

    @property
    def isComplete(self) -> bool:
        return not self._begun and all(
            self.heard[each.number] == each.sent for each in self.room
        )


class Strict:
    """
    Many of these, in a thread.  Members speak to a server that sends each line, with a blank
    and its generation, to all of a room: the connections that have come after each other.

    @ivar failures: what went wrong.
    """

    def __init__(
        self,
        address: Any,
        count: int,
        room: int = 1,
        think: float = THINK,
        kind: Callable[[socket.socket, int, list[Any]], Client] = Member,
    ) -> None:
        """
        @param address: where to connect: of TCP, or the path of a UNIX socket.
        @param room: how many are in a room; 1 for those who talk to themselves.
        @param think: how long a client waits until it speaks again, in seconds at most.
        @param kind: makes a client of a connection, its number, and its room.
        """
        self.failures: list[str] = []
        self._think = think
        self._selector = selectors.DefaultSelector()
        self._clients: list[Client] = []
        members: list[Client] = []
        for number in range(count):
            if number % room == 0:
                members = []
            client = kind(_connect(address), number, members)
            members.append(client)
            self._clients.append(client)
            self._selector.register(client.sock, selectors.EVENT_READ, client)
        now = time.monotonic()
        # Not all at once: nobody else would be served meanwhile.
        self._due = [(now + random.uniform(0, think), each.number) for each in self._clients]  # noqa: S311
        heapq.heapify(self._due)
        self._isFinishing = False
        self._patience = PATIENCE
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._isFinishing = True
        self._thread.join(PATIENCE + 10)
        for client in self._clients:
            client.sock.close()
        self._selector.close()

    def finish(self, patience: float = PATIENCE) -> None:
        """
        Say nothing new, and wait until all has been answered.

        @param patience: for how long, in seconds.
        """
        self._patience = patience
        self._isFinishing = True
        self._thread.join(patience + 10)

    @property
    def lines(self) -> int:
        """
        How many lines were got.
        """
        return sum(client.lines for client in self._clients)

    @property
    def generations(self) -> list[set[int]]:
        """
        Which generations each client has heard.
        """
        return [client.generations for client in self._clients]

    def haveHeard(self, generation: int) -> bool:
        """
        @return: whether all whose connections live have heard a generation.
        """
        living = [each for each in self._clients if each.sock.fileno() >= 0]
        return all(generation in each.generations for each in living)

    @property
    def gaps(self) -> list[float]:
        """
        For how long each client has heard nothing, at worst, in seconds.
        """
        return [client.worstGap for client in self._clients]

    def _run(self) -> None:
        try:
            self._converse()
        except Exception as error:
            # Otherwise nobody would miss what nobody listens to.
            self.failures.append(f"the clients have failed: {error!r}")
            raise

    def _converse(self) -> None:
        end = float("inf")
        while time.monotonic() < end:
            if self._isFinishing and end == float("inf"):
                end = time.monotonic() + self._patience
            for key, _ in self._selector.select(0.005):
                self._hear(key.data)
            self._speak()
            if self._isFinishing and all(each.isComplete for each in self._living()):
                return
        late = [each for each in self._living() if not each.isComplete]
        self.failures += [f"client {each.number} has not got everything" for each in late]

    def _living(self) -> list[Client]:
        return [key.data for key in self._selector.get_map().values()]

    def _hear(self, client: Client) -> None:
        try:
            data = client.sock.recv(65536)
        except OSError as error:
            self._lose(client, str(error))
            return
        wrong = client.hear(data) if data else "its connection was closed"
        if wrong is not None:
            self._lose(client, wrong)

    def _speak(self) -> None:
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            _, number = heapq.heappop(self._due)
            client = self._clients[number]
            if client.sock.fileno() < 0:
                continue
            try:
                client.speak(mayBegin=not self._isFinishing)
            except OSError as error:
                self._lose(client, str(error))
                continue
            again = now + random.uniform(0, self._think)  # noqa: S311
            heapq.heappush(self._due, (again, number))

    def _lose(self, client: Client, why: str) -> None:
        self.failures.append(f"client {client.number}: {why}")
        self._selector.unregister(client.sock)
        client.sock.close()
        with suppress(ValueError):
            client.room.remove(client)


def _connect(address: Any) -> socket.socket:
    if isinstance(address, str):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE)
        sock.connect(address)
    else:
        sock = socket.create_connection(address, PATIENCE)
    return sock
