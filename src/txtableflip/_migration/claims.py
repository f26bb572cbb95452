"""
Which protocols' connections may migrate: a class says so for itself, and not for its
subclasses, which may have state that it knows nothing of.
"""

from __future__ import annotations

from typing import Any

from twisted.python.components import globalRegistry
from zope.interface import directlyProvidedBy, implementedBy

from txtableflip.interfaces import IMigratable, IMigratableFactory


def findMigratable(protocol: Any) -> Any:
    """
    @return: what provides L{IMigratable} for a protocol: itself, if its class or the
        object has been declared to; or what an adapter that is registered for its
        class makes of it; or C{None}.
    """
    cls = type(protocol)
    declared = (*implementedBy(cls).declared, *directlyProvidedBy(protocol))
    if any(each.isOrExtends(IMigratable) for each in declared):
        return protocol
    adapter = globalRegistry.registered([implementedBy(cls)], IMigratable)
    return None if adapter is None else adapter(protocol)


def findFactory(owner: Any) -> Any:
    """
    @param owner: of a factory: a port, or a protocol.
    @return: what provides L{IMigratableFactory} for it, or C{None}.
    """
    return IMigratableFactory(getattr(owner, "factory", None), None)
