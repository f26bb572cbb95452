"""
How this process was started, recorded when txtableflip is imported: later the
application may have gone elsewhere, changed C{sys.argv}, or started processes of
its own.  Nothing else in the package acts when it is imported.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping, MutableMapping

from txtableflip._journal import ProcessLogger

CHANNEL_VARIABLE = "TXTABLEFLIP_CHANNEL"
"""
The environment variable by which a child learns the number of the descriptor
that connects it with its parent.
"""

CHANNEL_DESCRIPTOR = 3
"""
That number: the first behind the standard ones, which is where nothing else is
in a process that has just been started.
"""

_log = ProcessLogger()


def recordDirectory(environment: Mapping[str, str]) -> str:
    """
    @return: the working directory by the name that the user's shell gave it
        (C{PWD}), if that is true; else by its own; the root directory if it has
        been removed.
    """
    named = environment.get("PWD", "")
    try:
        if os.path.isabs(named) and os.path.samefile(named, "."):
            return named
    except OSError:
        pass
    try:
        return os.getcwd()
    except FileNotFoundError:
        return os.sep


def recordChannel(environment: MutableMapping[str, str]) -> int | None:
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
        if stat.S_ISSOCK(os.fstat(fileno).st_mode):
            os.set_inheritable(fileno, False)
            return fileno
    except (ValueError, OverflowError, OSError):
        pass
    _log.warn(
        "{name}={value} does not name a socket: going on as a first generation",
        name=CHANNEL_VARIABLE,
        value=value,
    )
    return None


DIRECTORY = recordDirectory(os.environ)
"""
Where this process was started.
"""

ARGUMENTS = tuple(sys.orig_argv[1:])
"""
With which arguments: all of them, those of the interpreter first.
"""

PROGRAM_ARGUMENTS = tuple(sys.argv[1:])
"""
Those of the program, as it was started; the last of L{ARGUMENTS}, unless
somebody has changed them.
"""

_channel = recordChannel(os.environ)


def takeChannel() -> int | None:
    """
    @return: the number of the channel's descriptor, to whoever asks first; or
        C{None} if this process was not started in an upgrade.
    """
    global _channel
    fileno, _channel = _channel, None
    return fileno
