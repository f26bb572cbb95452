"""
What the parent and the child say to each other, as frames and back.

A conversation::

    parent                         child
      Manifest (and descriptors) -->
                                 <-- Hello
                                 <-- Ready, or Refused
      Commit (and descriptors),
      or Abort                   -->
                                 <-- Serving
      Confirm, or Withdraw       -->
                                 <-- Ready, or Refused, behind Withdraw
      Offer (and descriptors)    -->     any number, behind Confirm
                                 <-- Taken, over the socket that came with the first
      Abort                      -->
                                 <-- Stopping, of a process that was told to stop
      Redeploy                  <-->

Confirm and Withdraw are wishes if the child says them.

B{What is frozen for ever}, because each version must be able to read as much of
any other:

  - The variable C{TXTABLEFLIP_CHANNEL} has the number of the child's end, which
    is 3: a stream socket.
  - The form of a frame, see L{txtableflip._handover.frames}.
  - The header of a frame has C{message}, the name of the message;
    C{descriptors}, how many belong to the frame, if any; C{must}, names as
    below, if any; and beside them the fields of the message.
  - The first frame of the parent is a Manifest, that of the child a Hello.  Both
    have C{speaks}, a list of the oldest and the newest version that the process
    can speak, and C{can}, a list of names; Hello has C{version}.
  - The Manifest is written in the parent's oldest version, for it comes before
    the parent can know the child's.
  - Each of a Manifest's C{entries} is an object, whose C{key} is an object with
    a C{kind}.

B{What may grow.}  Versions: the child chooses the lower one of the two newest,
and says so in Hello; if either process does not speak that any more, they cannot
replace each other.  Fields: those that are not known are ignored at any level,
and those that are absent have a default if they were not in version 1.
Messages: those that are not known are ignored.  What must not be ignored is
named in C{must}: a field by its name, the message itself as C{message}; a process that does
not know one of these names refuses the frame.  (In a message that is ignored, only
C{message} counts.)  Kinds of entries: one that is not known says by C{unknown} whether its
descriptor is passed on, C{"keep"}, or closed, C{"close"}, which it is if nothing is said.
The I{meaning} of a message changes by a capability only: a name in C{can}, of which each
process uses those that both have.

Whatever arrives is checked here before it is acted upon: a frame either becomes a whole,
well-typed message, or raises L{ChannelError}.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache, partial
from math import isfinite
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from txtableflip._handover.frames import Frame, writeFrame
from txtableflip._handover.manifest import KINDS, Entry, Key, UnknownEntry
from txtableflip.errors import ChannelError


class Range(NamedTuple):
    """
    The versions of the protocol that a process speaks, both ends included.
    """

    oldest: int
    newest: int

    def __str__(self) -> str:
        if self.oldest == self.newest:
            return f"version {self.newest}"
        return f"versions {self.oldest} to {self.newest}"


SPEAKS = Range(1, 1)
"""
What this version of txtableflip speaks: as much as the release before it, at
least.
"""

PROBATION = "probation"
"""
The capability to be rolled back: Confirm, Withdraw, Stopping, and Redeploy from the
child.
"""

CHANGES = "changes"
"""
The capability to send, or to take, descriptors with Commit.
"""

OUTPUT = "output"
"""
The capability to read what is written to the pipes that were a child's standard output and
error before it was final, also by what it has started: entries of this kind, and C{stdout}.
"""

MIGRATION = "migration"
"""
The capability to offer connections, or to continue with them: Offer and Taken.
"""

CAPABILITIES: tuple[str, ...] = (PROBATION, CHANGES, OUTPUT, MIGRATION)
"""
What this version of txtableflip can do, by name.
"""


@dataclass(frozen=True)
class Manifest:
    """
    What the child inherits.  The descriptors come with the frame: the parent's
    standard error, if it says so, and then one for each of the entries.

    @ivar generation: the child's, counted from 1.
    @ivar upgradeTimeout: how long the parent waits for Ready, in seconds.
    @ivar pidFile: the absolute path of the pid file, if there is one.
    @ivar stderr: whether the parent's standard error comes first.
    @ivar speaks: which versions the parent speaks.
    @ivar can: the parent's capabilities.
    @ivar release: what people call the parent's release.
    """

    generation: int
    upgradeTimeout: float
    pidFile: str | None
    entries: tuple[Entry | UnknownEntry, ...]
    stderr: bool = True
    speaks: Range = SPEAKS
    can: tuple[str, ...] = CAPABILITIES
    release: str | None = None


@dataclass(frozen=True)
class Hello:
    """
    The child has read the manifest, and says who it is.

    @ivar pid: its process id, as it knows it; where the kernel reports the sender's, that
        counts.
    @ivar version: which one is spoken from now on.
    @ivar speaks: which versions the child speaks.
    @ivar can: the child's capabilities.
    @ivar release: what people call the child's release.
    """

    pid: int
    version: int = SPEAKS.newest
    speaks: Range = SPEAKS
    can: tuple[str, ...] = CAPABILITIES
    release: str | None = None


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
    The parent has stopped accepting: the child serves from now on.

    @ivar probation: for how long the parent may roll back, in seconds.
    @ivar came: what the parent has opened since it sent the manifest, one for each of the
        descriptors that come with the frame.
    """

    probation: float = 0.0
    came: tuple[Entry | UnknownEntry, ...] = ()


@dataclass(frozen=True)
class Abort:
    """
    The parent has given the child up, or both are to stop: the child must exit and
    never serve again.

    @ivar rehearsal: whether the child has done all that was wanted of it.
    """

    reason: str
    rehearsal: bool = False


@dataclass(frozen=True)
class Serving:
    """
    The child has taken over.
    """


@dataclass(frozen=True)
class Confirm:
    """
    The child is final: the parent never rolls back.  From the child, a request for that.
    """


@dataclass(frozen=True)
class Withdraw:
    """
    The child is to stop accepting, say Ready, and stand by.  From the child, a request for
    that.
    """

    reason: str


@dataclass(frozen=True)
class Stopping:
    """
    The child was told to stop: it accepts nothing, and exits, and so should the
    parent.  When it is final: its exit will not be a crash.
    """


@dataclass(frozen=True)
class Offered:
    """
    An established connection, which the child may continue.

    @ivar inode: that of its socket, the same in any process: by it, its descriptor is
        found among those that have come.
    @ivar listener: which one has accepted it.
    @ivar state: how many bytes of the body are its protocol's own, and come first.
    @ivar unread: how many have been received, and not been acted upon; they come next.
    @ivar unsent: how many are still to be sent; they come last.
    """

    inode: int
    listener: Key
    state: int
    unread: int
    unsent: int


@dataclass(frozen=True)
class Offer:
    """
    Connections on offer.  The descriptors are theirs, in any order, and that of a
    socket (C{lane}) over which each Offer of the same move is answered by Taken.  The
    answer to the last one acknowledges the move: once it is in the socket's queue, the
    connections that were not refused are the child's; before that, none is.

    @ivar move: tells one move from another.
    @ivar lane: the inode of the socket, whose descriptor comes with the first Offer of a
        move.
    @ivar isLast: whether no more of this move follow.
    @ivar body: the bytes of all these connections, one after the other.
    """

    move: int
    lane: int
    connections: tuple[Offered, ...]
    isLast: bool
    body: bytes


@dataclass(frozen=True)
class Refusal:
    """
    A connection that the child has not taken, and does not hold any more.
    """

    inode: int
    reason: str


@dataclass(frozen=True)
class Taken:
    """
    The child holds what an Offer had, but for these.
    """

    refused: tuple[Refusal, ...] = ()


@dataclass(frozen=True)
class Redeploy:
    """
    A newer version was requested meanwhile: remember that.
    """


Message = (
    Manifest
    | Hello
    | Ready
    | Refused
    | Commit
    | Abort
    | Serving
    | Confirm
    | Withdraw
    | Stopping
    | Offer
    | Taken
    | Redeploy
)
_TYPES: dict[str, type[Message]] = {cls.__name__: cls for cls in get_args(Message)}

_HEADER = {"message", "descriptors", "must"}
"""
What any message may have in its header.
"""

_NEVER_ABSENT = {"speaks", "version", "can"}
"""
Fields with a default for the writer, and none for the reader: what a process speaks, and
can, is known only from itself.
"""

_MAY_BE_ABSENT = {"release", "rehearsal"}
"""
Fields that are left out where there is nothing to say.
"""


def encode(message: Message, descriptors: int = 0) -> bytes:
    """
    Write a message as one frame.

    @param descriptors: how many belong to it.
    @raise ChannelError: if that would be too long.
    """
    said = {
        name: value
        for name, value in vars(message).items()
        if name not in _MAY_BE_ABSENT or value
    }
    body = said.pop("body", b"")
    return writeFrame({"message": type(message).__name__, **said}, descriptors, body)


def decode(frame: Frame) -> Message | None:
    """
    Read one frame.

    @return: the message, or C{None} if it is one that this version does not
        know, and that may be ignored.
    @raise ChannelError: if it is not a message, or is one that this version
        cannot take part in.
    """
    header = frame.header
    name = header.get("message")
    if not isinstance(name, str):
        raise ChannelError(f"a frame is not a message: {_shown(header)}")
    cls = _TYPES.get(name)
    if cls in (Manifest, Hello) and "speaks" in header:
        # Before anything else, for the rest may differ in another version.
        agree(SPEAKS, _range(header["speaks"]))
    _checkMusts(header.get("must", []), cls, name)
    if cls is None:
        return None
    if cls is Offer:
        header = {**header, "body": frame.body}
    elif frame.body:
        raise ChannelError(f"a {name} ends where it should not")
    message: Message = _build(cls, header)
    if isinstance(message, Hello) and not SPEAKS.oldest <= message.version <= SPEAKS.newest:
        raise ChannelError(
            f"the other process goes on in version {message.version} of the hand-over, "
            f"and this one speaks {SPEAKS}"
        )
    return message


def agree(ours: Range, theirs: Range) -> int:
    """
    @return: the version in which two processes speak.
    @raise ChannelError: if there is none.
    """
    version = min(ours.newest, theirs.newest)
    if version < max(ours.oldest, theirs.oldest):
        raise ChannelError(
            f"the other process speaks {theirs} of the hand-over and this one {ours}: "
            f"they cannot replace each other, so stop the service and start it once"
        )
    return version


def bothCan(capability: str, theirs: Sequence[str]) -> bool:
    """
    @param theirs: what the other process can.
    @return: whether this one can it, too.
    """
    return capability in theirs and capability in CAPABILITIES


def _checkMusts(musts: Any, cls: Any, name: str) -> None:
    """
    @raise ChannelError: if this version does not know what it must.
    """
    if cls is None:
        unknown = {"message"}.intersection(_names(musts))
    else:
        unknown = set(_names(musts)) - _HEADER - set(_readers(cls))
    if unknown:
        raise ChannelError(
            f"this version does not know the {_shown(', '.join(sorted(unknown)))} "
            f"of a {_shown(name)}, and must"
        )


def _build(cls: Any, values: Any) -> Any:
    """
    Make a message, or a part of one, of the JSON object that it was written as.
    """
    if not isinstance(values, dict):
        raise ChannelError(f"{_shown(values)} is not a {cls.__name__}")
    found = {}
    for name, (read, isNeeded) in _readers(cls).items():
        if name in values:
            try:
                found[name] = read(values[name])
            except ChannelError as error:
                raise ChannelError(f"{cls.__name__}.{name}: {error}") from None
        elif isNeeded:
            raise ChannelError(f"a {cls.__name__} is without its {name}")
    return cls(**found)


_Reader = Callable[[Any], Any]


@cache
def _readers(cls: Any) -> dict[str, tuple[_Reader, bool]]:
    """
    @return: for each field, what makes its value of JSON, and whether it must
        be there.
    """
    hints = get_type_hints(cls)
    return {
        field.name: (
            _reader(hints[field.name]),
            field.default is MISSING or field.name in _NEVER_ABSENT,
        )
        for field in fields(cls)
    }


def _reader(hint: Any) -> _Reader:
    """
    @return: what makes a value of a type of the JSON that it was written as, or
        raises L{ChannelError}.
    """
    arguments = get_args(hint)
    if hint in _SPECIAL:
        return _SPECIAL[hint]
    if get_origin(hint) is tuple:
        return partial(_sequence, _reader(arguments[0]))
    if type(None) in arguments:
        return partial(_optional, _reader(arguments[0]))
    return partial(_build if is_dataclass(hint) else _plain, hint)


def _seconds(value: Any) -> float:
    if type(value) in (int, float):
        with suppress(OverflowError):
            seconds = float(value)
            if isfinite(seconds):
                return seconds
    raise ChannelError(f"{_shown(value)} is not a time")


def _range(value: Any) -> Range:
    found = _sequence(partial(_plain, int), value)
    if len(found) != len(Range._fields) or found[0] > found[-1]:
        raise ChannelError(f"{_shown(value)} is not a range of versions")
    return Range(*found)


def _entry(value: Any) -> Entry | UnknownEntry:
    key = value.get("key") if isinstance(value, dict) else None
    kind = key.get("kind") if isinstance(key, dict) else None
    if not isinstance(kind, str) or kind in KINDS:
        known: Entry = _build(Entry, value)
        return known
    if value.get("unknown", "close") not in ("keep", "close"):
        raise ChannelError(
            f"{_shown(value['unknown'])} is not what to do with a {_shown(kind)}"
        )
    return UnknownEntry(value)


_SPECIAL: dict[Any, _Reader] = {
    float: _seconds,
    Range: _range,
    Entry | UnknownEntry: _entry,
}


def _plain(cls: type[Any], value: Any) -> Any:
    if type(value) is not cls:
        raise ChannelError(f"{_shown(value)} is not of type {cls.__name__}")
    return value


def _sequence(read: _Reader, value: Any) -> tuple[Any, ...]:
    return tuple(map(read, _plain(list, value)))


_names = partial(_sequence, partial(_plain, str))


def _optional(read: _Reader, value: Any) -> Any:
    return None if value is None else read(value)


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.60}"
    except RecursionError:
        return "what is nested too deeply to be shown"
