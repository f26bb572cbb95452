"""
What the parent reads of a child that dies before it is final.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any


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

    def _dying(self, *error: Any) -> None:
        """
        The interpreter is about to end by an exception.  The parent is to read
        of it: sys.stderr may lead to the log by now, where twistd redirects it.
        """
        self._previousHook(*error)
        if sys.stderr is not sys.__stderr__:
            traceback.print_exception(*error, file=sys.__stderr__)

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
