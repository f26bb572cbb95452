"""
How this process was started, recorded when txtableflip is imported: later the application
may have changed its directory, C{sys.argv} or its environment, or started processes.
Nothing else in the package acts when it is imported, except that a process which was
started in an upgrade becomes ready for signals (L{txtableflip._launch.signals}).
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable, Mapping, MutableMapping

from txtableflip._launch.bundle import Start, beforeBundle
from txtableflip._launch.release import releaseIn

CHANNEL_VARIABLE = "TXTABLEFLIP_CHANNEL"
"""
The environment variable by which a child learns the number of the descriptor
that connects it with its parent.
"""

CHANNEL_DESCRIPTOR = 3
"""
That number: the first after the standard ones, which is free in a process that has just
been started.
"""

KEEPER_VARIABLE = "TXTABLEFLIP_KEEPER"
"""
The environment variable by which a process learns that C{tableflip run} keeps it: the
number of a pipe's reading end, which is at its end of file when the keeper has exited.
"""

KEEPER_DESCRIPTOR = 4
"""
That number in a child.
"""

UNDO_VARIABLE = "TXTABLEFLIP_UNDO"
"""
The environment variable by which a child learns how to restore the environment of the first
generation: JSON, a value for each name, and null for one that was not set.
"""


def recordEnvironment(current: MutableMapping[str, str], path: str) -> dict[str, str]:
    """
    Find the environment of the first generation, and remove from our own the variable that
    describes it.

    @param current: the environment as it is by now, which is used if there is no other.
    @param path: of the file in which the kernel shows that with which this process was
        started.  A process that changes its title may have overwritten it.
    @return: the environment to use.
    """
    undo = current.pop(UNDO_VARIABLE, "{}")
    try:
        with open(path, "rb") as file:
            found = parseEnviron(file.read())
    except (OSError, ValueError):
        found = dict(current)
    found.pop(UNDO_VARIABLE, None)
    found.pop(CHANNEL_VARIABLE, None)
    found.pop(KEEPER_VARIABLE, None)
    if found.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        # systemd's watchdog waits for another process (sd_watchdog_enabled(3)).
        found.pop("WATCHDOG_USEC", None)
    return undone(found, undo)


def parseEnviron(text: bytes) -> dict[str, str]:
    """
    @param text: what proc_pid_environ(5) describes.
    @return: the variables.
    @raise ValueError: if it is something else, such as the title of a process and the rest
        of what that has overwritten.
    """
    if text and not text.endswith(b"\0"):
        raise ValueError("it is cut")
    variables: dict[str, str] = {}
    for line in text.split(b"\0")[:-1]:
        name, equals, value = line.partition(b"=")
        if not name or not equals:
            raise ValueError(f"{line!r} is not a variable")
        # As for getenv(3), the first one counts.
        variables.setdefault(os.fsdecode(name), os.fsdecode(value))
    return variables


def undone(environment: Mapping[str, str], undo: str) -> dict[str, str]:
    """
    @param undo: the value of C{TXTABLEFLIP_UNDO}.
    @return: the environment as it was before.
    """
    try:
        before = {**environment, **json.loads(undo)}
    except (ValueError, TypeError):
        _warn("{name} is not JSON: ignored", name=UNDO_VARIABLE)
        return dict(environment)
    return {name: value for name, value in before.items() if isinstance(value, str)}


def recordProgram(executable: str | None, name: str) -> tuple[str, str | None]:
    """
    Find the interpreter, even where Python could not: Python looks for itself by the name
    that it was called by (C{argv[0]}), which may be anything, and lead to another program.

    @param executable: what Python has found: C{sys.executable}.
    @param name: what it was called.
    @return: the path of the program that this process runs, or the empty string if that is
        unknown; and what to call it, if not by its path.
    """
    try:
        real = os.readlink("/proc/self/exe")
    except OSError:
        # /proc is not mounted.
        return executable or "", None
    isThere = executable is not None and os.path.isfile(executable)
    if isThere and (os.sep in name or os.path.samefile(str(executable), real)):
        return str(executable), None
    return real, name


def recordStart() -> Start:
    """
    @return: how this process was started, except in which directory.
    """
    environment = recordEnvironment(os.environ, "/proc/self/environ")
    program, name = recordProgram(sys.executable, sys.orig_argv[0] if sys.orig_argv else "")
    return beforeBundle(Start(program, name, tuple(sys.orig_argv[1:]), environment))


def recordDirectory(environment: Mapping[str, str]) -> str:
    """
    @return: the working directory by the name that the user's shell gave it (C{PWD}), if
        that is right; else by its real name; the root directory if it has been removed.
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
    @return: the number of the channel's descriptor, if there is one.
    """
    return _recordDescriptor(
        environment, CHANNEL_VARIABLE, stat.S_ISSOCK, "a socket: starting as generation 1"
    )


def recordKeeper(environment: MutableMapping[str, str]) -> int | None:
    """
    @return: the number of the keeper's pipe, if there is one.
    """
    return _recordDescriptor(
        environment, KEEPER_VARIABLE, stat.S_ISFIFO, "a pipe: continuing without a keeper"
    )


def _recordDescriptor(
    environment: MutableMapping[str, str], name: str, isOne: Callable[[int], bool], what: str
) -> int | None:
    """
    Take the number of a descriptor out of the environment, so that no process which this
    one starts can mistake it for its own; and make the descriptor itself not inheritable.

    @param isOne: returns whether a mode of L{os.stat_result} is of the right kind.
    @return: the number, if there is one and it names such a descriptor.
    """
    value = environment.pop(name, None)
    if value is None:
        return None
    try:
        fileno = int(value)
        if isOne(os.fstat(fileno).st_mode):
            os.set_inheritable(fileno, False)
            return fileno
    except (ValueError, OverflowError, OSError):
        pass
    _warn("{name}={value} does not name {what}", name=name, value=value, what=what)
    return None


def _warn(line: str, **fields: str) -> None:
    # This imports Twisted, which the tableflip command does without.
    from txtableflip._journal import ProcessLogger  # noqa: PLC0415

    ProcessLogger().warn(line, **fields)


DIRECTORY = recordDirectory(os.environ)
"""
Where this process was started.
"""

RELEASE = releaseIn(DIRECTORY)
"""
What that directory's name says of the release: a link in it may be moved soon.
"""

START = recordStart()
"""
How the first generation was started, as far as this process knows.
"""

ARGUMENTS = START.arguments
"""
The arguments of this process: all of them, those of the interpreter first.
"""

PROGRAM_ARGUMENTS = tuple(sys.argv[1:])
"""
Those of the program, as it was started; the last of C{ARGUMENTS}, unless C{sys.argv} was
changed before.
"""

STARTED_AS = os.getpid()
"""
The process id at start: one that becomes a daemon gets another.
"""

KEEPER = recordKeeper(os.environ)
"""
The number of the keeper's pipe, if this process has a keeper.
"""

_channel = recordChannel(os.environ)


def takeChannel() -> int | None:
    """
    @return: the number of the channel's descriptor, for the first caller; C{None} for any
        later one, or if this process was not started in an upgrade.
    """
    global _channel
    fileno, _channel = _channel, None
    return fileno


def hasChannel() -> bool:
    """
    @return: whether there is one that was not taken yet.
    """
    return _channel is not None
