"""
What the parent reads of a child that dies before it is final.
"""

from __future__ import annotations

import os
import sys
import traceback
from types import TracebackType


class LastWords:
    """
    Has the parent read of an exception that ends this process.

    @ivar stderr: the parent's standard error, if that came.
    """

    def __init__(self, stderr: int | None) -> None:
        self.stderr = stderr
        self._previousHook = sys.excepthook

    def begin(self) -> None:
        """
        Until L{end}, the parent reads what is written to standard error.
        """
        self._previousHook, sys.excepthook = sys.excepthook, self._dying

    def _dying(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        """
        The interpreter is about to end by an exception.  The parent is to read
        of it: sys.stderr may lead to the log by now, where twistd redirects it.
        """
        self._previousHook(kind, error, trace)
        if sys.stderr is not sys.__stderr__:
            traceback.print_exception(kind, error, trace, file=sys.__stderr__)

    def end(self) -> None:
        """
        Write to the parent's standard error from now on, and not into the
        pipe by which it reads our last words.
        """
        if sys.excepthook == self._dying:
            sys.excepthook = self._previousHook
        if self.stderr is not None:
            os.dup2(self.stderr, 2)
            os.close(self.stderr)
            self.stderr = None
