"""
The C{tableflip:} prefix: every kind of endpoint behind it, in two generations
that are joined in one process.
"""

import datetime as dt
import errno
import gc
import os
import re
import socket
import ssl
import stat
import struct
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import DEADLINE, ask, connect, deadProcess
from twisted.internet import endpoints, reactor, tcp, unix
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import (
    AdoptedStreamServerEndpoint,
    quoteStringArgument,
    serverFromString,
)
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IListeningPort,
    IReactorProcess,
    IReactorSocket,
    IReactorUNIX,
)
from twisted.internet.protocol import DatagramProtocol, Factory, ServerFactory
from twisted.internet.ssl import PrivateCertificate
from twisted.internet.testing import MemoryReactorClock
from twisted.internet.threads import deferToThread
from twisted.logger import formatEvent, globalLogPublisher
from twisted.protocols.basic import LineOnlyReceiver
from twisted.protocols.policies import WrappingFactory
from twisted.python.failure import Failure
from zope.interface import directlyProvides, providedBy
from zope.interface.verify import verifyObject

from txtableflip import InvalidEndpoint, NotInheritable, _generation, currentUpgrader
from txtableflip._draining.drain import LAST_BYTES_TIMEOUT, Outcome
from txtableflip._handover.lastoutput import LastOutput
from txtableflip._handover.manifest import NO_NEWS
from txtableflip._handover.messages import CHANGES, Manifest
from txtableflip._handover.parent import Parent
from txtableflip._journal import Drained, Draining, Journal
from txtableflip._launch.command import successorCommand
from txtableflip._sockets import unixpaths
from txtableflip._sockets.endpoint import InheritableEndpoint
from txtableflip._sockets.inventory import HeldDescriptor
from txtableflip._sockets.reactor import InheritingReactor
from txtableflip._sockets.readiness import Readiness
from txtableflip._sockets.services import STARTING, inheritServices
from txtableflip.endpoints import TableflipStringParser, unparse
from txtableflip.errors import ChannelError
from txtableflip.testing._service import freePort

LOCAL = "127.0.0.1"


def anatomy(transport):
    """
    Return what a protocol can learn about its transport: the layers above the
    reactor's own class, the interfaces, and the kinds of addresses.
    """
    layers = []
    inner = transport
    while not isinstance(inner, tcp.Server):
        layers.append(type(inner))
        inner = inner.transport
    layers.append(unix.Server if isinstance(inner, unix.Server) else tcp.Server)
    addresses = [type(transport.getHost()), type(transport.getPeer())]
    return layers, set(providedBy(transport)), addresses


class Answering(LineOnlyReceiver):
    """
    Answers each line with which generation it is, and ends the connection,
    unless it is asked to stay.
    """

    delimiter = b"\n"

    def connectionMade(self):
        self.factory.made.append(self)

    def lineReceived(self, line):
        self.factory.seen.append(anatomy(self.transport))
        number = self.factory.number
        self.transport.write(b"%b r%d %d %d .\n" % (line, number, number, os.getpid()))
        if line != b"stay":
            self.transport.loseConnection()


class AnsweringFactory(ServerFactory):
    """
    Makes L{Answering}, and keeps what happens to it.

    @ivar made: the protocols, in the order of their connections.
    @ivar seen: the L{anatomy} of the transport on which a line has come.
    @ivar addresses: what L{buildProtocol} was given.
    @ivar history: C{start} and C{stop}.
    """

    noisy = False
    protocol = Answering

    def __init__(self, number):
        self.number = number
        self.made = []
        self.seen = []
        self.addresses = []
        self.history = []

    def startFactory(self):
        self.history.append("start")

    def stopFactory(self):
        self.history.append("stop")

    def buildProtocol(self, address):
        self.addresses.append(address)
        return super().buildProtocol(address)


class PlainReactor:
    """
    The reactor, of which a test may change the methods, and the time.
    """

    def __init__(self):
        self.later = 0.0

    def __getattr__(self, name):
        return getattr(reactor, name)

    def seconds(self):
        return reactor.seconds() + self.later


class Generation:
    """
    All of a process but the process: what an Upgrader joins, with duplicates
    of the parent's sockets as they would come over the channel.
    """

    def __init__(self, parent=None):
        self.number = 1 if parent is None else parent.number + 1
        left = None
        if parent is not None:
            held = parent.process.inventory
            descriptors = [os.dup(fileno) for fileno in held.descriptors()]
            manifest = Manifest(self.number, DEADLINE, None, held.entries())
            left = Parent(None, manifest, LastOutput(None), descriptors)
            parent.ports.shared.tell()
        self.process = _generation.Generation(reactor, left, DEADLINE, None, successorCommand)
        self.ports = self.process.ports
        self.reactor = InheritingReactor(reactor, self.ports)
        self.factory = AnsweringFactory(self.number)

    def endpoint(self, description):
        """
        What L{Upgrader.endpoint} makes.
        """
        inheriting = InheritingReactor(reactor, self.ports)
        readiness = Readiness(reactor, self.process.inventory)
        return InheritableEndpoint(inheriting, readiness, description)

    def listen(self, description, factory=None):
        """
        Listen on what a whole endpoint string describes, in this generation.
        """
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("txtableflip.upgrader.Upgrader._current", self)
            return serverFromString(reactor, description).listen(factory or self.factory)

    def inheritServices(self):
        """
        Return a reactor that knows nothing of us, and of which services are inherited,
        as by --inherit-all.
        """
        plain = PlainReactor()
        inheritServices(plain, self.ports)
        return plain

    @property
    def used(self):
        return self.process.inventory.names()

    @property
    def inherited(self):
        return [str(key) for key in self.process.inventory.inherited]

    def replace(self, parent):
        """
        Take over, for good.
        """
        parent.process.park()
        self.process.accept()
        parent.process.letGo()
        self.process.finalise()

    async def end(self):
        listeners = list(self.process.connections.listeners)
        for transport in [each for accepted in listeners for each in accepted]:
            transport.abortConnection()
        await self.ports.stop()
        self.process.leave()
        for held in self.process.inventory.inherited.values():
            held.close()


@pytest_twisted.async_yield_fixture
async def generations():
    """
    A function that makes generations, each the child of the one before it.
    """
    made = []

    def make():
        made.append(Generation(made[-1] if made else None))
        return made[-1]

    yield make
    for generation in reversed(made):
        await generation.end()


@pytest.fixture
def logged():
    """
    A function that returns what has been logged as a failure, as text.
    """
    events = []
    globalLogPublisher.addObserver(events.append)
    yield lambda: [formatEvent(each) for each in events if "log_failure" in each]
    globalLogPublisher.removeObserver(events.append)


def inThread(function, *arguments, **options):
    """
    Call something that blocks, while the reactor runs.
    """
    done = deferToThread(function, *arguments, **options)
    return done.addTimeout(DEADLINE, reactor)


async def turn():
    """
    Return when the reactor has looked once more at everything that it reads:
    what was ready when this was called has been read.
    """
    factory = AnsweringFactory(0)
    port = reactor.listenTCP(0, factory, interface=LOCAL)
    try:
        await inThread(ask, (LOCAL, port.getHost().port))
    finally:
        await port.stopListening()


def target(port):
    """
    Return where a client connects to a listening port.
    """
    host = port.getHost()
    if not hasattr(host, "host"):
        return os.fsdecode(host.name)
    return ({"0.0.0.0": LOCAL, "::": "::1"}.get(host.host, host.host), host.port)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """
    The path of a file with a key and a certificate for localhost, in a
    directory of its own.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.timezone.utc)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1)
    builder = builder.not_valid_before(now - dt.timedelta(days=1))
    builder = builder.not_valid_after(now + dt.timedelta(days=1))
    made = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    path = tmp_path_factory.mktemp("certificate") / "localhost.pem"
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
        + made.public_bytes(pem)
    )
    return path


# -- the string


class RecordingParser:
    """
    An endpoint type that keeps what its parser was given.
    """

    prefix = "recording"

    def __init__(self):
        self.given = []

    def parseStreamServer(self, reactor, *args, **kwargs):
        self.given.append((args, kwargs))


def recorded(description):
    """
    Return what the parser of C{recording:} is given when Twisted parses
    C{description}, or the error.
    """
    recorder = RecordingParser()
    with pytest.MonkeyPatch.context() as patch:
        upgrader = SimpleNamespace(endpoint=partial(serverFromString, reactor))
        patch.setattr("txtableflip.upgrader.Upgrader._current", upgrader)
        patch.setattr(endpoints, "getPlugins", lambda *_: [TableflipStringParser(), recorder])
        try:
            serverFromString(reactor, description)
        except Exception as error:
            return type(error), str(error)
    (given,) = recorder.given
    return given


RESERVED = ("self", "reactor")
"""
Twisted passes keywords on as Python's own, to methods with these arguments; it
takes them in ASCII only.
"""
TEXTS = st.text(st.one_of(st.sampled_from(":=\\ \t/é☃"), st.characters(codec="utf-8")))
NAMES = st.text(st.characters(codec="ascii")).filter(lambda name: name not in RESERVED)


@settings(deadline=None)
@given(st.lists(TEXTS), st.dictionaries(NAMES, TEXTS))
def test_any_arguments_survive_being_written_as_a_string(args, kwargs):
    """
    Twisted's own parser reads from the written string what was written.
    """
    assert recorded(unparse(("recording", *args), kwargs)) == (tuple(args), kwargs)


@settings(deadline=None)
@given(TEXTS)
def test_the_prefix_does_not_change_what_the_parser_gets(text):
    """
    Whatever follows a type, its parser is given the same with tableflip:
    before it; and what Twisted cannot parse is the same error.
    """
    assert recorded(f"tableflip:recording:{text}") == recorded(f"recording:{text}")


@pytest.mark.parametrize(
    ("args", "kwargs", "written"),
    [
        (("tcp", "8080"), {}, "tcp:8080"),
        (("tcp", "80"), {"interface": "::1"}, r"tcp:80:interface=\:\:1"),
        (("unix", "/a b=c:d"), {"mode": "660"}, r"unix:/a b\=c\:d:mode=660"),
        (("unix", "C:\\é"), {}, r"unix:C\:\\é"),
        (("x", ""), {"": ""}, "x::="),
        (("x", "=", "\\", ":"), {"=": "a=b"}, r"x:\=:\\:\::\==a\=b"),
        ((), {"only": "words"}, "only=words"),
        ((), {}, ""),
    ],
)
def test_how_arguments_are_written(args, kwargs, written):
    """
    Colons, equals signs and backslashes are quoted, and nothing else is.
    """
    assert unparse(args, kwargs) == written
    if args:
        assert recorded(f"recording:{written}") == (args, kwargs)


# -- each type


class EnclosingParser:
    """
    A type of somebody else's, as txsni: it has an argument of its own, rebuilds
    the description behind it, and wraps the factory.
    """

    prefix = "enclosing"

    def parseStreamServer(self, reactor, mine, *args, **kwargs):
        words = [quoteStringArgument(word) for word in args]
        words += [f"{name}={quoteStringArgument(word)}" for name, word in kwargs.items()]
        inner = serverFromString(reactor, ":".join(words))
        return SimpleNamespace(
            listen=lambda factory: inner.listen(WrappingFactory(factory)), mine=mine
        )


@pytest.fixture(autouse=True)
def _enclosing(monkeypatch):
    """
    Have Twisted find the type C{enclosing:}.
    """
    found = endpoints.getPlugins

    def getPlugins(*arguments):
        return [*found(*arguments), EnclosingParser()]

    monkeypatch.setattr(endpoints, "getPlugins", getPlugins)


def overTLS(certificate, sock):
    """
    Begin TLS on a client's socket.
    """
    context = ssl.create_default_context(cafile=certificate)
    return context.wrap_socket(sock, server_hostname="localhost")


def viaProxy(sock):
    """
    Begin as HAProxy does for a client of its own.
    """
    sock.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1001 1002\r\n")
    return sock


KINDS = {
    "tcp": ("tableflip:tcp:0:interface=127.0.0.1", tcp.Server),
    "tcp, all interfaces": ("tableflip:tcp:0", tcp.Server),
    "tcp, IPv6": (r"tableflip:tcp:0:interface=\:\:1", tcp.Server),
    "tcp6": (r"tableflip:tcp6:0:interface=\:\:1", tcp.Server),
    "unix": ("tableflip:unix:{tmp}/s.sock:mode=600", unix.Server),
    "unix without a lock": ("tableflip:unix:{tmp}/a b.sock:lockfile=0", unix.Server),
    "ssl": (
        "tableflip:ssl:0:interface=127.0.0.1:privateKey={pem}:certKey={pem}",
        tcp.Server,
    ),
    "tls": (r"tableflip:tls:{pems}:0:interface=\:\:1", tcp.Server),
    "haproxy inside": ("tableflip:haproxy:tcp:0:interface=127.0.0.1", tcp.Server),
    "haproxy outside": ("haproxy:tableflip:tcp:0:interface=127.0.0.1", tcp.Server),
    "haproxy outside, unix": (r"haproxy:tableflip:unix:{tmp}/h\:.sock", unix.Server),
    "third party inside": ("tableflip:enclosing:/a=b:tcp:0:interface=127.0.0.1", tcp.Server),
    "third party outside": (
        "enclosing:/a=b:tableflip:tcp:0:interface=127.0.0.1",
        tcp.Server,
    ),
    "third party, unix": ("tableflip:enclosing:x:unix:{tmp}/t.sock", unix.Server),
}


@pytest.fixture(params=KINDS)
def kind(request, tmp_path, certificate):
    """
    One kind of endpoint: its C{description}, the class of its transports, and
    what its clients begin with.
    """
    description, transport = KINDS[request.param]
    if request.param == "tls" and not hasattr(endpoints, "_TLSServerEndpointParser"):
        pytest.skip("this version of Twisted has no server endpoint tls:")
    wrap = lambda sock: sock  # noqa: E731
    if "haproxy" in description:
        wrap = viaProxy
    elif request.param in ("ssl", "tls"):
        wrap = partial(overTLS, certificate)
    return SimpleNamespace(
        description=description.format(
            tmp=tmp_path, pem=certificate, pems=certificate.parent
        ).replace("/a=b", r"/a\=b"),
        transport=transport,
        wrap=wrap,
    )


@pytest_twisted.ensureDeferred
async def test_a_protocol_cannot_tell_that_its_socket_is_inherited(kind, generations):
    """
    Behind the prefix, in the first generation and in a later one, a protocol
    has the transport that it has without: of Twisted's own class, with the same
    layers, interfaces and kinds of addresses.
    """
    plain = AnsweringFactory(0)
    description = kind.description.replace("tableflip:", "")
    port = await serverFromString(reactor, description).listen(plain)
    assert await inThread(ask, target(port), wrap=kind.wrap) == ("r0", 0)
    address = port.getHost()
    await port.stopListening()
    (expected,) = plain.seen
    assert expected[0][-1] is kind.transport

    first = generations()
    port = await first.listen(kind.description)
    assert verifyObject(IListeningPort, port)
    assert type(port.getHost()) is type(address)
    assert await inThread(ask, target(port), wrap=kind.wrap) == ("r1", 1)
    second = generations()
    await second.listen(kind.description)
    second.replace(first)
    assert await inThread(ask, target(port), wrap=kind.wrap) == ("r2", 2)
    for generation in (first, second):
        assert generation.factory.seen == [expected]
        (given,) = generation.factory.addresses
        assert type(given) is type(plain.addresses[0])
        if kind.transport is unix.Server:
            assert given == plain.addresses[0]


@pytest_twisted.ensureDeferred
async def test_two_generations_answer_on_one_address(kind, generations):
    """
    Whatever the type, the child claims the parent's socket: it has the same
    address, is parked until it takes over, and then it alone answers.
    """
    first = generations()
    port = await first.listen(kind.description)
    (name,) = first.used
    assert await inThread(ask, target(port), wrap=kind.wrap) == ("r1", 1)

    second = generations()
    assert second.inherited == [name]
    later = await second.listen(kind.description)
    assert (second.used, second.inherited) == ([name], [])
    assert later.getHost() == port.getHost()
    for _ in range(3):
        assert await inThread(ask, target(port), wrap=kind.wrap) == ("r1", 1)
    second.replace(first)
    for _ in range(3):
        assert await inThread(ask, target(later), wrap=kind.wrap) == ("r2", 2)
    await maybeDeferred(port.stopListening)
    assert await inThread(ask, target(later), wrap=kind.wrap) == ("r2", 2)


@pytest_twisted.ensureDeferred
async def test_an_abstract_name_is_inherited(generations):
    """
    A UNIX socket with an abstract name, which only code can ask for, is
    inherited, and has neither file nor lock.
    """
    name = f"\0txtableflip-{os.getpid()}-{freePort()}"
    first = generations()
    port = first.reactor.listenUNIX(name, first.factory, wantPID=True)
    assert await inThread(ask, name) == ("r1", 1)
    second = generations()
    second.reactor.listenUNIX(name, second.factory)
    second.replace(first)
    assert await inThread(ask, name) == ("r2", 2)
    assert isinstance(second.factory.made[0].transport, unix.Server)
    await port.stopListening()
    assert await inThread(ask, name) == ("r2", 2)
    assert second.used == [f"unix {name}"]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
@pytest_twisted.ensureDeferred
async def test_a_socket_that_somebody_else_has_made_is_inherited(family, generations, tmp_path):
    """
    What a reactor adopts by IReactorSocket.adoptStreamPort, as systemd: does,
    stays its giver's, and is inherited as any other.
    """
    path = str(tmp_path / "given.sock")
    first = generations()
    with socket.socket(family) as given:
        given.bind({socket.AF_INET: (LOCAL, 0), socket.AF_INET6: ("::1", 0)}.get(family, path))
        given.listen()
        port = first.reactor.adoptStreamPort(given.fileno(), family, first.factory)
        assert given.fileno() != -1
        address = target(port)
    assert await inThread(ask, address) == ("r1", 1)
    with await inThread(connect, address) as client:
        await inThread(converse, client)
        assert len(first.process.connections) == 1
    second = generations()
    (entry,) = second.process.inventory.inherited
    if family == socket.AF_UNIX:
        later = second.reactor.listenUNIX(path, second.factory)
    else:
        later = second.reactor.listenTCP(address[1], second.factory, interface=address[0])
    assert second.used == [str(entry)]
    second.replace(first)
    assert await inThread(ask, address) == ("r2", 2)
    await later.stopListening()
    assert names(tmp_path) == (["given.sock"] if family == socket.AF_UNIX else [])


def test_the_reactor_that_inherits_provides_what_the_reactor_does(generations):
    """
    Code that asks the reactor for its interfaces, or calls anything but the
    ways of listening, finds what it would.
    """
    inheriting = generations().reactor
    assert set(providedBy(inheriting)) == set(providedBy(reactor))
    assert inheriting.callLater == reactor.callLater
    assert inheriting.listenTCP != reactor.listenTCP
    for interface in providedBy(reactor):
        assert verifyObject(interface, inheriting)


# -- what cannot listen


def outcome(listening):
    """
    Return the error that listening ends in, and its text; Twisted writes paths
    as bytes, at times.
    """
    errors = []
    try:
        listening().addErrback(errors.append)
    except Exception as error:
        errors.append(Failure(error))
    assert errors, "it listens"
    return errors[0].type, re.sub("b?'(/.*?)'", r"\1", errors[0].getErrorMessage())


@pytest.mark.parametrize(
    "description",
    [
        "nosuch:1",
        "tcp",
        "tcp:80x",
        "tcp:70000",
        "tcp:0:nosuch=1",
        "tcp:0:interface=192.0.2.7",
        r"tcp:0:interface=2001\:db8\:\:1",
        "tcp:{taken}:interface=127.0.0.1",
        "unix:{tmp}/nosuch/s.sock",
        "unix:{tmp}/nosuch/s.sock:lockfile=0",
        "unix:{tmp}/s.sock:mode=rw",
        "ssl:0:privateKey={tmp}/nosuch.pem",
        "haproxy:tcp:{taken}:interface=127.0.0.1",
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_cannot_listen_is_the_error_that_twisted_gives(
    description, generations, tmp_path
):
    """
    A port that is taken, an interface or a directory that is not there, an
    unknown type, and nonsense in the string are the errors that they are
    without the prefix; and nothing is left of the attempt.
    """
    first = generations()
    port = await first.listen("tableflip:tcp:0:interface=127.0.0.1")
    with socket.create_server((LOCAL, 0)) as occupant:
        plain = description.format(taken=occupant.getsockname()[1], tmp=tmp_path)
        expected = outcome(lambda: serverFromString(reactor, plain).listen(first.factory))
        gc.collect()  # Twisted has left a socket to that
        before = os.listdir("/proc/self/fd")
        assert outcome(lambda: first.listen(f"tableflip:{plain}")) == expected
        assert os.listdir("/proc/self/fd") == before
    assert first.used == [f"tcp {LOCAL}:0"]
    assert await inThread(ask, target(port)) == ("r1", 1)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("tableflip", "goes before another endpoint"),
        ("tableflip:", "goes before another endpoint"),
        ("tableflip::1", "goes before another endpoint"),
        ("tableflip:interface=127.0.0.1", "goes before another endpoint"),
        ("tableflip:tableflip:tcp:0", "one tableflip: is enough"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_the_prefix_alone_or_twice_is_refused(description, message, generations):
    """
    tableflip: with nothing behind it, or with itself, is refused when the
    string is parsed, and the message says what to write.
    """
    first = generations()
    with pytest.raises(InvalidEndpoint, match=f"{message}.*as in tableflip:tcp:8080"):
        await first.listen(description)
    assert first.used == []


@pytest_twisted.ensureDeferred
async def test_what_does_not_listen_through_its_reactor_is_closed_again(generations):
    """
    An endpoint type that listens with a reactor of its own choice fails with
    NotInheritable, and what it had opened is closed.
    """
    opened = []

    class SelfWilled:
        def listen(self, factory):
            endpoint = serverFromString(reactor, f"tcp:0:interface={LOCAL}")
            return endpoint.listen(factory).addCallback(keep)

    def keep(port):
        opened.append(target(port))
        return port

    first = generations()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EnclosingParser, "parseStreamServer", lambda *a, **k: SelfWilled())
        with pytest.raises(
            NotInheritable, match=r"tableflip:enclosing:x .* without tableflip:"
        ):
            await first.listen("tableflip:enclosing:x")
    with pytest.raises(ConnectionRefusedError):
        await inThread(connect, *opened)
    assert first.used == []


STANDARD_INPUT = """
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory, Protocol

class Noting(Protocol):
    def connectionLost(self, reason):
        with open("outcome", "a") as file:
            file.write("; lost")
        reactor.callWhenRunning(reactor.stop)

def failed(failure):
    with open("outcome", "a") as file:
        file.write(f"{failure.type.__name__}: {failure.value}")

listening = serverFromString(reactor, "tableflip:stdio:").listen(Factory.forProtocol(Noting))
listening.addErrback(failed)
reactor.run()
"""


def test_standard_input_and_output_are_not_inheritable(service):
    """
    stdio: behind the prefix fails with NotInheritable, and ends the protocol
    that it had connected; and the process, which listens on nothing, with status 1.
    """
    done = service.run(sys.executable, "-c", STANDARD_INPUT, input="")
    assert done.returncode == 1, done.stderr
    assert (service.directory / "outcome").read_text() == (
        "NotInheritable: tableflip:stdio: does not listen through its reactor, so a new "
        "process could not inherit it: use it without tableflip:; lost"
    )


def leaveFile(path):
    path.write_text("precious")


def leaveStaleSocket(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def leaveLock(path, pid):
    path.with_name(f"{path.name}.lock").symlink_to(str(pid))


@pytest.mark.parametrize("lock", ["", ":lockfile=0"])
@pytest.mark.parametrize(
    ("leave", "hint"),
    [
        (leaveFile, "there is a file that is not a socket: remove it, or use another path"),
        (leaveStaleSocket, "a socket was left there by a process that is gone: remove it"),
        (
            lambda path: leaveLock(path, 1),
            "process 1 holds {path}.lock",
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_path_that_is_taken_is_left_as_it_is(leave, hint, lock, generations, tmp_path):
    """
    A path at which there is something already, or whose lock is held, is a
    CannotListenError that says what it is; all stays as it was, and when the
    obstacle has gone, the path can be had.
    """

    def found():
        # Not when it was read: that a lock is looked at may be written down.
        states = {entry.name: entry.lstat() for entry in tmp_path.iterdir()}
        return {
            name: (s.st_ino, s.st_mode, s.st_size, s.st_mtime) for name, s in states.items()
        }

    path = tmp_path / "s.sock"
    leave(path)
    before = found()
    first = generations()
    if "holds" in hint and lock:
        await (await first.listen(f"tableflip:unix:{path}{lock}")).stopListening()
    else:
        with pytest.raises(CannotListenError) as caught:
            await first.listen(f"tableflip:unix:{path}{lock}")
        assert caught.value.socketError.errno == errno.EADDRINUSE
        assert str(caught.value).endswith(f"{hint.format(path=path)}.")
    assert found() == before
    assert first.used == []
    for entry in tmp_path.iterdir():
        entry.unlink()
    await first.listen(f"tableflip:unix:{path}{lock}")
    assert await inThread(ask, str(path)) == ("r1", 1)


@pytest_twisted.ensureDeferred
async def test_a_path_on_which_somebody_serves_is_left_to_him(generations, tmp_path):
    """
    A path on which another server accepts is a CannotListenError that says so,
    and that server goes on.
    """
    path = tmp_path / "s.sock"
    plain = AnsweringFactory(0)
    port = reactor.listenUNIX(str(path), plain)
    try:
        with pytest.raises(CannotListenError, match="another process accepts connections"):
            await generations().listen(f"tableflip:unix:{path}")
        assert await inThread(ask, str(path)) == ("r0", 0)
        assert [entry.name for entry in tmp_path.iterdir()] == ["s.sock"]
    finally:
        await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_a_path_that_a_dead_owner_of_its_lock_has_left_is_taken(generations, tmp_path):
    """
    A socket that is left beside the lock of a process that is gone is replaced,
    as by Twisted; a file that is not a socket is not.
    """
    path, other = tmp_path / "s.sock", tmp_path / "file"
    leaveStaleSocket(path)
    leaveFile(other)
    for each in (path, other):
        leaveLock(each, deadProcess())
    first = generations()
    await first.listen(f"tableflip:unix:{path}")
    assert await inThread(ask, str(path)) == ("r1", 1)
    assert os.readlink(f"{path}.lock") == str(os.getpid())
    with pytest.raises(CannotListenError, match="not a socket"):
        await first.listen(f"tableflip:unix:{other}")
    assert other.read_text() == "precious"


class LackingReactor:
    """
    A reactor that provides everything but one interface.
    """

    def __init__(self, lacking):
        self.memory = MemoryReactorClock()
        provided = [*providedBy(self.memory), IReactorProcess]
        directlyProvides(self, [each for each in provided if each is not lacking])

    def __getattr__(self, name):
        return getattr(self.memory, name)


@pytest.mark.parametrize("lacking", [IReactorSocket, IReactorUNIX, IReactorProcess])
def test_a_reactor_that_cannot_hand_over_sockets_listens_all_the_same(lacking, monkeypatch):
    """
    Where there can be no upgrades, a tableflip: endpoint is the one behind it,
    and the log says at once what is lacking.
    """
    monkeypatch.setattr("txtableflip.upgrader.Upgrader._current", None)
    fake = LackingReactor(lacking)
    events = []
    globalLogPublisher.addObserver(events.append)
    try:
        endpoint = serverFromString(fake, "tableflip:tcp:8080:interface=127.0.0.1")
    finally:
        globalLogPublisher.removeObserver(events.append)
    factory = Factory()
    endpoint.listen(factory)
    assert [server[:2] for server in fake.tcpServers] == [(8080, factory)]
    ours = [each for each in events if each["log_namespace"].startswith("txtableflip")]
    (said,) = [formatEvent(event) for event in ours]
    assert "listening on tcp:8080:interface=127.0.0.1, which will not be inherited" in said
    assert lacking.__name__ in said
    assert currentUpgrader() is None


# -- by which name a socket is known

BOTH = pytest.mark.parametrize(
    "description",
    [f"tableflip:tcp:0:interface={LOCAL}", "tableflip:unix:{tmp}/s.sock:mode=600"],
)


def sameSocket(port, other):
    """
    Say whether two ports share one socket.
    """
    return os.path.sameopenfile(port.fileno(), other.fileno())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("tcp:{port}:interface=localhost", "tcp:{port}:interface=127.0.0.1"),
        ("tcp:{port}", "tcp:{port}:interface=0.0.0.0"),
        (r"tcp:{port}:interface=\:\:1", r"tcp:{port}:interface=0\:0\:0\:0\:0\:0\:0\:1"),
        (r"tcp6:{port}:interface=\:\:1", r"tcp:{port}:interface=0000\:\:0001"),
        (r"tcp6:{port}", r"tcp6:{port}:interface=0\:\:0"),
        ("unix:{tmp}/s.sock", "unix:{tmp}/../{name}//s.sock:lockfile=0"),
        ("tcp:0{port}:interface=127.0.0.1", "haproxy:tcp:{port}:interface=127.0.0.1"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_an_address_may_be_written_in_another_way(before, after, generations, tmp_path):
    """
    The child inherits a socket by its address, however each of them writes it.
    """
    names = {"port": freePort(), "tmp": tmp_path, "name": tmp_path.name}
    first = generations()
    port = await first.listen(f"tableflip:{before.format(**names)}")
    second = generations()
    later = await second.listen(f"tableflip:{after.format(**names)}")
    assert (second.used, second.inherited) == (first.used, [])
    assert sameSocket(port, later)


@pytest_twisted.ensureDeferred
async def test_other_addresses_are_other_sockets(generations):
    """
    The same port on two interfaces, or by IPv4 and IPv6, is two sockets, in
    this generation and in the next, in whichever order they are asked for.
    """
    port = freePort()
    strings = [
        f"tableflip:tcp:{port}:interface=127.0.0.1",
        f"tableflip:tcp:{port}:interface=127.0.0.2",
        rf"tableflip:tcp:{port}:interface=\:\:1",
    ]
    first = generations()
    hosts = {string: (await first.listen(string)).getHost() for string in strings}
    assert len(set(hosts.values())) == 3
    second = generations()
    for string in reversed(strings):
        assert (await second.listen(string)).getHost() == hosts[string]
    assert second.inherited == []


@pytest_twisted.ensureDeferred
async def test_ports_that_the_kernel_chose_stay_and_stay_apart(generations):
    """
    Endpoints that ask for port 0 get a port each, and keep it over upgrades, in
    the order in which they ask; a further one gets a new port.
    """
    string = f"tableflip:tcp:0:interface={LOCAL}"
    first = generations()
    chosen = [(await first.listen(string)).getHost().port for _ in range(3)]
    assert len(set(chosen)) == 3
    second = generations()
    assert [(await second.listen(string)).getHost().port for _ in range(3)] == chosen
    second.replace(first)
    further = (await second.listen(string)).getHost().port
    assert further not in chosen
    third = generations()
    later = [(await third.listen(string)).getHost().port for _ in range(4)]
    assert later == [*chosen, further]


@pytest_twisted.ensureDeferred
async def test_a_port_that_the_application_stops_is_not_inherited(generations, tmp_path):
    """
    A port that the application stops by itself leaves the inventory, and its
    path and lock go; the others stay what they are, and it can be had again.
    """
    first = generations()
    gone = await first.listen(f"tableflip:tcp:0:interface={LOCAL}")
    kept = await first.listen(f"tableflip:tcp:0:interface={LOCAL}")
    path = await first.listen(f"tableflip:unix:{tmp_path}/s.sock")
    assert names(tmp_path) == ["s.sock", "s.sock.lock"]
    addresses = [(target(gone), ConnectionRefusedError), (target(path), FileNotFoundError)]
    for port in (gone, path):
        await port.stopListening()
        await maybeDeferred(port.stopListening)
    assert names(tmp_path) == []
    second = generations()
    assert second.inherited == first.used == [f"tcp {LOCAL}:0 (number 2)"]
    for address, error in addresses:
        with pytest.raises(error):
            await inThread(connect, address)
    assert await inThread(ask, target(kept)) == ("r1", 1)
    await first.listen(f"tableflip:unix:{tmp_path}/s.sock")
    assert await inThread(ask, str(tmp_path / "s.sock")) == ("r1", 1)


@BOTH
@pytest.mark.parametrize("hasChild", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_port_that_was_stopped_before_is_not_the_one_that_listens_now(
    description, hasChild, generations, tmp_path
):
    """
    Stopping a port once more, when another has been made for its address in the
    meantime, leaves that one as it is: it is inherited, and keeps its path; also if a
    child has the same socket.
    """
    first = generations()
    description = description.format(tmp=tmp_path)
    old = await first.listen(description)
    if hasChild:
        generations()
    await old.stopListening()
    new = await first.listen(description)
    used, before = first.used, names(tmp_path)
    await maybeDeferred(old.stopListening)
    assert len(used) == 1
    assert (first.used, names(tmp_path)) == (used, before)
    assert await inThread(ask, target(new)) == ("r1", 1)
    assert hasChild or generations().inherited == used


@pytest_twisted.ensureDeferred
async def test_what_could_not_be_sent_goes_with_the_next_commit(generations):
    """
    And with that only; to a child that cannot take it, nothing goes, and it is not its.
    """
    first = generations()
    sent = []

    def commit(seconds, news=NO_NEWS):
        sent.append([str(entry.key) for entry in news.entries])
        if len(sent) == 1:
            raise ChannelError("too long")

    able = [True]
    child = SimpleNamespace(can=lambda what: able[0] and what == CHANGES, commit=commit)
    first.process.child = child
    await first.listen(f"tableflip:tcp:0:interface={LOCAL}")
    with pytest.raises(ChannelError, match="too long"):
        first.process.commitChild()
    first.process.commitChild()
    first.process.commitChild()
    await first.listen(f"tableflip:tcp:0:interface={LOCAL}")
    able[0] = False
    first.process.commitChild()
    able[0] = True
    first.process.commitChild()
    name = f"tcp {LOCAL}:0"
    assert sent == [[name], [name], [], [], [f"{name} (number 2)"]]


@pytest.mark.parametrize("mode", ["600", "640"])
@pytest_twisted.ensureDeferred
async def test_what_is_opened_again_is_as_it_is_asked_for(generations, tmp_path, mode):
    """
    Though it has the socket that a child has: its mode is the new one, and its lock is
    there; when no child takes over, nothing else is different.
    """
    first = generations()
    path = tmp_path / "s.sock"
    old = await first.listen(f"tableflip:unix:{path}:mode=600")
    generations()
    await old.stopListening()
    assert names(tmp_path) == ["s.sock", "s.sock.lock"]
    again = await first.listen(f"tableflip:unix:{path}:mode={mode}")
    first.process.takeBack()
    assert f"{path.lstat().st_mode & 0o777:o}" == mode
    assert await inThread(ask, str(path)) == ("r1", 1)
    await again.stopListening()
    assert names(tmp_path) == []


@pytest_twisted.ensureDeferred
async def test_a_port_that_the_reactor_closes_is_not_inherited(generations, tmp_path):
    """
    Whoever closes a port, as a datagram protocol may close its transport or the
    reactor a dead socket, it leaves the inventory, and its path goes.
    """
    first = generations()
    kept = await first.listen(f"tableflip:tcp:0:interface={LOCAL}")
    ports = [
        await first.listen(f"tableflip:tcp:0:interface={LOCAL}"),
        await first.listen(f"tableflip:unix:{tmp_path}/s.sock"),
        first.reactor.listenUDP(0, DatagramProtocol(), LOCAL),
        first.reactor.listenMulticast(0, DatagramProtocol(), LOCAL),
        first.reactor.listenUNIXDatagram(str(tmp_path / "d.sock"), DatagramProtocol()),
    ]
    assert len(first.used) == 6
    for port in ports:
        await maybeDeferred(port._port.stopListening)
    assert names(tmp_path) == []
    assert first.used == [f"tcp {LOCAL}:0"]
    assert await inThread(ask, target(kept)) == ("r1", 1)


@pytest_twisted.ensureDeferred
async def test_a_port_cannot_be_started_twice(generations, tmp_path):
    """
    startListening on a TCP port that listens is refused, and it keeps serving.
    """
    first = generations()
    port = await first.listen(f"tableflip:tcp:0:interface={LOCAL}")
    with pytest.raises(CannotListenError, match="twice"):
        port.startListening()
    assert await inThread(ask, target(port)) == ("r1", 1)


# -- parked, and stopped


@BOTH
@pytest_twisted.ensureDeferred
async def test_connections_to_a_parked_port_wait_and_are_served(
    description, generations, tmp_path
):
    """
    A parked port accepts nothing; who connects then, waits, and is answered
    when the port resumes.
    """
    first = generations()
    port = await first.listen(description.format(tmp=tmp_path))
    first.ports.park()
    waiting = [inThread(ask, target(port), f"{number}") for number in range(3)]
    queued = await inThread(connect, target(port))
    with queued:
        await turn()
        assert first.factory.made == []
        first.ports.resume()
        assert [await each for each in waiting] == [("r1", 1)] * 3
    assert await inThread(ask, target(port)) == ("r1", 1)


@BOTH
@pytest_twisted.ensureDeferred
async def test_a_child_accepts_nothing_before_it_takes_over(description, generations, tmp_path):
    """
    What a child listens on, inherited or new, is parked until it takes over;
    what the parent's queue holds then is answered by the child.
    """
    first = generations()
    port = await first.listen(description.format(tmp=tmp_path))
    second = generations()
    await second.listen(description.format(tmp=tmp_path))
    new = await second.listen(f"tableflip:tcp:0:interface={LOCAL}")
    first.ports.park()
    waiting = [inThread(ask, target(port)), inThread(ask, target(new))]
    for sock in [await inThread(connect, target(each)) for each in (port, new)]:
        sock.close()
    await turn()
    assert second.factory.made == first.factory.made == []
    second.replace(first)
    assert [await each for each in waiting] == [("r2", 2)] * 2
    assert first.factory.made == []


@BOTH
@pytest.mark.parametrize("order", ["child", "parent"])
@pytest_twisted.ensureDeferred
async def test_closing_a_port_leaves_the_listener_of_the_other_process(
    order, description, generations, tmp_path
):
    """
    When a child that has not taken over stops its port, or a parent that has
    been replaced does, even twice, the other one keeps serving, on the same path.
    """
    first = generations()
    port = await first.listen(description.format(tmp=tmp_path))
    address = target(port)
    before = names(tmp_path)
    second = generations()
    later = await second.listen(description.format(tmp=tmp_path))
    if order == "parent":
        second.replace(first)
        port, later = later, port
    await maybeDeferred(later.stopListening)
    await maybeDeferred(later.stopListening)
    await turn()
    number = 1 if order == "child" else 2
    assert await inThread(ask, address) == (f"r{number}", number)
    assert names(tmp_path) == before
    if order == "parent":
        first.process.leave()
        assert await inThread(ask, address) == ("r2", 2)
        assert names(tmp_path) == before
        second.process.leave()
        assert names(tmp_path) == []


def unruly(*_):
    raise RuntimeError("unruly")


async def unrulyMiddle(generation, method):
    """
    Listen on three ports, of which the second one's L{method} raises, and return
    them.
    """
    string = f"tableflip:tcp:0:interface={LOCAL}"
    ports = [await generation.listen(string) for _ in range(3)]
    setattr(ports[1]._port, method, unruly)
    return ports


@pytest_twisted.ensureDeferred
async def test_a_port_that_cannot_be_parked_keeps_no_other_from_it(generations, logged):
    """
    The ports behind one that raises are parked, and resumed, all the same; then
    the error is raised, because the step has failed, and it is in the log.
    """
    first = generations()
    ports = await unrulyMiddle(first, "stopReading")
    with pytest.raises(RuntimeError, match="unruly"):
        first.ports.park()
    assert logged() == [f"cannot park tcp {LOCAL}:0 (number 2)"]
    assert [port._port in reactor.getReaders() for port in ports] == [False, True, False]
    ports[1]._port.startReading = unruly
    with pytest.raises(RuntimeError, match="unruly"):
        first.ports.resume()
    assert logged()[1:] == [f"cannot resume tcp {LOCAL}:0 (number 2)"]
    assert all(port._port in reactor.getReaders() for port in ports)
    for method in ("startReading", "stopReading"):
        delattr(ports[1]._port, method)


@pytest_twisted.ensureDeferred
async def test_a_port_that_cannot_be_stopped_keeps_no_other_from_it(generations, logged):
    """
    The ports behind one that raises are closed, and the error is in the log
    only: the process ends anyway.
    """
    first = generations()
    ports = await unrulyMiddle(first, "stopListening")
    await first.ports.stop()
    assert [port._port.connected for port in ports] == [False, 1, False]
    assert logged() == [f"cannot stop tcp {LOCAL}:0 (number 2)"]
    del ports[1]._port.stopListening


@pytest_twisted.ensureDeferred
async def test_a_path_that_cannot_be_forgotten_keeps_no_other_from_it(
    generations, logged, monkeypatch, tmp_path
):
    """
    The paths behind one whose removal raises are removed, and the error is in
    the log only.
    """
    first = generations()
    paths = [f"{tmp_path}/{name}" for name in "abc"]
    for path in paths:
        await first.listen(f"tableflip:unix:{path}:lockfile=0")

    def remove(path, identity):
        return unruly() if path == paths[1] else os.unlink(path)

    monkeypatch.setattr(unixpaths, "remove", remove)
    first.ports.forgetAll()
    assert names(tmp_path) == ["b"]
    assert logged() == [f"cannot forget unix {paths[1]}"]
    monkeypatch.undo()


@pytest_twisted.ensureDeferred
async def test_the_lock_of_a_path_names_who_has_taken_over(generations, tmp_path):
    """
    A child takes over the lock of a path when it takes over, and neither
    before; a path without a lock stays without.
    """
    first = generations()
    for name in ("locked", "free"):
        lock = "" if name == "locked" else ":lockfile=0"
        await first.listen(f"tableflip:unix:{tmp_path}/{name}{lock}")
    # Both processes are this one here, so the parent gets the name of another.
    (tmp_path / "locked.lock").unlink()
    leaveLock(tmp_path / "locked", 1)
    second = generations()
    for name in ("locked", "free"):
        lock = "" if name == "locked" else ":lockfile=0"
        await second.listen(f"tableflip:unix:{tmp_path}/{name}{lock}")
    assert os.readlink(f"{tmp_path}/locked.lock") == "1"
    second.replace(first)
    assert os.readlink(f"{tmp_path}/locked.lock") == str(os.getpid())
    assert names(tmp_path) == ["free", "locked", "locked.lock"]


@pytest_twisted.ensureDeferred
async def test_what_a_child_has_no_use_for_is_closed_when_it_takes_over(generations, tmp_path):
    """
    A socket that the child does not claim is closed, and its path removed, when
    it takes over and the parent has left; not before.
    """
    first = generations()
    port = await first.listen(f"tableflip:tcp:0:interface={LOCAL}")
    await first.listen(f"tableflip:unix:{tmp_path}/s.sock:lockfile=0")
    second = generations()
    assert names(tmp_path) == ["s.sock"]
    assert await inThread(ask, target(port)) == ("r1", 1)
    address = target(port)
    second.replace(first)
    assert second.inherited == []
    assert names(tmp_path) == []
    await first.ports.stop()
    first.process.leave()
    with pytest.raises(ConnectionRefusedError):
        await inThread(connect, address)


# -- what systemd has passed


SYSTEMD = "systemd:domain=INET:name=web"


@pytest_twisted.ensureDeferred
async def test_endpoints_of_one_name_are_told_apart_when_they_listen(generations):
    """
    Of two sockets that systemd has passed by one name, two endpoints get one
    each, in the order in which they listen, and not in which they were made; a
    third, for which nothing is left, says so.
    """
    first = generations()
    for _ in range(2):
        key = first.process.inventory.nextKey(*SYSTEMD.split(":", 1))
        sock = socket.create_server((LOCAL, 0))
        sock.setblocking(False)
        first.ports.listenOn(key, partial(HeldDescriptor, sock), first.factory)
    second = generations()
    made = [second.endpoint(SYSTEMD) for _ in range(3)]
    ports = [await endpoint.listen(second.factory) for endpoint in made[1:]]
    assert (second.used, second.inherited) == (first.used, [])
    assert len({target(port) for port in ports}) == 2
    with pytest.raises(InvalidEndpoint, match="systemd has passed no such socket"):
        await made[0].listen(second.factory)


def test_a_socket_that_nobody_has_passed_is_an_error_at_once(generations):
    """
    The endpoint of a socket that neither systemd nor a parent has passed cannot
    be made.
    """
    first = generations()
    for generation in (first, generations()):
        with pytest.raises(InvalidEndpoint, match="systemd has passed no such socket"):
            generation.endpoint(SYSTEMD)


# -- what somebody has opened for the first generation


class NumberParser:
    """
    A type of somebody else's, as daphne's: its endpoint is a descriptor.
    """

    def __init__(self, prefix):
        self.prefix = prefix

    def parseStreamServer(self, reactor, fileno):
        return AdoptedStreamServerEndpoint(reactor, int(fileno), socket.AF_INET)


@pytest.fixture
def byNumber(monkeypatch):
    """
    Have Twisted find two types of endpoints that are descriptors.
    """
    found = endpoints.getPlugins

    def getPlugins(*arguments):
        return [*found(*arguments), NumberParser("fd"), NumberParser("inetd")]

    monkeypatch.setattr(endpoints, "getPlugins", getPlugins)


@pytest.mark.parametrize("written", ["fd:{}", "fd:fileno={}", "inetd:{}"])
@pytest_twisted.ensureDeferred
async def test_a_socket_that_is_known_by_its_number_is_inherited(
    written, byNumber, generations
):
    """
    In the child that number is something else's, as the channel's, which is left alone:
    the socket is the parent's.  The next release may write the number in another way.
    """
    given = socket.create_server((LOCAL, 0))
    address, fileno = given.getsockname(), given.detach()
    first = generations()
    port = await first.listen(f"tableflip:{written.format(fileno)}")
    assert target(port) == address
    assert not os.get_inheritable(fileno)
    for _ in range(2):
        left = socket.socketpair()
        second = generations()
        assert second.inherited == first.used == [f"fd {fileno}"]
        later = await second.listen(f"tableflip:fd:{fileno}")
        assert sameSocket(port, later)
        assert second.inherited == []
        second.replace(first)
        assert await inThread(ask, address) == (f"r{second.number}", second.number)
        left[0].send(b"x")
        assert left[1].recv(1) == b"x"
        for each in left:
            each.close()
        first, port = second, later


@pytest_twisted.ensureDeferred
async def test_a_number_that_is_no_listening_socket_is_an_error(byNumber, generations):
    """
    Whatever it is, it stays open; and in a child, a number that its parent did not know
    is an error at once.
    """
    first = generations()
    reading, writing = os.pipe()
    near, far = socket.socketpair()
    with near, far:
        for fileno, what in (
            (reading, "is open"),
            (near.fileno(), "listens"),
            (999, "is open"),
        ):
            with pytest.raises(InvalidEndpoint, match=f"the number {fileno} {what}"):
                await first.listen(f"tableflip:fd:{fileno}")
        far.send(b"x")
        assert near.recv(1) == b"x"
        os.write(writing, b"x")
        assert os.read(reading, 1) == b"x"
        second = generations()
        with pytest.raises(InvalidEndpoint, match="was given to the first process"):
            await second.listen(f"tableflip:fd:{near.fileno()}")
        with pytest.raises(NotInheritable, match=f"haproxy:tableflip:fd:{near.fileno()}"):
            await second.listen(f"tableflip:haproxy:fd:{near.fileno()}")
        assert near.fileno() >= 0
        far.send(b"x")
        assert near.recv(1) == b"x"
    os.close(reading)
    os.close(writing)


@pytest_twisted.ensureDeferred
async def test_a_number_inside_another_endpoint_never_takes_what_is_inherited(
    byNumber, generations
):
    """
    In a child the number may be that of an inherited socket of another name: that one
    is left alone, and the error says what to write.
    """
    first = generations()
    await first.listen(f"tableflip:tcp:0:interface={LOCAL}")
    second = generations()
    (held,) = second.process.inventory.inherited.values()
    with pytest.raises(NotInheritable, match="write tableflip: right before"):
        await second.listen(f"tableflip:haproxy:fd:{held.handle.fileno()}")
    assert held.isOpen


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest_twisted.ensureDeferred
async def test_a_datagram_socket_that_somebody_else_has_made_is_inherited(family, generations):
    """
    What a reactor adopts by IReactorSocket.adoptDatagramPort stays its giver's, and is
    inherited as any other.
    """
    local = "::1" if family == socket.AF_INET6 else LOCAL
    first = generations()
    with socket.socket(family, socket.SOCK_DGRAM) as given:
        given.bind((local, 0))
        address = given.getsockname()
        port = first.reactor.adoptDatagramPort(given.fileno(), family, DatagramProtocol())
        assert given.fileno() != -1
    assert port.getHost().port == address[1]
    second = generations()
    later = second.reactor.listenUDP(address[1], DatagramProtocol(), local)
    assert (second.used, second.inherited) == (first.used, [])
    assert sameSocket(port, later)


# -- what is a service


@pytest.fixture
def said():
    """
    What the log is told during the test, as text.
    """
    events = []
    globalLogPublisher.addObserver(events.append)
    yield lambda: "\n".join(filter(None, map(formatEvent, events)))
    globalLogPublisher.removeObserver(events.append)


def listenEverywhere(plain, tmp_path, port):
    """
    Listen in every way on a port, or on a path, and return the ports.
    """
    path = str(tmp_path / f"{port}.s")
    return [
        plain.listenTCP(port, AnsweringFactory(1), interface=LOCAL),
        plain.listenUDP(port, DatagramProtocol(), LOCAL),
        plain.listenMulticast(0 if port == 0 else freePort(), DatagramProtocol(), LOCAL),
        plain.listenUNIX(path, AnsweringFactory(1)),
        plain.listenUNIXDatagram(path + "d", DatagramProtocol()),
    ]


async def close(ports):
    for port in ports:
        await maybeDeferred(port.stopListening)


@pytest_twisted.ensureDeferred
async def test_a_port_that_nobody_chose_stays_with_its_process(generations, said):
    """
    Port 0 is not inherited, accepts and receives in a process that has not taken over
    yet, and goes on when the process is parked; the log says so once.
    """
    generations()
    second = generations()
    plain = second.inheritServices()
    ports = [
        plain.listenTCP(0, second.factory, interface=LOCAL),
        plain.listenTCP(0, second.factory, interface=LOCAL),
        plain.listenUDP(0, DatagramProtocol(), LOCAL),
    ]
    assert second.used == []
    assert await inThread(ask, target(ports[0])) == ("r2", 2)
    second.ports.park()
    assert await inThread(ask, target(ports[1])) == ("r2", 2)
    assert said().count("tcp 127.0.0.1:0 is not inherited: the kernel chose its number") == 1
    await close(ports)


@pytest_twisted.ensureDeferred
async def test_what_listens_while_a_program_starts_is_a_service(generations, tmp_path):
    """
    In whichever way, and however late, unless it has said that it is ready; and within
    a minute also then.
    """
    first = generations()
    plain = first.inheritServices()
    plain.later = 10 * STARTING
    listenEverywhere(plain, tmp_path, freePort())
    assert len(first.used) == 5
    second = generations()
    plain = second.inheritServices()
    second.ports.isReady = True
    plain.later = STARTING - 1
    listenEverywhere(plain, tmp_path, freePort())
    assert len(second.used) == 5


@pytest_twisted.ensureDeferred
async def test_a_port_for_tls_is_one_in_the_log(generations, certificate, said):
    """
    As Twisted's, also where the program listens through the reactor itself.
    """
    options = PrivateCertificate.loadPEM(certificate.read_bytes()).options()
    first = generations()
    plain = partial(type(reactor).listenSSL, first.inheritServices())
    for listen in (plain, first.reactor.listenSSL):
        number = freePort()
        port = listen(number, first.factory, options, interface=LOCAL)
        assert len(first.used) == 1
        await maybeDeferred(port.stopListening)
        assert f"(TLS Port {number} Closed)" in said()


@pytest_twisted.ensureDeferred
async def test_what_listens_later_is_not_but_for_what_the_parent_has_left(
    generations, tmp_path, said
):
    """
    A port that is opened long after ready stays with its process, and the log says what
    to do about that, unless it is the first one at all.  What the parent has left is
    taken at any time.
    """
    port = freePort()
    first = generations()
    first.inheritServices().listenTCP(port, first.factory, interface=LOCAL)
    second = generations()
    plain = second.inheritServices()
    second.ports.isReady = True
    plain.later = 2 * STARTING
    plain.listenTCP(port, second.factory, interface=LOCAL)
    assert (second.used, second.inherited) == (first.used, [])
    ports = listenEverywhere(plain, tmp_path, freePort())
    assert second.used == first.used
    assert "write tableflip:, or have notReadyUntil() wait for it" in said()
    assert {work.what.split()[0] for work in second.process.connections.tasks.describe()} == {
        *("tcp", "udp", "unix", "unixgram"),
    }
    await close(ports)
    assert second.process.connections.tasks.describe() == []


@pytest_twisted.ensureDeferred
async def test_what_is_opened_for_a_client_is_that_clients(generations, said):
    """
    A chosen port that is opened while a request is acted upon stays with its process, and
    the connections on it are waited for; one that a string opens then is inherited.
    """
    first = generations()
    plain = first.inheritServices()
    opened = []

    class Opening(Answering):
        def lineReceived(self, line):
            interface = {"interface": LOCAL}
            opened.append(plain.listenTCP(freePort(), first.factory, **interface))
            opened.append(first.reactor.listenTCP(freePort(), first.factory, **interface))
            super().lineReceived(line)

    factory = AnsweringFactory(1)
    factory.protocol = Opening
    port = plain.listenTCP(freePort(), factory, interface=LOCAL)
    await inThread(ask, target(port))
    sessions, chosen = opened
    assert first.used == [f"tcp {LOCAL}:{each.getHost().port}" for each in (port, chosen)]
    assert "is not inherited: it was opened for a client" in said()
    with await inThread(connect, target(sessions)) as client:
        await inThread(converse, client)
        assert [each.listener for each in first.process.connections.describe()] == [
            f"tcp {LOCAL}:{sessions.getHost().port}"
        ]
    await sessions.stopListening()


@pytest_twisted.ensureDeferred
async def test_a_socket_with_so_reuseport_is_adopted_from_the_parent(generations):
    """
    A program that binds its own socket again in each generation, as carbon does, serves
    on the first one's.
    """

    def adopt(generation, number):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((LOCAL, number))
            sock.listen()
            plain = generation.inheritServices()
            return plain.adoptStreamPort(sock.fileno(), socket.AF_INET, generation.factory)

    first = generations()
    port = adopt(first, 0)
    number = port.getHost().port
    second = generations()
    later = adopt(second, number)
    assert (second.used, second.inherited) == ([f"tcp {LOCAL}:{number}"], [])
    assert sameSocket(port, later)
    second.replace(first)
    assert await inThread(ask, (LOCAL, number)) == ("r2", 2)


# -- what a socket is like


def optionsOf(port):
    """
    Return the options of a listening TCP socket, and its backlog, which is in
    tcp_info (as tcpi_sacked).
    """
    fileno = port.fileno()
    sock = socket.socket(fileno=os.dup(fileno))
    with sock:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
        names = ["SO_REUSEADDR", "SO_REUSEPORT", "SO_ACCEPTCONN", "SO_KEEPALIVE"]
        options = {
            name: sock.getsockopt(socket.SOL_SOCKET, getattr(socket, name)) for name in names
        }
        if sock.family == socket.AF_INET6:
            options["V6ONLY"] = sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    return {
        **options,
        "family": sock.family,
        "backlog": struct.unpack_from("I", info, 28)[0],
        "blocking": os.get_blocking(fileno),
        "inheritable": os.get_inheritable(fileno),
    }


@pytest.mark.parametrize(
    "description",
    ["tcp:0:backlog=7:interface=127.0.0.1", "tcp6:0:backlog=7", "tcp:0:interface=127.0.0.1"],
)
@pytest_twisted.ensureDeferred
async def test_a_socket_is_as_twisted_makes_it(description, generations):
    """
    The options and the backlog of a socket are those that Twisted gives it, and
    adoption by a child does not touch them.
    """
    plain = await serverFromString(reactor, description).listen(AnsweringFactory(0))
    expected = optionsOf(plain)
    await plain.stopListening()
    first = generations()
    port = await first.listen(f"tableflip:{description}")
    assert optionsOf(port) == expected
    second = generations()
    later = await second.listen(f"tableflip:{description}")
    assert optionsOf(later) == optionsOf(port) == expected
    second.replace(first)
    assert optionsOf(later) == expected


@pytest_twisted.ensureDeferred
async def test_the_options_of_the_new_release_come_with_it(generations, tmp_path):
    """
    A socket gets the backlog and the mode that a release asks for when that
    takes over, and not before; what was changed is told, and is what the next
    release inherits.
    """
    path = tmp_path / "s.sock"
    first = generations()
    await first.listen(f"tableflip:unix:{path}:mode=640:backlog=3:lockfile=0")
    tcp = await first.listen(f"tableflip:tcp:0:backlog=7:interface={LOCAL}")
    second = generations()
    await second.listen(f"tableflip:unix:{path}:mode=600:backlog=3:lockfile=0")
    await second.listen(f"tableflip:tcp:0:backlog=9:interface={LOCAL}")
    assert (stat.S_IMODE(path.lstat().st_mode), optionsOf(tcp)["backlog"]) == (0o640, 7)
    second.replace(first)
    assert (stat.S_IMODE(path.lstat().st_mode), optionsOf(tcp)["backlog"]) == (0o600, 9)
    changes = second.process.inventory.changes
    assert changes.changed == [
        f"unix {path}: mode 640, now 600",
        f"tcp {LOCAL}:0: backlog 7, now 9",
    ]
    second.ports.park()
    second.ports.resume()
    assert len(changes.changed) == 2
    left = generations().process.inventory.inherited.values()
    assert [(held.mode, held.backlog) for held in left] == [(0o600, 3), (None, 9)]


@pytest_twisted.ensureDeferred
async def test_adoption_leaves_the_mode_and_the_backlog_of_a_path(generations, tmp_path):
    """
    A UNIX socket keeps its backlog, and its path the mode that it has, also if
    that has been changed since, when a child adopts it.
    """
    path = tmp_path / "s.sock"
    string = f"tableflip:unix:{path}:mode=640:backlog=3"
    first = generations()
    await first.listen(string)
    born = path.lstat()
    assert stat.S_IMODE(born.st_mode) == 0o640
    path.chmod(0o620)
    second = generations()
    await second.listen(string)
    second.replace(first)
    after = path.lstat()
    assert (after.st_ino, stat.S_IMODE(after.st_mode)) == (born.st_ino, 0o620)
    second.ports.park()
    queued = []
    try:
        while len(queued) < 100:
            queued.append(socket.socket(socket.AF_UNIX))
            queued[-1].setblocking(False)
            if queued[-1].connect_ex(str(path)) == errno.EAGAIN:
                break
        # The kernel queues one more than it is told.
        assert len(queued) - 1 == 3 + 1
    finally:
        for sock in queued:
            sock.close()


@pytest.mark.parametrize("kind", ["unix", "unixgram"])
@pytest_twisted.ensureDeferred
async def test_a_path_is_bound_as_it_was_given(kind, generations, tmp_path, monkeypatch):
    """
    In a directory whose name is longer than the kernel takes for a socket, a relative path
    can be listened at; and it is removed, with its lock, also when the process has gone
    elsewhere, where a path of the same name is left alone.
    """
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    (tmp_path / "s.sock").write_text("somebody else's")
    monkeypatch.chdir(deep)
    first = generations()
    if kind == "unix":
        port = first.reactor.listenUNIX("s.sock", Factory(), wantPID=True)
    else:
        port = first.reactor.listenUNIXDatagram("s.sock", DatagramProtocol())
    assert (deep / "s.sock").is_socket()
    monkeypatch.chdir(tmp_path)
    await maybeDeferred(port.stopListening)
    assert list(deep.iterdir()) == []
    assert (tmp_path / "s.sock").read_text() == "somebody else's"


# -- connections are counted


@BOTH
@pytest_twisted.ensureDeferred
async def test_a_factory_is_stopped_after_its_last_connection(
    description, generations, tmp_path
):
    """
    A drain ends when the last open connection has, and not before; the factory
    is stopped then, once, also if the application has closed its port meanwhile;
    and no connection is left in the count.
    """
    first = generations()
    port = await first.listen(description.format(tmp=tmp_path))
    open_ = first.process.connections
    clients = [await inThread(connect, target(port)) for _ in range(3)]
    for client in clients:
        await inThread(converse, client)
    assert len(open_) == 3
    (accepted,) = [each for each in open_.listeners if len(each)]
    for described in accepted.describe():
        assert described.listener == accepted.name
        assert described.seconds < DEADLINE
    first.ports.park()
    first.process.letGo()
    drained = _generation.Exit(reactor, first.process).drain(DEADLINE)
    for left, client in zip((2, 1), clients, strict=False):
        client.close()
        await turn()
        assert (len(open_), drained.called) == (left, False)
        assert first.factory.history == ["start"]
    await maybeDeferred(port.stopListening)
    assert await inThread(converse, clients[-1])
    assert first.factory.history == ["start"]
    clients[-1].close()
    outcome = await drained.addTimeout(DEADLINE, reactor)
    assert outcome == Outcome(finished=3, told=0, cut=0)
    assert first.factory.history == ["start", "stop"]
    assert len(open_) == 0


@BOTH
@pytest_twisted.ensureDeferred
async def test_the_deadline_cuts_the_connections_that_are_left(
    description, generations, tmp_path
):
    """
    At the deadline of a drain the open connections are closed, also one that
    has more to send than its client reads; then the factory is stopped, and
    nothing is left in the count.
    """
    first = generations()
    port = await first.listen(description.format(tmp=tmp_path))
    idle, stuffed = [await inThread(connect, target(port)) for _ in range(2)]
    with idle, stuffed:
        for client in (idle, stuffed):
            await inThread(converse, client)
        first.factory.made[1].transport.write(b"x" * 50_000_000)
        first.ports.park()
        began = reactor.seconds()
        outcome = (
            await _generation.Exit(reactor, first.process)
            .drain(0.05)
            .addTimeout(DEADLINE, reactor)
        )
        assert outcome == Outcome(finished=0, told=0, cut=2)
        assert reactor.seconds() - began >= 0.05 + LAST_BYTES_TIMEOUT
        assert first.factory.history == ["start", "stop"]
        assert len(first.process.connections) == 0
        assert await inThread(idle.recv, 1) == b""
        assert await inThread(readAll, stuffed) < 50_000_000


@pytest.mark.parametrize("timeout", [None, 0.05])
@pytest_twisted.ensureDeferred
async def test_a_drain_begins_once_and_is_waited_for_by_who_leaves(
    generations, monkeypatch, timeout
):
    """
    With a time that is known, connections are let finish from when the child serves,
    and have that time from then; without, from when the process leaves.
    """
    heard = []
    monkeypatch.setattr(Journal, "listeners", [heard.append])
    first = generations()
    first.process.drainTimeout = timeout
    port = await first.listen(f"tableflip:tcp:0:interface={LOCAL}")
    with await inThread(connect, target(port)) as client:
        await inThread(converse, client)
        first.process.park()
        first.process.beginDrain()
        assert [event.seconds for event in heard] == ([] if timeout is None else [timeout])
        if timeout is not None:
            assert await inThread(client.recv, 1) == b""
        first.process.letGo()
        leaving = _generation.Exit(reactor, first.process).drain(0.1)
        outcome = await leaving.addTimeout(DEADLINE, reactor)
    assert outcome == Outcome(cut=1)
    assert [type(event) for event in heard] == [Draining, Drained]


@BOTH
@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("isFinal", [False, True])
async def test_the_queue_is_emptied_by_the_last_process_only(
    description, generations, tmp_path, isFinal
):
    """
    Who waits in the queue when a process stops is left to its parent, which may serve
    again; if that cannot be, the process accepts them first.
    """
    first = generations()
    port = await first.listen(description.format(tmp=tmp_path))
    second = generations()
    await second.listen(description.format(tmp=tmp_path))
    first.ports.park()
    second.process.finalSince = 1.0 if isFinal else None
    with await inThread(connect, target(port)) as client:
        client.sendall(b"stay\n")
        drained = _generation.Exit(reactor, second.process).drain(DEADLINE)
        await turn()
        assert len(second.process.connections) == isFinal
        first.ports.resume()
        answer = await inThread(client.recv, 100)
        assert answer.split()[2] == (b"2" if isFinal else b"1")
    await drained.addTimeout(DEADLINE, reactor)


@BOTH
@pytest_twisted.ensureDeferred
async def test_connections_of_an_endpoint_have_its_own_time(description, generations, tmp_path):
    """
    What listens through a reactor with a drain timeout of its own has that for
    its connections, and others have none.
    """
    first = generations()
    description = description.format(tmp=tmp_path).partition(":")[2]
    expected = []
    for timeout in (7, None):
        inheriting = InheritingReactor(reactor, first.ports, timeout)
        readiness = Readiness(reactor, first.process.inventory)
        endpoint = InheritableEndpoint(
            inheriting, readiness, description.replace("s.", f"{timeout}.")
        )
        port = await endpoint.listen(first.factory)
        with await inThread(connect, target(port)) as client:
            await inThread(converse, client)
            (accepted,) = first.process.connections.listeners
            expected.append(accepted.drainTimeout)
            first.factory.made[-1].transport.abortConnection()
            await turn()
    assert expected == [7, None]


@pytest_twisted.ensureDeferred
async def test_a_connection_that_is_refused_is_not_counted(generations, tmp_path):
    """
    A factory that makes no protocol for a client leaves nothing in the count,
    over TCP and UNIX.
    """
    first = generations()
    first.factory.buildProtocol = lambda address: None
    for string in (f"tcp:0:interface={LOCAL}", f"unix:{tmp_path}/s.sock"):
        port = await first.listen(f"tableflip:{string}")
        with await inThread(connect, target(port)) as client:
            assert await inThread(client.recv, 1) == b""
    assert len(first.process.connections) == 0
    assert await _generation.Exit(reactor, first.process).drain(DEADLINE) == Outcome()


def names(directory):
    """
    Return what is in a directory.
    """
    return sorted(os.listdir(directory))


def converse(client):
    """
    Ask on a connection that is to stay open.
    """
    client.sendall(b"stay\n")
    answer = b""
    while not answer.endswith(b".\n"):
        part = client.recv(100)
        assert part, f"closed after {answer!r}"
        answer += part
    return answer


def readAll(client):
    """
    Read to the end, and return how many bytes that were.
    """
    count = 0
    try:
        while part := client.recv(1 << 20):
            count += len(part)
    except ConnectionResetError:
        pass
    return count
