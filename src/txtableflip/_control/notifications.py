"""
Notifies a service manager: datagrams to the socket that it names in C{NOTIFY_SOCKET}, in
the format of sd_notify(3).

Its queue takes about ten, and a manager may be stopped: what it does not take waits here,
in order, and the reactor does not block.
"""

from __future__ import annotations

import os
import select
import socket
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater

from txtableflip._control.pipeend import PipeEnd
from txtableflip._handover.forks import keepFromForks
from txtableflip._handover.frames import closeAll
from txtableflip._journal import ProcessLogger
from txtableflip._observers import SteadyClock

BARRIER_TIMEOUT = 5.0
"""
How long a service manager may take to read what it has been sent, in seconds.
"""

MAX_WAITING = 10_000
"""
How many datagrams wait at most: one for each descriptor that is deposited.
"""

MAX_LINE = 1500
"""
How long a line may be, in bytes: systemd reads 4096 of a datagram.
"""

_log = ProcessLogger()


class Notifications(FileDescriptor):
    """
    Sends datagrams in order, as the queue takes them.

    @ivar isWanted: whether a service manager wants notifications.
    """

    def __init__(self, reactor: Any, address: str | None) -> None:
        """
        @param address: what C{NOTIFY_SOCKET} says: a path, or C{@} and an abstract name;
            C{None} if no service manager wants notifications.
        """
        super().__init__(reactor)
        self._reactor = reactor
        self.isWanted = bool(address)
        self._address = _addressOf(address or "")
        self._waiting: deque[tuple[bytes, Sequence[int]]] = deque()
        self._socket: socket.socket | None = None
        self._hasFailed = False

    @property
    def isEmpty(self) -> bool:
        """
        Whether nothing waits.
        """
        return not self._waiting

    def fileno(self) -> int:
        return -1 if self._socket is None else self._socket.fileno()

    def say(self, *lines: str, descriptors: Sequence[int] = ()) -> None:
        """
        Send a datagram, now or as soon as the queue takes it.

        @param lines: each C{NAME=value}, of which the last two may be long.
        @param descriptors: the caller's: they may be closed when this returns.
        """
        if not self.isWanted:
            return
        data = b"\n".join(map(_encode, lines))
        if self._waiting:
            self._wait(data, descriptors)
        elif not self._send(data, descriptors):
            self._wait(data, descriptors)
            self.startWriting()
        else:
            self._close()

    def _wait(self, data: bytes, descriptors: Sequence[int]) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._fail(OSError("it does not read"))
        else:
            self._waiting.append((data, [os.dup(each) for each in descriptors]))

    def doWrite(self) -> None:
        while self._waiting and self._send(*self._waiting[0]):
            closeAll(self._waiting.popleft()[1])
        if not self._waiting:
            self.stopWriting()
            self._close()

    def _send(self, data: bytes, descriptors: Sequence[int]) -> bool:
        """
        @return: C{False} if it is to be tried again; C{True} if it was sent, or never can be.
        """
        try:
            if self._socket is None:
                self._socket = self._connect()
            socket.send_fds(self._socket, [data], descriptors)
        except BlockingIOError:
            return False
        except (OSError, ValueError) as error:
            self._fail(error)
        return True

    def _connect(self) -> socket.socket:
        """
        Make a connected socket: only with one of those is it known when it can be written to.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.setblocking(False)
        keepFromForks(sock)
        try:
            sock.connect(self._address)
        except BaseException:
            sock.close()
            raise
        return sock

    def _fail(self, error: Exception) -> None:
        if not self._hasFailed:
            self._hasFailed = True
            _log.warn("cannot notify the service manager: {why}", why=str(error))

    def _close(self) -> None:
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()

    def connectionLost(self, reason: Any) -> None:
        """
        The service manager does not listen any more, or the reactor shuts down.
        """
        self.stopWriting()
        while self._waiting:
            closeAll(self._waiting.popleft()[1])
        self._close()

    def barrier(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when the service manager has read all that was sent
            (sd_notify_barrier(3)), or takes too long for that.
        """
        if not self.isWanted:
            return succeed(None)
        heard: Deferred[None] = Deferred()
        end = self._sendBarrier(lambda: None if heard.called else heard.callback(None))

        def late(result: object, seconds: float) -> None:
            end.close()

        clock: Any = SteadyClock(self._reactor)
        return heard.addTimeout(BARRIER_TIMEOUT, clock, late)

    def flush(self) -> Deferred[None]:
        """
        @return: the same, but it fires after every earlier L{barrier}.
        """
        if not self.isWanted:
            return succeed(None)
        # The reactor may find several pipes at their end at once, in any order.
        turn = partial(deferLater, self._reactor, 0, lambda: None)
        return self.barrier().addCallback(lambda ignored: turn())

    def _sendBarrier(self, heard: Callable[[], object]) -> PipeEnd:
        reading, writing = os.pipe()
        end = PipeEnd(self._reactor, reading, heard)
        self.say("BARRIER=1", descriptors=[writing])
        os.close(writing)
        return end


def sayNow(address: str | None, said: Sequence[Sequence[str]]) -> None:
    """
    Send datagrams before the reactor runs, and wait until they have been read.

    @param address: what C{NOTIFY_SOCKET} says.
    @param said: the lines of each datagram.
    """
    reading, writing = os.pipe()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(BARRIER_TIMEOUT)
            sock.connect(_addressOf(address or ""))
            for lines in said:
                sock.send(b"\n".join(map(_encode, lines)))
            socket.send_fds(sock, [b"BARRIER=1"], [writing])
    except (OSError, ValueError) as error:
        _log.warn("cannot notify the service manager: {why}", why=str(error))
    finally:
        os.close(writing)
        select.select([reading], [], [], BARRIER_TIMEOUT)
        os.close(reading)


def _addressOf(named: str) -> str:
    """
    @return: what C{NOTIFY_SOCKET} names: a path, or after C{@} an abstract name.
    """
    return f"\0{named[1:]}" if named.startswith("@") else named


def _encode(line: str) -> bytes:
    """
    @return: a line, without what would end it early, and not too long.
    """
    data = " ".join(line.replace("\0", " ").splitlines()).encode("utf-8", "replace")
    return data[:MAX_LINE].decode("utf-8", "ignore").encode()
