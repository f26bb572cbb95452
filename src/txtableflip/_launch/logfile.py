"""
A log file that two processes write at once: the old one until it has drained, and the new
one from its first line on.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from twisted.python import threadable
from twisted.python.logfile import LogFile


class SharedLogFile(LogFile):
    """
    Twisted's rotating log file, for any number of writers: each line is appended as a
    whole, wherever the others have written meanwhile; and when one of them rotates the
    file, all continue in the new one.  Where there can be no new one, as in a directory
    that is gone or full, they continue in the old one.
    """

    def shouldRotate(self) -> bool:
        """
        @return: whether the file has reached C{rotateLength} bytes, of all writers.
        """
        return bool(self.rotateLength) and self._size() >= self.rotateLength

    def write(self, data: Any) -> None:
        """
        Append some data, to the file that is there now.
        """
        if self._isMoved():
            self.reopen()
        super().write(data)

    def rotate(self) -> None:
        """
        Rotate the file, unless another process just did, or does so now: then the next
        write will find the new one.
        """
        with suppress(OSError), self._lock():
            if not self._isMoved():
                super().rotate()
        if self._isMoved():
            self.reopen()

    def reopen(self) -> None:
        """
        Continue in the file that has the name now.
        """
        old = self._file
        with suppress(OSError):
            self._openFile()
            old.close()

    def _openFile(self) -> None:
        # Twisted would truncate a file that another process has just created.
        os.close(os.open(self.path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o666))
        super()._openFile()
        appendOnly(self._file.fileno())

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def _isMoved(self) -> bool:
        if self._file.closed:
            # A rotation has failed in the middle.
            return True
        try:
            return not os.path.samestat(os.stat(self.path), os.fstat(self._file.fileno()))
        except OSError:
            return True

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """
        Keep others from rotating.  The lock is on the directory, which exists anyway; any
        program may hold it, so this does not wait for it.

        @raise OSError: if another process holds it.
        """
        directory = os.open(self.directory, os.O_RDONLY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(directory)


threadable.synchronize(SharedLogFile)


def appendOnly(fileno: int) -> None:
    """
    Make every write to an open file go to its end (C{O_APPEND} of open(2)).
    """
    fcntl.fcntl(fileno, fcntl.F_SETFL, fcntl.fcntl(fileno, fcntl.F_GETFL) | os.O_APPEND)


def shareAccessLog(factory: Any) -> None:
    """
    Let a successor write to the access log of a web site, too: each process would overwrite
    Twisted's own file for it, and rotate it.

    @param factory: what a port is for: a site, or what wraps one, or neither.
    """
    server: Any = sys.modules.get("twisted.web.server")
    if server is None:
        return
    twisteds = server.Site._openLogFile  # noqa: SLF001 - "Override in subclasses", it says
    while factory is not None:
        if getattr(type(factory), "_openLogFile", None) is twisteds:
            factory._openLogFile = SharedLogFile.fromFullPath  # noqa: SLF001 - as above
        factory = getattr(factory, "wrappedFactory", None)
