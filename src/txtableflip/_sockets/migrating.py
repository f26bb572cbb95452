"""
Which listeners' connections may migrate to the next generation.
"""

from __future__ import annotations

import sys
from typing import Any

from txtableflip._handover.manifest import Key
from txtableflip._journal import ProcessLogger
from txtableflip.errors import NotInheritable

_CHOICES = (False, True, "together")

NO_TLS = (
    "connections of {what} cannot migrate, because the keys of TLS cannot leave the "
    "process: terminate TLS in front of it (HAProxy, nginx, stunnel), and let the plain "
    "connections behind that migrate"
)

_log = ProcessLogger()


def checkMigrates(migrates: bool | str | None) -> None:
    """
    @raise ValueError: if that is not one of the choices.
    """
    if migrates is not None and migrates not in _CHOICES:
        raise ValueError(f"migrate must be True, False or 'together', and not {migrates!r}")


def whetherToMigrate(
    key: Key, factory: Any, wanted: bool | str | None, ofAll: bool | str
) -> bool | str:
    """
    @param wanted: what was chosen for this listener, if anything.
    @param ofAll: what was chosen for all.
    @return: whether its connections migrate, and how.
    @raise NotInheritable: if they are to migrate, and cannot.
    """
    migrates = ofAll if wanted is None else wanted
    if not (migrates and _isTLS(factory)):
        return migrates
    why = NO_TLS.format(what=key)
    if wanted:
        raise NotInheritable(why)
    _log.warn("{why}", why=why)
    return False


def _isTLS(factory: Any) -> bool:
    # An application that uses it has imported it; pyOpenSSL need not be installed.
    tls = sys.modules.get("twisted.protocols.tls")
    return tls is not None and isinstance(factory, tls.TLSMemoryBIOFactory)
