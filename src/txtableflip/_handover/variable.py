"""
The environment variable by which a process learns that it has a parent.
"""

from __future__ import annotations

import os
import stat
from collections.abc import MutableMapping

from txtableflip._journal import ProcessLogger
from txtableflip._launch.relaunch import CHANNEL_VARIABLE

_log = ProcessLogger()


def readChannel(environment: MutableMapping[str, str]) -> int | None:
    """
    Take the number of the channel's descriptor out of the environment, so that
    no process which this one starts can mistake it for its own; and keep the
    descriptor itself from them.

    @return: the number, if there is one and it names a socket.
    """
    value = environment.pop(CHANNEL_VARIABLE, None)
    if value is None:
        return None
    try:
        fileno = int(value)
        isSocket = stat.S_ISSOCK(os.fstat(fileno).st_mode)
        if isSocket:
            os.set_inheritable(fileno, False)
    except (ValueError, OverflowError, OSError):
        isSocket = False
    if not isSocket:
        _log.warn(
            "{name}={value} names no socket: going on as a first generation",
            name=CHANNEL_VARIABLE,
            value=value,
        )
        return None
    return fileno


_channel = readChannel(os.environ)


def takeChannel() -> int | None:
    """
    @return: the number of the channel's descriptor, if there is one, the first
        time.
    """
    global _channel
    fileno, _channel = _channel, None
    return fileno
