"""
A service under torture, as seen from outside: started, told to upgrade, ended.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from txtableflip import _kernel

PRELOAD = Path(__file__).parent / "_preload"
HINT = "it has no tableflip: endpoint and no Upgrader, or its Python ignores $PYTHONPATH"
MARK = "TXTABLEFLIP_TORTURE"
INTERVAL = 0.01
"""
How often to look whether something has happened, in seconds.
"""

PATIENCE = 90.0
"""
How long to wait for the service by default, in seconds.
"""

_LOOKS = 10
"""
How often to look for the environment of a process that seems to have none.
"""

T = TypeVar("T")


class TortureError(Exception):
    """
    The service did something that no service may do, such as not to start: the
    message says what, and has the last lines that it has printed.
    """


@dataclass(frozen=True)
class Fault:
    """
    What is to go wrong in the service, once.

    @ivar moment: when, by a name of C{txtableflip_moments}, in
        C{_preload}.
    @ivar victims: which processes get the signal: C{"old"}, C{"new"}.
    @ivar signal: its number.
    @ivar error: what the process at this moment raises instead.
    """

    moment: str
    victims: tuple[str, ...] = ()
    signal: int = signal.SIGKILL
    error: str | None = None

    def write(self, path: Path) -> None:
        """
        Leave it where the service looks for it, in one step.
        """
        described: dict[str, Any] = {"moment": self.moment}
        if self.error is None:
            described.update(victims=self.victims, signal=int(self.signal))
        else:
            described["error"] = self.error
        written = path.with_suffix(".new")
        written.write_text(json.dumps(described))
        written.replace(path)


@dataclass(frozen=True)
class Event:
    """
    Something that a process of the service has said of itself.

    @ivar what: a moment's name, C{serves}, C{upgrade done}, C{upgrade failed},
        or C{fault}.
    @ivar time: when, in seconds since the epoch.
    @ivar accepts: whether the process accepts connections at this moment.
    @ivar state: what it answers to C{tableflip status}.
    @ivar victims: the processes that a fault is done to.
    """

    what: str
    pid: int
    time: float
    generation: int = 0
    why: str = ""
    moment: str = ""
    accepts: bool | None = None
    state: str | None = None
    victims: tuple[int, ...] = ()


class Service:
    """
    All processes of a service: they have a mark in their environment, by which
    they are found, and ended.

    @ivar directory: where it tells what happens; its output is there too.
    @ivar served: which process has served as which generation, in order.
    @ivar pid: the process that serves.
    @ivar patience: how long a start, or an upgrade with its drain, may take, in
        seconds.
    """

    def __init__(self, command: Sequence[str], *, redeploy: int = signal.SIGHUP) -> None:
        """
        @param redeploy: the signal for an upgrade.
        """
        self._temporary = tempfile.TemporaryDirectory(prefix="txtableflip-torture-")
        self.directory: Path = Path(self._temporary.name)
        self.command: list[str] = list(command)
        self.events: list[Event] = []
        self.served: list[Event] = []
        self.pid = 0
        self._redeploy = redeploy
        self.patience = PATIENCE
        self._position = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """
        Start it, and wait until it serves.

        @raise TortureError: if it does not.
        """
        path = os.pathsep.join(filter(None, [str(PRELOAD), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, MARK: str(self.directory)}
        if self._process is not None:
            # To a reader of the pid file, a zombie looks like a running service.
            self._process.wait()
        # What a stopped one has reported does not count for this one.
        self.read()
        before = len(self.served)
        with (self.directory / "output").open("ab") as output:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - that is what we are for
                    self.command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            except OSError as error:
                raise TortureError(f"{self.command[0]} cannot be started: {error}") from error
        started = self._process
        self.until(lambda: len(self.served) > before or self._isOver(started), "a start")
        if len(self.served) == before:
            raise TortureError(self._withOutput("the service ended before it served"))

    def _isOver(self, started: subprocess.Popen[bytes]) -> bool:
        # A process that becomes a daemon exits, with status 0, before the daemon serves.
        return bool(started.poll()) or (started.returncode == 0 and not self.processes())

    def fail(self, fault: Fault) -> None:
        """
        Make something go wrong at a moment that is still to come.
        """
        fault.write(self.directory / "fault")

    def forgetFault(self) -> None:
        """
        Let nothing go wrong any more.
        """
        (self.directory / "fault").unlink(missing_ok=True)

    def redeploy(self) -> None:
        """
        Tell the process that serves to upgrade.

        @raise TortureError: if it has exited.
        """
        self.read()
        if not isAlive(self.pid):
            gone = f"process {self.pid}, which served, has exited"
            raise TortureError(self._withOutput(gone))
        with suppress(ProcessLookupError):
            os.kill(self.pid, self._redeploy)

    def upgrade(self) -> Event:
        """
        Upgrade, and wait until it is final: the old process has said that it never
        will serve again, though it may drain, or is gone, or has said that the
        upgrade failed.

        @return: C{serves} or C{upgrade failed}.
        @raise TortureError: if neither happens, or no process is left.
        """
        self.read()
        old, before = self.pid, len(self.events)
        self.redeploy()

        def outcome() -> Event | None:
            new = None
            isFinal = not isAlive(old)
            for event in self.events[before:]:
                if event.what == "upgrade failed" and event.pid == old:
                    return event
                if event.what == "serves" and event.pid != old:
                    new = event
                isFinal |= event.what == "upgrade done" and event.pid == old
            if not isAlive(old) and not self.processes():
                raise TortureError(self._withOutput("no process of the service is left"))
            return new if isFinal else None

        return self.until(outcome, f"the outcome of an upgrade of process {old}")

    def until(self, condition: Callable[[], T | None], what: str) -> T:
        """
        Wait until a condition is true, and return its value.
        """
        end = time.monotonic() + self.patience
        while True:
            self.read()
            value = condition()
            if value:
                return value
            if time.monotonic() > end:
                message = f"waited {self.patience:g} s in vain for {what}"
                raise TortureError(self._withOutput(message))
            time.sleep(INTERVAL)

    def read(self) -> None:
        """
        Take in what the processes have said since.
        """
        try:
            with (self.directory / "events").open("rb") as file:
                file.seek(self._position)
                lines = file.read().splitlines(keepends=True)
        except FileNotFoundError:
            return
        for line in lines:
            if line.endswith(b"\n"):
                self._position += len(line)
                self._heard(Event(**json.loads(line)))

    def _heard(self, event: Event) -> None:
        self.events.append(event)
        if event.what in ("serves", "upgrade failed"):
            self.pid = event.pid
        if event.what == "serves":
            self.served.append(event)

    def processes(self) -> list[int]:
        """
        @return: the ids of all its living processes.
        """
        return processesWith(f"{MARK}={self.directory}")

    def output(self) -> str:
        """
        @return: what it has printed, which is its log if that goes there.
        """
        path = self.directory / "output"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def _withOutput(self, message: str) -> str:
        last = self.output().strip().splitlines()[-15:]
        hint = "" if self.events else f" ({HINT})"
        printed = "\n    ".join(["; its output ends with:", *last]) if last else ""
        return f"{message}{hint}{printed}"

    def stop(self) -> None:
        """
        End all its processes: by SIGTERM, and those that are left after a while by SIGKILL.
        """
        for number, seconds in ((signal.SIGTERM, 5.0), (signal.SIGKILL, self.patience)):
            end = time.monotonic() + seconds
            signalled: set[int] = set()
            while (pids := self.processes()) and time.monotonic() < end:
                for pid in set(pids) - signalled:
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)
                        os.kill(pid, signal.SIGCONT)
                signalled.update(pids)
                time.sleep(INTERVAL)
        if self._process is not None:
            self._process.wait()

    def discard(self) -> None:
        """
        Remove its directory.
        """
        self._temporary.cleanup()


def processesWith(variable: str) -> list[int]:
    """
    @param variable: C{NAME=value}.
    @return: the ids of all living processes that have it in their environment.
    """
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and isAlive(int(name)):
            with suppress(OSError):
                if variable.encode() in environmentOf(int(name)).split(b"\0"):
                    found.append(int(name))
    return sorted(found)


def environmentOf(pid: int) -> bytes:
    """
    @return: the environment of a process, as proc_pid_environ(5) has it.
    @raise OSError: if it has ended, or belongs to another user or the kernel.
    """
    process = Path(f"/proc/{pid}")
    for _ in range(_LOOKS):
        environment = (process / "environ").read_bytes()
        if environment:
            return environment
        # In the middle of execve(2) there is a program already, but no environment for a
        # moment.
        os.readlink(process / "exe")
        time.sleep(INTERVAL)
    return b""


def isAlive(pid: int) -> bool:
    """
    @return: whether a process runs: a zombie does not.
    """
    return stateOf(pid)[0] not in "ZX"


def zombiesOf(parents: Collection[int]) -> list[int]:
    """
    @return: the ids of all children of these processes that have ended, and have not been
        waited for.
    """
    states = {int(name): stateOf(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    return [
        pid for pid, (state, parent) in states.items() if state == "Z" and parent in parents
    ]


def stateOf(pid: int) -> tuple[str, int]:
    """
    @return: the state of a process as a letter of proc_pid_stat(5), C{"X"} for one
        that is gone, and the process id of its parent.
    """
    try:
        return _kernel.stateOf(pid)
    except (FileNotFoundError, ProcessLookupError):
        return "X", 0


_RESERVED_AT_ONCE = 50
_reserved: deque[socket.socket] = deque()


def freePort() -> int:
    """
    Find a port for a service that is about to be started.  It is reserved: until many
    others have been found, the kernel gives it to no process that lets it choose, such as a
    test beside this one, and yet a server can listen there, as servers set C{SO_REUSEADDR}
    (socket(7)).

    @return: a TCP port of the loopback interface on which nothing listens.
    """
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    _reserved.append(sock)
    if len(_reserved) > _RESERVED_AT_ONCE:
        _reserved.popleft().close()
    port: int = sock.getsockname()[1]
    return port
