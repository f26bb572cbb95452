"""
What the parent and the child say to each other, as bytes and back.

A conversation::

    parent                         child
      Manifest (and descriptors) -->
                                 <-- Hello
                                 <-- Ready, or Refused
      Commit, or Abort           -->
                                 <-- Serving
      Redeploy                   -->

Each message is one frame: a JSON object on one line, a newline, and room for a
binary body, which no message uses yet.  The length of the frame goes before it
(L{twisted.protocols.basic.Int32StringReceiver}, see L{txtableflip._handover.channel}).
The first frame in each direction carries the version of all this.

Whatever arrives is checked here before anyone acts on it: a frame either
becomes a whole, well-typed message, or raises L{ChannelError}.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from math import isfinite
from typing import Any, get_args, get_origin, get_type_hints

from txtableflip._handover.manifest import Entry
from txtableflip.errors import ChannelError

VERSION = 1
"""
The version of the protocol.  It changes with any change of a message.
"""

MAX_FRAME = 16 * 1024 * 1024
"""
The longest frame, in bytes: a manifest takes about 150 for each descriptor.
"""


@dataclass(frozen=True)
class Manifest:
    """
    What the child inherits.  The descriptors come with the same bytes, in the
    order of C{entries}; the very first is the parent's standard error.

    @ivar generation: the child's, counted from 1.
    @ivar upgradeTimeout: how long the parent waits for Ready, in seconds.
    @ivar pidFile: the absolute path of the pid file, if there is one.
    """

    generation: int
    upgradeTimeout: float
    pidFile: str | None
    entries: tuple[Entry, ...]
    version: int = VERSION


@dataclass(frozen=True)
class Hello:
    """
    The child has read the manifest, and is who it should be.
    """

    pid: int
    version: int = VERSION


@dataclass(frozen=True)
class Ready:
    """
    The child has initialised, and asks to take over.
    """


@dataclass(frozen=True)
class Refused:
    """
    The child cannot take over.
    """

    reason: str


@dataclass(frozen=True)
class Commit:
    """
    The parent has stopped accepting for good: the child serves from now on.
    """


@dataclass(frozen=True)
class Abort:
    """
    The parent has given the child up, which must leave and never serve.
    """

    reason: str


@dataclass(frozen=True)
class Serving:
    """
    The child has taken over.
    """


@dataclass(frozen=True)
class Redeploy:
    """
    Somebody asked the parent for a newer version meanwhile: upgrade as soon as
    that may be.
    """


Message = Manifest | Hello | Ready | Refused | Commit | Abort | Serving | Redeploy
_TYPES: dict[str, type[Message]] = {cls.__name__: cls for cls in get_args(Message)}


def encode(message: Message) -> bytes:
    """
    Write a message as the content of one frame.

    @raise ChannelError: if that would be longer than L{MAX_FRAME}.
    """
    header = {"message": type(message).__name__, **vars(message)}
    frame = json.dumps(header, separators=(",", ":")).encode("ascii") + b"\n"
    if len(frame) > MAX_FRAME:
        raise ChannelError(f"a {header['message']} of {len(frame)} bytes is too long to send")
    return frame


def decode(frame: bytes) -> Message:
    """
    Read the content of one frame.

    @raise ChannelError: if it is anything but one message of this version.
    """
    header, newline, body = frame.partition(b"\n")
    try:
        values = json.loads(header, parse_constant=_refuseConstant)
    except (ValueError, RecursionError) as error:
        raise ChannelError(f"a frame does not begin with JSON: {header[:60]!r}") from error
    cls = _TYPES.get(str(values.pop("message", None))) if isinstance(values, dict) else None
    if cls is None:
        raise ChannelError(f"a frame is no known message: {header[:60]!r}")
    if values.get("version", VERSION) != VERSION:
        raise ChannelError(
            f"the other process speaks version {values['version']!r} of the hand-over and "
            f"this one {VERSION}: they cannot replace each other, so restart the service once"
        )
    if not newline or body:
        raise ChannelError(f"a {cls.__name__} ends where it should not")
    message: Message = _build(cls, values)
    return message


def _refuseConstant(name: str) -> None:
    """
    Refuse C{NaN} and C{Infinity}, which are not JSON, and no time to wait.
    """
    raise ValueError(name)


def _build(cls: type[Any], values: dict[str, Any]) -> Any:
    """
    Make a message of exactly the JSON object that it was written as.
    """
    hashable: Any = cls
    readers = _fieldReaders(hashable)
    if set(values) != set(readers):
        raise ChannelError(f"a {cls.__name__} has other fields than {', '.join(readers)}")
    return cls(**{name: read(values[name]) for name, read in readers.items()})


@cache
def _fieldReaders(cls: Any) -> dict[str, Callable[[Any], Any]]:
    return {name: _reader(hint) for name, hint in get_type_hints(cls).items()}


def _reader(hint: Any) -> Callable[[Any], Any]:
    """
    @return: what makes a value of a type of the JSON that it was written as, or
        raises L{ChannelError}.
    """
    arguments = get_args(hint)
    if get_origin(hint) is tuple:
        return _sequenceReader(_reader(arguments[0]))
    if type(None) in arguments:
        return _optionalReader(_reader(arguments[0]))
    if issubclass(hint, tuple):
        return _tupleReader(hint, list(_fieldReaders(hint).values()))

    return _seconds if hint is float else _plainReader(hint)


def _seconds(value: Any) -> float:
    if type(value) in (int, float):
        with suppress(OverflowError):
            seconds = float(value)
            if isfinite(seconds):
                return seconds
    raise ChannelError(f"{value!r:.60} is no time")


def _plainReader(cls: type[Any]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if type(value) is not cls:
            raise ChannelError(f"{value!r:.60} is no {cls.__name__}")
        return value

    return read


def _sequenceReader(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: tuple(map(read, _list(value)))


def _optionalReader(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)


def _tupleReader(cls: Any, readers: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if len(_list(value)) != len(readers):
            raise ChannelError(f"{value!r:.60} is no {cls.__name__}")
        return cls._make([read(item) for read, item in zip(readers, value, strict=True)])

    return read


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ChannelError(f"{value!r:.60} is no list")
    return value
