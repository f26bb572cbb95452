"""
Clients of further protocols that connect once, never again, and check every byte that
they get: requests of HTTP/1.1, server-sent events, and WebSockets.
"""

import os
import random
import re
import zlib
from collections import deque

from txtableflip.testing._strict import Client

WORDS = [b"one", b"upgrade", b"that", b"nobody", b"notices", b"migrated", b"connection"]
FLUSHED = b"\x00\x00\xff\xff"
"""
The end of a flushed block, which a compressed message is sent without (RFC 7692).
"""

TEXT = 1
COMPRESSED, RESERVED, FINAL = 0x40, 0x70, 0x80
"""
What the first byte of a frame has (RFC 6455).
"""

TWO_BYTES = 126
"""
For a length that needs two bytes.
"""


class Wrong(Exception):
    """
    What no server may send: the message says what.
    """


class Stream(Client):
    """
    One whose protocol reads what it has got from a buffer.

    @ivar expected: what it is still to get, in order.
    """

    def __init__(self, sock, number, room):
        super().__init__(sock, number, room)
        self.expected = deque()
        self.buffer = b""
        self.count = 0
        self.greet()

    def greet(self):
        """
        Do what comes first.
        """

    def understand(self, data):
        self.buffer += data
        try:
            while self.readOne():
                self.lines += 1
        except Wrong as wrong:
            return str(wrong)
        return None

    def readOne(self):
        """
        Read one thing from the buffer, if it is there.
        """
        raise NotImplementedError

    def ask(self, lines):
        """
        Send a request, and wait for the header of its answer.
        """
        self.sock.sendall("\r\n".join([*lines, "Host: x", "", ""]).encode())
        while b"\r\n\r\n" not in self.buffer:
            data = self.sock.recv(65536)
            if not data:
                raise Wrong(f"the connection was closed after {self.buffer!r}")
            self.buffer += data
        header, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        return header

    def heardFrom(self, answer):
        """
        Take note of the generation before a blank, and return what follows.
        """
        found = re.fullmatch(rb"(\d+) (.*)", answer, re.DOTALL)
        if found is None:
            raise Wrong(f"got {answer[:60]!r}")
        self.generations.add(int(found[1]))
        return found[2]

    def check(self, answer):
        """
        See that this is what comes next.
        """
        if not self.expected:
            raise Wrong(f"got {answer[:60]!r}, and had asked nothing")
        expected = self.expected.popleft()
        if answer != expected:
            raise Wrong(f"got {answer[:60]!r}, and not {expected[:60]!r}")

    @property
    def isComplete(self):
        return not self._begun and not self.expected


class Requests(Stream):
    """
    Requests of HTTP/1.1 whose answers have their URI and body; sometimes two at once.
    """

    early = 15

    def compose(self):
        if self.expected:
            return b""
        return b"".join(self._compose() for _ in range(random.choice((1, 1, 2))))

    def _compose(self):
        self.count += 1
        uri = b"/%d/%d" % (self.number, self.count)
        body = os.urandom(random.choice((0, 100, 100, 1000, 20_000)))
        self.expected.append(b"%s %s" % (uri, body))
        return b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (
            *(uri, len(body), body),
        )

    def readOne(self):
        header, end, rest = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return False
        length = re.search(rb"\r\nContent-Length: (\d+)", header, re.IGNORECASE)
        if not header.startswith(b"HTTP/1.1 200 OK\r\n") or length is None:
            raise Wrong(f"got {header[:60]!r}")
        size = int(length[1])
        if len(rest) < size:
            return False
        self.buffer = rest[size:]
        self.check(self.heardFrom(rest[:size]))
        return True


class Events(Stream):
    """
    Events that are numbered.
    """

    def greet(self):
        header = self.ask(["GET / HTTP/1.1"])
        if b"text/event-stream" not in header or b"chunked" not in header:
            raise Wrong(f"got {header!r}")

    def compose(self):
        return b""

    def readOne(self):
        size, end, rest = self.buffer.partition(b"\r\n")
        if not end:
            return False
        if re.fullmatch(rb"[0-9a-f]+", size) is None:
            raise Wrong(f"got {self.buffer[:60]!r}")
        length = int(size, 16)
        if len(rest) < length + 2:
            return False
        chunk, self.buffer = rest[: length + 2], rest[length + 2 :]
        found = re.fullmatch(rb"data: (\d+ \d+)\n\n\r\n", chunk)
        if found is None:
            raise Wrong(f"got {chunk[:60]!r}")
        self.expected.append(b"%d" % self.count)
        self.count += 1
        self.check(self.heardFrom(found[1]))
        return True


class WebSocket(Stream):
    """
    Messages of a WebSocket, some in two frames.
    """

    early = 6
    header = "X-Nothing: at all"

    def greet(self):
        header = self.ask(
            [
                *("GET / HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket"),
                *("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
                self.header,
            ]
        )
        if not header.startswith(b"HTTP/1.1 101 "):
            raise Wrong(f"got {header!r}")
        self.message = b""
        self.negotiated(header)

    def negotiated(self, header):
        """
        See what has been agreed upon.
        """

    def compose(self):
        self.count += 1
        words = b" ".join(random.choices(WORDS, k=random.choice((0, 5, 50))))
        message = b"%d %d %s" % (self.number, self.count, words)
        self.expected.append(message)
        data, reserved = self.encode(message)
        if random.randrange(4):
            return frame(FINAL | reserved | TEXT, data)
        middle = len(data) // 2
        return frame(reserved | TEXT, data[:middle]) + frame(FINAL, data[middle:])

    def encode(self, message):
        """
        Return a message as it is sent, and the reserved bits of its first frame.
        """
        return message, 0

    def decode(self, message, reserved):
        """
        Return a message as it was meant.
        """
        if reserved:
            raise Wrong(f"got reserved bits {reserved:#x}")
        return message

    def readOne(self):
        found = unframe(self.buffer)
        if found is None:
            return False
        first, data, self.buffer = found
        code = first & 0x0F
        if code != (0 if self.message else TEXT):
            raise Wrong(f"got a frame that begins with {first:#x}: {data[:60]!r}")
        if code == TEXT:
            self.reserved = first & RESERVED
        self.message += data
        if first & FINAL:
            message, self.message = self.message, b""
            self.check(self.heardFrom(self.decode(message, self.reserved)))
        return True


class Compressed(WebSocket):
    """
    Messages each of which is compressed by what was in those before (RFC 7692).
    """

    header = "Sec-WebSocket-Extensions: permessage-deflate"

    def negotiated(self, header):
        if b"permessage-deflate" not in header or b"takeover" in header:
            raise Wrong(f"got {header!r}")
        self._deflate = zlib.compressobj(wbits=-15)
        self._inflate = zlib.decompressobj(wbits=-15)

    def encode(self, message):
        data = self._deflate.compress(message) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return data.removesuffix(FLUSHED), COMPRESSED

    def decode(self, message, reserved):
        if reserved != COMPRESSED:
            raise Wrong(f"got reserved bits {reserved:#x}")
        try:
            return self._inflate.decompress(message + FLUSHED)
        except zlib.error as error:
            raise Wrong(f"got what cannot be decompressed: {error}") from error


def frame(first, data):
    """
    Return a client's frame, which is masked.
    """
    size = len(data)
    length = bytes([0x80 | size]) if size < TWO_BYTES else b"\xfe" + size.to_bytes(2, "big")
    mask = os.urandom(4)
    whole = (mask * (size // 4 + 1))[:size]
    masked = int.from_bytes(data, "big") ^ int.from_bytes(whole, "big")
    return bytes([first]) + length + mask + masked.to_bytes(size, "big")


def unframe(data):
    """
    Return the first byte of a server's frame, what is in it, and what follows; nothing, if
    it is not whole.
    """
    size, begin = (*data[1:2], 0)[0], 2
    if size == TWO_BYTES:
        size, begin = int.from_bytes(data[2:4], "big"), 4
    elif size > TWO_BYTES:
        raise Wrong(f"got a frame with {data[:10]!r}")
    if len(data) < begin + size:
        return None
    return data[0], data[begin : begin + size], data[begin + size :]
