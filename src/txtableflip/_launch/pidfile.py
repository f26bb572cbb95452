"""
The file that tells the operator which process serves.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from twisted.logger import Logger

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


def readPid(path: str) -> bytes:
    """
    @return: what a pid file says.
    @raise OSError: if it cannot be read, or is no file but a directory, or a
        pipe, which would have us wait for somebody to write.
    """
    fileno = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(fileno).st_mode):
            raise OSError(errno.EINVAL, "It is no regular file", path)
        return os.read(fileno, _LONGEST).strip()
    finally:
        os.close(fileno)


class PidFile:
    """
    A pid file that changes hands in one step: it is written to a sibling and
    renamed by the process that has taken over, so that it is never missing,
    never empty, and never names a process that does not serve.
    """

    _log = Logger()

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
            raise PidFileError(
                f"the pid file {self.path} cannot be written: {error.strerror}. Make its "
                f"directory writable for this user, or name another file"
            ) from error
        self._isPrepared = True

    def take(self) -> None:
        """
        Make the file name this process.
        """
        try:
            self.prepare()
            self._isPrepared = False
            os.rename(self._sibling, self.path)
        except (OSError, PidFileError) as error:
            self._log.error("cannot take over the pid file: {error}", error=error)

    def leave(self) -> None:
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
            self._log.error("cannot remove the pid file: {error}", error=error)
