"""
posix_spawn(3) of the C library, called by hand: the one of L{os} can close all
descriptors from a number on only since Python 3.13, and without that each one has to be
looked at.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack

_libc = ctypes.CDLL(None)

_SIZE = 4096
"""
More bytes than any of these objects takes, in any C library.
"""

_SETSIGDEF = 0x04
"""
C{POSIX_SPAWN_SETSIGDEF} of C{spawn.h}.
"""


def canSpawn() -> bool:
    """
    @return: whether the C library has what L{spawn} calls: glibc has, since 2.34.
    """
    return hasattr(_libc, "posix_spawn_file_actions_addclosefrom_np")


def spawn(
    argv: Sequence[str],
    environment: Mapping[str, str],
    moved: Mapping[int, int],
    closed: Collection[int],
    defaulted: Iterable[int],
) -> int:
    """
    Start a program, looked up in this process's C{PATH}.

    @param moved: descriptors of ours that it inherits, and that exec(3) does not close, by
        their numbers there.
    @param closed: the descriptors below the highest one of them that it must not have; it
        has none above.
    @param defaulted: the signals that it does not ignore, even if this process does.
    @return: the process id.
    @raise OSError: if it cannot be started.
    @raise ValueError: if there is a NUL in an argument.
    """
    pid = ctypes.c_int()
    words, variables = _strings(argv), _strings(f"{k}={v}" for k, v in environment.items())
    with ExitStack() as stack:
        actions = _made("posix_spawn_file_actions", stack)
        for there, here in moved.items():
            _check(_libc.posix_spawn_file_actions_adddup2(actions, here, there))
        for fileno in closed:
            _check(_libc.posix_spawn_file_actions_addclose(actions, fileno))
        lowest = max(moved) + 1
        _check(_libc.posix_spawn_file_actions_addclosefrom_np(actions, lowest))
        attributes = _made("posix_spawnattr", stack)
        _check(_libc.posix_spawnattr_setsigdefault(attributes, _signals(defaulted)))
        _check(_libc.posix_spawnattr_setflags(attributes, ctypes.c_short(_SETSIGDEF)))
        started = (ctypes.byref(pid), words[0], actions, attributes, words, variables)
        _check(_libc.posix_spawnp(*started), argv[0])
    return pid.value


def _check(number: int, *what: str) -> None:
    """
    @param number: what a function of this family returns, instead of setting errno.
    """
    if number:
        raise OSError(number, os.strerror(number), *what)


def _made(kind: str, stack: ExitStack) -> ctypes.Array[ctypes.c_char]:
    made = ctypes.create_string_buffer(_SIZE)
    _check(getattr(_libc, f"{kind}_init")(made))
    stack.callback(getattr(_libc, f"{kind}_destroy"), made)
    return made


def _signals(numbers: Iterable[int]) -> ctypes.Array[ctypes.c_char]:
    made = ctypes.create_string_buffer(_SIZE)
    _libc.sigemptyset(made)
    for number in numbers:
        _libc.sigaddset(made, number)
    return made


def _strings(words: Iterable[str]) -> ctypes.Array[ctypes.c_char_p]:
    encoded = [os.fsencode(word) for word in words]
    if any(b"\0" in word for word in encoded):
        raise ValueError("embedded null byte")
    return (ctypes.c_char_p * (len(encoded) + 1))(*encoded, None)
