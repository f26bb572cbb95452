"""
Reads bytes, and descriptors with them, from a socket.
"""

from __future__ import annotations

import os
import select
import socket
import time
from array import array

from txtableflip._handover.frames import FDS_AT_ONCE, Frame, FrameReader, closeAll
from txtableflip.errors import ChannelError

_AT_ONCE = 64 * 1024
_SPACE = socket.CMSG_LEN(FDS_AT_ONCE * array("i").itemsize)
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def receive(sock: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """
    Read once.

    @param size: how much at most, in bytes.
    @return: bytes, none of them at the end, and the descriptors that came with
        them, close-on-exec.
    @raise ChannelError: if the kernel had more descriptors than this process
        may open; none is left open then.
    @raise OSError: see recvmsg(2).
    """
    data, ancillary, flags, _ = sock.recvmsg(size, _SPACE, _CLOSE_ON_EXEC)
    descriptors = array("i")
    for level, kind, packed in ancillary:
        # Credentials look like numbers of descriptors, too.
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(packed[: len(packed) - len(packed) % descriptors.itemsize])
    if flags & socket.MSG_CTRUNC:
        closeAll(descriptors)
        raise ChannelError("the kernel dropped descriptors: is there a limit on them?")
    if not _CLOSE_ON_EXEC:
        for fileno in descriptors:
            os.set_inheritable(fileno, False)
    return data, list(descriptors)


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
                data, descriptors = receive(sock, min(reader.missing, _AT_ONCE))
            except BlockingIOError:
                _wait(sock, deadline)
                continue
            if not data:
                raise ChannelError("the parent closed the channel before its manifest was read")
            for frame in reader.receive(data, descriptors):
                return frame
    finally:
        reader.close()


def _wait(sock: socket.socket, deadline: float) -> None:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise ChannelError("the parent has not sent its manifest in time")
