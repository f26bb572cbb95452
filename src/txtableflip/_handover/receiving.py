"""
Reads bytes, and descriptors with them, from a socket.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from array import array
from typing import NamedTuple

from txtableflip._handover.frames import FDS_AT_ONCE, Frame, FrameReader
from txtableflip.errors import ChannelError

_AT_ONCE = 64 * 1024
_CREDENTIALS = struct.Struct("3i")
_SPACE = socket.CMSG_SPACE(FDS_AT_ONCE * array("i").itemsize) + socket.CMSG_SPACE(
    _CREDENTIALS.size
)
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class Received(NamedTuple):
    """
    What has been read at once.

    @ivar data: bytes, none of them at the end.
    @ivar descriptors: those that came with them, close-on-exec.
    @ivar sender: the process that sent them, as the kernel reports it after
        L{learnSenders}; 0 if that process is not in this pid namespace.
    @ivar isCut: whether there were more descriptors than this process may open, which
        the kernel has dropped.
    """

    data: bytes
    descriptors: list[int]
    sender: int | None
    isCut: bool


def learnSenders(sock: socket.socket) -> None:
    """
    Let the kernel report the sender of what comes from now on, where it can (unix(7)).
    """
    if hasattr(socket, "SO_PASSCRED"):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)


def receive(sock: socket.socket, size: int) -> Received:
    """
    Read once.

    @param size: how much at most, in bytes.
    @raise OSError: see recvmsg(2).
    """
    data, ancillary, flags, _ = sock.recvmsg(size, _SPACE, _CLOSE_ON_EXEC)
    descriptors, sender = array("i"), None
    for level, kind, packed in ancillary:
        # Credentials look like numbers of descriptors, too.
        if (level, kind) == (socket.SOL_SOCKET, getattr(socket, "SCM_CREDENTIALS", None)):
            sender = _CREDENTIALS.unpack(packed)[0]
        elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(packed[: len(packed) - len(packed) % descriptors.itemsize])
    if not _CLOSE_ON_EXEC:
        for fileno in descriptors:
            os.set_inheritable(fileno, False)
    return Received(data, list(descriptors), sender, bool(flags & socket.MSG_CTRUNC))


def requireWhole(frame: Frame) -> None:
    """
    @raise ChannelError: if the kernel has dropped descriptors that belong to it.
    """
    if frame.isCut:
        raise ChannelError("the kernel dropped descriptors: is there a limit on them?")


def receiveFrame(sock: socket.socket, timeout: float) -> Frame:
    """
    Read one frame, before any reactor runs.  What follows it on the socket is
    for the reactor.

    @param timeout: how long to wait for all of it, in seconds.
    @raise ChannelError: if it does not come, or is not one.
    """
    reader, deadline = FrameReader(), time.monotonic() + timeout
    sock.setblocking(False)
    try:
        while True:
            try:
                came = receive(sock, min(reader.missing, _AT_ONCE))
            except BlockingIOError:
                _wait(sock, deadline)
                continue
            if not came.data:
                raise ChannelError("the parent closed the channel before its manifest was read")
            for frame in reader.receive(came.data, came.descriptors, isCut=came.isCut):
                return frame
    finally:
        reader.close()


def _wait(sock: socket.socket, deadline: float) -> None:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise ChannelError("the parent has not sent its manifest in time")
