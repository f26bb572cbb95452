"""
Why an address is in use: the process before this one listens there, and the socket would
have been inherited if both processes used the same name for it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable

from twisted.internet.error import CannotListenError

from txtableflip._handover.manifest import Key
from txtableflip._sockets.internet import canonicalAddress
from txtableflip._sockets.inventory import HeldDescriptor

_INTERNET = ("tcp", "tcp6", "udp", "udp6")


def whyInUse(error: object, inherited: Iterable[Key]) -> str | None:
    """
    @param error: what happened while this process started.
    @param inherited: what the process before has handed over, and was not asked for.
    @return: what to do about it, if that is the cause.
    """
    reason = getattr(error, "socketError", None)
    if not isinstance(error, CannotListenError) or _errno(reason) != errno.EADDRINUSE:
        return None
    keys = [key for key in inherited if key.kind == "listener"]
    wanted = canonicalAddress(error.interface or "", error.port)
    for key in keys:
        if key.address in (wanted, error.port):
            return (
                f"the process before this one listens there, and has handed {key} over: put "
                f"tableflip: before the endpoint again"
            )
    for key in keys:
        isInternet = key.network in _INTERNET
        if isInternet and key.address.rpartition(":")[2] == str(error.port):
            return (
                f"the process before this one listens on {key}, and will until this one has "
                f"taken over: keep its interface, or stop the service and start it once"
            )
    return None


def explaining(
    create: Callable[[], HeldDescriptor], inherited: Iterable[Key]
) -> HeldDescriptor:
    """
    @param create: makes a socket.
    @return: what it has made.
    @raise CannotListenError: as C{create} does, plus what to do about it.
    """
    try:
        return create()
    except CannotListenError as error:
        hint = whyInUse(error, inherited)
        if hint is None:
            raise
        reason = OSError(errno.EADDRINUSE, f"{os.strerror(errno.EADDRINUSE)}: {hint}")
        raise CannotListenError(error.interface, error.port, reason) from error


def _errno(reason: object) -> object:
    return getattr(reason, "errno", None)
