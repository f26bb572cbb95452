"""
One process id for supervisors that watch one: what C{tableflip run} runs.

It is run as C{python -I -S}, and imports nothing but the standard library, all of it at
start: it keeps running when the release that it was installed with is replaced, and stays
small.

Theory of operation
===================

The keeper starts COMMAND, and is to its generations what systemd is to a service: they
report their state by sd_notify(3), and deposit their sockets with it (C{FDSTORE=1}).  To
the process that started it, it is one process, which never changes.

At any moment at most one process is B{main}: the one that accepts.  It says by
C{MAINPID=} which process is main after it, as it does to systemd.  Others are heard only
to nominate themselves, and only if they are the B{successor} that main has announced; or
the one B{before}, while that may roll back; or descend from us while no process serves,
as a daemon does.  What a successor says early is kept back until it is main.

When main exits, either another process lives that may become main, and the keeper waits
for it; or the keeper starts COMMAND again, with the stored descriptors in C{LISTEN_FDS}:
the sockets have been open all the time, and clients wait in the kernel's queue.  Each
process is known by a pidfd, because a successor is not our child while its parent lives.

When the keeper itself exits, its generations read the end of a pipe.

How this file is read
=====================

L{Rules} says what follows from what happens: a table, without I/O; L{Restarts},
L{Releases} and L{Family} do no I/O either.  Then come the parts, each with one job.
L{Core} has them all; L{Starts} and L{Stops} are the steps of the table, and L{Keeper} is
told what happens.  L{Desk} answers the C{tableflip} command, L{Hearing} knows which
process may say what, and L{Meanings} what that means; L{Loop} waits for everything.  When
nothing happens, nothing runs.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import fcntl
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

Rows = dict[str, tuple[str, str | None]]

# -- the rules

_ENDS: Rows = {
    "crashed": ("Pausing", "startAgain"),
    "finished": ("Ended", "release"),
    "failed": ("Ended", "giveUp"),
    "stop": ("Stopping", "passStop"),
}
_RUNNING: Rows = {"ready": ("Serving", "announce"), "left": ("Awaiting", "wait"), **_ENDS}

TABLE: dict[str, Rows] = {
    # There is a main process, which does not serve yet.
    "Starting": {**_RUNNING, "handed": ("Starting", None), "late": ("Starting", "endLate")},
    # There is one that serves, or that has taken over from one that did.
    "Serving": {**_RUNNING, "handed": ("Serving", None)},
    # No process is main; one lives that may become it.
    "Awaiting": {**_ENDS, "handed": ("Starting", "expect"), "late": ("Awaiting", "endLate")},
    # No process is left; the command is started after a delay, which may be 0.
    "Pausing": {
        "start": ("Starting", "start"),
        "handed": ("Starting", "expect"),
        "failed": ("Ended", "giveUp"),
        "stop": ("Ended", "release"),
    },
    # It was asked to stop.
    "Stopping": {
        "handed": ("Stopping", "passStop"),
        "left": ("Stopping", "passStop"),
        "finished": ("Ended", "release"),
        "stop": ("Stopping", "insist"),
    },
    # No process will be started any more; older ones may finish.
    "Ended": {"stop": ("Ended", "insist")},
}
"""
For each state and input the next state, and what is done: a method of L{Starts} or of
L{Stops}.  Other inputs change nothing.
"""

POLICIES = ("always", "on-failure", "no")


class Rules:
    """
    The state of the service.

    @ivar state: a key of L{TABLE}.
    @ivar hasServed: whether there is a service to continue: a process was ready once, or
        something is in the store.
    """

    def __init__(self, policy: str) -> None:
        self.state = "Pausing"
        self.hasServed = False
        self.policy = policy

    def hear(self, what: str) -> str | None:
        """
        Something happens.

        @return: what is to be done.
        """
        self.state, step = TABLE[self.state].get(what, (self.state, None))
        return step

    def meaningOf(self, last: Generation, *, hasHeir: bool, hasLeft: bool) -> str:
        """
        @param last: the process that was main, and has exited.
        @param hasHeir: whether a process lives that we know may become main.
        @param hasLeft: whether we have other children.
        @return: what it means that no process is main.
        """
        if self.state == "Stopping":
            return "left" if hasHeir else "finished"
        hasSucceeded = last.status == 0
        if hasHeir or (hasSucceeded and not last.isReady and hasLeft):
            # That was the launcher of a daemon, if there is no heir.
            return "left"
        if hasSucceeded and last.isReady and self.policy != "always":
            return "finished"
        # A service that cannot be started at all is for the process that started us to handle.
        isHopeless = not self.hasServed or self.policy == "no"
        return "failed" if isHopeless else "crashed"


class Restarts:
    """
    When to start again: at once after a process that has served, with growing delays after
    those that have not, and not forever.
    """

    LIMIT, WITHIN = 5, 60.0
    FIRST, LONGEST = 0.1, 5.0

    def __init__(self) -> None:
        self.count = 0
        self._times: list[float] = []
        self._delay = 0.0

    def next(self, now: float, *, hadServed: bool) -> float | None:
        """
        @return: in how many seconds; C{None} for never.
        """
        self._delay = 0.0 if hadServed else min(self.LONGEST, 2 * self._delay or self.FIRST)
        self._times = [each for each in self._times if now - each < self.WITHIN]
        if len(self._times) >= self.LIMIT:
            return None
        self._times.append(now)
        self.count += 1
        return self._delay


class Releases:
    """
    In which directory the next start is: with C{--on-crash previous}, a release that
    crashes within a minute of taking over is followed by the one before.
    """

    WITHIN = 60.0

    def __init__(self, *, mayGoBack: bool) -> None:
        self.pinned: str | None = None
        self._mayGoBack = mayGoBack
        self._before: str | None = None
        self._current: str | None = None
        self._since = 0.0

    def serves(self, directory: str | None, now: float, *, byUpgrade: bool) -> None:
        """
        A process serves that runs in that directory.
        """
        if byUpgrade:
            # Not if it is the one before, which has rolled back.
            isBack = directory == self._before
            self._before = None if isBack else self._current
            self._since, self.pinned = now, None
        self._current = directory

    def crashed(self, now: float) -> bool:
        """
        @return: whether the next start is of the release before.
        """
        before, self._before = self._before, None
        isBad = now - self._since < self.WITHIN and before not in (None, self._current)
        isGoingBack = self._mayGoBack and isBad
        if isGoingBack:
            self.pinned = before
        return isGoingBack


class Generation:
    """
    A process that serves, has served, or is to.

    @ivar pidfd: readable when it has exited; C{None} if it exited before we could open one.
    @ivar isReady: whether it has said that it serves.
    @ivar isUpgrade: whether it has become main in an upgrade, or in the failure of one.
    @ivar isStopping: whether it has said that it stops, or has been told to.
    @ivar isOverdue: whether we terminate it.
    @ivar hasEnded: whether it has exited, even if that has not been acted upon yet.
    @ivar status: its exit status: a negative one is a signal; C{None} if it is unknown,
        because it was the child of another process.
    @ivar early: what it said before it was main.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.pidfd: int | None = None
        self.isReady = self.isUpgrade = self.isStopping = False
        self.isOverdue = self.hasEnded = False
        self.status: int | None = None
        self.early: list[Said] = []


class Family:
    """
    Which process is what.

    @ivar main: the one that accepts, or is to.
    @ivar successor: the one that initialises beside it.
    @ivar before: the one that has handed over to main, and may roll back.
    @ivar older: those that have been main, and live.
    @ivar unheard: what generations have said that are not announced yet, by process id: what
        announces them may come later, if our queue was full.
    """

    def __init__(self) -> None:
        self.unheard: dict[int, list[Said]] = {}
        self.main: Generation | None = None
        self.successor: Generation | None = None
        self.before: Generation | None = None
        self.older: list[Generation] = []

    @property
    def heir(self) -> Generation | None:
        """
        The process that may become main if main exits.
        """
        return self.before or self.successor

    @property
    def isServed(self) -> bool:
        """
        Whether main serves.
        """
        return self.main is not None and self.main.isReady and not self.main.hasEnded

    def everybody(self) -> list[Generation]:
        """
        @return: all of them.
        """
        return [who for who in (self.main, self.successor, *self.older) if who is not None]

    def find(self, pid: int) -> Generation | None:
        """
        @return: the one with that process id.
        """
        return next((who for who in self.everybody() if who.pid == pid), None)

    def meet(self, who: Generation) -> Generation:
        """
        @return: a process that is announced, with what it has said before that.
        """
        who.early = self.unheard.pop(who.pid, [])
        return who

    def mayNominateItself(self, who: Generation | None, *, isOurs: bool) -> bool:
        """
        @param who: C{None} for a process that is not of the family.
        @param isOurs: whether that process descends from us.
        """
        isKnown = who is not None and who in (self.successor, self.before)
        return isKnown or (isOurs and not self.isServed)

    def becomesMain(self, who: Generation) -> None:
        """
        Another process is main from now on.
        """
        former, isBack = self.main, who is self.before
        wasReady = former is not None and former.isReady
        who.isUpgrade = isBack or wasReady or who is self.successor
        self.forget(who)
        if former is not None:
            self.older.append(former)
        self.before = None if isBack else former
        self.main, who.isReady = who, False

    def forget(self, who: Generation) -> None:
        """
        A process has none of these roles any more.
        """
        for role in ("main", "successor", "before"):
            if getattr(self, role) is who:
                setattr(self, role, None)
        self.older = [each for each in self.older if each is not who]


# -- the parts

_PR_SET_CHILD_SUBREAPER = 36
_SI_KERNEL = 0x80
_CREDENTIALS = struct.Struct("3i")
_MAX_DATAGRAM = 8192
_MAX_RIGHTS = 253
_MAX_TURNS = 10_000
_MAX_WAITING = 10_000
_MAX_STORED = 8192
_MAX_NAMES = 100_000
_MAX_REQUEST = 1 << 16
_MAX_SESSIONS = 100
_MAX_EARLY = 100
_MAX_LINE = 4096
_LONGEST_WAIT = 1e9

LIST = "txtableflip-list-"
"""
How the name of a descriptor begins that is the list of others: a line of names, and then
data that only the generations understand.
"""

STORED = "txtableflip-"
"""
How the names of all descriptors begin that a generation deposits.
"""

CHANNEL = "TXTABLEFLIP_CHANNEL"
KEEPER = "TXTABLEFLIP_KEEPER"

HIDDEN = frozenset(
    (
        *("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "FDSTORE", "MAINPID"),
        *("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "SYSTEMD_EXEC_PID"),
        *(CHANNEL, KEEPER),
    )
)
"""
Variables that are for this process only.
"""

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
PASSED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)

_libc = ctypes.CDLL(None, use_errno=True)


def system(call: str, *arguments: object) -> int:
    """
    Call a function of the C library that Python does not wrap.

    @raise OSError: if it fails.
    """
    result: int = getattr(_libc, call)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}(2): {os.strerror(number)}")
    return result


def log(text: str) -> None:
    """
    Write a line to standard error, without waiting for a reader.
    """
    line = f"tableflip[{os.getpid()}]: {text}\n".encode("utf-8", "replace")[:_MAX_LINE]
    with suppress(OSError):
        poll = select.poll()
        poll.register(2, select.POLLOUT)
        # A pipe that is ready takes this much at once (pipe(7)).
        if poll.poll(0):
            os.write(2, line)


def howItEnded(who: Generation) -> str:
    """
    @return: which process has exited, and how.
    """
    status = who.status
    if status is None:
        return f"process {who.pid} has ended"
    if status >= 0:
        return f"process {who.pid} exited with status {status}"
    with suppress(ValueError):
        return f"process {who.pid} was killed by {signal.Signals(-status).name}"
    return f"process {who.pid} was killed by signal {-status}"


def statOf(pid: int) -> list[bytes]:
    """
    @return: what the kernel says of a process (proc_pid_stat(5)), from its state on.
    @raise OSError: if there is no such process.
    """
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()


def isOurs(pid: int) -> bool:
    """
    @return: whether a process descends from this one.
    """
    with suppress(OSError):
        while pid != os.getpid():
            pid = int(statOf(pid)[1])
        return True
    return False


def children() -> list[int]:
    """
    @return: the processes that this one is the parent of (proc_tid_children(5)).
    """
    pid = os.getpid()
    with suppress(OSError), open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
        return [int(each) for each in file.read().split()]
    return []


def isGeneration(pid: int) -> bool:
    """
    @return: whether a process was started in an upgrade: only those have the variable.
    """
    with suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
        return any(each.startswith(f"{CHANNEL}=".encode()) for each in file.read().split(b"\0"))
    return False


def directoryOf(pid: int | None) -> str | None:
    """
    @return: a process's working directory, with links resolved.
    """
    with suppress(OSError):
        return os.readlink(f"/proc/{pid}/cwd")
    return None


def addressOf() -> str:
    """
    @return: the name of this process's control socket, computed as a generation's is.
    @raise OSError: if there is no /proc.
    """
    pid, started = os.getpid(), int(statOf(os.getpid())[19])
    return f"\0txtableflip/{os.stat('/proc/self/ns/pid').st_ino}/{pid}/{started}"


class Descriptor(int):
    """
    A descriptor that is ours: it is closed when nothing refers to it any more.
    """

    def __del__(self) -> None:
        os.close(self)


def watched(pid: int) -> Generation:
    """
    @return: a process whose exit will be noticed, even if its pid is reused.
    """
    who = Generation(pid)
    try:
        who.pidfd = Descriptor(os.pidfd_open(pid))
    except OSError:
        who.hasEnded = True
    return who


def send(number: int, processes: Iterable[Generation]) -> None:
    """
    Send a signal to those that still run.
    """
    for who in processes:
        if who.pidfd is not None:
            with suppress(OSError):
                signal.pidfd_send_signal(who.pidfd, number)


class Timers:
    """
    What is to be done later, by name.
    """

    def __init__(self) -> None:
        self._timers: dict[str, tuple[float, Callable[[], object]]] = {}

    def after(self, seconds: float, name: str, act: Callable[[], object]) -> None:
        """
        Do that in so many seconds, instead of what has that name.
        """
        self._timers[name] = (time.monotonic() + seconds, act)

    def cancel(self, *names: str) -> None:
        """
        Cancel these timers, if they are set.
        """
        for name in names:
            self._timers.pop(name, None)

    def left(self) -> float | None:
        """
        @return: the time before the next one, in milliseconds.
        """
        if not self._timers:
            return None
        left = min(when for when, _ in self._timers.values()) - time.monotonic()
        return min(max(0.0, left) * 1000 + 1, _LONGEST_WAIT)

    def fire(self) -> None:
        """
        Do what is due.
        """
        for name, (when, act) in list(self._timers.items()):
            if when <= time.monotonic() and self._timers.get(name) == (when, act):
                del self._timers[name]
                act()


class Upward:
    """
    Notifies the service manager above, if there is one: of everything, in order, and
    without blocking, because its queue may take as few as ten datagrams
    (C{net.unix.max_dgram_qlen}).

    @ivar isThere: whether there is a service manager above.
    """

    def __init__(self, address: str) -> None:
        self.isThere = address != ""
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._waiting: list[tuple[bytes, Sequence[int]]] = []
        self._hasFailed = False

    def filenos(self) -> list[int]:
        """
        @return: the descriptor to wait for, if there is anything to send.
        """
        return [self._socket.fileno()] if self._waiting else []

    def tell(self, *lines: str, descriptors: Sequence[int] = ()) -> None:
        """
        Send these lines, now or when there is room.
        """
        if not self.isThere:
            return
        if len(self._waiting) >= _MAX_WAITING:
            self._fail("it does not read")
            return
        self._waiting.append(("\n".join(lines).encode("utf-8", "replace"), descriptors))
        self.flush()

    def flush(self) -> None:
        """
        Send as much as its queue takes.
        """
        while self._waiting:
            data, descriptors = self._waiting[0]
            try:
                # Each time, because it may have recreated its socket.
                self._socket.connect(self._address)
                socket.send_fds(self._socket, [data], descriptors)
            except BlockingIOError:
                return
            except OSError as error:
                self._fail(str(error))
            self._waiting.pop(0)

    def _fail(self, why: str) -> None:
        if not self._hasFailed:
            self._hasFailed = True
            log(f"cannot notify the service manager: {why}")


class Store(dict[str, int]):
    """
    Descriptors by name, as systemd's store has them.

    @ivar room: for how many.
    @ivar above: a service manager whose store mirrors this one, if any.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.above: Upward | None = None

    def add(self, name: str, descriptor: int) -> bool:
        """
        Keep a descriptor.  Equal names mean the same socket, so the first one is kept.

        @return: whether there is room.
        """
        if self.above is not None:
            lines = ("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0")
            self.above.tell(*lines, descriptors=[descriptor])
        # The names must fit into one environment variable (execve(2)).
        size = len(":".join([*self, name]))
        if name not in self and (len(self) >= self.room or size > _MAX_NAMES):
            return False
        self.setdefault(name, descriptor)
        return True

    def remove(self, *names: str) -> None:
        """
        Drop the descriptors with these names.
        """
        for name in names:
            if self.above is not None:
                self.above.tell("FDSTOREREMOVE=1", f"FDNAME={name}")
            self.pop(name, None)

    def end(self) -> None:
        """
        Close all, so that clients are refused at once; but not if a service manager above
        stores them too, for its next start.
        """
        if self.above is None:
            self.clear()

    def isComplete(self) -> bool:
        """
        @return: whether one of the lists names only what is there.
        """
        if not any(name.startswith(STORED) for name in self):
            # All of it is from an application that knows nothing of lists.
            return True
        lists = [_namesIn(fd) for name, fd in self.items() if name.startswith(LIST)]
        return any(self.keys() >= names for names in lists if names)


def _namesIn(descriptor: int) -> set[str] | None:
    """
    @return: the names in a list; C{None} if it is something else.
    """
    with suppress(OSError, UnicodeError):
        line, end, _ = os.pread(descriptor, _MAX_NAMES + 1, 0).partition(b"\n")
        if end:
            return set(line.decode("ascii").split())
    return None


class Signals:
    """
    The signals that this process gets: a descriptor is readable when there are any
    (signalfd(2)), and L{signal.sigtimedwait} reports their senders.
    """

    _CAUGHT = (*STOPS, *PASSED, signal.SIGCHLD)

    def __init__(self) -> None:
        self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._CAUGHT)
        bits = (ctypes.c_uint64 * 16)(sum(1 << (number - 1) for number in self._CAUGHT))
        self.fileno = system("signalfd", -1, bits, os.O_NONBLOCK | os.O_CLOEXEC)

    def read(self) -> int | None:
        """
        @return: a signal that has come and is for us.
        """
        info = signal.sigtimedwait(self._CAUGHT, 0)
        if info is None or info.si_signo == signal.SIGCHLD:
            return None
        number, isKernels = info.si_signo, info.si_code == _SI_KERNEL
        who = "the terminal" if isKernels else f"process {info.si_pid} of user {info.si_uid}"
        log(f"{signal.Signals(number).name} from {who}")
        if isKernels and number == signal.SIGHUP:
            # The terminal is gone: that is not a request for an upgrade.
            return signal.SIGTERM
        return None if isKernels and number not in STOPS else number


class Said:
    """
    A notification.

    @ivar pid: the process that sent it.
    @ivar uid: the user of that process.
    @ivar descriptors: what came with it.
    """

    def __init__(self, data: bytes, rights: Iterable[tuple[int, int, bytes]]) -> None:
        lines = data.decode("utf-8", "replace").split("\n")
        self.fields = dict(line.split("=", 1) for line in lines if "=" in line)
        self.pid, self.uid = 0, -1
        self.descriptors: list[Descriptor] = []
        for _, kind, packed in rights:
            if kind == socket.SCM_CREDENTIALS:
                self.pid, self.uid, _ = _CREDENTIALS.unpack(packed)
            elif kind == socket.SCM_RIGHTS:
                size = len(packed) // 4
                numbers = struct.unpack(f"{size}i", packed[: size * 4])
                self.descriptors += map(Descriptor, numbers)

    def __str__(self) -> str:
        return f"{' '.join(self.fields):.200}"


class Notifications:
    """
    The socket to which generations send their notifications.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        # A name that cannot be guessed cannot be taken first by another process.
        self.address = f"@txtableflip-notify/{os.getpid()}/{os.urandom(16).hex()}"
        self._socket.bind(f"\0{self.address[1:]}")
        self.fileno = self._socket.fileno()

    def read(self) -> Iterator[Said]:
        """
        @return: an iterator over what has come.
        """
        space = socket.CMSG_SPACE(_MAX_RIGHTS * 4) + socket.CMSG_SPACE(_CREDENTIALS.size)
        with suppress(BlockingIOError):
            for _ in range(_MAX_TURNS):
                received = self._socket.recvmsg(_MAX_DATAGRAM, space, socket.MSG_CMSG_CLOEXEC)
                yield Said(*received[:2])


class Control:
    """
    The control socket, for the C{tableflip} command and its JSON lines: each comes in one
    piece, because it is sent in one.
    """

    def __init__(self, answer: Callable[[str, socket.socket], None]) -> None:
        self._answer = answer
        self._sessions: dict[int, socket.socket] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.bind(addressOf())
            self._socket.listen(_MAX_SESSIONS)
        except OSError as error:
            log(f"the tableflip command cannot reach this process: {error}")

    def filenos(self) -> list[int]:
        """
        @return: the descriptors to wait for.
        """
        return [self._socket.fileno(), *self._sessions]

    def handle(self, fileno: int) -> None:
        """
        A client has connected, or sent its request.
        """
        sock = self._sessions.pop(fileno, None)
        with suppress(OSError):
            if sock is None:
                self._accept()
            else:
                self._read(sock)

    def _accept(self) -> None:
        sock, _ = self._socket.accept()
        sock.setblocking(False)
        packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, _ = _CREDENTIALS.unpack(packed)
        if uid not in (0, os.geteuid()):
            refuse(sock, f"this process is of user {os.geteuid()}, not of {uid}")
            return
        if len(self._sessions) >= _MAX_SESSIONS:
            # The client that has waited longest without sending a request.
            self._sessions.pop(next(iter(self._sessions))).close()
        self._sessions[sock.fileno()] = sock

    def _read(self, sock: socket.socket) -> None:
        command = None
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            command = json.loads(sock.recv(_MAX_REQUEST))["command"]
        if isinstance(command, str):
            self._answer(command, sock)
        else:
            refuse(sock, "a request is a JSON object in one line, with a command")


def say(sock: socket.socket, answer: Mapping[str, object]) -> None:
    """
    Send a line to a client, without waiting for it.
    """
    with suppress(OSError):
        sock.send(json.dumps(answer).encode("ascii") + b"\n")


def conclude(sock: socket.socket, **result: object) -> None:
    """
    Send the result, and close the connection.
    """
    say(sock, {"result": result})
    sock.close()


def refuse(sock: socket.socket, why: str) -> None:
    """
    Report that there will be no answer, and close the connection.
    """
    conclude(sock, outcome="refused", reason=why)


class Launcher:
    """
    Starts the command: it and its directory are looked up by name each time.

    @ivar activated: what a systemd socket unit has opened: each name, and its descriptor.
        Passed on at each start, before what is stored, so that C{index=} of an endpoint
        means the same.
    """

    def __init__(
        self, options: argparse.Namespace, environment: Mapping[str, str], mask: Iterable[int]
    ) -> None:
        """
        @param mask: the signals that the command is to have blocked.
        """
        self.command: list[str] = options.command
        self._directory: str = options.directory or _current()
        self.environment = {k: v for k, v in environment.items() if k not in HIDDEN}
        self.activated: list[tuple[str, int]] = []
        self._mask = mask
        # Generations read its end of file when we have exited.
        self._pipe, self._held = os.pipe()
        self.limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (self.limits[1], self.limits[1]))

    def start(self, stored: Mapping[str, int], directory: str | None) -> int:
        """
        @param directory: where to start it, if not in the usual directory.
        @return: the process id.
        """
        pid = os.fork()
        if pid == 0:
            try:
                listening = [*self.activated, *stored.items()]
                self._become(listening, directory or self._directory)
            except BaseException as error:  # noqa: BLE001 - this must not return
                log(f"cannot start {self.command[0]}: {error}")
                isMissing = getattr(error, "errno", None) == errno.ENOENT
                os._exit(127 if isMissing else 126)
        return pid

    def _become(self, listening: Sequence[tuple[str, int]], directory: str) -> None:
        # No signal from a terminal, or to a process group, bypasses us.
        os.setsid()
        passed = [*(fd for _, fd in listening), self._pipe]
        first, behind = 3, 3 + len(passed)
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, behind) for fd in passed]
        for number, fd in enumerate(high, first):
            os.dup2(fd, number, inheritable=True)
        environment = {**self.environment, "PWD": directory, KEEPER: str(behind - 1)}
        if listening:
            names = ":".join(name for name, _ in listening)
            environment |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": names}
            environment["LISTEN_FDS"] = str(len(listening))
        resource.setrlimit(resource.RLIMIT_NOFILE, self.limits)
        # Python ignores these, and an ignored signal stays ignored across exec.
        for each in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(each, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        os.chdir(directory)
        os.execvpe(self.command[0], self.command, environment)  # noqa: S606 - no shell


# -- the keeper

GROUP_GRACE = 0.1
"""
How long main has to say that it stops by itself before SIGTERM is passed on, in seconds:
systemd may have sent it to the whole cgroup, and a second one would abort connections.
"""

KILL_AFTER = 5.0
ABORT_GRACE = 1.0
"""
How long a process has to exit after SIGTERM, and after SIGABRT, in seconds.
"""


class Core:
    """
    The state that the steps share.

    @ivar last: the process that was main last.
    @ivar news: what happened last, in words, for clients that ask.
    @ivar held: signals for the process that will serve.
    @ivar stoppedBy: the signal that asked it to stop.
    """

    def __init__(
        self, options: argparse.Namespace, launcher: Launcher, upward: Upward, silence: float
    ) -> None:
        """
        @param silence: how long main may send nothing, in seconds; 0 for no limit.
        """
        self.rules, self.restarts = Rules(options.restart), Restarts()
        self.releases = Releases(mayGoBack=options.on_crash == "previous")
        self.family, self.timers = Family(), Timers()
        self.launcher, self.upward = launcher, upward
        # The other descriptors are for clients, and for the keeper itself.
        self.store = Store(min(max(0, launcher.limits[1] - 256), _MAX_STORED))
        self.startTimeout: float = options.start_timeout
        self.watchdog = Watchdog(self, silence)
        self.desk = Desk(self)
        self.last, self.news = Generation(0), "it has not been started"
        self.held: list[int] = []
        self.stoppedBy: int | None = None

    def happens(self, what: str) -> None:
        """
        Let the rules decide, and do their step.
        """
        before = self.rules.state
        step = self.rules.hear(what)
        if self.rules.state != before:
            # Timers belong to the state in which they were set.
            self.timers.cancel("late", "kill", "pause", "term")
        if step is not None:
            getattr(self, step)()

    def tell(self, news: str) -> None:
        """
        Report what has happened to the log, and to the manager above.
        """
        log(news)
        self.news = news
        self.upward.tell(f"STATUS={news}")

    def signalled(self, number: int) -> None:
        """
        A signal has come.
        """
        if number in STOPS:
            self.stoppedBy = number
            self.happens("stop")
        elif number not in self.held:
            self.held.append(number)
            self.passOn()

    def passOn(self) -> None:
        """
        Send main the held signals once it serves: before, it may have no handlers, and die.
        """
        if self.family.isServed:
            held, self.held = self.held, []
            for number in held:
                send(number, self.expected())

    def expected(self) -> list[Generation]:
        """
        @return: the processes that are, or may become, main.
        """
        first = self.family.main or self.family.heir
        return [watched(pid) for pid in children()] if first is None else [first]

    def endOverdue(self, why: str, number: int, grace: float) -> None:
        """
        Terminate what is, or may become, main.

        @param grace: how many seconds after that signal it is killed.
        """
        self.tell(why)
        (self.family.main or self.last).isOverdue = True
        overdue = self.expected()
        send(number, overdue)
        self.timers.after(grace, "kill", lambda: send(signal.SIGKILL, overdue))


class Watchdog:
    """
    Kills a main process that hangs, before systemd would kill everything.
    """

    def __init__(self, core: Core, silence: float) -> None:
        self._core = core
        self._silence = silence

    def pet(self) -> None:
        """
        Main is alive.
        """
        self._next(self._silence, self._bite)

    def comfort(self) -> None:
        """
        Pet the watchdog above by ourselves, while no process serves.
        """
        self._next(self._silence / 2, self.comfort)

    def _next(self, seconds: float, act: Callable[[], None]) -> None:
        if self._silence:
            self._core.upward.tell("WATCHDOG=1")
            self._core.timers.after(seconds, "watchdog", act)

    def _bite(self) -> None:
        for hung in self._core.expected():
            why = f"process {hung.pid} hangs: killing it"
            self._core.endOverdue(why, signal.SIGABRT, ABORT_GRACE)
        self.comfort()


class Starts(Core):
    """
    The steps of the table that get a process to serve.
    """

    def start(self) -> None:
        """
        Start the command, with what is stored.
        """
        if not self.store.isComplete():
            # A process that binds their addresses anew would find them in use.
            log(f"the stored list is incomplete: closing {len(self.store)} stored descriptors")
            self.store.remove(*self.store)
        if self.store:
            self.rules.hasServed = True
        try:
            main = watched(self.launcher.start(self.store, self.releases.pinned))
        except OSError as error:
            log(f"cannot start {self.launcher.command[0]}: {error}")
            self.last = Generation(0)
            self.happens("crashed" if self.rules.hasServed else "failed")
            return
        self.family.becomesMain(main)
        self.news = f"process {main.pid} has been started, and does not serve yet"
        log(f"started process {main.pid}, with {len(self.store)} stored descriptors")
        if self.rules.hasServed:
            self.expect()

    def expect(self) -> None:
        """
        Start the timeout of the process that is to serve.
        """
        self.timers.after(self.startTimeout, "late", lambda: self.happens("late"))
        self.watchdog.comfort()

    def endLate(self) -> None:
        """
        The process that was to serve did not do so in time.
        """
        why = f"nothing serves after {self.startTimeout:g} s: terminating what should"
        self.endOverdue(why, signal.SIGTERM, KILL_AFTER)

    def wait(self) -> None:
        """
        Wait for a living process to say that it is main.
        """
        heir = self.family.heir
        who = "a daemon" if heir is None else f"process {heir.pid}"
        self.tell(f"{howItEnded(self.last)}: waiting for {who} to serve")
        self.expect()

    def startAgain(self) -> None:
        """
        Start the command again, after a delay.
        """
        now = time.monotonic()
        delay = self.restarts.next(now, hadServed=self.last.isReady)
        if delay is None:
            self.happens("failed")
            return
        again = f"starting it again{f' in {delay:g} s' if delay else ''}"
        if self.releases.crashed(now):
            again = f"GOING BACK to the release before, in {self.releases.pinned}"
        self.tell(f"{howItEnded(self.last)}: {again}")
        self.timers.after(delay, "pause", lambda: self.happens("start"))
        self.watchdog.comfort()

    def announce(self) -> None:
        """
        Main serves.
        """
        main = self.family.main
        if main is None or main.isReady:
            return
        main.isReady = self.rules.hasServed = True
        self.news = f"process {main.pid} serves"
        log(self.news)
        where = directoryOf(main.pid)
        self.releases.serves(where, time.monotonic(), byUpgrade=main.isUpgrade)
        self.watchdog.pet()
        self.passOn()
        self.desk.tell()


class Stops(Core):
    """
    The steps of the table that end the service.
    """

    def passStop(self) -> None:
        """
        Tell main to stop, unless it does so already.
        """
        number = self.stoppedBy or signal.SIGTERM
        self.upward.tell("STOPPING=1")
        untold = [who for who in self.expected() if not who.isStopping]
        if untold:
            grace = GROUP_GRACE if number == signal.SIGTERM else 0.0
            self.timers.after(grace, "term", lambda: send(number, untold))
        for who in untold:
            who.isStopping = True

    def insist(self) -> None:
        """
        Tell all processes to stop now.
        """
        self.timers.cancel("term")
        everybody = self.family.everybody() or self.expected()
        send(self.stoppedBy or signal.SIGTERM, everybody)

    def giveUp(self) -> None:
        """
        Start no process any more, though one should serve.
        """
        self.tell(f"{howItEnded(self.last)}: giving up")
        self.release()

    def release(self) -> None:
        """
        Close the stored sockets, and answer the clients that wait.
        """
        self.store.end()
        self.desk.tell()

    def exitStatus(self) -> int:
        """
        @return: that of the last main; 0 if it was told to stop, and did.
        """
        status = self.last.status
        if self.last.isOverdue:
            return 1
        if status is None:
            return 0 if self.stoppedBy else 1
        if self.stoppedBy and -status in (self.stoppedBy, signal.SIGTERM, signal.SIGINT):
            return 0
        return status if status >= 0 else 128 - status


class Keeper(Starts, Stops):
    """
    Is told what happens.
    """

    def ended(self, who: Generation) -> None:
        """
        A process has exited.
        """
        isMain, isBefore = who is self.family.main, who is self.family.before
        self.family.forget(who)
        if isMain:
            self.last = who
            self.timers.cancel("watchdog")
            self._findSuccessor()
        elif isBefore:
            self.concludeStop()
        self.reconsider()

    def _findSuccessor(self) -> None:
        """
        Main may have exited before it could announce the successor that it had started.
        """
        if self.family.successor is None:
            unknown = [pid for pid in children() if self.family.find(pid) is None]
            found = [self.family.meet(watched(pid)) for pid in unknown if isGeneration(pid)]
            self.family.successor = next(iter(found), None)

    def reconsider(self) -> None:
        """
        A process has exited, or will not serve again.
        """
        if self.family.main is None and self.rules.state not in ("Pausing", "Ended"):
            hasHeir, hasLeft = self.family.heir is not None, bool(children())
            self.happens(self.rules.meaningOf(self.last, hasHeir=hasHeir, hasLeft=hasLeft))

    def isFinal(self) -> None:
        """
        The one before will not take back.
        """
        self.family.before = None
        self.concludeStop()
        self.reconsider()

    def concludeStop(self) -> None:
        """
        If main stops, no process will serve any more, unless the one before takes back.
        """
        main = self.family.main
        if main is not None and main.isStopping and self.family.before is None:
            self.upward.tell("STOPPING=1")
            self.store.end()


class Desk:
    """
    Answers clients with the process that serves, as a process does that has been replaced.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._since = time.time()
        self._waiting: list[socket.socket] = []

    def asked(self, command: str, sock: socket.socket) -> None:
        """
        Answer a command.
        """
        core = self._core
        isOver = core.rules.state in ("Stopping", "Ended")
        if command == "status":
            conclude(sock, outcome="done", status=self.describe())
        elif command == "stop":
            if not isOver:
                core.signalled(signal.SIGTERM)
            conclude(sock, outcome="done", changed=True, processes=[os.getpid()])
        elif isOver or core.family.isServed:
            self._direct(sock)
        else:
            within = core.startTimeout + KILL_AFTER + Restarts.LONGEST
            waiting = {"name": "Waiting", "reason": core.news, "within": within}
            say(sock, {"event": {"time": time.time(), **waiting}})
            self._waiting.append(sock)

    def tell(self) -> None:
        """
        A process serves, or none ever will: answer the clients that wait for that.
        """
        waiting, self._waiting = self._waiting, []
        for sock in waiting:
            self._direct(sock)

    def _direct(self, sock: socket.socket) -> None:
        main = self._core.family.main
        if main is not None and main.isReady:
            conclude(sock, outcome="moved", pid=main.pid)
        else:
            conclude(sock, outcome="nobody", reason=f"nobody serves: {self._core.news}")

    def describe(self) -> dict[str, object]:
        """
        @return: what C{tableflip status} shows: as for a generation, plus C{keeper}.
        """
        core, family, now = self._core, self._core.family, time.time()
        roles = {
            role: getattr(getattr(family, role), "pid", None)
            for role in ("main", "successor", "before")
        }
        older = sorted(who.pid for who in family.older)
        kept = {"state": core.rules.state, "isReady": family.isServed, **roles}
        kept |= {"older": older, "stored": len(core.store), "restarts": core.restarts.count}
        return {
            "pid": os.getpid(),
            "generation": 0,
            "state": "Keeping",
            "since": self._since,
            "uptime": now - self._since,
            "directory": directoryOf(os.getpid()),
            "command": " ".join(sys.orig_argv),
            "child": roles["main"],
            "older": [*older, *filter(None, [roles["successor"]])],
            "keeper": kept,
        }


class Hearing:
    """
    Which process may say what.
    """

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._meanings = Meanings(keeper)
        self._users = {0, os.geteuid()}
        self._ignored: set[int] = set()

    def hear(self, said: Said) -> None:
        """
        A notification has come.
        """
        family = self._keeper.family
        who = family.find(said.pid)
        isNominated = said.fields.get("MAINPID") == str(said.pid)
        if who is not None and who is family.main:
            # Main may have changed its user, and then its successors run as that one.
            self._users.add(said.uid)
            self._meanings.understand(said)
        elif said.uid not in self._users or "BARRIER" in said.fields:
            self._ignore(said)
        elif isNominated and family.mayNominateItself(who, isOurs=isOurs(said.pid)):
            self._meanings.understand(said)
        elif who is not None and who is family.successor:
            who.early.append(said)
        elif who in family.older and "X_TABLEFLIP_FINAL" in said.fields:
            # Main may have said so before.
            if who is family.before:
                self._keeper.isFinal()
        elif who is None and isOurs(said.pid) and isGeneration(said.pid):
            self._remember(said)
        else:
            self._ignore(said)

    def _remember(self, said: Said) -> None:
        unheard = self._keeper.family.unheard
        if said.pid not in unheard and len(unheard) >= _MAX_EARLY:
            unheard.pop(next(iter(unheard)))
        heard = unheard.setdefault(said.pid, [])
        if len(heard) < _MAX_EARLY:
            heard.append(said)

    def _ignore(self, said: Said) -> None:
        if len(self._ignored) > _MAX_SESSIONS:
            self._ignored.clear()
        if said.pid not in self._ignored and "BARRIER" not in said.fields:
            self._ignored.add(said.pid)
            who = f"process {said.pid} of user {said.uid}"
            log(f"ignoring {who}, which is not the main process: {said}")


class Meanings:
    """
    What each field of a notification means: a method of its name.  The order of these
    methods is that of their effects: which process is main comes first, and a C{BARRIER}
    covers what stands before it.
    """

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._announced: int | None = None

    def understand(self, said: Said) -> None:
        """
        Do what main has said.
        """
        try:
            for name, means in vars(Meanings).items():
                field = name.removeprefix("_said_")
                if field != name and field in said.fields:
                    means(self, said.fields[field], said)
        except (ValueError, OverflowError, OSError) as error:
            log(f"process {said.pid} sent an invalid notification ({error}): {said}")

    def _said_MAINPID(self, value: str, said: Said) -> None:
        keeper, pid = self._keeper, int(value)
        who = keeper.family.find(pid)
        if who is None:
            # One that was announced may have exited meanwhile, and may have been reaped.
            if not isOurs(pid) and pid != self._announced:
                raise ValueError(f"process {pid} is not one of ours")
            who = keeper.family.meet(watched(pid))
        if who is not keeper.family.main:
            keeper.family.becomesMain(who)
            log(f"process {pid} is the main process now")
            keeper.happens("handed")
            for each in who.early:
                self.understand(each)
            who.early = []
            if who.hasEnded:
                keeper.ended(who)

    def _said_X_TABLEFLIP_SUCCESSOR(self, value: str, said: Said) -> None:
        pid, family = int(value), self._keeper.family
        if family.find(pid) is None and isOurs(pid):
            self._announced, successor = pid, family.meet(watched(pid))
            family.successor = None if successor.hasEnded else successor

    def _said_RELOADING(self, value: str, said: Said) -> None:
        if self._keeper.rules.state == "Serving":
            now = time.monotonic_ns() // 1000
            self._keeper.upward.tell("RELOADING=1", f"MONOTONIC_USEC={now}")

    def _said_STATUS(self, value: str, said: Said) -> None:
        self._keeper.news = value
        self._keeper.upward.tell(f"STATUS={value}")

    def _said_READY(self, value: str, said: Said) -> None:
        keeper = self._keeper
        if "X_TABLEFLIP_FAILED" in said.fields:
            keeper.family.successor = None
        keeper.happens("ready")
        if keeper.rules.state == "Serving":
            keeper.upward.tell("READY=1")

    def _said_X_TABLEFLIP_FINAL(self, value: str, said: Said) -> None:
        self._keeper.isFinal()

    def _said_STOPPING(self, value: str, said: Said) -> None:
        keeper = self._keeper
        for main in keeper.expected():
            main.isStopping = True
        keeper.timers.cancel("term")
        keeper.concludeStop()

    def _said_EXTEND_TIMEOUT_USEC(self, value: str, said: Said) -> None:
        self._keeper.upward.tell(f"EXTEND_TIMEOUT_USEC={int(value)}")

    def _said_WATCHDOG(self, value: str, said: Said) -> None:
        if self._keeper.family.isServed:
            self._keeper.watchdog.pet()

    def _said_FDSTORE(self, value: str, said: Said) -> None:
        store, name = self._keeper.store, said.fields.get("FDNAME", "stored")
        isName = name.isascii() and name.isprintable() and name and ":" not in name
        if not (said.descriptors and isName):
            raise ValueError(f"{len(said.descriptors)} to be stored as {name:.60}")
        if not store.add(name, said.descriptors[0]):
            log(f"there is no room for more than {len(store)} descriptors: {name:.60}")

    def _said_FDSTOREREMOVE(self, value: str, said: Said) -> None:
        self._keeper.store.remove(said.fields.get("FDNAME", ""))

    def _said_BARRIER(self, value: str, said: Said) -> None:
        # The sender sees it close once neither we nor the manager above have it open.
        self._keeper.upward.tell("BARRIER=1", descriptors=said.descriptors[:1])


class Loop:
    """
    Waits for everything, in one place.
    """

    def __init__(self, keeper: Keeper, signals: Signals, notifications: Notifications) -> None:
        self._keeper = keeper
        self._signals = signals
        self._notifications = notifications
        self._hearing = Hearing(keeper)
        self._control = Control(keeper.desk.asked)

    def run(self) -> int:
        """
        @return: the exit status.
        """
        keeper = self._keeper
        keeper.happens("start")
        while keeper.rules.state != "Ended" or keeper.family.everybody():
            self._turn()
        return keeper.exitStatus()

    def _turn(self) -> None:
        keeper = self._keeper
        found = self._wait()
        statuses = dict(self._reap())
        everybody = keeper.family.everybody()
        ended = [who for who in everybody if who.pid in statuses or who.pidfd in found]
        for who in ended:
            who.hasEnded, who.status = True, statuses.get(who.pid)
        # What they said before they exited comes first.
        for said in self._notifications.read():
            self._hearing.hear(said)
        for who in ended:
            keeper.ended(who)
        if statuses:
            # One of them may be a daemon that we do not know yet.
            keeper.reconsider()
        number = self._signals.read()
        if number is not None:
            keeper.signalled(number)
        for fileno in self._control.filenos():
            if fileno in found:
                self._control.handle(fileno)
        keeper.upward.flush()
        keeper.timers.fire()

    def _wait(self) -> set[int]:
        """
        @return: the descriptors that are ready.
        """
        keeper, poll = self._keeper, select.poll()
        pidfds = [who.pidfd for who in keeper.family.everybody() if who.pidfd is not None]
        ours = (self._signals.fileno, self._notifications.fileno, *self._control.filenos())
        for fileno in (*ours, *pidfds):
            poll.register(fileno, select.POLLIN)
        for fileno in keeper.upward.filenos():
            poll.register(fileno, select.POLLOUT)
        return {fileno for fileno, _ in poll.poll(keeper.timers.left())}

    def _reap(self) -> Iterator[tuple[int, int]]:
        """
        @return: an iterator over the children that have exited, and how.
        """
        with suppress(ChildProcessError):
            for _ in range(_MAX_TURNS):
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                yield pid, os.waitstatus_to_exitcode(status)


# -- the command line


def _seconds(text: str) -> float:
    """
    @raise ValueError: if that is not a time.
    """
    seconds = float(text)
    if not 0 < seconds < _LONGEST_WAIT / 1000:
        raise ValueError(text)
    return seconds


def _directory(text: str) -> str:
    """
    @raise argparse.ArgumentTypeError: if there is no such directory.
    """
    if not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text} is not a directory")
    return os.path.abspath(text)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """
    @return: the options, and C{command}.
    """
    parser = argparse.ArgumentParser(
        prog="tableflip run",
        usage="%(prog)s [options] -- COMMAND ...",
        description="Run a service under one process id: start COMMAND, restart it with its "
        "sockets when it crashes, and exit with its status.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    where = "where COMMAND is started; looked up at each start [the current directory]"
    add("--directory", type=_directory, metavar="DIR", help=where)
    when = "when COMMAND is started again [%(default)s]"
    add("--restart", choices=POLICIES, default="on-failure", help=when)
    late = "how many seconds it may take after that until it serves [60]"
    add("--start-timeout", type=_seconds, default=60.0, metavar="S", help=late)
    store = "store sockets with the systemd above, too [if it says that it stores any]"
    add("--forward-store", action="store_true", help=store)
    back = "if a release crashes within a minute, start in the directory of the one before"
    add("--on-crash", choices=["previous"], help=back)
    place = words.index("--") if "--" in words else len(words)
    options, more = parser.parse_known_args(words[:place])
    options.command = list(words[place + 1 :])
    if more:
        parser.error(f"write -- before the command, and options before that: {more[0]}")
    if not options.command:
        parser.error("say what to run, after --")
    return options


def _current() -> str:
    """
    @return: the working directory, by the name that a shell has given it, if any.
    """
    named = os.environ.get("PWD", "")
    with suppress(OSError):
        if os.path.isabs(named) and os.path.samefile(named, "."):
            return named
    return os.getcwd()


def _integer(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0


def _activated(environment: Mapping[str, str]) -> list[tuple[str, int]]:
    """
    @return: what systemd has passed to us, sd_listen_fds(3).
    """
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = _integer(environment.get("LISTEN_FDS"))
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    if len(names) != count:
        names = ["unknown"] * count
    for fd in range(3, 3 + count):
        os.set_inheritable(fd, False)
    return list(zip(names, range(3, 3 + count), strict=True))


def makeLoop(options: argparse.Namespace, environment: Mapping[str, str]) -> Loop:
    """
    @param environment: what this process was started with.
    """
    signals, notifications = Signals(), Notifications()
    launcher = Launcher(options, environment, signals.mask)
    upward = Upward(environment.get("NOTIFY_SOCKET", ""))
    isForUs = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    usec = _integer(environment.get("WATCHDOG_USEC")) if isForUs else 0
    keeper = Keeper(options, launcher, upward, usec / 2e6)
    for name, descriptor in _activated(environment):
        if name.startswith(STORED):
            keeper.store.add(name, Descriptor(descriptor))
        else:
            launcher.activated.append((name, descriptor))
    if upward.isThere and (options.forward_store or _integer(environment.get("FDSTORE"))):
        keeper.store.above = upward
    said = {"NOTIFY_SOCKET": notifications.address, "FDSTORE": str(keeper.store.room)}
    if usec:
        said["WATCHDOG_USEC"] = str(usec // 2)
    launcher.environment |= said
    return Loop(keeper, signals, notifications)


def main(words: Sequence[str]) -> int:
    """
    @param words: the arguments of C{tableflip run}.
    @return: the exit status.
    """
    options = parse(words)
    if not sys.platform.startswith("linux"):
        sys.stderr.write("tableflip run: this needs Linux\n")
        return 1
    if os.getpid() != 1:
        # A process whose parent exits becomes our child.
        system("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    return makeLoop(options, os.environ).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
