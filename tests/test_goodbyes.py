"""
What clients of protocols other than HTTP are told when their process leaves, and when.
"""

import ftplib
import imaplib
import io
import json
import os
import poplib
import select
import shutil
import smtplib
import socket
import subprocess
import sys
import threading
from contextlib import suppress

import pytest
from processes import APPS, DEADLINE, until
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.mail import imap4, pop3, smtp
from twisted.protocols import ftp
from twisted.web.http import HTTPChannel
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from twisted.words.protocols import irc

from txtableflip._draining import http1, later
from txtableflip._draining.connections import (
    Connections,
    CountedTransport,
    countedTransport,
)
from txtableflip._draining.goodbyes import Goodbyes, findDrainable
from txtableflip.testing._service import freePort

TABLEFLIP = shutil.which("tableflip", path=os.path.dirname(sys.executable))
TEXT = later.TEXT.decode()
SSH = shutil.which("ssh")
GOING = 421
"""
What a server says that closes the connection (section 4.2.3 of RFC 5321).
"""


# -- the moment


class Wire(StringTransport):
    """
    A connection that knows who spoke last, as our transports do.
    """

    isAnswered = connected = True
    socket = None

    def write(self, data):
        self.isAnswered = True
        super().write(data)

    def writeSequence(self, data):
        self.write(b"".join(data))

    def hear(self, data):
        """
        The client has sent something.
        """
        self.isAnswered = False
        self.protocol.dataReceived(data)

    def said(self):
        """
        Return what has been sent since this was asked.
        """
        found = self.value()
        self.clear()
        return found


@pytest.fixture
def clock(monkeypatch):
    """
    The time, and the first moment is half of it.
    """
    found = Clock()
    for module in (later, http1):
        monkeypatch.setattr(module, "realClock", lambda: found)
    monkeypatch.setattr(later.random, "uniform", lambda least, most: most)
    # Whose adapters are registered.
    Goodbyes(Connections())
    return found


def drained(protocol, seconds=8):
    """
    Connect a protocol, and have its process leave.
    """
    wire = Wire()
    wire.protocol = protocol
    protocol.makeConnection(wire)
    wire.said()
    wire.drain = findDrainable(wire)
    wire.done = wire.drain.drain(seconds)
    return wire


def let(clock, seconds):
    """
    Let time pass, in small steps.
    """
    clock.pump([0.1] * round(seconds * 10))


class Delivery:
    """
    Takes all messages, and says so when told to.
    """

    def __init__(self):
        self.stored = Deferred()

    def receivedHeader(self, *arguments):
        return b"Received: here"

    def validateFrom(self, helo, origin):
        return origin

    def validateTo(self, user):
        return lambda: self

    def lineReceived(self, line):
        pass

    def eomReceived(self):
        return self.stored


def test_smtp_says_421_when_a_message_has_been_acknowledged(clock):
    """
    Not between MAIL and DATA, nor in the message, nor while it is being stored.
    """
    delivery = Delivery()
    protocol = smtp.SMTP(delivery)
    protocol.timeout = None
    wire = drained(protocol)
    for said in (
        b"HELO a\r\nMAIL FROM:<a@b>\r\n",
        b"RCPT TO:<c@d>\r\n",
        b"DATA\r\n",
        b"x\r\n.\r\n",
    ):
        wire.hear(said)
        let(clock, 1.5)
        assert b"421" not in wire.said()
        assert not wire.done.called
    delivery.stored.callback(None)
    let(clock, 1)
    assert wire.said().splitlines() == [b"250 Delivery in progress", b"421 " + later.TEXT]
    assert wire.done.called


def test_half_a_command_is_waited_for(clock):
    """
    Whatever has been received and not answered.
    """
    protocol = smtp.SMTP()
    protocol.timeout = None
    wire = drained(protocol)
    wire.hear(b"HE")
    let(clock, 6)
    assert wire.said() == b""
    wire.hear(b"LO a\r\n")
    let(clock, 0.5)
    assert [line[:3] for line in wire.said().splitlines()] == [b"250", b"421"]


def test_pop3_says_err_between_two_commands(clock):
    """
    What takes its time is answered first, with all that was sent behind it.
    """
    protocol = pop3.POP3()
    protocol.timeOut = None
    wire = drained(protocol)
    protocol.blocked = []
    wire.hear(b"NOOP\r\n")
    let(clock, 6)
    assert wire.said() == b""
    protocol.blocked = None
    wire.hear(b"CAPA\r\n")
    let(clock, 1)
    *_, end, goodbye = wire.said().splitlines()
    assert end == b"."
    assert goodbye == b"-ERR [SYS/TEMP] " + later.TEXT


@pytest.mark.parametrize(
    ("before", "end", "answer"),
    [
        (b"", b"", b""),
        # IDLE lasts as long as the connection.
        (b"1 IDLE\r\n", b"", b"+"),
        # A literal that is not whole, of a name and of a password.
        (b"1 LOGIN {4}\r\n", b"user {6}\r\nsecret\r\n", b"+ "),
    ],
)
def test_imap_says_bye_between_two_commands_and_while_idle(clock, before, end, answer):
    """
    Not while a command is received.
    """
    protocol = imap4.IMAP4Server()
    protocol.timeOut = None
    wire = drained(protocol)
    if before:
        protocol.state = "auth" if b"IDLE" in before else "unauth"
        wire.hear(before)
    assert wire.said().startswith(answer)
    let(clock, 6)
    if end:
        assert wire.said() == b""
        for part in end.splitlines(keepends=True):
            wire.hear(part)
        let(clock, 1)
    assert wire.said().endswith(b"* BYE " + later.TEXT + b"\r\n")
    assert wire.done.called


def test_ftp_says_421_between_two_transfers(clock):
    """
    Not when the next command is to belong to the one before.
    """
    protocol = ftp.FTP()
    protocol.timeOut = None
    protocol.factory = type("F", (), {"welcomeMessage": "hello", "allowAnonymous": False})()
    wire = drained(protocol)
    protocol.state = protocol.RENAMING
    let(clock, 5)
    protocol.state, protocol.paused = protocol.AUTHED, True
    let(clock, 1)
    protocol.paused, protocol.dtpFactory = False, object()
    let(clock, 1)
    assert wire.said() == b""
    protocol.dtpFactory = None
    let(clock, 0.5)
    assert wire.said() == b"421 " + later.TEXT + b"\r\n"


def test_a_transport_knows_whether_what_came_has_been_answered():
    """
    By who spoke last.
    """

    class Plain:
        def doRead(self):
            pass

        doWrite = doRead

    kind = type("Transport", (CountedTransport, Plain), {})
    transport = countedTransport(kind, Connections().acceptedBy("here"))()
    assert transport.isAnswered
    transport.doRead()
    assert not transport.isAnswered
    transport.doWrite()
    assert transport.isAnswered


def test_irc_says_error(clock):
    """
    With a text, as servers do that close the link.
    """
    wire = drained(irc.IRC())
    let(clock, 3.9)
    assert wire.said() == b""
    let(clock, 0.2)
    assert wire.said() == b"ERROR :Closing Link: " + later.TEXT + b"\r\n"


def test_what_has_not_been_said_is_taken_back(clock):
    """
    And what has been said is not.
    """
    early, late = drained(irc.IRC()), drained(irc.IRC())
    let(clock, 2)
    assert early.drain.resume()
    let(clock, 8)
    assert early.said() == b""
    assert late.said()
    assert not late.drain.resume()


def test_nothing_is_said_to_who_has_gone(clock):
    """
    Nor is whoever is busy for ever looked at behind the deadline.
    """
    gone, busy = drained(irc.IRC()), drained(irc.IRC())
    gone.connected = False
    busy.hear(b"half a line")
    let(clock, 10)
    assert gone.said() == busy.said() == b""
    assert clock.getDelayedCalls() == []


def test_ssh_waits_for_sessions_and_disconnects_before_they_are_cut(clock):
    """
    Whoever has none is told early.
    """
    transport = pytest.importorskip("twisted.conch.ssh.transport", exc_type=ImportError)
    connection = pytest.importorskip("twisted.conch.ssh.connection", exc_type=ImportError)
    Goodbyes(Connections())
    said = []
    for channels in ({}, {0: "a shell"}):
        protocol = transport.SSHServerTransport()
        protocol.connectionMade = lambda: None
        protocol.service = connection.SSHConnection()
        protocol.service.channels = channels
        protocol.sendDisconnect = lambda code, text: said.append((clock.seconds(), code, text))
        drained(protocol)
    let(clock, 9)
    (first, *what), (last, *same) = said
    assert what == same == [11, later.TEXT]
    assert first == pytest.approx(4, abs=0.1)
    assert 7.5 < last < 8


# -- streams of events


class Events(Resource):
    """
    A stream, and all that it is asked for.
    """

    isLeaf = True

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.requests = []

    def render_GET(self, request):
        request.setHeader("Content-Type", self.kind)
        request.notifyFinish().addErrback(lambda failure: None)
        self.requests.append(request)
        return NOT_DONE_YET


def streaming(clock, kind, *, isFirst=True, version="1.1"):
    """
    Return a connection on which a stream has begun, before or behind the switch.
    """
    events = Events(kind)
    site = Site(events)
    channel = HTTPChannel()
    channel.timeOut = None
    channel.site = channel.factory = site
    channel.requestFactory = site.requestFactory
    wire = Wire()
    wire.protocol = channel
    channel.makeConnection(wire)
    wire.hear(f"GET / HTTP/{version}\r\nHost: x\r\n\r\n".encode())
    if isFirst:
        events.requests[0].write(b"data: 1\n\n")
    wire.drain = findDrainable(wire)
    wire.done = wire.drain.drain(8)
    if not isFirst:
        events.requests[0].write(b"data: 1\n\n")
    wire.said()
    return wire, events.requests[0]


@pytest.mark.parametrize("isFirst", [True, False])
def test_a_stream_of_events_is_given_an_end(clock, isFirst):
    """
    So that its client reconnects at once; and nothing is written behind that.
    """
    wire, request = streaming(clock, "text/event-stream; charset=utf-8", isFirst=isFirst)
    let(clock, 3.5)
    request.write(b"data: 2\n\n")
    let(clock, 1)
    request.write(b"data: 3\n\n")
    assert wire.said() == b"9\r\ndata: 2\n\n\r\n0\r\n\r\n"
    assert wire.done.called


@pytest.mark.parametrize(
    ("kind", "version"), [("text/plain", "1.1"), ("application/json", "1.1")]
)
def test_what_is_not_complete_is_given_no_end(clock, kind, version):
    """
    Its client is to know that the rest is missing.
    """
    wire, _ = streaming(clock, kind, version=version)
    let(clock, 9)
    assert wire.said() == b""
    assert not wire.done.called


def test_a_stream_without_chunks_ends_with_its_connection(clock):
    """
    Where the client has no other sign of the end.
    """
    wire, _ = streaming(clock, "text/event-stream", version="1.0")
    let(clock, 9)
    assert wire.said() == b""
    assert wire.done.called


def test_a_stream_that_has_ended_by_itself_is_not_ended_again(clock):
    """
    Another answer may be under way by then.
    """
    wire, request = streaming(clock, "text/event-stream")
    request.finish()
    wire.said()
    let(clock, 9)
    assert wire.said() == b""
    assert not wire.done.called


def test_a_stream_goes_on_if_its_process_serves_again(clock):
    """
    Unless it has been ended.
    """
    (early, _), (late, _) = (streaming(clock, "text/event-stream") for _ in range(2))
    assert early.drain.resume()
    let(clock, 9)
    assert early.said() == b""
    assert not late.drain.resume()


# -- real clients, across an upgrade


class Sessions:
    """
    Clients of one protocol who come again and again, and what went wrong.
    """

    def __init__(self, session):
        self.failures = []
        self.done = 0
        self._session = session
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        self.waitForMore(1)
        return self

    def __exit__(self, *exception):
        self._stop.set()
        self._thread.join(DEADLINE)

    def waitForMore(self, count=3):
        """
        Wait until so many more sessions have been.
        """
        goal = self.done + count
        until(lambda: self.done >= goal or self.failures, f"{count} more sessions")

    def _run(self):
        while not self._stop.wait(0.02) and not self.failures:
            try:
                self._session()
                self.done += 1
            except Exception as error:
                self.failures.append(repr(error))


class Farewells:
    """
    A service that speaks all of these, and sessions with it.
    """

    def __init__(self, service, *names):
        self.service = service
        self.ports = {name: freePort() for name in names}
        self.spool = service.directory / "spool"
        files = service.directory / "files"
        files.mkdir()
        (files / "large").write_bytes(b"x" * 100_000)
        service.environment.update(PORTS=json.dumps(self.ports), SPOOL=str(self.spool))
        self.acknowledged = []

    def start(self):
        app = str(APPS / "goodbyes.py")
        self.service.twistd("tableflip", "--drain-timeout", "8", "--app", app)

    def smtp(self):
        """
        Hand over messages, until the server has enough of it.
        """
        with suppress(smtplib.SMTPServerDisconnected), self.connectSMTP() as client:
            for _ in range(5):
                number = f"message {len(self.acknowledged)} {os.urandom(4).hex()}"
                try:
                    client.sendmail("a@b", ["c@d"], f"Subject: x\r\n\r\n{number}\r\n")
                except smtplib.SMTPResponseException as error:
                    if error.smtp_code == GOING:
                        return
                    raise
                self.acknowledged.append(number)

    def connectSMTP(self):
        return smtplib.SMTP("127.0.0.1", self.ports["smtp"], timeout=DEADLINE)

    def pop3(self):
        client = poplib.POP3("127.0.0.1", self.ports["pop3"], timeout=DEADLINE)
        client.user("user")
        client.pass_("secret")
        assert client.stat()[0] == 1
        client.quit()

    def imap(self):
        with imaplib.IMAP4("127.0.0.1", self.ports["imap"], timeout=DEADLINE) as client:
            client.login("user", "secret")
            client.noop()

    def ftp(self):
        with ftplib.FTP(timeout=DEADLINE) as client:
            client.connect("127.0.0.1", self.ports["ftp"])
            client.login("user", "secret")
            fetched = io.BytesIO()
            client.retrbinary("RETR large", fetched.write)
            assert len(fetched.getvalue()) == 100_000


def test_each_client_is_told_goodbye_and_nothing_is_lost(service):
    """
    Who idles is told so by the client's own library, in the words of the protocol; who
    is busy is not disturbed; each message that was acknowledged has been stored.
    """
    names = ("smtp", "pop3", "imap", "ftp", "irc", "events")
    ours = Farewells(service, *names)
    ours.start()
    mail = ours.connectSMTP()
    mail.ehlo()
    box = poplib.POP3("127.0.0.1", ours.ports["pop3"], timeout=DEADLINE)
    folder = imaplib.IMAP4("127.0.0.1", ours.ports["imap"], timeout=DEADLINE)
    folder.login("user", "secret")
    files = ftplib.FTP(timeout=DEADLINE)
    files.connect("127.0.0.1", ours.ports["ftp"])
    files.login("user", "secret")
    chat = socket.create_connection(("127.0.0.1", ours.ports["irc"]), DEADLINE)
    url = f"http://127.0.0.1:{ours.ports['events']}/"
    events = service.start(
        *("curl", "--silent", "--show-error", "--no-buffer", url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert events.stdout.readline() == b"data: 1\n"
    loads = [Sessions(each) for each in (ours.smtp, ours.pop3, ours.imap, ours.ftp)]
    with loads[0], loads[1], loads[2], loads[3]:
        assert service.run(TABLEFLIP, "upgrade").returncode == 0
        assert mail.getreply() == (421, TEXT.encode())
        with pytest.raises(poplib.error_proto, match=TEXT):
            box._getresp()
        assert select.select([folder.socket()], [], [], DEADLINE)[0]
        with suppress(imaplib.IMAP4.abort):
            # It reads what has come when it is to send something.
            folder.noop()
        assert TEXT in str(folder.untagged_responses.get("BYE"))
        with pytest.raises(ftplib.error_temp, match=f"421 {TEXT}"):
            files.getresp()
        with chat, chat.makefile(newline="\n") as told:
            assert told.read() == f"ERROR :Closing Link: {TEXT}\r\n"
        said, errors = events.communicate(timeout=DEADLINE)
        # An answer without its end is an error of curl's.
        assert (events.returncode, errors) == (0, b"")
        assert said.endswith(b"data: 1\n\n")
        for each in loads:
            each.waitForMore()
    assert [each.failures for each in loads] == [[]] * 4
    stored = ours.spool.read_text().splitlines()
    assert set(ours.acknowledged) <= set(stored)
    assert len(ours.acknowledged) > 5
    assert "aborted at the deadline" in service.log
    assert ", 0 aborted at the deadline" in service.log
    for client in (mail, box, files):
        client.close()


@pytest.mark.skipif(SSH is None, reason="there is no ssh(1), of OpenSSH")
def test_openssh_shows_why_it_was_disconnected(service):
    """
    One that is logged in, and has no session.
    """
    pytest.importorskip("twisted.conch.ssh.transport", exc_type=ImportError)
    ours = Farewells(service, "ssh")
    ours.start()
    answers = service.directory / "password"
    answers.write_text("#!/bin/sh\necho secret\n")
    answers.chmod(0o700)
    service.environment.update(SSH_ASKPASS=str(answers), SSH_ASKPASS_REQUIRE="force")
    options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"]
    asking = service.start(
        *(SSH, "-v", "-N", "-F", "none", "-p", str(ours.ports["ssh"])),
        *(f"-o{option}" for option in [*options, "PreferredAuthentications=password"]),
        "user@127.0.0.1",
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    said = []
    for line in asking.stderr:
        said.append(line)
        if "Entering interactive session" in line:
            break
    assert service.run(TABLEFLIP, "upgrade").returncode == 0
    said += asking.stderr.readlines()
    assert asking.wait(DEADLINE) == 255
    assert f"11: {TEXT}" in "".join(said)


def test_ldap_gives_notice(service):
    """
    As ldaptor's own client reads it, and with a result code that OpenLDAP's knows.
    """
    pureldap = pytest.importorskip("ldaptor.protocols.pureldap")
    pureber = pytest.importorskip("ldaptor.protocols.pureber")
    decoder = pytest.importorskip("ldaptor.protocols.ldap.ldapserver").BaseLDAPServer.berdecoder
    ours = Farewells(service, "ldap")
    ours.start()
    with socket.create_connection(("127.0.0.1", ours.ports["ldap"]), DEADLINE) as held:
        held.sendall(pureldap.LDAPMessage(pureldap.LDAPBindRequest(), id=1).toWire())
        said = held.recv(4096)
        bound, length = pureber.berDecodeObject(decoder, said)
        assert (bound.id, length) == (1, len(said))
        assert service.run(TABLEFLIP, "upgrade").returncode == 0
        with held.makefile("rb") as rest:
            notice, _ = pureber.berDecodeObject(decoder, rest.read())
    assert notice.id == 0
    assert notice.value.responseName == b"1.3.6.1.4.1.1466.20036"
    assert (notice.value.resultCode, notice.value.errorMessage) == (52, later.TEXT)
