"""
An FTP server for the tests, on C{$PORT}, for files in C{$ROOT}; passive ports are from
C{$FIRST} to C{$LAST}, both 0 if the kernel is to choose them.  It knows nothing of
txtableflip.
"""

import os

from twisted.application import internet, service
from twisted.cred.checkers import AllowAnonymousAccess
from twisted.cred.portal import Portal
from twisted.internet import reactor
from twisted.protocols.ftp import FTPFactory, FTPRealm

factory = FTPFactory(Portal(FTPRealm(os.environ["ROOT"]), [AllowAnonymousAccess()]))
factory.passivePortRange = range(int(os.environ["FIRST"]), int(os.environ["LAST"]) + 1)
# A daemon has another process id by then.
reactor.callWhenRunning(lambda: setattr(factory, "welcomeMessage", f"process {os.getpid()}"))
application = service.Application("ftp")
server = internet.TCPServer(int(os.environ["PORT"]), factory, interface="127.0.0.1")
server.setServiceParent(application)
