"""
Protocols whose connections may migrate though they do not know of this package.
"""

from __future__ import annotations

from twisted.python.components import globalRegistry, registerAdapter
from zope.interface import implementedBy

from txtableflip._libraries import loadKnown

_KNOWN = {
    "txtableflip._migration.http1": {"twisted.web.http"},
    "txtableflip._migration.websocket": {"twisted.web._websocket_impl"},
}
"""
Which of our modules knows which libraries.
"""


def registerKnown() -> None:
    """
    Register what is known of the libraries that this process has loaded, unless the
    application has registered something else.
    """
    message = "connections of {libraries} do not migrate: {name} cannot be loaded"
    for module in loadKnown(_KNOWN, message):
        for adapter, cls, interface in module.ADAPTERS:
            if globalRegistry.registered([implementedBy(cls)], interface) is None:
                registerAdapter(adapter, cls, interface)
