"""
The file that tells the operator which process serves.
"""

from __future__ import annotations

import os
from contextlib import suppress

from twisted.logger import Logger
from twisted.python.filepath import FilePath

from txtableflip.errors import PidFileError


class PidFile:
    """
    A pid file that changes hands in one step: it is written to a sibling and
    renamed by the process that has taken over, so that it is never missing,
    never empty, and never names a process that does not serve.
    """

    _log = Logger()

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._file: FilePath[str] = FilePath(self.path)
        # One name is enough: there is one upgrade at a time, and what a child
        # that was killed has left there is replaced by the next.
        self._sibling: FilePath[str] = FilePath(f"{self.path}.new")
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
                self._sibling.remove()
            with self._sibling.create() as stream:
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
            os.rename(self._sibling.path, self.path)
        except (OSError, PidFileError) as error:
            self._log.error("cannot take over the pid file: {error}", error=error)

    def leave(self) -> None:
        """
        Remove the file if it names this process, and what L{prepare} made.
        """
        try:
            if self._isPrepared:
                self._sibling.remove()
            if self._file.getContent().strip() == b"%d" % os.getpid():
                self._file.remove()
        except FileNotFoundError:
            pass
        except OSError as error:
            self._log.error("cannot remove the pid file: {error}", error=error)
