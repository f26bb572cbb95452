"""
What the parent reads of a child that dies before it is final.

Before that, a child's standard output and standard error are pipes, which the parent reads.
Processes that the child has started by then write to them for as long as they run, even
after the parent has exited; and SIGPIPE kills a process that writes to a pipe without a
reader.  So the child has the reading ends, too: it reads on once the parent does not, and
hands them to its own child in the end.
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


class LastOutput:
    """
    Shows the parent an exception that ends this process.

    @ivar stderr: the parent's standard error, if that came.
    @ivar stdout: the parent's standard output, if that came.
    @ivar hint: returns what to do about an exception, if that is known.
    @ivar outputs: the pipes to which processes still write that were started by this one,
        or by one before it, before it was final.
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
        An exception is about to end the interpreter.  Write it where the parent reads:
        twistd may have redirected sys.stderr to the log by now.
        """
        self._previousHook(*error)
        hint = self.hint(error[1])
        if hint is not None and hint not in str(error[1]):
            # Below the traceback, which the log may have truncated.
            print(hint, file=sys.__stderr__)
        if sys.stderr is not sys.__stderr__:
            traceback.print_exception(*error, file=sys.__stderr__)

    def end(self) -> None:
        """
        Write to the parent's standard output and error from now on, and not to the pipes
        from which it reads our last output; and read what others still write there.
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
        @return: the entries of the pipes that a child is to read on, or to pass on if it
            cannot.
        """
        return [outputEntry(each.stream, each.fileno(), "keep") for each in self.outputs]

    def descriptors(self) -> list[int]:
        """
        @return: the descriptors of these.
        """
        return [each.fileno() for each in self.outputs]

    def letGo(self) -> None:
        """
        Leave the reading to the child.
        """
        for each in list(self.outputs):
            each.stopReading()
            each.close()


def _bufferAsUsual() -> None:
    """
    Python has found a pipe instead of a terminal, and would hold lines back.
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
        # A reactor that shuts down does not close it: the writers may outlive this process.
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
    @param unknown: what a child that does not know this kind does with it.
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


def takeLastOutput(
    stderr: int | None, entries: Iterable[Entry | UnknownEntry], descriptors: Iterable[int]
) -> tuple[LastOutput, list[tuple[Entry | UnknownEntry, int]]]:
    """
    @return: what belongs to our last output, and the other entries with their descriptors.
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
    return LastOutput(stderr, stdout, outputs), others


def writeAll(fileno: int, data: bytes) -> None:
    """
    Write all of it, unless no process reads it.
    """
    with suppress(OSError):
        while data:
            data = data[os.write(fileno, data) :]
