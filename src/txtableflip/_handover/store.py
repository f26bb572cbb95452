"""
What is deposited with a service manager (C{FileDescriptorStoreMax=} of
systemd.service(5)), for a process that is started again: what this one would hand to a
child.

Each descriptor has a name of its own, by which it is found; and one file in memory has
their names, and after them the manifest, as a child would read it.  So a reader can tell
whether what is there is complete: of two files the newer may be incomplete, and then the
older is complete.

The names, and the form of the file, are frozen as the channel is
(L{txtableflip._handover.messages}): another version may have written it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from txtableflip._handover.frames import FrameReader, closeAll
from txtableflip._handover.manifest import Entry, UnknownEntry
from txtableflip._handover.messages import Manifest, decode, encode
from txtableflip.errors import ChannelError

FIRST = 3
"""
The number of the first descriptor that a service manager passes (sd_listen_fds(3)).
"""

_OURS = "txtableflip-"
_LIST = "txtableflip-list-"
_LONGEST_LIST = 1 << 25


def nameOf(entry: Entry | UnknownEntry) -> str:
    """
    @return: what a descriptor is called in the store: the same in each generation that has
        it, and unlike any other.
    """
    if isinstance(entry, UnknownEntry):
        said = json.dumps(entry, sort_keys=True)
    else:
        said = json.dumps([vars(entry.key), vars(entry.identity)], sort_keys=True)
    return _OURS + hashlib.sha256(said.encode()).hexdigest()[:20]


def listNames(generation: int) -> tuple[str, str]:
    """
    @return: what the lists of a generation are called, in turns: the new one is there
        before the old one is removed.
    """
    return f"{_LIST}{generation}-0", f"{_LIST}{generation}-1"


def writeList(names: Sequence[str], manifest: Manifest) -> bytes:
    """
    @param names: of the descriptors, in the order of the manifest's entries.
    @raise ChannelError: if that would be too long.
    """
    return " ".join(names).encode() + b"\n" + encode(manifest, len(names))


class Passed(NamedTuple):
    """
    What a service manager has passed to this process.

    @ivar names: those of ours, of which some may have two descriptors.
    @ivar descriptors: ours, by name.
    @ivar others: the numbers of what is not ours.
    """

    names: list[str]
    descriptors: dict[str, int]
    others: list[int]


def passedTo(pid: int | None, environment: Mapping[str, str]) -> Passed | None:
    """
    @param pid: this process, as it was started; C{None} if the variables are for any
        process that reads them.
    @return: what was passed to it, if any of that is ours.
    """
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    isForUs = pid is None or environment.get("LISTEN_PID") == str(pid)
    if not isForUs or environment.get("LISTEN_FDS") != str(len(names)):
        return None
    passed = Passed([], {}, [])
    for number, name in enumerate(names, FIRST):
        if not name.startswith(_OURS):
            passed.others.append(number)
        elif name in passed.descriptors:
            os.close(number)
        else:
            passed.names.append(name)
            passed.descriptors[name] = number
    return passed if passed.names else None


def findManifest(passed: Passed) -> tuple[Manifest, list[int]] | None:
    """
    @return: the manifest whose descriptors are all there, and these, in its order; or
        C{None}.  All others of ours are closed.
    """
    lists = sorted((name for name in passed.names if name.startswith(_LIST)), key=_age)
    for name in lists:
        wanted, frame = _readList(passed.descriptors[name])
        found = [passed.descriptors[each] for each in wanted if each in passed.descriptors]
        if wanted and len(found) == len(wanted) == len(set(found)):
            closeAll(set(passed.descriptors.values()) - set(found))
            try:
                return _read(frame, found), found
            except ChannelError:
                closeAll(found)
                return None
    closeAll(passed.descriptors.values())
    return None


def _age(name: str) -> int:
    generation = name.removeprefix(_LIST).partition("-")[0]
    return -int(generation) if generation.isascii() and generation.isdigit() else 0


def _readList(fileno: int) -> tuple[list[str], bytes]:
    try:
        names, _, frame = os.pread(fileno, _LONGEST_LIST, 0).partition(b"\n")
        return names.decode("ascii").split(), frame
    except (OSError, UnicodeDecodeError):
        return [], b""


def _read(data: bytes, descriptors: Sequence[int]) -> Manifest:
    """
    @raise ChannelError: if that is not a manifest of so many descriptors.
    """
    # The caller keeps its own: the reader closes those that it has, if it cannot read on.
    for frame in FrameReader().receive(data, [os.dup(each) for each in descriptors]):
        closeAll(frame.descriptors)
        manifest = decode(frame)
        if isinstance(manifest, Manifest) and len(manifest.entries) == len(descriptors):
            return manifest
    raise ChannelError("what was stored is not a manifest")
