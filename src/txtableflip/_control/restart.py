"""
What a process finds when it is started again: descriptors that the one before deposited
with the service manager before it exited.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace

from txtableflip._control.notifications import sayNow
from txtableflip._handover.frames import closeAll
from txtableflip._handover.manifest import Entry, UnknownEntry
from txtableflip._handover.messages import Manifest
from txtableflip._handover.nobody import DeadParent
from txtableflip._handover.store import findManifest, passedTo
from txtableflip._journal import ProcessLogger
from txtableflip._launch.origin import KEEPER, START, STARTED_AS
from txtableflip._sockets.inventory import Inventory
from txtableflip._sockets.unixpaths import identityAt
from txtableflip.errors import ChannelError

_log = ProcessLogger()

Found = list[tuple[Entry | UnknownEntry, int]]


def findStored() -> DeadParent | None:
    """
    @return: the process before this one, represented by what it has stored; C{None} if that
        is nothing, or incomplete: then all of it is dropped.
    """
    # Only a process under a keeper has the keeper's variable, also behind a wrapper.
    passed = passedTo(None if KEEPER is not None else STARTED_AS, START.environment)
    if passed is None:
        return None
    for number in (*passed.others, *passed.descriptors.values()):
        os.set_inheritable(number, False)
    stored = findManifest(passed)
    if stored is None or not _areTrue(*stored):
        _letGo(passed.names)
        return None
    manifest, descriptors = stored
    found = _reachable(zip(manifest.entries, descriptors, strict=True))
    manifest = replace(manifest, entries=tuple(entry for entry, _ in found))
    _log.info(
        "taking over the {count} descriptors that generation {before} has stored",
        before=manifest.generation - 1,
        count=len(found),
    )
    return DeadParent(manifest, [fileno for _, fileno in found], passed.names)


def _areTrue(manifest: Manifest, descriptors: list[int]) -> bool:
    """
    @return: whether all descriptors are what their entries say; if not, they are closed.
    """
    trial = Inventory()
    try:
        trial.inherit(manifest.entries, [os.dup(each) for each in descriptors])
    except ChannelError as error:
        _log.error(
            "the stored descriptors are not what their list says: {error}", error=str(error)
        )
        closeAll(descriptors)
        return False
    for held in trial.inherited.values():
        held.handle.close()
    for _, handle in trial.passedOn:
        handle.close()
    return True


def _letGo(names: Iterable[str]) -> None:
    """
    Let the service manager close them: while it has the sockets, their addresses are in use.
    """
    _log.warn(
        "the stored descriptors are incomplete: dropping them and starting as generation 1"
    )
    lines = [("FDSTOREREMOVE=1", f"FDNAME={name}") for name in names]
    sayNow(START.environment.get("NOTIFY_SOCKET"), lines)


def _reachable(stored: Iterable[tuple[Entry | UnknownEntry, int]]) -> Found:
    """
    @return: all except the sockets whose path is not theirs any more, as when the process
        before was told to stop: these are closed, to be bound anew.
    """
    found = []
    for entry, fileno in stored:
        if isinstance(entry, UnknownEntry) or _hasPath(entry):
            found.append((entry, fileno))
        else:
            closeAll([fileno])
    return found


def _hasPath(entry: Entry) -> bool:
    return entry.path is None or identityAt(entry.key.address) == entry.path
