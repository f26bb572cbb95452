"""
What the kernel says of other processes.

Uses the standard library only: the C{tableflip} command does not wait for Twisted.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

_STATE, _PARENT, _STARTED = 0, 1, 19
"""
Where these are among the words behind a process's name (proc_pid_stat(5)).
"""


def peerOf(sock: socket.socket) -> tuple[int, int]:
    """
    @return: the process and the user at the other end: those that made it, or for a
        listening socket, that began to listen (C{SO_PEERCRED} of unix(7)); where the kernel
        does not say, those that started this process.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return os.getppid(), os.geteuid()
    layout = struct.Struct("3i")
    pid, uid, _ = layout.unpack(sock.getsockopt(socket.SOL_SOCKET, option, layout.size))
    return pid, uid


def isZombie(pid: int) -> bool:
    """
    @return: whether a process has ended, and has not been waited for.
    @raise OSError: if there is no such process, or that cannot be read.
    """
    return stateOf(pid)[0] in "ZX"


def stateOf(pid: int) -> tuple[str, int]:
    """
    @return: the state of a process, as a letter, and the process id of its parent.
    @raise OSError: if there is no such process, or that cannot be read.
    """
    words = _statOf(pid)
    return words[_STATE], int(words[_PARENT])


def startedAt(pid: int) -> int:
    """
    @return: when a process began, in ticks since the machine was booted.
    @raise OSError: if there is no such process, or that cannot be read.
    """
    return int(_statOf(pid)[_STARTED])


def _statOf(pid: int) -> list[str]:
    # Its name, in brackets, may have blanks and brackets of its own.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
