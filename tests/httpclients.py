"""
HTTP clients that do not forgive: each speaks through a plain socket, asks
nothing twice, and fails at a reset, at an end before its answer, and at an answer
that is not whole.
"""

import random
import re
import time
from collections import Counter
from functools import partial

from processes import PAUSE, Threads, connect, until

PATIENCE = 20
"""
How long one answer may take, in seconds.
"""

PART = 256 * 1024


class Connection:
    """
    One connection, over which several requests may be sent.

    @ivar isLast: whether the server has said that it closes.
    """

    def __init__(self, address, wrap):
        self.sock = connect(address, wrap)
        self.sock.settimeout(PATIENCE)
        self.isLast = False
        self._buffer = bytearray()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.sock.close()

    def send(self, method, path, body=b"", more=""):
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{length}{more}\r\n"
        self.sock.sendall(head.encode() + body)

    def receive(self, pause=0):
        """
        Receive one answer.

        @param pause: how long to wait after each L{PART} of it, in seconds.
        @return: the body.
        """
        head = self._until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        self.isLast = b"\r\nconnection: close" in head.lower()
        if b"\r\ntransfer-encoding: chunked" in head.lower():
            return b"".join(iter(self._chunk, b""))
        return self._exactly(int(re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)[1]), pause)

    def _chunk(self):
        size = self._until(b"\r\n")
        chunk = self._exactly(int(size, 16) + 2)
        assert chunk.endswith(b"\r\n"), chunk
        return chunk[:-2]

    def _until(self, end):
        while end not in self._buffer:
            self._more()
        found = self._buffer.index(end)
        head = bytes(self._buffer[:found])
        del self._buffer[: found + len(end)]
        return head

    def _exactly(self, length, pause=0):
        while len(self._buffer) < length:
            before = len(self._buffer) // PART
            self._more(PART)
            if len(self._buffer) // PART > before:
                time.sleep(pause)
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        return body

    def _more(self, size=4096):
        data = self.sock.recv(size)
        assert data, f"the connection ended after {self._buffer[:60]!r}"
        self._buffer += data

    def get(self, question, kind="now"):
        """
        Ask, and check the answer.

        @return: the generation that has answered.
        """
        self.send("GET", f"/{kind}/{question}")
        return generationOf(self.receive(), question)


def generationOf(body, question):
    words = body.decode().split()
    assert len(words) == 5, body
    assert (words[0], words[4]) == (str(question), "."), body
    return int(words[2])


def perRequest(address, wrap):
    with Connection(address, wrap) as connection:
        yield connection.get("alone")


def keepAlive(address, wrap, pause=lambda: 0):
    with Connection(address, wrap) as connection:
        number = 0
        while not connection.isLast:
            number += 1
            yield connection.get(number)
            time.sleep(pause())


def keepAliveWithGaps(address, wrap):
    return keepAlive(address, wrap, lambda: random.uniform(0, 0.2))


def pipelined(address, wrap, depth=8):
    with Connection(address, wrap) as connection:
        while not connection.isLast:
            request = "GET /now/{} HTTP/1.1\r\nHost: localhost\r\n\r\n"
            together = "".join(request.format(number) for number in range(depth))
            connection.sock.sendall(together.encode())
            for number in range(depth):
                assert not connection.isLast, f"only {number} of {depth} are answered"
                yield generationOf(connection.receive(), number)


def late(address, wrap):
    with Connection(address, wrap) as connection:
        while not connection.isLast:
            yield connection.get("later", "late")


def largeReadSlowly(address, wrap):
    with Connection(address, wrap) as connection:
        while not connection.isLast:
            connection.send("GET", "/large")
            assert len(connection.receive(pause=0.03)) == 16 * 1024 * 1024
            yield None


def uploadedSlowly(address, wrap):
    with Connection(address, wrap) as connection:
        part = b"y" * (1024 * 1024 // 10)
        while not connection.isLast:
            expect = "Expect: 100-continue\r\n"
            length = f"Content-Length: {10 * len(part)}\r\n"
            connection.send("PUT", "/upload", more=length + expect)
            assert connection.sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            for _ in range(10):
                connection.sock.sendall(part)
                time.sleep(0.3)
            yield generationOf(connection.receive(), 10 * len(part))


KINDS = {
    "a connection per request": perRequest,
    "keep-alive": keepAlive,
    "keep-alive with gaps": keepAliveWithGaps,
    "pipelining": pipelined,
    "three seconds": late,
    "a large answer read slowly": largeReadSlowly,
    "an upload sent slowly": uploadedSlowly,
}


class Crowd(Threads):
    """
    One client of each kind at each address.

    @ivar answers: how many answers there were, by kind, address and generation.
    @ivar failures: what went wrong, in words.
    """

    def __init__(self, addresses, kinds=KINDS):
        """
        @param addresses: by name, an address and what wraps a socket to it.
        """
        super().__init__(
            *(
                partial(self._run, f"{kind} over {name}", client, *target)
                for name, target in addresses.items()
                for kind, client in kinds.items()
            )
        )
        self.answers = Counter()
        self.failures = []

    def waitFor(self, generation):
        """
        Wait until a generation has answered somebody.
        """
        until(
            lambda: (
                self.failures or any(found == generation for _, found in list(self.answers))
            ),
            f"an answer of generation {generation}",
        )

    def _run(self, name, client, address, wrap):
        while not self._stop.is_set() and len(self.failures) < 20:
            try:
                for generation in client(address, wrap):
                    self.answers[name, generation] += 1
                    if self._stop.wait(PAUSE):
                        break
            except Exception as error:
                self.failures.append(f"{name}: {error!r}")
