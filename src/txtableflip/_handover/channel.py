"""
The connection between a parent and its child, once the reactor has it.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from twisted.internet import protocol
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.unix import Server
from twisted.python.failure import Failure

from txtableflip._handover.forks import keepFromForks
from txtableflip._handover.frames import Frame, FrameReader, closeAll, divide
from txtableflip._handover.messages import Commit, Hello, Message, Offer, decode, encode
from txtableflip._handover.pidfd import Pidfd, Watch, isReadable
from txtableflip._handover.receiving import Received, receive, requireWhole
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
    Receives what comes over a channel.  If one of these methods raises, that is logged; if
    it was handling a message, the peer counts as garbled.
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

    def hearOut(self) -> None:
        """
        The peer has exited.  Read what it has sent, and then lose the connection, even if
        another process holds the peer's end of the channel: one that it has forked.
        """
        why = None
        while why is None and self.connected and isReadable(self.socket.fileno()):
            why = self.doRead()
        if self.connected:
            self.stopReading()
            self.stopWriting()
            self.connectionLost(Failure(why or CONNECTION_LOST))

    def doRead(self) -> Any:
        channel: Any = self.protocol
        try:
            came = receive(self.socket, self.bufferSize)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        return channel.received(came) if came.data else CONNECTION_DONE


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
        self._descriptors: list[int] = []
        self._watched: Watch | None = None
        self._sender: int | None = None

    def endWith(self, process: Pidfd) -> None:
        """
        Lose the connection once a process has exited and all that it has sent is read.
        """
        transport: Any = self.transport
        if self._open and process.fileno() >= 0:
            self._watched = Watch(transport.reactor, process, transport.hearOut)
            self._watched.startReading()

    def _unwatch(self) -> None:
        watched, self._watched = self._watched, None
        if watched is not None:
            watched.stop()

    def connectionMade(self) -> None:
        self._open = True

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """
        Send a message now: what fits into the socket's buffer has left this process on
        return, so that a reactor which is then kept busy by the application does not keep
        the peer waiting.  The rest follows as the peer reads.  To a peer that is gone,
        nothing is sent.

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
        Stop reading, and leave the socket for the kernel to close when this process exits:
        the peer takes the end of this channel for the end of this process, and a reactor
        that shuts down closes whatever it reads from long before that.
        """
        if self._open:
            self._open = False
            transport: Any = self.transport
            transport.stopReading()
            transport.stopWriting()
            self._unwatch()
            self._reader.close()

    def dataReceived(self, data: bytes) -> None:
        self.received(Received(data, [], None, isCut=False))

    def received(self, came: Received) -> None:
        """
        Bytes have come, and descriptors with them.
        """
        self._sender = came.sender
        if self._isGarbled or not self._open:
            closeAll(came.descriptors)
            return
        try:
            for frame in self._reader.receive(came.data, came.descriptors, isCut=came.isCut):
                self._hear(frame)
                if self._isGarbled or not self._open:
                    return
        except ChannelError as error:
            self.garbled(error)

    def _hear(self, frame: Frame) -> None:
        self._descriptors = frame.descriptors
        try:
            self._hearWith(frame)
        finally:
            closeAll(self.takeDescriptors())

    def _hearWith(self, frame: Frame) -> None:
        message = decode(frame)
        name = str(frame.header["message"])[:60]
        if message is None:
            self._log.info(
                "ignoring a message that this version does not know: {name}", name=name
            )
            return
        _checkDescriptors(message, frame)
        if isinstance(message, Hello) and self._sender is not None:
            # In another pid namespace it has another number, which is another process's
            # here.
            message = replace(message, pid=self._sender)
        self._tell(Hearing, message)
        error = self._try(self._receiver.messageReceived, message)
        if error is not None:
            self.garbled(ChannelError(f"a {name} could not be acted upon: {error}"))

    def takeDescriptors(self) -> list[int]:
        """
        @return: those that came with the message being received, which the caller owns from
            now on.  Those that are not taken are closed.
        """
        taken, self._descriptors = self._descriptors, []
        return taken

    def garbled(self, error: ChannelError) -> None:
        """
        What has come cannot be used, and neither can what comes after it.
        """
        # The channel stays open: the peer has yet to be told that it is not wanted, and
        # would take a mere close for the death of this process.
        if not self._isGarbled:
            self._isGarbled = True
            self._reader.close()
            self._try(self._receiver.channelGarbled, error)

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._open = False
        self._unwatch()
        self._reader.close()
        self._journal.tell(HearingTheEnd, peer=self._peer, peerPid=self._receiver.peerPid)
        self._try(self._receiver.channelLost)

    def _try(self, handle: Callable[..., None], *arguments: Any) -> Exception | None:
        """
        Call a receiver.  If its exception reached the reactor, that would close the
        channel, and the peer would take it for the end of this process.
        """
        try:
            handle(*arguments)
        except Exception as error:  # noqa: BLE001 - it may be the application's
            self._log.failure("what came over the channel could not be acted upon")
            return error
        return None


def _checkDescriptors(message: Message, frame: Frame) -> None:
    """
    @raise ChannelError: if the descriptors that came are not those that belong to it.
    """
    if isinstance(message, Offer):
        # A connection that it offers without the descriptor stays with the parent.
        return
    requireWhole(frame)
    if len(frame.descriptors) != (len(message.came) if type(message) is Commit else 0):
        name = type(message).__name__
        raise ChannelError(f"{len(frame.descriptors)} descriptors came with a {name}")


def connectChannel(
    reactor: Reactor, sock: socket.socket, receiver: MessageReceiver, peer: Peer
) -> Channel:
    """
    Give a socket to the reactor, which closes it in the end.
    """
    channel = Channel(receiver, peer)
    sock.setblocking(False)
    keepFromForks(sock)
    channel.makeConnection(_Transport(reactor, sock, channel))
    return channel
