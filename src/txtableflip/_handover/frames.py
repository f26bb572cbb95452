"""
Frames: how a stream of bytes and descriptors is divided into messages, without
any I/O.  Both ends of a channel use the same reader, whether they block or are called by
the reactor.

A frame is::

    length   four bytes, the most significant first: how many follow
    header   a JSON object, on one line of ASCII
    newline
    body     the rest

The header's C{descriptors} says how many descriptors belong to the frame, if
there are any.  They are sent no earlier than its first byte and no later than
its last.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from txtableflip.errors import ChannelError

MAX_FRAME = 16 * 1024 * 1024
"""
The longest frame, in bytes without the length: a manifest takes about 250 for
each descriptor.
"""

FDS_AT_ONCE = 253
"""
The most descriptors that go with one sendmsg(2): C{SCM_MAX_FD} of unix(7).
"""

_LENGTH = struct.Struct("!I")


class Frame(NamedTuple):
    """
    One frame that has come whole.

    @ivar descriptors: what belongs to it, in order, to be closed by the owner of the frame.
    @ivar isCut: whether the kernel has dropped some of them: this process may not open
        more.
    """

    header: dict[str, Any]
    body: bytes
    descriptors: list[int]
    isCut: bool = False


def writeFrame(header: Mapping[str, Any], descriptors: int = 0, body: bytes = b"") -> bytes:
    """
    Write a frame, to be sent as L{divide} says.

    @param header: JSON, in which an object may have its fields as attributes.
    @param descriptors: how many belong to it.
    @param body: what follows the header.
    @raise ChannelError: if it is not JSON, or would be longer than L{MAX_FRAME}.
    """
    if descriptors:
        header = {**header, "descriptors": descriptors}
    try:
        line = json.dumps(header, separators=(",", ":"), default=vars).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise ChannelError(f"what is to be sent is not JSON: {error}") from error
    # Each batch of descriptors needs a byte to go with, and blanks are JSON.
    content = line.ljust(descriptors // FDS_AT_ONCE) + b"\n" + body
    if len(content) > MAX_FRAME:
        raise ChannelError(
            f"a frame of {len(content)} bytes is too long to send: {line[:60]!r}"
        )
    return _LENGTH.pack(len(content)) + content


def divide(frame: bytes, descriptors: Sequence[int]) -> Iterator[tuple[bytes, Sequence[int]]]:
    """
    Divide a frame into what may be sent at once: in these pieces, all of its
    descriptors are on their way before its last byte is.

    @return: pieces of the frame, each with the descriptors that go with its
        first byte.
    """
    count = max(1, -(-len(descriptors) // FDS_AT_ONCE))
    for number in range(count):
        begin, end = (len(frame) * edge // count for edge in (number, number + 1))
        batch = descriptors[number * FDS_AT_ONCE : (number + 1) * FDS_AT_ONCE]
        yield frame[begin:end], batch


class FrameReader:
    """
    Assembles frames from what comes, in pieces of any size.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._descriptors: list[int] = []
        self._isCut = False

    @property
    def missing(self) -> int:
        """
        How many bytes may be read without reading into another frame than the
        one that has begun.
        """
        if len(self._data) < _LENGTH.size:
            return _LENGTH.size - len(self._data)
        return self._end - len(self._data)

    @property
    def _end(self) -> int:
        (length,) = _LENGTH.unpack_from(self._data)
        return _LENGTH.size + int(length)

    def receive(
        self, data: bytes, descriptors: Iterable[int] = (), *, isCut: bool = False
    ) -> Iterator[Frame]:
        """
        Take in what has come.

        @param isCut: whether the kernel has dropped some of the descriptors.
        @return: the frames that are whole now.
        @raise ChannelError: after those, if what follows is not a frame, or came with other
            descriptors than it says.  Whatever has come and belongs to no frame is closed
            then, and nothing more can be read.
        """
        self._data += data
        self._descriptors += descriptors
        self._isCut = self._isCut or isCut
        try:
            while (frame := self._next()) is not None:
                yield frame
        except ChannelError:
            self.close()
            raise

    def close(self) -> None:
        """
        Close the descriptors that belong to no whole frame.
        """
        closeAll(self._descriptors)
        self._descriptors = []

    def _next(self) -> Frame | None:
        if len(self._data) < _LENGTH.size:
            return None
        end = self._end
        if end > _LENGTH.size + MAX_FRAME:
            raise ChannelError(f"a frame of {end - _LENGTH.size} bytes is too long")
        if len(self._data) < end:
            return None
        line, newline, body = bytes(self._data[_LENGTH.size : end]).partition(b"\n")
        del self._data[:end]
        header = _readHeader(line)
        if not newline:
            raise ChannelError("a frame ends within its header")
        taken = self._take(header.get("descriptors", 0))
        isCut, self._isCut = self._isCut, False
        return Frame(header, body, taken, isCut)

    def _take(self, count: object) -> list[int]:
        if type(count) is not int or count < 0:
            raise ChannelError("a frame has a number of descriptors that is not one")
        found = len(self._descriptors)
        # If another frame has begun, the descriptors that are left over belong to that one.
        if (count > found and not self._isCut) or (count < found and not self._data):
            raise ChannelError(f"{found} descriptors came with a frame that has {count}")
        taken = self._descriptors[:count]
        del self._descriptors[:count]
        return taken


def closeAll(descriptors: Iterable[int]) -> None:
    """
    Close descriptors that are not wanted.
    """
    for fileno in descriptors:
        os.close(fileno)


def _readHeader(line: bytes) -> dict[str, Any]:
    try:
        header = json.loads(line, parse_constant=_refuseConstant)
    except (ValueError, RecursionError) as error:
        raise ChannelError(f"a frame does not begin with JSON: {line[:60]!r}") from error
    if not isinstance(header, dict):
        raise ChannelError(f"a frame does not begin with a JSON object: {line[:60]!r}")
    return header


def _refuseConstant(name: str) -> None:
    """
    Refuse C{NaN} and C{Infinity}, which are neither JSON nor a time to wait.
    """
    raise ValueError(name)
