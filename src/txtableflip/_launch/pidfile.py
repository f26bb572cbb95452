"""
The file that names the process which serves, for the operator; and stale ones.

twistd takes any living process of that pid for the one that wrote the file, and does not
start.  Pids are reused: after a crash in a container, soon and by much the same processes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

from txtableflip._journal import ProcessLogger
from txtableflip._kernel import isZombie, startedAt
from txtableflip.errors import PidFileError

_LONGEST = 32
"""
How much of a pid file is read, in bytes: more than any process id needs.
"""

_MODE = 0o644
"""
Whatever the umask is, no other user may write: that user would choose which process gets
the operator's signals.
"""

_RESOLUTION = 0.02
"""
How exactly the start of a process is known, in seconds.
"""

_NO_DESCRIPTORS = "Raise the limit on open files (LimitNOFILE= of systemd, ulimit -n)"
_NO_ROOM = "Make room on its file system"
_HINTS = {
    errno.EMFILE: _NO_DESCRIPTORS,
    errno.ENFILE: "Raise the limit on open files of the machine (fs.file-max)",
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.ENOENT: "Make its directory",
    errno.ENOTDIR: "Make its directory",
    errno.EISDIR: "Remove the directory of that name",
}
"""
What to do, if not to make the directory writable.
"""

_log = ProcessLogger()


def readPid(path: str) -> bytes:
    """
    @return: what a pid file says.
    @raise OSError: if it cannot be read, or is a directory, or a pipe, where we would wait
        for a writer.
    """
    fileno = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(fileno).st_mode):
            raise OSError(errno.EINVAL, "It is not a regular file", path)
        return os.read(fileno, _LONGEST).strip()
    finally:
        os.close(fileno)


class PidFile:
    """
    A pid file that changes hands in one step: it is written to a sibling and
    renamed by the process that has taken over, so that it is never missing,
    never empty, and never names a process that does not serve.  Without a path there
    is no file, and nothing is done.

    @ivar path: where it is.
    """

    def __init__(self, path: str | None) -> None:
        self.path = os.path.abspath(path) if path else None
        # One name is enough: there is one upgrade at a time, and the next one replaces the
        # file of a child that was killed.
        self._sibling = f"{self.path}.new"
        self._prepared: int | None = None
        self._locked: int | None = None

    def prepare(self) -> None:
        """
        Write our pid beside the file, so that L{take} has only to rename.

        @raise PidFileError: if that cannot be done.
        """
        if self._prepared is not None or self.path is None:
            return
        try:
            with suppress(FileNotFoundError):
                os.unlink(self._sibling)
            # If something appears there meanwhile, it is neither followed nor written to.
            fileno = os.open(self._sibling, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _MODE)
        except OSError as error:
            raise self._error(error) from error
        try:
            os.write(fileno, b"%d" % os.getpid())
        except OSError as error:
            os.close(fileno)
            raise self._error(error) from error
        _lock(fileno)
        self._prepared = fileno

    def _error(self, error: OSError) -> PidFileError:
        hint = _HINTS.get(error.errno or 0, "Make its directory writable for this user")
        return PidFileError(
            f"the pid file {self.path} cannot be written: {error.strerror}. {hint}, or name "
            f"another file"
        )

    def take(self) -> None:
        """
        Make the file name this process.

        @raise PidFileError: if that cannot be done.
        """
        if self.path is None:
            return
        with suppress(OSError):
            # A link may lead to a file that is not ours.
            isOurs = self._prepared is None and not os.path.islink(self.path)
            if isOurs and readPid(self.path) == b"%d" % os.getpid():
                # twistd has written it, or we have.
                self._keep(os.open(self.path, os.O_RDONLY | os.O_NONBLOCK))
                return
        self.prepare()
        prepared, self._prepared = self._prepared, None
        try:
            os.rename(self._sibling, self.path)
        except OSError as error:
            self._keep(prepared)
            raise self._error(error) from error
        self._keep(prepared)

    def _keep(self, fileno: int | None) -> None:
        """
        Lock this file for the rest of this process's life, or until it has another.
        """
        previous, self._locked = self._locked, fileno
        if previous is not None:
            os.close(previous)
        if fileno is not None:
            _lock(fileno)

    def remove(self) -> None:
        """
        Remove the file if it names this process, and what L{prepare} made.
        """
        if self.path is None:
            return
        try:
            self._keep(None)
            if self._prepared is not None:
                os.close(self._prepared)
                self._prepared = None
                os.unlink(self._sibling)
            if readPid(self.path) == b"%d" % os.getpid():
                os.unlink(self.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            _log.error("cannot remove the pid file: {error}", error=str(error))


def removeStale(path: str) -> None:
    """
    Remove a pid file if the process that it names is a zombie; or started after the file
    was written, and so cannot have written it; or is this one.  twistd itself removes a
    file that does not name a process.  A living service keeps its file locked, so that this
    does not depend on the clock, which may have been set in between.

    @raise PidFileError: if there is something that is not a regular file, which twistd
        would try to read all the same; at a named pipe it would wait forever.
    """
    file = Path(path)
    if os.path.exists(path) and not os.path.isfile(path):
        raise PidFileError(
            f"the pid file {path} is not a regular file: remove it, or name another file"
        )
    try:
        owner = int(readPid(path))
        written = file.stat().st_mtime
        if isLocked(path):
            return
        why = _whyStale(owner, written)
        if why is None:
            return
        file.unlink()
    except (OSError, ValueError):
        # There is none, or we cannot tell: twistd decides.
        return
    _log.warn(
        "removed the stale pid file {path}: process {owner} {why}",
        path=path,
        owner=owner,
        why=why,
    )


def _whyStale(owner: int, written: float) -> str | None:
    if isZombie(owner):
        return "has ended"
    if owner == os.getpid() or startOf(owner) > written + _RESOLUTION:
        return "is younger than the file"
    return None


def claim(path: str) -> None:
    """
    Check that a pid file may be ours, as twistd does before it starts.

    @raise PidFileError: if it names another process that lives, or is not a file.
    """
    removeStale(path)
    try:
        owner = int(readPid(path))
        os.kill(owner, 0)
    except PermissionError:
        pass
    except (OSError, ValueError, OverflowError):
        return
    raise PidFileError(
        f"the pid file {path} names process {owner}, which is running: if that is another "
        "program, "
        f"remove the file, or name another one"
    )


def _lock(fileno: int) -> None:
    """
    Mark the process which a pid file names as living, where the file system has locks.
    Another process may be checking at this moment: do not wait.
    """
    with suppress(OSError):
        fcntl.flock(fileno, fcntl.LOCK_SH | fcntl.LOCK_NB)


def isLocked(path: str) -> bool:
    """
    @return: whether a living process has locked a pid file.
    @raise OSError: if the file cannot be read.
    """
    fileno = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        fcntl.flock(fileno, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    finally:
        os.close(fileno)
    return False


def startOf(pid: int) -> float:
    """
    @return: when a process was started, by L{time.time}.
    @raise OSError: if there is no such process, or that cannot be found out.
    """
    sinceBoot = startedAt(pid) / os.sysconf("SC_CLK_TCK")
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - sinceBoot
    return time.time() - age
