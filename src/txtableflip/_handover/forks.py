"""
What a process forked from this one must not hold (fork(2)): while it did, no peer could
tell that this one has ended.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Protocol
from weakref import WeakSet


class _Closable(Protocol):
    def close(self) -> object: ...


_ours: WeakSet[_Closable] = WeakSet()


def keepFromForks(handle: _Closable) -> None:
    """
    Close something in every process that is forked from this one.  In one that runs another
    program, exec(3) closes it anyway.
    """
    _ours.add(handle)


def _closeAll() -> None:
    for handle in list(_ours):
        with suppress(OSError):
            handle.close()
    _ours.clear()


os.register_at_fork(after_in_child=_closeAll)
