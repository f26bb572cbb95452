"""
The connection between a parent and its child, once the reactor has it.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet import protocol
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.unix import Server
from twisted.python.failure import Failure

from txtableflip._handover.frames import Frame, FrameReader, closeAll, divide
from txtableflip._handover.messages import Message, decode, encode
from txtableflip._handover.receiving import receive
from txtableflip._journal import (
    Hearing,
    HearingTheEnd,
    Journal,
    Peer,
    ProcessLogger,
    Said,
    Saying,
)
from txtableflip.errors import ChannelError
from txtableflip.interfaces import Reactor


class MessageReceiver(Protocol):
    """
    Who hears what comes over a channel.  If one of these methods raises, that is
    logged; and if it was about a message, the peer counts as garbled.
    """

    @property
    def peerPid(self) -> int | None:
        """
        The process id of the peer, if it is known.
        """

    def messageReceived(self, message: Message) -> None:
        """
        The peer said something.
        """

    def channelGarbled(self, error: ChannelError) -> None:
        """
        The peer sent what is not a message, or one that could not be acted upon.
        Nothing more will be received but the end.
        """

    def channelLost(self) -> None:
        """
        The peer is gone, or has closed its end.
        """


class _Transport(Server):
    """
    An C{AF_UNIX} stream transport that sends and receives descriptors by the
    hundred, where Twisted's sends one with each byte.
    """

    def __init__(self, reactor: Any, sock: socket.socket, channel: Channel) -> None:
        super().__init__(sock, channel, None, None, 0, reactor)
        self.repstr = f"<{channel!r} on descriptor {sock.fileno()}>"
        self._unsent: deque[tuple[int, Sequence[int]]] = deque()

    def write(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """
        Send bytes, and descriptors with the first of them: as many as go at once.
        """
        self._unsent.append((len(data), descriptors))
        super().write(data)

    def writeSomeData(self, data: Any) -> Any:
        if not self._unsent:
            return 0
        length, descriptors = self._unsent[0]
        try:
            sent = socket.send_fds(self.socket, [data[:length]], descriptors)
        except BlockingIOError:
            return 0
        except OSError:
            return CONNECTION_LOST
        self._unsent[0] = (length - sent, ())
        if sent == length:
            self._unsent.popleft()
        return sent

    def doRead(self) -> Any:
        channel: Any = self.protocol
        try:
            data, descriptors = receive(self.socket, self.bufferSize)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        except ChannelError as error:
            return channel.garbled(error)
        return channel.received(data, descriptors) if data else CONNECTION_DONE


class Channel(protocol.Protocol):
    """
    Messages over an C{AF_UNIX} stream socket.
    """

    _journal = Journal()
    _log = ProcessLogger()

    def __init__(self, receiver: MessageReceiver, peer: Peer) -> None:
        self._receiver = receiver
        self._peer = peer
        self._reader = FrameReader()
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

        @param descriptors: these go with it.
        @raise ChannelError: if it cannot be sent.
        """
        if not self._open:
            return
        transport: Any = self.transport
        frame = encode(message, len(descriptors))
        self._tell(Saying, message)
        for data, batch in divide(frame, descriptors):
            transport.write(data, batch)
            transport.doWrite()
        self._tell(Said, message)

    def _tell(self, kind: type[Saying], message: Message) -> None:
        self._journal.tell(
            kind,
            message=type(message).__name__,
            peer=self._peer,
            peerPid=self._receiver.peerPid,
        )

    def keepOpenUntilExit(self) -> None:
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
            self._reader.close()

    def dataReceived(self, data: bytes) -> None:
        self.received(data, ())

    def received(self, data: bytes, descriptors: Sequence[int]) -> None:
        """
        Bytes have come, and descriptors with them.
        """
        if self._isGarbled or not self._open:
            closeAll(descriptors)
            return
        try:
            for frame in self._reader.receive(data, descriptors):
                self._hear(frame)
                if self._isGarbled or not self._open:
                    return
        except ChannelError as error:
            self.garbled(error)

    def _hear(self, frame: Frame) -> None:
        # Nothing that is said here so far comes with any.
        closeAll(frame.descriptors)
        message = decode(frame)
        name = str(frame.header["message"])[:60]
        if message is None:
            self._log.info(
                "ignoring a message that this version does not know: {name}", name=name
            )
            return
        if frame.descriptors:
            raise ChannelError(f"{len(frame.descriptors)} descriptors came with a {name}")
        self._tell(Hearing, message)
        error = self._try(self._receiver.messageReceived, message)
        if error is not None:
            self.garbled(ChannelError(f"a {name} could not be acted upon: {error}"))

    def garbled(self, error: ChannelError) -> None:
        """
        What has come cannot be used, nor what comes after it.
        """
        # The channel stays open, for the peer is still to be told that it is
        # not wanted; it would take the mere end for the death of this process.
        if not self._isGarbled:
            self._isGarbled = True
            self._reader.close()
            self._try(self._receiver.channelGarbled, error)

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._open = False
        self._reader.close()
        self._journal.tell(HearingTheEnd, peer=self._peer, peerPid=self._receiver.peerPid)
        self._try(self._receiver.channelLost)

    def _try(self, handle: Callable[..., None], *arguments: Any) -> Exception | None:
        """
        Whatever a receiver does, to let it pass would close the channel, and the
        peer would take that for the end of this process.
        """
        try:
            handle(*arguments)
        except Exception as error:  # noqa: BLE001 - it may be the application's
            self._log.failure("what came over the channel could not be acted upon")
            return error
        return None


def connectChannel(
    reactor: Reactor, sock: socket.socket, receiver: MessageReceiver, peer: Peer
) -> Channel:
    """
    Give a socket to the reactor, which closes it in the end.
    """
    channel = Channel(receiver, peer)
    sock.setblocking(False)
    channel.makeConnection(_Transport(reactor, sock, channel))
    return channel
