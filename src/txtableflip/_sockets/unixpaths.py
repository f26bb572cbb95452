"""
The names of UNIX sockets in the file system, and the locks beside them.

A path is ours only while it is the inode that we bound: if another program removes or
replaces it, we neither remove nor adopt what is there then.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.python.lockfile import FilesystemLock

from txtableflip._handover.manifest import Identity
from txtableflip._journal import ProcessLogger
from txtableflip._kernel import isZombie

_log = ProcessLogger()

_LONGEST_PID = 9
"""
How many digits a process id has at most: more than the kernel uses (C{PID_MAX_LIMIT} of
proc_sys_kernel(5)), and few enough for kill(2).
"""


def isAbstract(address: str) -> bool:
    """
    @return: whether this is a name in the kernel's abstract namespace (unix(7)),
        which has no file, no mode, and nothing to remove.
    """
    return address.startswith("\0")


def asGiven(address: Any) -> str:
    """
    @param address: as C{listenUNIX} takes it: a string, bytes, or a path object.
    @return: it, as a string.
    """
    return os.fsdecode(getattr(address, "path", address))


def canonical(path: str) -> str:
    """
    @return: its canonical form, which names the same file if this process changes its
        directory.
    """
    return path if isAbstract(path) else os.path.abspath(path)


def change(address: str, identity: Identity | None, mode: int) -> None:
    """
    Give a path other permissions, if it still is what we bound.
    """
    if identity is not None and identityAt(address) == identity:
        with _reporting("change the mode of", address):
            # As bind does, which knows nothing of other bits.
            os.chmod(address, mode & 0o777)


def bind(sock: socket.socket, address: str, mode: int) -> Identity | None:
    """
    Bind a socket to a path with the given permissions, and never with more.

    @param address: as it was given.
    @return: the identity of the path, or C{None} for an abstract name.
    @raise CannotListenError: if the path cannot be bound.
    """
    if isAbstract(address):
        _bind(sock, address)
        return None
    # The file gets the mode of the socket, less the umask: so no user can connect who must
    # not, even for a moment, and a chmod can only allow more.  We cannot change the umask
    # for that: it is of the whole process, and other threads may create files meanwhile.
    with suppress(OSError):
        os.fchmod(sock.fileno(), mode & 0o777)
    _bind(sock, address)
    identity = identityAt(address)
    change(address, identity, mode)
    return identity


def _bind(sock: socket.socket, address: str) -> None:
    try:
        sock.bind(address)
    except OSError as error:
        raise CannotListenError(None, address, _explain(address, error)) from error


def _explain(address: str, error: OSError) -> OSError:
    """
    Explain why an existing path is in use.
    """
    if error.errno != errno.EADDRINUSE or isAbstract(address):
        return error
    if not _isSocket(address):
        hint = "there is a file that is not a socket: remove it, or use another path"
    elif _isAlive(address):
        hint = "another process accepts connections there: stop it, or use another path"
    else:
        hint = "a socket was left there by a process that is gone: remove it"
    return OSError(error.errno, f"{error.strerror}: {hint}")


def _isSocket(address: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(address).st_mode)
    except OSError:
        return False


def _isAlive(address: str) -> bool:
    """
    @return: whether a process listens at a path.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A full queue would block connect(2); a nonblocking one fails with EAGAIN, which
        # means that a process listens.
        probe.setblocking(False)
        return probe.connect_ex(address) != errno.ECONNREFUSED


def identityAt(address: str) -> Identity | None:
    """
    @return: what is at a path now, or C{None} if nothing is.
    """
    try:
        status = os.lstat(address)
    except OSError:
        return None
    return Identity(status.st_dev, status.st_ino)


def remove(address: str, identity: Identity | None) -> None:
    """
    Unlink a path, if it still is what we bound.
    """
    if identity is not None and identityAt(address) == identity:
        with _reporting("remove the socket", address):
            os.unlink(address)


def abandon(address: str, identity: Identity | None) -> None:
    """
    Unlink a path that is not used any more, if it still is what was bound, and the lock
    beside it, which may be an earlier generation's.
    """
    if identity is not None and identityAt(address) == identity:
        remove(address, identity)
        if _isLock(lockName(address)):
            with _reporting("remove the lock of", address):
                os.unlink(lockName(address))


def lock(address: str) -> None:
    """
    Take the lock beside a path, in the format of
    L{twisted.python.lockfile.FilesystemLock}, and remove a socket that a dead
    owner of the lock has left at the path.

    @raise CannotListenError: if a living process has it, or something else is
        there.
    """
    theLock = FilesystemLock(lockName(address))
    hasEnded = _takeFromZombie(theLock.name)
    try:
        isOurs = theLock.lock()
    except (OSError, ValueError, OverflowError) as error:
        if os.path.lexists(theLock.name) and not _isLock(theLock.name):
            hint = f"{theLock.name} is not a lock: remove it, or use another path"
            raise CannotListenError(None, address, OSError(errno.EADDRINUSE, hint)) from error
        if not isinstance(error, PermissionError) or not os.path.lexists(theLock.name):
            raise
        # The lock names a living process of another user.
        isOurs = False
    if not isOurs:
        owner = os.readlink(lockName(address))
        raise CannotListenError(
            None, address, OSError(errno.EADDRINUSE, f"process {owner} holds {theLock.name}")
        )
    isLeft = hasEnded or not theLock.clean
    if isLeft and _isSocket(address) and not _isAlive(address):
        os.unlink(address)


def _takeFromZombie(name: str) -> bool:
    """
    Remove a lock whose owner is a zombie, which it may be forever in a container:
    L{FilesystemLock} takes that for a living process.

    @return: whether there was one.
    """
    with suppress(OSError):
        if _isLock(name) and isZombie(int(os.readlink(name))):
            os.unlink(name)
            return True
    return False


def _isLock(name: str) -> bool:
    """
    @return: whether a lock is there: a dangling symbolic link that names the process which
        has it.
    """
    try:
        owner = os.readlink(name)
    except OSError:
        return False
    return owner.isascii() and owner.isdigit() and len(owner) <= _LONGEST_PID


def takeLock(address: str) -> None:
    """
    Make the lock beside a path ours, so that there is one at every moment: clients may
    check it (C{connectUNIX(checkPID=True)}).
    """
    pid = str(os.getpid())
    sibling = f"{lockName(address)}.{pid}"
    with _reporting("take over the lock of", address):
        # A process that had our pid may have left one there.
        with suppress(FileNotFoundError):
            os.unlink(sibling)
        os.symlink(pid, sibling)
        os.rename(sibling, lockName(address))


def releaseLock(address: str) -> None:
    """
    Remove the lock beside a path, if it is ours.
    """
    with _reporting("remove the lock of", address):
        if os.readlink(lockName(address)) == str(os.getpid()):
            os.unlink(lockName(address))


@contextmanager
def _reporting(what: str, address: str) -> Iterator[None]:
    """
    Log what the operating system refuses, and continue: a name that stays behind must not
    keep a process from serving, or from stopping.
    """
    try:
        yield
    except OSError as error:
        _log.error("cannot {what} {path}: {error}", what=what, path=address, error=str(error))


def lockName(address: str) -> str:
    """
    @return: where the lock of a path is.
    """
    return f"{address}.lock"
