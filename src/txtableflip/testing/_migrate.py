"""
A connection that migrates in a unit test.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from txtableflip._migration.claims import findFactory, findMigratable
from txtableflip._migration.known import registerKnown
from txtableflip._migration.moving import ConnectionMigrated, Held, Stays, begin, take
from txtableflip.interfaces import Snapshot


def migrate(protocol: Any) -> Deferred[Any]:
    """
    Have the connection of a protocol go on with another, as it would in the next process:
    nothing reaches that but the L{Snapshot <txtableflip.Snapshot>}.

    @param protocol: one that a factory has built, and that is connected: to an accepted
        connection of the reactor's, or to a
        L{StringTransport <twisted.internet.testing.StringTransport>}, on which the other
        one goes on then.
    @return: a Deferred that fires with the other protocol, when it has received what was
        unread: at once, unless the first wants to be asked again.  It fails with L{Stays}
        if the connection does not migrate, and as the factory's C{resume}.
    """
    registerKnown()
    isReal = hasattr(protocol.transport, "getHandle")
    return maybeDeferred(_migrate if isReal else _migrateFake, protocol)


def _migrate(protocol: Any) -> Any:
    port = protocol.transport.server
    taken = take(protocol.transport)
    if isinstance(taken, Deferred):
        return taken.addCallback(lambda ignored: _migrate(protocol))
    held = Held(taken, port)
    begin([held])
    return held.protocol


def _migrateFake(protocol: Any) -> Any:
    migratable, factory = findMigratable(protocol), findFactory(protocol)
    if migratable is None or factory is None:
        name = type(protocol if migratable is None else protocol.factory).__name__
        raise Stays(f"{name} does not say that its connections migrate")
    snapshot = migratable.snapshot()
    if isinstance(snapshot, Deferred):
        return snapshot.addCallback(lambda ignored: _migrateFake(protocol))
    if not isinstance(snapshot, Snapshot):
        raise Stays(f"its snapshot() is {snapshot!r}")
    transport = protocol.transport
    if transport.producer is not None:
        transport.unregisterProducer()
    protocol.connectionLost(Failure(ConnectionMigrated()))
    other = factory.resume(snapshot, transport.getPeer())
    if other is None:
        raise Stays("the factory refuses it")
    other.makeConnection(transport)
    if snapshot.unread:
        other.dataReceived(snapshot.unread)
    return other
