"""
The file that tells the operator which process serves; and one that has outlived
its process.

twistd takes any living process of that number for the one that wrote the file,
and does not start.  Numbers are given again: after a crash, in a container,
soon and to much the same processes.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

from txtableflip._journal import ProcessLogger
from txtableflip.errors import PidFileError

_LONGEST = 32
"""
How much of a pid file is read, in bytes: more than any process id has.
"""

_MODE = 0o644
"""
Whatever the umask is, nobody else may write: who does, says whom the operator's
signals reach.
"""

_RESOLUTION = 0.02
"""
How exactly the start of a process is known, in seconds.
"""

_log = ProcessLogger()


def readPid(path: str) -> bytes:
    """
    @return: what a pid file says.
    @raise OSError: if it cannot be read, or is a directory, or a pipe,
        which would have us wait for somebody to write.
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
    never empty, and never names a process that does not serve.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        # One name is enough: there is one upgrade at a time, and what a child
        # that was killed has left there is replaced by the next.
        self._sibling = f"{self.path}.new"
        self._isPrepared = False

    def prepare(self) -> None:
        """
        Write our pid beside the file, so that L{take} has only to rename.

        @raise PidFileError: if that cannot be done.
        """
        if self._isPrepared:
            return
        try:
            with suppress(FileNotFoundError):
                os.unlink(self._sibling)
            # Nothing that is put there meanwhile is followed or written to.
            fileno = os.open(self._sibling, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _MODE)
            with open(fileno, "wb") as stream:
                stream.write(b"%d" % os.getpid())
        except OSError as error:
            raise self._error(error) from error
        self._isPrepared = True

    def _error(self, error: OSError) -> PidFileError:
        return PidFileError(
            f"the pid file {self.path} cannot be written: {error.strerror}. Make its "
            f"directory writable for this user, or name another file"
        )

    def take(self) -> None:
        """
        Make the file name this process.

        @raise PidFileError: if that cannot be done.
        """
        with suppress(OSError):
            # What a link leads to may be anybody's.
            isOurs = not self._isPrepared and not os.path.islink(self.path)
            if isOurs and readPid(self.path) == b"%d" % os.getpid():
                return
        self.prepare()
        self._isPrepared = False
        try:
            os.rename(self._sibling, self.path)
        except OSError as error:
            raise self._error(error) from error

    def remove(self) -> None:
        """
        Remove the file if it names this process, and what L{prepare} made.
        """
        try:
            if self._isPrepared:
                os.unlink(self._sibling)
            if readPid(self.path) == b"%d" % os.getpid():
                os.unlink(self.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            _log.error("cannot remove the pid file: {error}", error=str(error))


def removeStale(path: str) -> None:
    """
    Remove a pid file if the process that it names began after the file was
    written, and so cannot have written it; or is this one.  A file that does not
    name a process, twistd removes by itself.

    @raise PidFileError: if there is something that is not a file, which twistd
        would try to read all the same; at a named pipe it would wait for ever.
    """
    file = Path(path)
    if os.path.exists(path) and not os.path.isfile(path):
        raise PidFileError(
            f"the pid file {path} is not a regular file: remove it, or name another file"
        )
    try:
        owner = int(readPid(path))
        written = file.stat().st_mtime
        if owner != os.getpid() and startOf(owner) <= written + _RESOLUTION:
            return
        file.unlink()
    except (OSError, ValueError):
        # There is none, or we cannot tell: twistd says what it thinks of it.
        return
    _log.warn(
        "removed the stale pid file {path}: process {owner} is younger than the file",
        path=path,
        owner=owner,
    )


def startOf(pid: int) -> float:
    """
    @return: when a process began, as L{time.time} tells it (proc_pid_stat(5)).
    @raise OSError: if there is no such process, or it cannot be told.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    sinceBoot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - sinceBoot
    return time.time() - age
