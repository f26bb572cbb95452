"""
A service for the tests of goodbyes: SMTP, POP3, IMAP, FTP, IRC, SSH, LDAP and a stream of
events, as far as their libraries are there.

Run as C{twistd tableflip --app goodbyes.py} where C{$PORTS} has a JSON object with the
port of each.  What SMTP has acknowledged is in C{$SPOOL}, a line for each message.
"""

import json
import os
from pathlib import Path

from twisted.application import service, strports
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.portal import IRealm, Portal
from twisted.internet import defer, reactor
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall, deferLater
from twisted.mail import imap4, pop3, smtp
from twisted.protocols import ftp
from twisted.python.filepath import FilePath
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from twisted.words.protocols import irc
from zope.interface import implementer

from txtableflip import currentUpgrader

PORTS = json.loads(os.environ["PORTS"])
SPOOL = Path(os.environ["SPOOL"])


@implementer(smtp.IMessage)
class Message:
    def __init__(self):
        self.lines = []

    def lineReceived(self, line):
        self.lines.append(line)

    def eomReceived(self):
        # It takes its time, in which the client has no answer.
        return deferLater(reactor, 0.3, self.store)

    def store(self):
        with SPOOL.open("ab") as spool:
            spool.write(self.lines[-1] + b"\n")

    def connectionLost(self):
        pass


@implementer(smtp.IMessageDelivery)
class Delivery:
    def receivedHeader(self, helo, origin, recipients):
        return b"Received: here"

    def validateFrom(self, helo, origin):
        return origin

    def validateTo(self, user):
        return Message


@implementer(pop3.IMailbox)
class Box:
    def listMessages(self, index=None):
        return deferLater(reactor, 0.05, lambda: [3] if index is None else 3)

    def getMessage(self, index):
        raise ValueError

    def getUidl(self, index):
        return "1"

    def deleteMessage(self, index):
        pass

    def undeleteMessages(self):
        pass

    def sync(self):
        pass


@implementer(IRealm)
class Realm:
    def requestAvatar(self, name, mind, *interfaces):
        made = {
            pop3.IMailbox: Box,
            imap4.IAccount: lambda: imap4.MemoryAccount(name),
            ftp.IFTPShell: lambda: ftp.FTPShell(FilePath(SPOOL.parent / "files")),
        }
        if "ssh" in PORTS:
            made[IConchUser] = ConchUser
        for interface in interfaces:
            if interface in made:
                return interface, made[interface](), lambda: None
        raise NotImplementedError


@implementer(ICredentialsChecker)
class Anybody:
    credentialInterfaces = (IUsernamePassword,)

    def requestAvatarId(self, credentials):
        return b"user"


PORTAL = Portal(Realm(), [Anybody()])


class POP3(pop3.POP3):
    portal = PORTAL

    def authenticateUserPASS(self, user, password):
        box = Box()
        return defer.succeed((pop3.IMailbox, box, lambda: None))


class IMAP(imap4.IMAP4Server):
    def __init__(self):
        super().__init__()
        self.portal = PORTAL


class Events(Resource):
    isLeaf = True

    def render_GET(self, request):
        request.setHeader("Content-Type", "text/event-stream")
        generation = currentUpgrader().generation
        ticking = LoopingCall(lambda: request.write(b"data: %d\n\n" % generation))
        request.notifyFinish().addErrback(lambda failure: ticking.stop())
        ticking.start(0.1)
        return NOT_DONE_YET


def receiver():
    """
    Return a protocol that takes what it is given.
    """
    made = smtp.ESMTP()
    made.delivery = Delivery()
    return made


def mail():
    """
    Return a factory of Twisted's.
    """
    made = smtp.SMTPFactory()
    made.protocol = receiver
    made.domain = b"here"
    return made


FACTORIES = {
    "smtp": mail,
    "pop3": lambda: Factory.forProtocol(POP3),
    "imap": lambda: Factory.forProtocol(IMAP),
    "ftp": lambda: ftp.FTPFactory(PORTAL),
    "irc": lambda: Factory.forProtocol(irc.IRC),
    "events": lambda: Site(Events()),
}

if "ssh" in PORTS:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from twisted.conch.avatar import ConchUser
    from twisted.conch.interfaces import IConchUser
    from twisted.conch.ssh.factory import SSHFactory
    from twisted.conch.ssh.keys import Key

    def ssh():
        key = Key(Ed25519PrivateKey.generate())
        made = SSHFactory()
        made.publicKeys = {b"ssh-ed25519": key.public()}
        made.privateKeys = {b"ssh-ed25519": key}
        made.portal = PORTAL
        return made

    FACTORIES["ssh"] = ssh

if "ldap" in PORTS:
    from ldaptor.protocols.ldap.ldapserver import LDAPServer

    FACTORIES["ldap"] = lambda: Factory.forProtocol(LDAPServer)

application = service.Application("goodbyes")
for name, port in PORTS.items():
    listening = strports.service(f"tableflip:tcp:{port}:interface=127.0.0.1", FACTORIES[name]())
    listening.setServiceParent(application)
