"""
What the code relies on and nobody has promised: private parts of Twisted, hooks that
are taken though none was meant, and what Python and the kernel do without saying so.

Nothing of ours is tested here.  When another release of Twisted fails a line, its
message names the module that has to be looked at, and what for.
"""

import errno
import fcntl
import getopt
import importlib.util
import inspect
import io
import os
import pkgutil
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
from twisted.application.app import ApplicationRunner
from twisted.application.service import Service
from twisted.internet import error, main, reactor, tcp, udp, unix
from twisted.internet.abstract import FileDescriptor
from twisted.internet.endpoints import quoteStringArgument, serverFromString
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import LogBeginner, Logger, LogPublisher, formatEventAsClassicLogText
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python import threadable, usage
from twisted.python.components import Componentized
from twisted.python.failure import Failure
from twisted.python.lockfile import FilesystemLock
from twisted.python.logfile import LogFile
from twisted.web import http, resource, server
from twisted.web.http_headers import Headers
from zope.interface import directlyProvides, providedBy

import twisted

RELEASE = (twisted.version.major, twisted.version.minor)


def lookAt(module, purpose):
    """
    What a failing line says.
    """
    return f"look at {module}, which needs that {purpose}"


# -- Names

CONNECTIONS = "txtableflip._draining.connections"
CHANNEL = "txtableflip._handover.channel"
DATAGRAM = "txtableflip._sockets.datagram"
FTP = "txtableflip._draining.ftp"
HTTP1 = "txtableflip._draining.http1"
HTTP2 = "txtableflip._draining.http2"
INTERNET = "txtableflip._sockets.internet"
LOGFILE = "txtableflip._launch.logfile"
MAIL = "txtableflip._draining.mail"
SPAWNED = "txtableflip._handover.spawned"
ENDING = "txtableflip._handover.ending"
POSIXSPAWN = "txtableflip._handover.posixspawn"
MOVING = "txtableflip._migration.moving"
MIGRATING_HTTP = "txtableflip._migration.http1"
PORTS = "txtableflip._sockets.ports"
TWISTD = "txtableflip._launch.twistd"
UNIX_PORT = "txtableflip._sockets.unixport"
WEBSOCKET = "txtableflip._draining.websocket"

NAMES = [
    ("twisted.internet.tcp:Port._realPortNumber", DATAGRAM, "as the number that is shown"),
    ("twisted.internet.tcp:Port.transport", CONNECTIONS, "to have connections counted"),
    ("twisted.internet.tcp:Port.createInternetSocket", INTERNET, "to make a socket as Twisted"),
    ("twisted.internet.tcp:Port._type", PORTS, "to say TLS in the log"),
    ("twisted.internet.tcp:Port._shouldShutdown", UNIX_PORT, "to close no more than ours"),
    ("twisted.internet.tcp:_reservedFD", UNIX_PORT, "to close whom there is no descriptor for"),
    ("twisted.internet.unix:Port._getLogPrefix", UNIX_PORT, "to log its start"),
    ("twisted.internet.udp:Port._getLogPrefix", DATAGRAM, "to log its start"),
    ("twisted.internet.udp:Port._bindSocket", DATAGRAM, "to give a port its socket"),
    ("twisted.internet.udp:Port._realPortNumber", DATAGRAM, "as the number that is shown"),
    ("twisted.internet.udp:MulticastPort._bindSocket", DATAGRAM, "to give a port its socket"),
    ("twisted.internet.unix:DatagramPort._bindSocket", DATAGRAM, "to give a port its socket"),
    ("twisted.internet.tcp:Connection.bufferSize", CHANNEL, "for how much to read at once"),
    ("twisted.internet.process:reapAllProcesses", SPAWNED, "where nobody handles SIGCHLD"),
    ("twisted.internet.process:ProcessReader", POSIXSPAWN, "to read what a child writes"),
    ("twisted.application.app:ApplicationRunner.run", TWISTD, "as what is on the stack"),
    ("twisted.scripts._twistd_unix:ServerOptions", TWISTD, "to read a command line as twistd"),
    ("twisted.python.logfile:LogFile._openFile", LOGFILE, "to open a file that is shared"),
    ("twisted.web.server:Site._openLogFile", LOGFILE, "to share access logs"),
    ("twisted.web.http:HTTPChannel.writeHeaders", HTTP1, "to say Connection: close"),
    ("twisted.web.http:HTTPChannel.persistent", HTTP1, "to close behind an answer"),
    ("twisted.web.http:_GenericHTTPChannelProtocol", HTTP1, "to find the channel in it"),
    ("twisted.web._http2:H2Connection", HTTP2, "to register an adapter for it"),
    ("h2.connection:H2Connection.receive_data", HTTP2, "to hear the answer to a ping"),
    ("hyperframe.frame:GoAwayFrame", HTTP2, "to say GOAWAY without h2's knowledge"),
    ("twisted.mail.pop3:POP3.blocked", MAIL, "to know that a command is being answered"),
    ("twisted.mail.imap4:IMAP4Server.blocked", MAIL, "to know the same"),
    ("twisted.mail.imap4:IMAP4Server.parseState", MAIL, "to know that one is received"),
    ("twisted.mail.smtp:SMTP.sendCode", MAIL, "to say 421"),
    ("twisted.protocols.ftp:FTP.paused", FTP, "to know that a command runs"),
    ("twisted.protocols.ftp:FTP.dtpFactory", FTP, "to know of a transfer that is to come"),
    ("wsproto.utilities:LocalProtocolError", WEBSOCKET, "which wsproto raises when closed"),
    (
        "autobahn.twisted.websocket:WebSocketServerProtocol.sendCloseFrame",
        WEBSOCKET,
        "to say 1001, which sendClose refuses",
    ),
    (
        "autobahn.twisted.websocket:WebSocketServerProtocol.STATE_OPEN",
        WEBSOCKET,
        "to tell a connection that is open",
    ),
    ("twisted.internet.tcp:Connection._aborting", MOVING, "to leave what is being aborted"),
    ("twisted.internet.tcp:Connection._writeDisconnecting", MOVING, "as what is half closed"),
    ("twisted.internet.tcp:Connection._writeDisconnected", MOVING, "as what is half closed"),
    ("twisted.internet.tcp:Connection.writeSomeData", MOVING, "to collect what is unsent"),
    ("twisted.internet.tcp:Connection.TLS", MOVING, "to tell what has become TLS"),
    (
        "twisted.python.components:globalRegistry",
        "txtableflip._migration.claims",
        "to find what is registered for one class",
    ),
    ("twisted.web.http:HTTPChannel.clearLineBuffer", MIGRATING_HTTP, "for half a request"),
    ("twisted.web.http:HTTPChannel.writeHeaders", MIGRATING_HTTP, "to send no second header"),
    ("twisted.protocols.amp:AMP._currentBox", "txtableflip.amp", "for half a box"),
    ("twisted.protocols.amp:AMP._currentKey", "txtableflip.amp", "for half a box"),
    ("twisted.protocols.amp:AMP._outstandingRequests", "txtableflip.amp", "to count calls"),
    ("twisted.protocols.amp:AMP._locked", "txtableflip.amp", "as what switches protocols"),
    (
        "autobahn.twisted.websocket:WebSocketServerProtocol._onOpen",
        "txtableflip.autobahn",
        "to begin with what was received",
    ),
    (
        "autobahn.twisted.websocket:WebSocketServerProtocol.SEND_STATE_GROUND",
        "txtableflip.autobahn",
        "to tell what is between messages",
    ),
    (
        "twisted.internet.base:_ThreePhaseEvent",
        "txtableflip._launch.shutdown",
        "to know which trigger has not finished",
    ),
    ("sys:_current_frames", "txtableflip._launch.watchdog", "to say what still runs"),
    ("sys:_getframe", TWISTD, "to walk the stack"),
    ("sys:orig_argv", "txtableflip._launch.origin", "as the interpreter's own options"),
]


MISSING = object()


def find(name):
    """
    @return: what has a name, or C{MISSING}.
    """
    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return MISSING


@pytest.mark.parametrize(("name", "module", "purpose"), NAMES, ids=[row[0] for row in NAMES])
def test_there_is_what_nobody_has_promised(name, module, purpose):
    """
    Each private name, and each that is used otherwise than it is meant, is there.
    """
    assert find(name) is not MISSING, f"{name} is gone: {module} uses it {purpose}"


@pytest.mark.parametrize(("name", "module"), [row[:2] for row in NAMES])
def test_what_is_named_here_is_used_there(name, module):
    """
    No name is kept here when the module that used it does not any more.
    """
    last = re.split(r"[.:]", name)[-1]
    assert last in Path(importlib.util.find_spec(module).origin).read_text()


def test_each_module_that_is_named_here_is_there():
    """
    A message leads to a module that exists, whatever has been renamed since.
    """
    for module in re.findall(r'"(txtableflip\.[\w.]+)"', Path(__file__).read_text()):
        assert importlib.util.find_spec(module) is not None, f"there is no {module} any more"


SINCE_WEBSOCKET = (25, 5)
"""
The first release of Twisted that has a WebSocket server.
"""


@pytest.fixture
def wire():
    """
    The module in which Twisted's own WebSocket is.
    """
    if RELEASE < SINCE_WEBSOCKET:
        pytest.skip(f"Twisted {twisted.__version__} has no WebSocket of its own")
    module = find("twisted.web._websocket_impl")
    assert module is not MISSING, lookAt(WEBSOCKET, "it is twisted.web._websocket_impl")
    return module


def test_a_websocket_can_be_closed_with_a_code(wire):
    """
    Twisted's WebSocket has its transport, and is closed by a code, as positional
    argument.
    """
    known = wire._WebSocketWireProtocol
    assert "transport" in known.__annotations__, lookAt(WEBSOCKET, "it has its transport")
    parameters = [*inspect.signature(known.loseConnection).parameters]
    assert parameters[1] == "code", lookAt(WEBSOCKET, "loseConnection() takes the code first")


def test_a_websocket_takes_the_place_of_its_channels_methods(wire):
    """
    A channel that has become a WebSocket has the method of that in its own dictionary.
    """
    channel, transport = http.HTTPChannel(), StringTransport()
    channel.makeConnection(transport)
    channel.setTimeout(None)

    class WebSocket(Protocol):
        pass

    became = WebSocket()
    channel._protocolUpgradeForWebsockets(became)
    found = getattr(vars(channel).get("dataReceived"), "__self__", None)
    assert found is became, lookAt(HTTP1, "the channel's dataReceived is the WebSocket's")


# -- Signatures

SIGNATURES = [
    (tcp.Server, "sock protocol client server sessionno reactor", CONNECTIONS),
    (unix.Server, "sock protocol client server sessionno reactor", CHANNEL),
    (tcp.Port, "port factory backlog interface reactor", "txtableflip._sockets.reactor"),
    (udp.Port, "port proto interface maxPacketSize reactor", "txtableflip._sockets.reactor"),
    (
        udp.MulticastPort,
        "port proto interface maxPacketSize reactor listenMultiple",
        "txtableflip._sockets.reactor",
    ),
    (
        unix.DatagramPort,
        "addr proto maxPacketSize mode reactor",
        "txtableflip._sockets.reactor",
    ),
    (LogFile.fromFullPath, "filename", LOGFILE),
    (server.Site._openLogFile, "self path", LOGFILE),
    (http.HTTPChannel.writeHeaders, "self version code reason headers", HTTP1),
    (Logger.emit, "self level format", "txtableflip._journal"),
]


@pytest.mark.parametrize(("function", "names", "module"), SIGNATURES)
def test_positional_arguments_have_their_places(function, names, module):
    """
    What is called with positional arguments, or replaced by what has them, takes them
    in this order, and needs no others.
    """
    parameters = [*inspect.signature(function).parameters.values()]
    expected = names.split()
    assert [each.name for each in parameters[: len(expected)]] == expected, lookAt(
        module, f"{function.__qualname__} takes {names}"
    )
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for each in parameters[len(expected) :]:
        isOptional = each.kind in optional or each.default is not inspect.Parameter.empty
        assert isOptional, lookAt(module, f"{function.__qualname__} needs no {each.name}")


def test_the_reactor_is_told_to_listen_with_the_arguments_that_ours_has():
    """
    The methods that an inheriting reactor has in the place of Twisted's take the same
    arguments, by the same names: endpoints use some of them as keywords.
    """
    from txtableflip._sockets.reactor import InheritingReactor  # noqa: PLC0415

    for name in ("TCP", "SSL", "UNIX", "UDP", "Multicast", "UNIXDatagram"):
        ours = inspect.signature(getattr(InheritingReactor, f"listen{name}")).parameters
        theirs = inspect.signature(getattr(type(reactor), f"listen{name}")).parameters
        assert [*theirs] == [*ours], lookAt(
            "txtableflip._sockets.reactor", f"listen{name} takes {[*ours]}"
        )


LASTOUTPUT = "txtableflip._handover.lastoutput"

ADDED = [
    (tcp.Server, "accepted since _lingering _linger", CONNECTIONS),
    (unix.Server, "accepted since _lingering _linger", UNIX_PORT),
    (unix.Server, "_unsent hearOut", CHANNEL),
    (FileDescriptor, "stream _fileno _forget close", LASTOUTPUT),
    (FileDescriptor, "_descriptor _ended stop", "txtableflip._handover.pidfd"),
    (unix.Port, "_name", UNIX_PORT),
    (udp.Port, "adopted", DATAGRAM),
    (unix.DatagramPort, "adopted", DATAGRAM),
    (LogFile, "_size _isMoved _lock", LOGFILE),
    (Logger, "generation", "txtableflip._journal"),
    (ProcessProtocol, "pid hasEnded start signal reap isReaped exitStatus", SPAWNED),
    (ProcessProtocol, "signalNumber lastLines howItEnded _status _whenEnded", SPAWNED),
    (ProcessProtocol, "readingEnds leaveOutput _printed withStreams stdout", SPAWNED),
    (usage.Options, "upgrader envFile makeApplication _makeUpgrader", "txtableflip.tap"),
]
"""
What our subclasses add, and in which module.
"""


@pytest.mark.parametrize(("cls", "names", "module"), ADDED)
def test_the_names_that_subclasses_add_are_free(cls, names, module):
    """
    Nothing that a subclass of ours adds has a meaning in its base class.
    """
    bases = [each for each in cls.__mro__ if each.__module__.startswith("twisted.")]
    source = "".join(map(inspect.getsource, bases))
    for name in names.split():
        isFree = not hasattr(cls, name) and not re.search(rf"\bself\.{name}\b", source)
        assert isFree, lookAt(module, f"{cls.__name__} has no {name} of its own")


# -- Transports


@pytest.fixture
def pair():
    """
    Two connected sockets that do not block.
    """
    both = socket.socketpair()
    for sock in both:
        sock.setblocking(False)
    yield both
    for sock in both:
        sock.close()


@pytest.fixture
def clock():
    """
    A reactor that does nothing.
    """
    return MemoryReactorClock()


class Keeping(Protocol):
    """
    A protocol that keeps what it has heard.
    """

    def __init__(self):
        self.heard = []

    def dataReceived(self, data):
        self.heard.append(data)

    def connectionLost(self, reason):
        self.heard.append(reason.type)


def connect(kind, sock, clock, protocol=None):
    """
    @return: a transport on a copy of a socket.
    """
    protocol = protocol or Keeping()
    transport = kind(sock.dup(), protocol, ("", 0), None, 0, clock)
    transport.repstr = "<the transport of a test>"
    protocol.makeConnection(transport)
    return transport


KINDS = pytest.mark.parametrize("kind", [tcp.Server, unix.Server])


@KINDS
def test_a_transport_without_a_server_reads_from_the_start(kind, pair, clock):
    """
    A transport that is made of a connected socket needs no port, and reads.
    """
    transport = connect(kind, pair[0], clock)
    assert transport.connected, lookAt(CHANNEL, "a new transport counts as connected")
    assert transport in clock.getReaders(), lookAt(CHANNEL, "a new transport reads")
    assert repr(transport) == transport.repstr, lookAt(CHANNEL, "repstr is what is shown")
    assert isinstance(transport.socket, socket.socket), lookAt(HTTP1, "socket is its socket")
    assert transport.getHandle() is transport.socket, lookAt(
        "txtableflip._sockets.named", "getHandle() is the socket"
    )


@KINDS
def test_a_transport_says_that_all_has_been_sent(kind, pair, clock):
    """
    A transport that is to close returns this very object from doWrite, when nothing is
    left to send; till then nothing.
    """
    transport = connect(kind, pair[0], clock)
    transport.write(b"last")
    assert transport.doWrite() is None, lookAt(CONNECTIONS, "doWrite() is None if all is well")
    transport.write(b"words")
    transport.loseConnection()
    assert transport.doWrite() is main.CONNECTION_DONE, lookAt(
        CONNECTIONS, "doWrite() is CONNECTION_DONE when it has sent all and is to close"
    )
    assert pair[1].recv(100) == b"lastwords"


@KINDS
def test_an_abort_takes_effect_in_the_next_turn(kind, pair, clock):
    """
    An aborted transport is lost in a turn of its own, by a call without a delay.
    """
    transport = connect(kind, pair[0], clock)
    transport.abortConnection()
    heard = transport.protocol.heard
    clock.advance(0)
    assert heard == [error.ConnectionAborted], lookAt(
        "txtableflip._draining.drain", "an abort takes effect at callLater(0)"
    )


@KINDS
def test_what_a_protocol_hears_can_be_replaced(kind, pair, clock):
    """
    A transport looks up dataReceived in the protocol for each piece that it reads.
    """
    transport, instead = connect(kind, pair[0], clock), []
    transport.protocol.dataReceived = instead.append
    pair[1].send(b"late")
    transport.doRead()
    assert instead == [b"late"], lookAt(
        "txtableflip._draining.goodbyes", "dataReceived can be replaced in the protocol"
    )


def test_who_has_no_producer_may_unregister_it(pair, clock):
    """
    To unregister a producer that there is not does no harm, above TLS, too.
    """
    from twisted.protocols.tls import TLSMemoryBIOProtocol  # noqa: PLC0415

    for kind in (tcp.Server, unix.Server):
        connect(kind, pair[0], clock).unregisterProducer()
    # Made, but not connected: it has no engine and needs none for this.
    TLSMemoryBIOProtocol(WrappingFactory(Factory()), Protocol()).unregisterProducer()


def test_a_wrapper_lets_through_what_it_does_not_have(pair, clock):
    """
    Above TLS, or another wrapper, the transport's socket is found by the same name, and
    what a protocol hears can be replaced.
    """
    inner = Keeping()
    wrapper = ProtocolWrapper(WrappingFactory(Factory()), inner)
    transport = connect(tcp.Server, pair[0], clock, wrapper)
    assert inner.transport.socket is transport.socket, lookAt(
        HTTP1, "a wrapper has the attributes of the transport below it"
    )
    instead = []
    inner.dataReceived = instead.append
    wrapper.dataReceived(b"late")
    assert instead == [b"late"], lookAt(
        "txtableflip._draining.goodbyes", "a wrapper looks up dataReceived for each piece"
    )
    assert wrapper.wrappedProtocol is inner, lookAt(
        "txtableflip._draining.goodbyes", "wrappedProtocol is what is wrapped"
    )


def test_whoever_has_tls_is_wrapped():
    """
    A connection with TLS is a wrapper, made by a factory that wraps.
    """
    from twisted.protocols import tls  # noqa: PLC0415

    assert issubclass(tls.TLSMemoryBIOProtocol, ProtocolWrapper), lookAt(
        "txtableflip._draining.goodbyes", "TLS is a ProtocolWrapper"
    )
    parameters = [*inspect.signature(tls.TLSMemoryBIOFactory).parameters]
    assert parameters[:3] == ["contextFactory", "isClient", "wrappedFactory"], lookAt(
        "txtableflip._sockets.reactor", "TLSMemoryBIOFactory takes these first"
    )
    assert hasattr(WrappingFactory(Factory()), "wrappedFactory"), lookAt(
        LOGFILE, "wrappedFactory is what is wrapped"
    )


class Slow(unix.Server):
    """
    Sends three bytes at a time, and keeps what it was given to send.
    """

    def writeSomeData(self, data):
        self.given.append(bytes(data))
        return min(3, len(data))


def test_a_transport_sends_in_order_and_each_piece_whole(pair, clock):
    """
    writeSomeData is given all that has not been sent, in order: what it has sent is left
    out next time, and a piece that was written at once is there whole.
    """
    transport = connect(Slow, pair[0], clock)
    transport.given = []
    transport.write(b"one")
    transport.write(b"two!" * (transport.SEND_LIMIT // 2))
    transport.doWrite()
    transport.write(b"three")
    transport.doWrite()
    whole = b"two!" * (transport.SEND_LIMIT // 2)
    first, second = transport.given
    assert first == b"one" + whole, lookAt(CHANNEL, "doWrite() offers all that was written")
    assert second.startswith(whole), lookAt(CHANNEL, "doWrite() goes on behind what was sent")


def test_a_transport_with_nothing_to_send_may_be_told_to(pair, clock):
    """
    doWrite may be called by others than the reactor, and with nothing to send:
    writeSomeData is then given nothing, and what it returns of no bytes is no error.
    """
    transport = connect(Slow, pair[0], clock)
    transport.given = []
    assert transport.doWrite() is None, lookAt(CHANNEL, "doWrite() may be called by anybody")
    assert transport.given == [b""], lookAt(CHANNEL, "writeSomeData() gets no bytes then")


@pytest.mark.parametrize("isRead", [True, False])
def test_what_reading_or_writing_returns_ends_the_connection(isRead, pair, turns):
    """
    If doRead or doWrite returns an error, the transport is lost for that reason.
    """
    transport = connect(unix.Server, pair[0], turns)
    lost = transport.protocol.heard
    if isRead:
        transport.doRead = lambda: main.CONNECTION_LOST
        pair[1].send(b"x")
    else:
        transport.doWrite = lambda: main.CONNECTION_LOST
        transport.write(b"x")
    turns.iterate(0)
    assert lost == [error.ConnectionLost], lookAt(
        CHANNEL, "a transport is lost for what doRead() or doWrite() returns"
    )


# -- The reactor


@pytest.fixture(scope="module")
def turns():
    """
    A reactor of the kind that runs these tests, of which each turn is made by hand.
    """
    return type(reactor)()


def test_a_call_within_a_call_comes_after_a_poll(pair, turns):
    """
    What a timed call has called without a delay is called in the next turn of the
    reactor, behind what has come meanwhile.
    """
    order = []
    transport = connect(unix.Server, pair[0], turns)
    transport.protocol.dataReceived = lambda data: order.append("read")

    def first():
        pair[1].send(b"x")
        turns.callLater(0, order.append, "second call")

    turns.callLater(0, first)
    for _ in range(2):
        turns.iterate(0)
    transport.stopReading()
    assert order == ["read", "second call"], lookAt(
        "txtableflip._observers", "between two calls without a delay there is one poll"
    )


def test_what_was_said_is_read_before_that_it_was_the_end(pair, turns):
    """
    What a peer has sent before it closed is read in one turn of the reactor, and the end
    in the next.
    """
    transport = connect(unix.Server, pair[0], turns)
    heard = transport.protocol.heard
    pair[1].send(b"last words")
    pair[1].close()
    turns.iterate(0)
    assert heard == [b"last words"], lookAt(
        "txtableflip._observers", "what has come is read before the end is noticed"
    )
    turns.iterate(0)
    assert heard == [b"last words", error.ConnectionDone], lookAt(
        "txtableflip._observers", "the end is noticed one turn later"
    )


def test_what_is_stopped_is_not_the_reactors(pair, turns):
    """
    A transport that neither reads nor writes is not closed with the reactor.
    """
    transport = connect(unix.Server, pair[0], turns)
    transport.stopReading()
    transport.stopWriting()
    found = [*turns.getReaders(), *turns.getWriters()]
    assert transport not in found, lookAt(CHANNEL, "the reactor forgets what is stopped")


def test_the_reactor_has_signal_handlers_before_it_calls_anybody():
    """
    When C{callWhenRunning} calls, the reactor has its handlers of signals.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
    previous, wakeup = list(map(signal.getsignal, numbers)), signal.set_wakeup_fd(-1)
    made, found = type(reactor)(), []
    made.callWhenRunning(lambda: found.append(signal.getsignal(signal.SIGTERM)))
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        made.startRunning()
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
    assert callable(found[0]), lookAt(
        "txtableflip._launch.signals", "callWhenRunning() calls when SIGTERM has a handler"
    )


def test_methods_of_the_reactor_can_be_replaced():
    """
    A reactor has a dictionary, into which other ways of listening can be put.
    """
    assert hasattr(reactor, "__dict__"), lookAt(
        "txtableflip._sockets.reactor", "the reactor's listen... can be replaced"
    )


def test_an_object_can_provide_what_the_reactor_does():
    """
    What the reactor provides can be said of an object that passes calls on to it.
    """

    class PassesOn:
        pass

    stand = PassesOn()
    directlyProvides(stand, providedBy(reactor))
    assert set(providedBy(reactor)) <= set(providedBy(stand)), lookAt(
        "txtableflip._sockets.reactor", "endpoints take our object for a reactor"
    )


# -- Ports


@pytest.fixture
def listening():
    """
    A TCP socket that listens and does not block.
    """
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        yield sock


def test_an_adopted_port_leaves_the_socket_of_others_alone(listening, turns):
    """
    A port on an adopted socket has a copy of it, reads at once, and when it closes, others
    who have the socket listen on.
    """
    ports = "txtableflip._sockets.ports"
    port = turns.adoptStreamPort(listening.fileno(), socket.AF_INET, Factory())
    assert port.fileno() != listening.fileno(), lookAt(ports, "adoptStreamPort() copies")
    assert port in turns.getReaders(), lookAt(ports, "an adopted port accepts at once")
    port.stopListening()
    turns.iterate(0)
    turns.iterate(0)
    assert not port.connected
    isListening = listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    assert isListening, lookAt(ports, "an adopted port does not call shutdown(2)")


def test_a_port_makes_transports_of_what_it_was_given(listening, turns):
    """
    A port calls its C{transport}, which may be put into the instance, with what
    C{Server} takes.
    """
    port = turns.adoptStreamPort(
        listening.fileno(), socket.AF_INET, Factory.forProtocol(Keeping)
    )
    calls = []

    def make(*arguments):
        calls.append(arguments)
        return StringTransport()

    port.transport = make
    with socket.create_connection(listening.getsockname()):
        port.doRead()
    port.stopListening()
    turns.iterate(0)
    ((sock, protocol, peer, itsPort, _, itsReactor),) = calls
    sock.close()
    assert (type(protocol), itsPort, itsReactor) == (Keeping, port, turns), lookAt(
        CONNECTIONS, "a port calls its transport as Server is called"
    )
    assert peer[0] == "127.0.0.1", lookAt(CONNECTIONS, "a transport is given the peer")


def unstarted(kind, clock, path):
    """
    @return: a port that has not been started.
    """
    if kind is tcp.Port:
        return tcp.Port(0, Factory(), 50, "127.0.0.1", clock)
    if kind is unix.DatagramPort:
        return unix.DatagramPort(path, Datagrams(), 8192, 0o600, clock)
    return kind(0, Datagrams(), "127.0.0.1", 8192, clock)


class Datagrams(Protocol):
    """
    What a datagram port wants of a protocol.
    """

    def doStop(self):
        pass


ANY_PORT = pytest.mark.parametrize(
    "kind", [tcp.Port, udp.Port, udp.MulticastPort, unix.DatagramPort]
)


@ANY_PORT
def test_the_end_of_a_port_can_be_listened_to(kind, clock, tmp_path):
    """
    A port that is stopped calls the C{connectionLost} of the instance, with a reason
    or without.
    """
    port = unstarted(kind, clock, str(tmp_path / "socket"))
    port.startListening()
    lost, told = port.connectionLost, []

    def connectionLost(*reason):
        told.append(reason)
        lost(*reason)

    port.connectionLost = connectionLost
    port.stopListening()
    clock.advance(0)
    assert len(told) == 1, lookAt(
        "txtableflip._sockets.ports", "connectionLost can be replaced in a port"
    )


@pytest.mark.parametrize("kind", [udp.Port, udp.MulticastPort, unix.DatagramPort])
def test_a_datagram_port_gets_its_socket_in_one_place(kind, clock, tmp_path):
    """
    A datagram port makes and binds its socket in C{_bindSocket}, and goes on with what
    that has set: the socket, its number, and C{connected}.
    """
    path = tmp_path / "socket"
    port = unstarted(kind, clock, str(path))
    sock = socket.socket(port.addressFamily, socket.SOCK_DGRAM)

    def bind():
        port.socket, port.fileno, port.connected = sock, sock.fileno, 1
        port._realPortNumber = 4711

    port._bindSocket = bind
    port.startListening()
    assert port in clock.getReaders(), lookAt(DATAGRAM, "a port reads from what it was given")
    assert port.protocol.transport is port, lookAt(DATAGRAM, "a port tells its protocol")
    path.write_text("not ours to remove")
    port.stopListening()
    clock.advance(0)
    assert sock.fileno() == -1, lookAt(DATAGRAM, "a port closes what it was given")
    assert path.exists(), lookAt(DATAGRAM, "a port leaves its path alone")


def test_a_port_that_is_not_started_knows_its_address(clock):
    """
    A port knows how to make its socket, and where it is to be bound, without being started.
    """
    for kind in (tcp.Port, udp.Port):
        for interface, family in (("", socket.AF_INET), ("::1", socket.AF_INET6)):
            port = kind(80, None, interface=interface, reactor=clock)
            with port.createInternetSocket() as sock:
                found = (port.addressFamily, port.interface, port.port, sock.family)
                assert found == (family, interface, 80, family), lookAt(
                    INTERNET, "an unstarted port is a model of its socket"
                )
                assert sock.gettimeout() == 0, lookAt(INTERNET, "its socket does not block")


def test_a_unix_port_that_is_started_in_another_way_accepts(tmp_path, clock):
    """
    With what its start gives it, a UNIX port accepts, and closes its socket without
    shutdown(2) if it is told so.
    """
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "s"))
    sock.listen()
    sock.setblocking(False)
    port, built = unix.Port(str(tmp_path / "s"), Factory(), reactor=clock), []
    port.factory.buildProtocol = built.append
    port.socket, port.fileno, port.connected = sock, sock.fileno, True
    port.numberAccepts = 100
    port._shouldShutdown = False
    with socket.socket(socket.AF_UNIX) as client, sock.dup() as shared:
        client.connect(str(tmp_path / "s"))
        port.doRead()
        assert len(built) == 1, lookAt(UNIX_PORT, "a port accepts from what it was given")
        tcp.Port.connectionLost(port, Failure(main.CONNECTION_DONE))
        assert sock.fileno() == -1, lookAt(UNIX_PORT, "a port closes what it was given")
        assert (tmp_path / "s").exists(), lookAt(UNIX_PORT, "a port leaves its path alone")
        with socket.socket(socket.AF_UNIX) as another:
            another.connect(str(tmp_path / "s"))
        assert shared.accept(), lookAt(UNIX_PORT, "a port leaves its socket to others")


def test_a_lock_beside_a_path_is_a_link_to_who_has_it(tmp_path, clock):
    """
    Twisted's lock beside a UNIX socket has this name, and is a symbolic link to the
    process that has it; who takes one of a dead process is told so.
    """
    paths = "txtableflip._sockets.unixpaths"
    address = tmp_path / "socket"
    port = unix.Port(str(address), Factory(), 50, 0o600, clock, wantPID=True)
    port.startListening()
    name = f"{address}.lock"
    assert os.readlink(name) == str(os.getpid()), lookAt(paths, "a lock says who has it")
    assert not FilesystemLock(name).lock(), lookAt(paths, "the lock of the living is theirs")
    port.stopListening()
    clock.advance(0)
    # Nobody has this number: it is more than the kernel gives.
    os.symlink(str(2**22 + 1), name)
    lock = FilesystemLock(name)
    assert lock.lock(), lookAt(paths, "the lock of the dead is taken")
    assert lock.clean is False, lookAt(paths, "clean says that it was left behind")
    lock.unlock()


def test_a_systemd_endpoint_has_its_descriptor_and_says_what_is_missing(monkeypatch):
    """
    An endpoint of systemd's has the number of its descriptor; if there is none, to make
    one is a LookupError.
    """
    from twisted.internet import endpoints  # noqa: PLC0415
    from twisted.python.systemd import ListenFDs  # noqa: PLC0415

    module = "txtableflip._sockets.endpoint"
    monkeypatch.setattr(endpoints._SystemdParser, "_sddaemon", ListenFDs([7], ["web"]))
    made = serverFromString(reactor, "systemd:domain=INET:name=web")
    assert made.fileno == 7, lookAt(module, "fileno is the descriptor")
    for missing in ("index=1", "name=mail"):
        try:
            serverFromString(reactor, f"systemd:domain=INET:{missing}")
        except LookupError:
            continue
        pytest.fail(lookAt(module, "a socket that systemd has not passed is a LookupError"))


def test_quoting_leaves_the_equals_sign():
    """
    C{quoteStringArgument} quotes colons and backslashes, and nothing else.
    """
    assert quoteStringArgument("a:b=c\\") == "a\\:b=c\\\\", lookAt(
        "txtableflip.endpoints", "the equals sign is left for us to quote"
    )


# -- HTTP


class Later(resource.Resource):
    """
    Answers when it is told to.
    """

    isLeaf = True

    def __init__(self):
        super().__init__()
        self.requests = []

    def render_GET(self, request):
        self.requests.append(request)
        self.pending = bytes(getattr(request.channel, "_buffer", b""))
        return server.NOT_DONE_YET


GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def web():
    """
    A channel of a site, and the resource of that; no timer is left running.
    """
    later = Later()
    site = server.Site(later, reactor=MemoryReactorClock())
    protocol = site.buildProtocol(None)
    protocol.callLater = MemoryReactorClock().callLater
    protocol.makeConnection(StringTransport())
    return protocol, later


def test_a_site_speaks_through_the_channel_of_either_version(web):
    """
    The protocol of a site has the one that speaks HTTP in C{_channel}.
    """
    protocol, _ = web
    assert type(protocol) is http._GenericHTTPChannelProtocol, lookAt(
        HTTP1, "a site builds a _GenericHTTPChannelProtocol"
    )
    assert hasattr(protocol, "_channel"), lookAt(HTTP1, "it has its channel in _channel")
    assert type(protocol._channel) is http.HTTPChannel, lookAt(HTTP1, "_channel is in it")
    assert "dataReceived" not in vars(protocol._channel), lookAt(
        HTTP1, "a channel has a dataReceived of its own only as a WebSocket"
    )


def test_a_channel_keeps_the_requests_that_have_come_too_early(web):
    """
    While a channel answers, further requests are in its C{_dataBuffer}; what came with
    the request, and has not been looked at, is in its C{_buffer}.
    """
    protocol, later = web
    protocol.dataReceived(GET + GET)
    channel = protocol._channel
    for name in ("_buffer", "_dataBuffer"):
        assert hasattr(channel, name), lookAt(HTTP1, f"a channel has a {name}")
    early = later.pending + b"".join(channel._dataBuffer)
    assert GET in early, lookAt(HTTP1, "what came early is in _buffer or _dataBuffer")
    protocol.dataReceived(GET)
    assert any(channel._dataBuffer), lookAt(HTTP1, "what comes early is in _dataBuffer")


def test_a_channel_that_is_not_persistent_closes_behind_its_answer(web):
    """
    A channel looks up writeHeaders for each answer, gives it headers, or pairs up to
    Twisted 24, and has closed behind the answer if C{persistent} was set to false in it.
    """
    protocol, later = web
    channel, given = protocol._channel, []

    def writeHeaders(version, code, reason, headers):
        given.append((version, code, reason, headers))
        channel.persistent = False

    protocol.dataReceived(GET)
    assert channel.persistent, lookAt(HTTP1, "a channel is persistent at first")
    channel.writeHeaders = writeHeaders
    later.requests[0].finish()
    assert len(given) == 1, lookAt(HTTP1, "writeHeaders can be replaced in a channel")
    ((_, code, _, headers),) = given
    assert code == b"200", lookAt(HTTP1, "the code is given as bytes")
    isKnown = isinstance(headers, Headers) or all(len(pair) == 2 for pair in headers)
    assert isKnown, lookAt(HTTP1, "headers are Headers, or pairs")
    assert channel.transport.disconnecting, lookAt(
        HTTP1, "persistent, set by writeHeaders, decides whether to close"
    )


def test_a_channel_of_http2_has_what_h2_makes_of_it():
    """
    A channel of HTTP/2 has h2's connection in C{conn}, of which it looks up
    receive_data for each piece, and its open streams in C{streams}.
    """
    from h2.connection import H2Connection  # noqa: PLC0415
    from h2.events import PingAckReceived  # noqa: PLC0415
    from twisted.web._http2 import H2Connection as Channel  # noqa: PLC0415

    channel = Channel(reactor=MemoryReactorClock())
    channel.callLater = MemoryReactorClock().callLater
    channel.makeConnection(StringTransport())
    assert isinstance(channel.conn, H2Connection), lookAt(HTTP2, "conn is h2's")
    assert channel.streams == {}, lookAt(HTTP2, "streams has the open streams")
    client, events = H2Connection(), []
    client.initiate_connection()
    receive = channel.conn.receive_data

    def receiveSome(data):
        events.extend(receive(data))
        return events

    channel.conn.receive_data = receiveSome
    channel.conn.ping(b"draining")
    channel.transport.write(channel.conn.data_to_send())
    client.receive_data(channel.transport.value())
    channel.dataReceived(client.data_to_send())
    answers = [each.ping_data for each in events if isinstance(each, PingAckReceived)]
    assert answers == [b"draining"], lookAt(HTTP2, "receive_data hears the answer to a ping")
    assert channel.conn.highest_inbound_stream_id == 0, lookAt(HTTP2, "0 says no stream yet")


def test_a_site_opens_its_log_by_a_method_that_can_be_replaced(tmp_path):
    """
    A site looks up _openLogFile when it starts, and writes to what that returns.
    """
    site = server.Site(resource.Resource(), logPath=str(tmp_path / "log"))
    opened = []
    site._openLogFile = lambda path: opened.append(path) or io.StringIO()
    site.startFactory()
    site.stopFactory()
    assert len(opened) == 1, lookAt(LOGFILE, "_openLogFile can be replaced in a site")


# -- Logs


def test_a_log_file_is_opened_and_rotated_as_we_know(tmp_path):
    """
    A log file is opened by C{_openFile} and nothing else; it writes without a buffer; and
    asks shouldRotate, and then rotate, before each line.
    """
    calls = []

    class Known(LogFile):
        def _openFile(self):
            calls.append("open")
            super()._openFile()

        def shouldRotate(self):
            calls.append("ask")
            return len(calls) == 2

        def rotate(self):
            calls.append("rotate")
            super().rotate()

    log = Known.fromFullPath(str(tmp_path / "log"))
    log.write("a line\n")
    assert calls == ["open", "ask", "rotate", "open"], lookAt(
        LOGFILE, "write() asks shouldRotate(), rotate() calls _openFile()"
    )
    assert hasattr(log, "_file"), lookAt(LOGFILE, "_file is the open file")
    assert isinstance(log._file, io.RawIOBase), lookAt(LOGFILE, "each line is one write(2)")
    assert log.directory == str(tmp_path), lookAt(LOGFILE, "directory is where it is")
    assert log.path == str(tmp_path / "log"), lookAt(LOGFILE, "path is its path")
    assert log.rotateLength, lookAt(LOGFILE, "rotateLength says when to rotate")
    log.close()


def test_a_synchronized_method_may_call_another():
    """
    The lock of C{threadable.synchronize} may be taken twice by one thread, and the methods
    of a subclass are found in its own C{synchronized}.
    """
    lock = threadable.XLock()
    lock.acquire()
    assert lock.acquire(blocking=False), lookAt(LOGFILE, "write() may call rotate()")
    assert {"write", "rotate"} <= set(LogFile.synchronized), lookAt(
        LOGFILE, "write() and rotate() are synchronized"
    )


def test_a_logger_that_is_subclassed_says_everything_by_one_method():
    """
    All that is logged goes through C{emit}, and a class that has a logger of a
    subclass gets one of that subclass, with the namespace of the class.
    """
    journal, said = "txtableflip._journal", []

    class Known(Logger):
        def emit(self, level, format=None, **fields):  # noqa: A002
            said.append(level.name)

    class HasOne:
        log = Known()

    log = HasOne().log
    assert type(log) is Known, lookAt(journal, "a logger of a class is of the same type")
    assert log.namespace.endswith("HasOne"), lookAt(journal, "a logger names its class")
    assert Known().namespace == __name__, lookAt(journal, "a logger names its module")
    for say in (log.info, log.warn, log.error, log.critical):
        say("something")
    log.failure("something", Failure(RuntimeError()))
    assert said == ["info", "warn", "error", "critical", "critical"], lookAt(
        journal, "all that is logged goes through emit()"
    )


def test_a_log_line_begins_with_its_system():
    """
    C{log_system} is what stands in brackets in a line of the log.
    """
    event = {"log_format": "it", "log_time": 0.0, "log_system": "ours#info pid 1"}
    assert "[ours#info pid 1] it" in formatEventAsClassicLogText(event), lookAt(
        "txtableflip._journal", "log_system stands in brackets"
    )


# -- twistd


def test_the_runner_is_on_the_stack():
    """
    While it runs, twistd's runner is what C{self} is in the frame of its C{run}.
    """
    found = []

    class Runner(ApplicationRunner):
        def preApplication(self):
            frame = sys._getframe()
            while frame.f_code is not ApplicationRunner.run.__code__:
                frame = frame.f_back
            found.append(frame.f_locals.get("self"))
            raise EOFError

    runner = Runner({})
    with pytest.raises(EOFError):
        runner.run()
    assert found == [runner], lookAt(TWISTD, "self, in the frame of run(), is the runner")
    assert not hasattr(runner, "application"), lookAt(TWISTD, "application is made later")
    assert runner.config == {}, lookAt(TWISTD, "config is what it was made with")


def test_the_runner_removes_the_pid_file_that_its_options_name_by_then(tmp_path):
    """
    twistd looks for the path of its pid file in its options, when it ends.
    """
    from twisted.scripts._twistd_unix import UnixApplicationRunner  # noqa: PLC0415

    path = tmp_path / "twistd.pid"
    path.write_text("1")

    class Runner(UnixApplicationRunner):
        oldstdout = oldstderr = None

        def startApplication(self, application):
            pass

        def startReactor(self, *arguments):
            self.config["pidfile"] = ""

    runner = Runner({"pidfile": str(path)})
    runner.application = None
    runner.postApplication()
    assert path.exists(), lookAt(TWISTD, "who empties its option has its pid file kept")


def test_the_options_of_twistd_are_read_as_by_twistd():
    """
    twistd's options say how getopt(3) is to read them, and those that a child gets are
    among them.
    """
    from twisted.scripts._twistd_unix import ServerOptions  # noqa: PLC0415

    options = ServerOptions()
    line = ["-n", "--nodaemon", "--pidfile=", "--originalname", "--logger=x", "--logfile=y"]
    line += ["-l", "y", "-b", "--debug", "--syslog"]
    try:
        given, rest = getopt.getopt([*line, "web"], options.shortOpt, options.longOpt)
    except getopt.GetoptError as error:
        pytest.fail(lookAt(TWISTD, f"twistd has its options ({error})"))
    assert rest == ["web"]
    assert len(given) == len(line) - 1, lookAt(TWISTD, "each of these is one option")


def test_a_subcommand_is_complete_before_twistd_is():
    """
    The options of a subcommand have those of twistd as their C{parent}, and are complete
    before these are; C{logger} is a name until then.
    """
    from twisted.scripts._twistd_unix import ServerOptions  # noqa: PLC0415

    class Sub(usage.Options):
        def opt_a_file(self, path):
            """
            An option of two words.
            """
            self.path = path

        def parseArgs(self, *arguments):
            self.arguments = arguments

        def postOptions(self):
            self.parent["logger"] = "twisted.logger.textFileLogObserver"

    class Options(ServerOptions):
        @property
        def subCommands(self):
            return [["sub", None, Sub, "It."]]

    options = Options()
    options.parseOptions(["sub", "--a-file=x", "--", "--an", "option"])
    tap = "txtableflip.tap"
    assert callable(options["logger"]), lookAt(tap, "twistd looks up logger after us")
    found = options.subOptions
    assert found.path == "x", lookAt(tap, "opt_a_file is --a-file")
    assert found.arguments == ("--an", "option"), lookAt(tap, "what follows -- is left alone")


def test_twistd_believes_the_pid_file_of_whoever_lives(tmp_path):
    """
    twistd does not start if its pid file names a process that lives, be it itself.
    """
    from twisted.scripts._twistd_unix import checkPID  # noqa: PLC0415

    path = tmp_path / "twistd.pid"
    path.write_text(str(os.getpid()))
    try:
        checkPID(str(path))
    except SystemExit:
        return
    pytest.fail("twistd believes no pid file: txtableflip._launch.pidfile may do less")


def test_twistd_logs_to_a_file_of_this_name(tmp_path, monkeypatch):
    """
    A daemon that is not told where to log to does so in C{twistd.log}.
    """
    from twisted.scripts._twistd_unix import UnixAppLogger  # noqa: PLC0415

    monkeypatch.chdir(tmp_path)
    # So that it does not handle that signal.
    previous = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        UnixAppLogger({})._getLogObserver()
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert (tmp_path / "twistd.log").exists(), lookAt(TWISTD, "twistd.log is the default")


def test_twistd_gives_a_service_its_application_for_a_parent():
    """
    The service of a twistd command gets as its parent what has the components of the
    application.
    """

    class Known(Service):
        def setServiceParent(self, parent):
            self.given = parent

    class Config(dict):
        subCommand, subOptions = "ours", None

    class Maker:
        tapname = "ours"

        def makeService(self, options):
            return known

    known, config = Known(), Config()
    config.loadedPlugins = {"ours": Maker()}
    made = ApplicationRunner(config).createOrGetApplication()
    assert known.given is made, lookAt("txtableflip.tap", "a parent has components")
    assert isinstance(made, Componentized), lookAt("txtableflip.tap", "an application has, too")


# -- Processes


def test_a_process_tells_its_protocol_as_we_know():
    """
    What comes from descriptor 2 of a process is told to errReceived; and how it ended is in
    C{exitCode} and C{signal} of the reason.
    """

    class Known(ProcessProtocol):
        def errReceived(self, data):
            self.heard = data

    known = Known()
    known.childDataReceived(2, b"last words")
    assert known.heard == b"last words", lookAt(SPAWNED, "errReceived() hears descriptor 2")
    exited, killed = error.ProcessDone(0), error.ProcessTerminated(None, 9, 9)
    assert (exited.exitCode, exited.signal) == (0, None), lookAt(SPAWNED, "0 is an exit code")
    assert (killed.exitCode, killed.signal) == (None, 9), lookAt(SPAWNED, "or the signal")


def test_a_process_is_known_before_it_is_waited_for(monkeypatch):
    """
    A process has its number when its protocol is connected, which is before the reactor
    has told of it; a signal that is blocked here is blocked there; and who has ended cannot
    be signalled.
    """
    from twisted.internet import process  # noqa: PLC0415

    given, told = {}, []

    def spawn(*arguments, **options):
        given.update(options)
        return 2**22 + 1

    class Known(ProcessProtocol):
        def connectionMade(self):
            told.append(self.transport.pid)

    monkeypatch.setattr(os, "posix_spawnp", spawn)
    monkeypatch.setattr(process, "registerReapProcessHandler", lambda *which: None)
    maker = process.Process(
        MemoryReactorClock(), "/bin/true", ["true"], {}, None, Known(), childFDs={0: 0, 1: 1}
    )
    assert told == [2**22 + 1], lookAt(SPAWNED, "connectionMade() knows the process")
    assert "setsigmask" not in given, lookAt(SPAWNED, "signals that are blocked stay blocked")
    maker.pid = None
    with pytest.raises(error.ProcessExitedAlready):
        maker.signalProcess("TERM")


def test_the_pipes_of_a_process_are_known_by_the_numbers_that_they_have_there():
    """
    Each has a descriptor, and can be closed alone.
    """
    from twisted.internet import process  # noqa: PLC0415

    assert "self.pipes[" in inspect.getsource(process.Process.__init__), lookAt(
        SPAWNED, "pipes is by number"
    )
    closed = inspect.getsource(process.Process.closeChildFD)
    assert "self.pipes[" in closed, lookAt(SPAWNED, "closeChildFD() closes our end")
    assert process.ProcessReader.fileno, lookAt(SPAWNED, "a pipe has a descriptor")


@pytest.mark.process
def test_the_end_of_a_pipe_is_done_and_that_of_a_reactor_is_lost():
    """
    So what is read knows whether there is nobody left who writes.
    """
    code = (
        "import os, sys\nfrom twisted.internet import abstract, reactor\n"
        "class Reader(abstract.FileDescriptor):\n"
        "    def __init__(self, n): super().__init__(reactor); self.fileno = lambda: n\n"
        "    def doRead(self): from twisted.internet import main; return main.CONNECTION_DONE\n"
        "    def connectionLost(self, why): print(type(why.value).__name__, flush=True)\n"
        "done, theirs = os.pipe()\nos.close(theirs)\nlasts, theirs = os.pipe()\n"
        "for n in (done, lasts): Reader(n).startReading()\n"
        "reactor.callLater(0.2, reactor.stop)\nreactor.run()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["ConnectionDone", "ConnectionLost"], lookAt(
        LASTOUTPUT, "a reactor that shuts down loses what it reads"
    )


def test_it_can_be_known_whether_somebody_has_begun_to_log():
    """
    Until then there is an observer that only keeps.
    """
    publisher = LogPublisher()
    beginner = LogBeginner(publisher, io.StringIO(), sys, warnings)
    unlogged = "txtableflip._launch.unlogged"
    assert beginner._temporaryObserver is not None, lookAt(unlogged, "nobody has begun")
    shown = warnings.showwarning
    try:
        beginner.beginLoggingTo([], redirectStandardIO=False)
    finally:
        warnings.showwarning = shown
    assert beginner._temporaryObserver is None, lookAt(unlogged, "somebody has")


# -- Python


def test_a_socket_that_python_made_of_a_number_blocks_its_copies():
    """
    Python takes a socket that it has made of a number for one that blocks, and would make
    it block in dup(), for everybody who has it; unless it is told.
    """
    inventory = "txtableflip._sockets.inventory"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        found = socket.socket(fileno=os.dup(ours.fileno()))
        found.setblocking(False)
        with found, found.dup() as copy:
            flags = fcntl.fcntl(ours, fcntl.F_GETFL)
            assert flags & os.O_NONBLOCK, lookAt(inventory, "a copy does not block")
            assert copy.gettimeout() == 0, lookAt(inventory, "a copy knows that, too")


def test_the_type_of_a_socket_is_found_by_its_number():
    """
    A socket that is made of a number has the family and the type that it really has; and
    what is not a socket is an OSError.
    """
    inventory = "txtableflip._sockets.inventory"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        found = socket.socket(fileno=os.dup(sock.fileno()))
        with found:
            known = (found.family, found.type)
    assert known == (socket.AF_UNIX, socket.SOCK_DGRAM), lookAt(inventory, "a socket tells")
    reading, writing = os.pipe()
    try:
        with pytest.raises(OSError, match="socket"):
            socket.socket(fileno=reading)
    finally:
        os.close(reading)
        os.close(writing)


def test_a_thread_that_is_no_daemon_has_a_frame():
    """
    The frames of all threads are known by what C{ident} says.
    """
    frames = sys._current_frames()
    assert threading.main_thread().ident in frames, lookAt(
        "txtableflip._launch.watchdog", "frames are known by the number of their thread"
    )


def test_an_http_response_says_whether_the_connection_ends():
    """
    Python's client says in C{will_close} whether the server closes the connection.
    """
    from http.client import HTTPResponse  # noqa: PLC0415

    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        with HTTPResponse(ours, method="GET") as response:
            response.begin()
            assert response.will_close is True, lookAt(
                "txtableflip.testing._clients", "will_close says whether to connect anew"
            )


def test_the_loader_of_a_module_can_be_told_to_do_more():
    """
    What a loader does can be replaced in the loader of one module.
    """
    spec = importlib.util.find_spec("json.tool")
    spec.loader.exec_module = lambda module: None
    assert "exec_module" in vars(spec.loader), lookAt(
        "txtableflip.testing._preload.sitecustomize", "exec_module can be replaced"
    )


# -- The kernel

isLinux = sys.platform.startswith("linux")
onLinux = pytest.mark.skipif(not isLinux, reason="the kernel is not Linux")


@onLinux
def test_as_many_descriptors_go_at_once_as_we_know():
    """
    253 descriptors go with one sendmsg(2), and no more.
    """
    from txtableflip._handover.frames import FDS_AT_ONCE  # noqa: PLC0415

    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(ours, [b"x"], [ours.fileno()] * FDS_AT_ONCE)
        _, received, _, _ = socket.recv_fds(theirs, 1, FDS_AT_ONCE)
        for fileno in received:
            os.close(fileno)
        assert len(received) == FDS_AT_ONCE, lookAt(
            "txtableflip._handover.frames", "253 descriptors go at once"
        )
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            socket.send_fds(ours, [b"x"], [ours.fileno()] * (FDS_AT_ONCE + 1))


@onLinux
def test_one_recvmsg_has_the_descriptors_of_one_sendmsg():
    """
    What was sent with other descriptors is not read along, however much is asked for.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for data in (b"one", b"two"):
            socket.send_fds(ours, [data], [ours.fileno()])
        data, received, _, _ = socket.recv_fds(theirs, 100, 100)
        for fileno in received:
            os.close(fileno)
        assert (data, len(received)) == (b"one", 1), lookAt(
            "txtableflip._handover.receiving", "space for one sendmsg(2) is enough"
        )


@onLinux
def test_the_kernel_says_who_is_at_the_other_end():
    """
    The credentials of a peer are three numbers: process, user and group.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        found = ours.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        assert struct.unpack("3i", found) == (os.getpid(), os.geteuid(), os.getegid()), lookAt(
            "txtableflip._handover.parent", "SO_PEERCRED is process, user and group"
        )


@onLinux
def test_a_socket_that_listens_may_be_told_to_again(listening):
    """
    listen(2) on a socket that listens changes the length of its queue.
    """
    listening.listen(7)
    # How many may wait is the second of what TCP_INFO tells of a listener.
    info = listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    assert struct.unpack_from("I", info, 28)[0] == 7, lookAt(
        "txtableflip._sockets.ports", "listen(2) may be called again"
    )


@onLinux
def test_a_full_queue_and_a_dead_socket_are_told_apart(tmp_path):
    """
    To connect without blocking where nobody accepts is EAGAIN while somebody listens, and
    ECONNREFUSED when nobody does.
    """
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen(0)
        found, probes = 0, []
        while not found and len(probes) < 10:
            probes.append(socket.socket(socket.AF_UNIX))
            probes[-1].setblocking(False)
            found = probes[-1].connect_ex(path)
    with socket.socket(socket.AF_UNIX) as probe:
        dead = probe.connect_ex(path)
    for each in probes:
        each.close()
    assert (found, dead) == (errno.EAGAIN, errno.ECONNREFUSED), lookAt(
        "txtableflip._sockets.unixpaths", "a full queue is not a dead socket"
    )


@onLinux
def test_the_proc_file_system_says_what_we_read_there():
    """
    A socket's link in /proc says its inode; and the 22nd field of /proc/self/stat is when
    the process began, on the clock that goes on while the machine sleeps.
    """
    import time  # noqa: PLC0415

    with socket.socket() as sock:
        link = os.readlink(f"/proc/self/fd/{sock.fileno()}")
        assert link == f"socket:[{os.fstat(sock.fileno()).st_ino}]", lookAt(
            "txtableflip._sockets.uninherited", "a link says which socket it is"
        )
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    assert 0 < began <= time.clock_gettime(time.CLOCK_BOOTTIME), lookAt(
        "txtableflip._launch.pidfile", "field 22 of /proc/PID/stat is its begin"
    )
    assert int(fields[1]) == os.getppid(), lookAt(
        "txtableflip.testing._service", "field 4 of /proc/PID/stat is its parent"
    )


def test_each_signal_is_known_by_its_name():
    """
    Python's signals are members of one enumeration, and what only looks like one is not.
    """
    signals = "txtableflip._launch.signals"
    assert isinstance(signal.SIGHUP, signal.Signals), lookAt(signals, "a signal is a Signals")
    assert not isinstance(signal.SIG_DFL, signal.Signals), lookAt(signals, "SIG_DFL is none")
