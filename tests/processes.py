"""
Real processes and real clients, for tests: a service that is started, deployed
and watched from outside, as its operator and its clients see it.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from commandlines import atOnce

from txtableflip.testing._service import freePort, isAlive, processesWith, zombiesOf

APPS = Path(__file__).parent / "apps"
DEADLINE = 60.0
"""
How long anything may take on a busy machine, in seconds.
"""

PAUSE = 0.005
"""
How long clients wait before they ask again, in seconds: without that, they have
the processor for themselves, and the processes that start beside them wait.
"""

TWISTD = shutil.which("twistd", path=os.path.dirname(sys.executable))


def fewOrMany(few, many):
    """
    Return a decorator for a test that takes a number of upgrades: few of them, and as many
    as are worth it where time does not count.
    """
    return pytest.mark.parametrize(
        "upgrades", [few, pytest.param(many, marks=pytest.mark.slow)]
    )


def asOrdinaryUser():
    """
    Return what to put before a command that root runs, so that an ordinary user
    runs it: one who may read all files, since Python may be in root's home.  If
    we are no root, that is nothing at all.
    """
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("there is no setpriv(1) with which to become an ordinary user")
    return (
        *("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"),
        *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
    )


def until(condition, what, deadline=DEADLINE):
    """
    Wait until a condition is true, and return its value.

    @param what: what is waited for, in words, or a function that says so when
        it has been waited for in vain.
    """
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            pytest.fail(f"waited {deadline} s in vain for {what() if callable(what) else what}")
        time.sleep(0.01)


def descriptors(pid):
    """
    Return what the open descriptors of a process are, in words, sorted.
    """
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        # It may be closed just now.
        with suppress(FileNotFoundError):
            found.append(re.sub(r"\d+", "N", os.readlink(entry)))
    return sorted(found)


def deadProcess():
    """
    Return the id of a process that does not exist, and never will: ids are below
    this limit (proc_sys_kernel(5)).
    """
    return int(Path("/proc/sys/kernel/pid_max").read_text())


class Service:
    """
    A service in a directory of its own, started by the test and never left
    behind: every process that descends from it carries a mark in its
    environment, and is killed in the end.

    @ivar isHasty: whether its upgrades are to be final at once, if its command line
        may say so.
    """

    isHasty = True

    def __init__(self, directory, **environment):
        self.directory = Path(directory)
        self.mark = f"TXTABLEFLIP_TEST={uuid.uuid4().hex}"
        self.releaseFile = self.directory / "release.py"
        self.release("name = '1'")
        self.environment = {
            **os.environ,
            "RELEASE_FILE": str(self.releaseFile),
            **dict([self.mark.split("=")]),
            **environment,
        }
        self.environment.pop("PWD", None)
        self._started = []

    def release(self, code):
        """
        Deploy this code: the next process that starts runs it.
        """
        self.releaseFile.write_text(code)

    def run(self, *arguments, timeout=DEADLINE, **options):
        """
        Run a command to its end, and return what subprocess.run does.
        """
        return subprocess.run(
            self._command(arguments),
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            **options,
        )

    def twistd(self, *arguments):
        """
        Start a daemon, and wait until it serves.
        """
        done = self.run(TWISTD, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        self.waitFor("generation 1 serves")
        return self.pid

    def start(self, *arguments, **options):
        """
        Start a process in the foreground.
        """
        process = subprocess.Popen(
            self._command(arguments), cwd=self.directory, env=self.environment, **options
        )
        self._started.append(process)
        return process

    def _command(self, arguments):
        return atOnce(arguments) if self.isHasty else arguments

    @property
    def pidFile(self):
        return self.directory / "twistd.pid"

    @property
    def pid(self):
        """
        The process that the pid file names.
        """
        return int(self.pidFile.read_text())

    @property
    def log(self):
        """
        The text of the log, from its beginning, also if it has been rotated.
        """
        rotated = self.directory.glob("twistd.log.[0-9]*")
        paths = sorted(rotated, key=lambda path: -int(path.suffix[1:]))
        paths.append(self.directory / "twistd.log")
        return "".join(path.read_text() for path in paths if path.exists())

    def waitFor(self, text, count=1):
        """
        Wait until the log has a text so often.
        """
        until(
            lambda: self.log.count(text) >= count, lambda: f"{text!r} ({count}) in\n{self.log}"
        )

    def redeploy(self):
        """
        Send SIGHUP to the process that serves, and wait until another one does
        and the old one is gone.
        """
        old = self.pid
        os.kill(old, signal.SIGHUP)
        until(lambda: self.pid != old, lambda: f"a successor of {old}:\n{self.log[-3000:]}")
        until(lambda: not isAlive(old), lambda: f"the end of {old}:\n{self.log[-3000:]}")
        return self.pid

    def fail(self):
        """
        Send SIGHUP to the process that serves, and wait until it has said that
        the upgrade failed.
        """
        before = self.log.count("upgrade failed")
        os.kill(self.pid, signal.SIGHUP)
        self.waitFor("upgrade failed", before + 1)

    def childOf(self, generation, count=1):
        """
        Wait until the process of this generation has started its child (for
        the C{count}th time), and return the child's process id.
        """
        pattern = rf"upgrade: started generation {generation + 1} as process (\d+)"
        found = until(
            lambda: re.findall(pattern, self.log)[count - 1 :],
            lambda: f"a child of generation {generation}:\n{self.log[-3000:]}",
        )
        return int(found[0])

    def failures(self):
        """
        Return what the log says of each failed upgrade: from there to the next
        entry that begins with a time.
        """
        parts = self.log.split("upgrade failed: ")[1:]
        return [re.split(r"\n\d{4}-\d\d-\d\dT", part)[0] for part in parts]

    def zombies(self):
        """
        Return the ids of all children of living processes of this service that
        nobody has waited for.
        """
        return zombiesOf(self.processes())

    def processes(self):
        """
        Return the ids of all living processes that descend from this service.
        """
        return processesWith(self.mark)

    def kill(self):
        """
        End all that is left, and wait until it has ended.
        """
        for _ in range(5):
            for pid in self.processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        until(lambda: not self.processes(), "the end of all processes")
        for process in self._started:
            process.wait(DEADLINE)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


class Gate:
    """
    Where a release waits until the test lets it go on.

    @ivar code: what waits.
    """

    def __init__(self, service):
        self._reached = service.directory / f"reached-{uuid.uuid4().hex}"
        self._open = service.directory / f"open-{uuid.uuid4().hex}"
        self.code = (
            "import time, pathlib\n"
            f"pathlib.Path({str(self._reached)!r}).touch()\n"
            f"while not pathlib.Path({str(self._open)!r}).exists(): time.sleep(0.01)\n"
        )

    def reached(self):
        """
        Wait until the release waits.
        """
        until(self._reached.exists, "a release at the gate")

    def open(self):
        """
        Let it go on.
        """
        self._open.touch()


class PidFileWatch:
    """
    Looks at a service's pid file again and again, and keeps in C{mistakes}
    whatever was not the id of a living process of the service.
    """

    INTERVAL = 0.01

    def __init__(self, service):
        self.mistakes = []
        self.seen = []
        self._service = service
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        until(lambda: self.seen or self.mistakes, "a first look at the pid file")
        return self

    def __exit__(self, *exception):
        self._stop.set()
        self._thread.join(DEADLINE)

    def _run(self):
        while not self._stop.wait(self.INTERVAL):
            try:
                pid = self._service.pid
                # It may have changed hands between the two looks.
                if not isAlive(pid) and self._service.pid == pid:
                    self.mistakes.append(f"process {pid} is dead")
                if pid not in self.seen:
                    if pid not in self._service.processes() and self._service.pid == pid:
                        self.mistakes.append(f"process {pid} is a stranger")
                    self.seen.append(pid)
            except Exception as error:
                self.mistakes.append(repr(error))


class Threads:
    """
    Threads that are started and ended by a with statement; C{_stop} says that it is over.
    """

    def __init__(self, *runs):
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=run) for run in runs]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception):
        self._stop.set()
        for thread in self._threads:
            thread.join(DEADLINE)


class Clients(Threads):
    """
    Clients that do not forgive: each opens a connection, asks, reads to the
    end, checks the whole answer, and begins again.  Anything else is kept in
    C{failures}.

    @ivar address: a (host, port) or a path.
    """

    def __init__(self, address, count=8, wrap=lambda sock: sock, asking=None, pause=PAUSE):
        """
        @param asking: what to ask with, if it is not L{ask}.
        @param pause: how long each waits between two questions, in seconds.
        """
        super().__init__(*(partial(self._run, number) for number in range(count)))
        self.address = address
        self._pause = pause
        self.failures = []
        self.answers = Counter()
        self._wrap = wrap
        self._ask = asking or ask

    def __enter__(self):
        super().__enter__()
        until(lambda: self.total or self.failures, "a first answer")
        return self

    @property
    def total(self):
        """
        How many answers there were.
        """
        return sum(self.answers.values())

    @property
    def generations(self):
        """
        Which generations have answered.
        """
        return {generation for _, generation in list(self.answers)}

    @property
    def releases(self):
        """
        Which releases of the code have answered.
        """
        return {release for release, _ in list(self.answers)}

    def waitForMore(self, count=20):
        """
        Wait until so many more answers have come.
        """
        goal = self.total + count
        until(lambda: self.total >= goal or self.failures, f"{count} more answers")

    def _run(self, number):
        turn = 0
        while not self._stop.wait(self._pause):
            turn += 1
            try:
                release, generation = self._ask(self.address, f"{number}.{turn}", self._wrap)
                self.answers[release, generation] += 1
            except Exception as error:
                self.failures.append(f"client {number}, turn {turn}: {error!r}")
                if len(self.failures) > 100:
                    return


def connect(address, wrap=lambda sock: sock):
    """
    Open a connection to a (host, port) or a path.
    """
    if not isinstance(address, tuple):
        family = socket.AF_UNIX
    else:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family)
    sock.settimeout(DEADLINE)
    try:
        sock.connect(address)
        return wrap(sock)
    except BaseException:
        sock.close()
        raise


def ask(address, question="x", wrap=lambda sock: sock):
    """
    Ask a service once, on a connection of its own.

    @return: the release and the generation that have answered.
    @raise AssertionError: if the answer is not whole.
    """
    with connect(address, wrap) as sock:
        sock.sendall(f"{question}\n".encode())
        answer = b""
        while part := sock.recv(4096):
            answer += part
    words = answer.decode().split()
    assert len(words) == 5, f"short answer {answer!r}"
    assert (words[0], words[4]) == (question, "."), f"wrong answer {answer!r}"
    return words[1], int(words[2])


@pytest.fixture
def service(tmp_path):
    """
    A service that has not been started, in a directory of its own.
    """
    made = Service(tmp_path)
    yield made
    made.kill()


@pytest.fixture
def address(service):
    """
    Where the answering service listens.
    """
    port = freePort()
    service.environment["ENDPOINTS"] = f"tableflip:tcp:{port}:interface=127.0.0.1"
    return "127.0.0.1", port
