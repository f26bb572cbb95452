"""
Sends a process a request, and waits for the answer.

Of the standard library only, as L{address <txtableflip._control.address>}.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from txtableflip._control.address import addressOf, whyUnheard
from txtableflip._control.requests import Request
from txtableflip._kernel import peerOf
from txtableflip.errors import NoAnswer, NobodyThere

ANSWER_TIMEOUT = 10.0
"""
How long a process may take to answer a request that needs no waiting, in seconds.
"""

CONNECT_TIMEOUT = 2.0
"""
How long connecting to a process may take, in seconds: the kernel does that.
"""

_LONGEST = 1e7

MAX_ANSWER = 1 << 24
"""
How long one line of an answer may be, in bytes.
"""


@dataclass
class Patience:
    """
    How long to wait.

    @ivar until: by L{time.monotonic}, in seconds.
    @ivar isFixed: whether the process that is asked cannot extend it.
    """

    until: float
    isFixed: bool = False

    @classmethod
    def of(cls, seconds: float | None) -> Patience:
        """
        @param seconds: from now on; C{None} for what the process that is asked says, and
            L{ANSWER_TIMEOUT} before it does.
        """
        started = time.monotonic()
        return cls(
            started + (ANSWER_TIMEOUT if seconds is None else seconds), seconds is not None
        )

    def hear(self, event: Mapping[str, Any]) -> None:
        """
        Extend the wait by what an event says that the next may take.
        """
        within = event.get("within")
        if isinstance(within, (int, float)) and not self.isFixed:
            self.until = time.monotonic() + within + ANSWER_TIMEOUT


def ask(
    pid: int, request: Request, patience: Patience, heard: Callable[[Mapping[str, Any]], object]
) -> dict[str, Any]:
    """
    @param heard: is called with each event before the result.
    @return: the result.
    @raise NobodyThere: if that process cannot be asked.
    @raise NoAnswer: if it does not answer in time, or exits without an answer.
    """
    with ExitStack() as stack:
        process = watch(pid)
        if process is not None:
            stack.callback(os.close, process)
        sock = stack.enter_context(socket.socket(socket.AF_UNIX))
        _connect(sock, pid)
        with suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(request.encode())
        for answer in _answers(sock, process, pid, patience):
            if "result" in answer:
                result: dict[str, Any] = answer["result"]
                return result
            patience.hear(answer["event"])
            heard(answer["event"])
    raise NoAnswer(f"process {pid} has exited, or closed the connection, without an answer")


def watch(pid: int) -> int | None:
    """
    @return: a descriptor of a process that is readable when it has exited (pidfd_open(2)),
        if the system has those.
    """
    with suppress(AttributeError, OSError):
        return os.pidfd_open(pid)
    return None


def _connect(sock: socket.socket, pid: int) -> None:
    """
    @raise NobodyThere: if the process does not listen, or another one does instead of it.
    """
    address = addressOf(pid)
    # The queue may be full if it is busy starting: only a blocking socket waits for room
    # (unix(7)).
    timeout = struct.pack("ll", int(CONNECT_TIMEOUT), 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
    try:
        sock.connect(address)
    except ConnectionRefusedError:
        raise NobodyThere(f"process {pid} does not answer: {whyUnheard(pid)}") from None
    except OSError as error:
        raise NoAnswer(f"process {pid} does not answer ({error}): is it stopped?") from None
    owner, _ = peerOf(sock)
    if owner != pid:
        raise NobodyThere(f"process {owner} listens in the place of process {pid}")


def untilEnded(pids: Iterable[int], until: float) -> None:
    """
    Wait until processes have exited.

    @param until: by L{time.monotonic}, in seconds.
    @raise NoAnswer: if one of them has not exited by then.
    """
    for pid in pids:
        process = watch(pid)
        if process is None:
            continue
        try:
            left = min(max(0.0, until - time.monotonic()), _LONGEST)
            if not select.select([process], [], [], left)[0]:
                raise NoAnswer(f"process {pid} has not exited in time")
        finally:
            os.close(process)


def _answers(sock: socket.socket, process: int | None, pid: int, patience: Patience) -> Any:
    """
    @return: an iterator over the lines that come, as objects, until the end.
    @raise NoAnswer: if it takes too long, or what comes is not an answer.
    """
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    if process is not None:
        poll.register(process, select.POLLIN)
    received = b""
    while True:
        left = patience.until - time.monotonic()
        ready = dict(poll.poll(max(0, left) * 1000))
        if not ready:
            raise NoAnswer(f"process {pid} has not answered in time")
        if sock.fileno() not in ready:
            # It has exited, and what it sent has been read.
            return
        more = b""
        with suppress(ConnectionResetError):
            more = sock.recv(1 << 16)
        if not more:
            return
        received += more
        *lines, received = received.split(b"\n")
        if len(received) > MAX_ANSWER:
            raise NoAnswer(f"the answer of process {pid} is too long")
        for line in lines:
            yield _decode(line, pid)


def _decode(line: bytes, pid: int) -> dict[str, Any]:
    """
    @raise NoAnswer: if that is not an answer.
    """
    with suppress(ValueError, RecursionError, AttributeError):
        answer: dict[str, Any] = json.loads(line)
        if any(isinstance(answer.get(name), dict) for name in ("event", "result")):
            return answer
    raise NoAnswer(f"process {pid} sent what is not an answer: {line[:60]!r}")
