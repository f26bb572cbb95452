"""
The socket over which one move of connections is acknowledged.

A connection is the parent's until the child's last answer is in this socket's queue, and
the child does not touch it before.  So there is one moment at which it changes hands, and
both know afterwards on which side of it they are:

  - The parent says C{REVOKED}, and then ends the socket for both by shutdown(2): what the
    child has not sent by then, it cannot send any more, and what it has sent is in the
    queue.
  - The child's send(2) fails then.  If there is no C{REVOKED} in its own queue, it was the
    death of the parent that ended the socket, and the parent has touched nothing since it
    offered.

The channel itself cannot be used for that: closing it would tell the child that its parent
has exited.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.python.failure import Failure

from txtableflip._handover.forks import keepFromForks
from txtableflip._handover.frames import FrameReader
from txtableflip._handover.messages import Taken, decode, encode
from txtableflip._journal import Hearing, Journal, Peer, Said, Saying
from txtableflip.errors import ChannelError

_REVOKED = b"R"
_AT_ONCE = 65536


class Lane(FileDescriptor):
    """
    The parent's end.

    @ivar theirs: the child's, to be closed when that has been sent.
    """

    def __init__(
        self, reactor: Any, heard: Callable[[Taken], object], lost: Callable[[str], object]
    ) -> None:
        """
        @param heard: is called with each answer.
        @param lost: is called, with the reason, if there will be none.
        """
        super().__init__(reactor)
        self._ours, self.theirs = socket.socketpair()
        for end in (self._ours, self.theirs):
            end.setblocking(False)
            keepFromForks(end)
        self._reader = FrameReader()
        self._heard = heard
        self._lost = lost

    def fileno(self) -> int:
        return self._ours.fileno()

    def doRead(self) -> None:
        """
        See L{twisted.internet.interfaces.IReadDescriptor.doRead}.
        """
        try:
            data = self._ours.recv(_AT_ONCE)
            for frame in self._reader.receive(data):
                answer = decode(frame)
                if isinstance(answer, Taken):
                    _tell(Hearing, "child")
                    self._heard(answer)
        except BlockingIOError:
            return
        except (OSError, ChannelError) as error:
            self._lost(f"the new process cannot be understood: {error}")
            return
        if not data:
            self._lost("the new process has ended")

    def revoke(self) -> None:
        """
        Let the child take nothing any more; what it has taken is known on return.
        """
        self.stopReading()
        with suppress(OSError):
            self._ours.send(_REVOKED)
        with suppress(OSError):
            self._ours.shutdown(socket.SHUT_RDWR)
        self._lost = lambda why: None
        # It cannot have sent more than fits into the queue.
        for _ in range(2):
            self.doRead()

    def close(self) -> None:
        """
        The move is over.
        """
        self.stopReading()
        self._ours.close()
        self.theirs.close()

    def connectionLost(self, reason: Failure) -> None:
        self.stopReading()


def answer(lane: socket.socket, taken: Taken) -> bool:
    """
    Answer an offer: the child's end.

    @return: whether what is not refused is this process's now, if that was the last one.
    """
    frame = encode(taken)
    _tell(Saying, "parent")
    try:
        isSent = lane.send(frame) == len(frame)
    except BlockingIOError:
        return False
    except OSError:
        return not isRevoked(lane)
    _tell(Said, "parent")
    return isSent


def _tell(kind: type[Saying], peer: Peer) -> None:
    Journal().tell(kind, message="Taken", peer=peer, peerPid=None)


def isRevoked(lane: socket.socket) -> bool:
    """
    @return: whether the parent has said that it keeps what it has offered.
    """
    try:
        return lane.recv(1, socket.MSG_PEEK) == _REVOKED
    except OSError:
        return False
