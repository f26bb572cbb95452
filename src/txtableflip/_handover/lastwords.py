"""
What the parent reads of a child that dies before it is final.

Until then, the standard output and the standard error of a child are pipes.  What it
has started by then writes to them for as long as it lives, also when the parent, which
has read them so far, is gone; and a pipe that nobody reads kills who writes to it.  So
the child has the reading ends, too: it reads on when the parent does not, and hands
them to its own child in the end.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.error import ConnectionDone
from twisted.internet.main import CONNECTION_DONE

from txtableflip._handover.forks import keepFromForks
from txtableflip._handover.manifest import Entry, UnknownEntry
from txtableflip._handover.messages import OUTPUT
from txtableflip.interfaces import Reactor

STDOUT = "stdout"
"""
The kind of the entry of the parent's standard output.
"""

_AT_ONCE = 1024 * 1024
"""
As much as such a pipe holds, in bytes.
"""


class LastWords:
    """
    Has the parent read of an exception that ends this process.

    @ivar stderr: the parent's standard error, if that came.
    @ivar stdout: the parent's standard output, if that came.
    @ivar hint: says what to do about an exception, if that is known.
    @ivar outputs: what is still written to by those whom this process, or one before
        it, has started before it was final.
    """

    def __init__(
        self,
        stderr: int | None,
        stdout: int | None = None,
        outputs: Iterable[tuple[int, int]] = (),
    ) -> None:
        """
        @param outputs: the numbers of streams, and the descriptors to read from.
        """
        self.stderr = stderr
        self.stdout = stdout
        self._unread = list(outputs)
        self.outputs: list[Output] = []
        self._previousHook = sys.excepthook
        self.hint: Callable[[BaseException], str | None] = lambda error: None

    def begin(self, reactor: Reactor) -> None:
        """
        Until L{end}, the parent reads what is written to standard error.
        """
        self._previousHook, sys.excepthook = sys.excepthook, self._dying
        self.outputs += [Output(reactor, *each, self.outputs.remove) for each in self._unread]
        self._unread = []

    def _dying(self, *error: Any) -> None:
        """
        The interpreter is about to end by an exception.  The parent is to read
        of it: sys.stderr may lead to the log by now, where twistd redirects it.
        """
        self._previousHook(*error)
        hint = self.hint(error[1])
        if hint is not None and hint not in str(error[1]):
            # Below the traceback, which the log may have cut.
            print(hint, file=sys.__stderr__)
        if sys.stderr is not sys.__stderr__:
            traceback.print_exception(*error, file=sys.__stderr__)

    def end(self) -> None:
        """
        Write to the parent's standard output and error from now on, and not into the
        pipes by which it reads our last words; and read what others still write there.
        """
        if sys.excepthook == self._dying:
            sys.excepthook = self._previousHook
        for stream, fileno in ((1, self.stdout), (2, self.stderr)):
            if fileno is not None:
                os.dup2(fileno, stream)
                os.close(fileno)
        if self.stdout is not None:
            _bufferAsUsual()
        self.stdout = self.stderr = None
        for each in list(self.outputs):
            # What this process has written itself, and the parent has not read.
            each.doRead()
            each.startReading()

    def entries(self) -> list[UnknownEntry]:
        """
        @return: what a child is to read on, which passes it on if it cannot.
        """
        return [outputEntry(each.stream, each.fileno(), "keep") for each in self.outputs]

    def descriptors(self) -> list[int]:
        """
        @return: the descriptors of these.
        """
        return [each.fileno() for each in self.outputs]

    def letGo(self) -> None:
        """
        Leave it to the child to read.
        """
        for each in list(self.outputs):
            each.stopReading()
            each.close()


def _bufferAsUsual() -> None:
    """
    Python has found a pipe in the place of a terminal, and would keep lines back.
    """
    if sys.__stdout__ is not None and os.isatty(1):
        with suppress(ValueError):
            sys.__stdout__.reconfigure(line_buffering=True)


class Output(FileDescriptor):
    """
    The reading end of a pipe that was the standard output or the standard error of
    this process, or of one before it.

    @ivar stream: which of the two, as a number.
    """

    def __init__(self, reactor: Any, stream: int, fileno: int, forget: Any) -> None:
        """
        @param forget: is called with this when it is closed.
        """
        super().__init__(reactor)
        self.stream = stream
        self._fileno = fileno
        self._forget = forget
        os.set_blocking(fileno, False)
        keepFromForks(self)

    def fileno(self) -> int:
        return self._fileno

    def doRead(self) -> Any:
        try:
            data = os.read(self._fileno, _AT_ONCE)
        except BlockingIOError:
            return None
        writeAll(self.stream, data)
        return None if data else CONNECTION_DONE

    def connectionLost(self, reason: Any) -> None:
        # A reactor that shuts down does not close it: whoever writes may live longer.
        self.stopReading()
        if reason.check(ConnectionDone):
            self.close()

    def close(self) -> None:
        """
        Do not read any more.
        """
        fileno, self._fileno = self._fileno, -1
        if fileno >= 0:
            os.close(fileno)
            self._forget(self)


def outputEntry(stream: int, fileno: int, unknown: str) -> UnknownEntry:
    """
    @param unknown: what a child does with a reading end that does not know what it is.
    @return: the entry of a reading end.
    """
    key = {"kind": OUTPUT, "network": "", "address": str(fileno), "ordinal": 0}
    return UnknownEntry(key=key, unknown=unknown, stream=stream)


def stdoutEntry() -> UnknownEntry:
    """
    @return: the entry of a parent's standard output.
    """
    key = {"kind": STDOUT, "network": "", "address": "", "ordinal": 0}
    return UnknownEntry(key=key, unknown="close")


def takeLastWords(
    stderr: int | None, entries: Iterable[Entry | UnknownEntry], descriptors: Iterable[int]
) -> tuple[LastWords, list[tuple[Entry | UnknownEntry, int]]]:
    """
    @return: what belongs to our last words, and the entries and descriptors that do
        not.
    """
    stdout, others = None, []
    outputs: list[tuple[int, int]] = []
    for entry, fileno in zip(entries, descriptors, strict=True):
        said = entry if isinstance(entry, UnknownEntry) else {}
        kind, stream = said.get("key", {}).get("kind"), said.get("stream")
        if kind == OUTPUT and stream in (1, 2):
            outputs.append((stream, fileno))
        elif kind == STDOUT and stdout is None:
            stdout = fileno
        else:
            others.append((entry, fileno))
    return LastWords(stderr, stdout, outputs), others


def writeAll(fileno: int, data: bytes) -> None:
    """
    Write, as far as somebody reads it.
    """
    with suppress(OSError):
        while data:
            data = data[os.write(fileno, data) :]
