"""
Which connections were told goodbye, and which of these goodbyes can be cancelled.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.components import getAdapterFactory, registerAdapter
from twisted.python.failure import Failure

from txtableflip._draining.connections import Connections
from txtableflip._draining.work import Task
from txtableflip._journal import ProcessLogger
from txtableflip._libraries import loadKnown
from txtableflip.interfaces import IDrainable, IDrainableFactory, IResumable

_KNOWN = {
    "txtableflip._draining.http1": {"twisted.web.http"},
    "txtableflip._draining.http2": {"twisted.web._http2"},
    "txtableflip._draining.websocket": {
        "twisted.web._websocket_impl",
        "autobahn.twisted.websocket",
    },
    "txtableflip._draining.mail": {
        "twisted.mail.smtp",
        "twisted.mail.pop3",
        "twisted.mail.imap4",
    },
    "txtableflip._draining.ftp": {"twisted.protocols.ftp"},
    "txtableflip._draining.irc": {"twisted.words.protocols.irc"},
    "txtableflip._draining.ssh": {"twisted.conch.ssh.transport"},
    "txtableflip._draining.ldap": {"ldaptor.protocols.ldap.ldapserver"},
}
"""
Which of our modules knows how connections of which libraries end.
"""

_log = ProcessLogger()


class Goodbyes:
    """
    Tells protocols to drain, each once, and closes connections.
    """

    def __init__(self, connections: Connections) -> None:
        for known in loadKnownProtocols():
            _register(known.adapters())
        self._connections = connections
        self._told: dict[Any, Any] = {}
        self._broken: set[Any] = set()
        self._resumed: set[Any] = set()

    def __len__(self) -> int:
        return sum(not isinstance(each, Task) for each in self._told)

    def say(self, transport: Any, seconds: float) -> None:
        """
        Tell a connection's protocol that its process exits, unless it has been told.  The
        protocol may have become another one meanwhile.
        """
        if transport in self._broken or transport in self._connections.leaving:
            return
        try:
            drainable = findDrainable(transport)
            if drainable is not None and type(self._told.get(transport)) is not type(drainable):
                self._told[transport] = drainable
                done = drainable.drain(seconds)
                if isinstance(done, Deferred):
                    done.addCallback(lambda ignored: self._finish(transport))
                    done.addErrback(_failed, str(transport))
        except Exception:  # noqa: BLE001 - it must not abort the others
            self._broken.add(transport)
            _log.failure("telling {transport} to drain", transport=str(transport))

    def _finish(self, transport: Any) -> None:
        if transport not in self._resumed:
            self.close(transport)

    def close(self, transport: Any) -> None:
        """
        Close a connection, as its own protocol would.
        """
        try:
            if isinstance(transport, Task):
                transport.close()
            else:
                _close(transport)
        except Exception:  # noqa: BLE001 - it will be aborted soon
            _log.failure("closing {transport}", transport=str(transport))

    def takeBack(self) -> None:
        """
        This process continues to serve, and so continue the connections whose clients have
        not been told goodbye.
        """
        for transport, drainable in list(self._told.items()):
            if transport.connected and not self._resume(transport, drainable):
                self._connections.leaving.add(transport)

    def _resume(self, transport: Any, drainable: Any) -> bool:
        """
        @return: whether a connection that was told to drain continues.
        """
        if not IResumable.providedBy(drainable):
            return False
        try:
            isResumed = bool(drainable.resume())
        except Exception:  # noqa: BLE001 - the others are to be served on
            _log.failure("resuming {transport}", transport=str(transport))
            return False
        if isResumed:
            self._resumed.add(transport)
        return isResumed


def _failed(failure: Failure, transport: str) -> None:
    _log.failure("draining {transport}", failure=failure, transport=transport)


def findDrainable(transport: Any) -> Any:
    """
    @return: what knows how to drain a connection, or C{None}: its protocol, the factory of
        that, an adapter, or any of these for a protocol that is wrapped in another.
    """
    protocol = transport.protocol
    while protocol is not None:
        factory = getattr(protocol, "factory", None)
        if IDrainableFactory.providedBy(factory):
            drainable = factory.drainable(protocol)
        else:
            drainable = IDrainable(protocol, None)
        if drainable is not None:
            return drainable
        protocol = protocol.wrappedProtocol if isinstance(protocol, ProtocolWrapper) else None
    return None


def _close(transport: Any) -> None:
    """
    Close a connection as its own protocol would: above TLS, which has its own closing alert
    to send.  What is received from now on would not be answered, so the protocol must not
    act upon it.
    """
    if not transport.connected:
        return
    top, protocol = transport, transport.protocol
    while isinstance(protocol, ProtocolWrapper):
        top, protocol = protocol, protocol.wrappedProtocol
    with suppress(AttributeError):
        protocol.dataReceived = lambda data: None
    top.unregisterProducer()
    top.loseConnection()


def loadKnownProtocols() -> list[Any]:
    """
    Load our modules for the libraries that this process has loaded.

    @return: the modules, each of which has C{adapters()}.
    """
    return loadKnown(
        _KNOWN,
        "no graceful drain for connections of {libraries} (cannot import {name}): they are "
        "closed at the drain deadline",
    )


def _register(adapters: dict[type, Any]) -> None:
    """
    Register what makes an L{IDrainable} of the objects of some classes, unless
    the application has registered something else.
    """
    for cls, adapter in adapters.items():
        if getAdapterFactory(cls, IDrainable, None) is None:
            registerAdapter(adapter, cls, IDrainable)
