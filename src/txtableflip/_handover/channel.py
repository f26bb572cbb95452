"""
The connection between a parent and its child, once the reactor has it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from twisted.internet.main import CONNECTION_LOST
from twisted.internet.unix import Server
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure

from txtableflip._handover.messages import MAX_FRAME, Message, decode, encode
from txtableflip._journal import (
    Event,
    Hearing,
    HearingTheEnd,
    Journal,
    Peer,
    ProcessLogger,
    Said,
    Saying,
)
from txtableflip.errors import ChannelError


class MessageReceiver(Protocol):
    """
    Who hears what comes over a channel.

    @ivar peer: what the other end is to this process.
    @ivar pid: the process id of the other end, if it is known.
    """

    peer: Peer

    @property
    def pid(self) -> int | None: ...

    def messageReceived(self, message: Message) -> None:
        """
        The peer said something.
        """

    def channelGarbled(self, error: ChannelError) -> None:
        """
        The peer sent what is no message.  Nothing more will be received but
        the end.
        """

    def channelLost(self) -> None:
        """
        The peer is gone, or has closed its end.
        """


_FDS_PER_MESSAGE = 253
"""
The most descriptors that go with one message (C{SCM_MAX_FD} of unix(7)).
"""

_BYTES_PER_MESSAGE = 4096
"""
How much goes with that many descriptors, in bytes: less than what the manifest
says of each of them, so that they are all sent before its end.
"""


class _Transport(Server):
    """
    An C{AF_UNIX} stream transport that sends descriptors by the hundred, where
    Twisted's sends one with each byte.
    """

    def __init__(self, reactor: Any, sock: socket.socket, protocol: Channel) -> None:
        super().__init__(sock, protocol, None, None, 0, reactor)
        self.repstr = f"<{protocol!r} on descriptor {sock.fileno()}>"
        self._unsent: list[int] = []

    def sendFileDescriptor(self, fileno: int) -> None:
        self._unsent.append(fileno)

    def writeSomeData(self, data: Any) -> Any:
        if not self._unsent:
            return super().writeSomeData(data)
        batch = self._unsent[:_FDS_PER_MESSAGE]
        try:
            sent = socket.send_fds(self.socket, [data[:_BYTES_PER_MESSAGE]], batch)
        except BlockingIOError:
            return 0
        except OSError:
            return CONNECTION_LOST
        del self._unsent[: len(batch)]
        return sent


class Channel(Int32StringReceiver):
    """
    Messages over an C{AF_UNIX} stream socket.
    """

    MAX_LENGTH = MAX_FRAME
    _log = ProcessLogger()
    _journal = Journal()

    def __init__(self, listener: MessageReceiver) -> None:
        self._listener = listener
        self._open = False
        self._isGarbled = False

    def connectionMade(self) -> None:
        self._open = True

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """
        Say something, now: what fits into the socket's buffer has left this
        process on return, so that a reactor which is then kept busy by the
        application does not keep the peer waiting.  The rest follows as the
        peer reads.  To a peer that is gone, nothing is sent.

        @param descriptors: these go with a manifest.
        """
        if not self._open:
            return
        self._tell(Saying, message=type(message).__name__)
        transport: Any = self.transport
        for descriptor in descriptors:
            transport.sendFileDescriptor(descriptor)
        self.sendString(encode(message))
        transport.doWrite()
        self._tell(Said, message=type(message).__name__)

    def neverClose(self) -> None:
        """
        Stop reading, and leave the socket to the kernel, which closes it when
        this process has ended: to the peer, the end of this channel is the
        end of this process, and a reactor that shuts down closes whatever it
        reads from, long before that.
        """
        if self._open:
            self._open = False
            transport: Any = self.transport
            transport.stopReading()
            transport.stopWriting()

    def dataReceived(self, data: bytes) -> None:
        if not self._isGarbled:
            super().dataReceived(data)

    def stringReceived(self, string: bytes) -> None:
        if self._isGarbled or not self._open:
            return
        try:
            message = decode(string)
        except ChannelError as error:
            self._garbled(error)
            return
        self._tell(Hearing, message=type(message).__name__)
        try:
            self._listener.messageReceived(message)
        except Exception as error:  # noqa: BLE001 - to let it pass would close the channel
            self._log.failure("a message could not be followed")
            self._garbled(ChannelError(f"{message} could not be followed: {error}"))

    def lengthLimitExceeded(self, length: int) -> None:
        self._garbled(ChannelError(f"a frame of {length} bytes is too long"))

    def _garbled(self, error: ChannelError) -> None:
        # The channel stays open, for the peer is still to be told that it is
        # not wanted; it would take the mere end for the death of this process.
        if not self._isGarbled:
            self._isGarbled = True
            with self._reporting():
                self._listener.channelGarbled(error)

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._open = False
        self._tell(HearingTheEnd)
        with self._reporting():
            self._listener.channelLost()

    def _tell(self, kind: type[Event], **more: str) -> None:
        self._journal.tell(kind, peer=self._listener.peer, peerPid=self._listener.pid, **more)

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """
        An error of who listens is not one of the reactor's.
        """
        try:
            yield
        except Exception:  # noqa: BLE001 - it is in the log
            self._log.failure("the end of a channel could not be followed")


def connectChannel(reactor: Any, sock: socket.socket, listener: MessageReceiver) -> Channel:
    """
    Give a socket to the reactor, which closes it in the end.
    """
    channel = Channel(listener)
    sock.setblocking(False)
    channel.makeConnection(_Transport(reactor, sock, channel))
    return channel
