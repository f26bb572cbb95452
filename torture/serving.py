"""
What the torture has in common: services of the applications of the tests, and the
clients that ask them.
"""

import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from txtableflip.testing._clients import DEADLINE, Client, WrongAnswer
from txtableflip.testing._service import Service, processesWith, zombiesOf

APPS = Path(__file__).parent.parent / "tests" / "apps"
TWISTD = shutil.which("twistd", path=os.path.dirname(sys.executable))
INTERFACE = "interface=127.0.0.1"
RUN = "TXTABLEFLIP_TORTURE_RUN"
"""
The variable that all processes have which one run of this program has started.
"""


def endProperly():
    """
    From now on, Ctrl-C and SIGTERM end this program and all that it has started, and remove
    its temporary files, whatever its threads are doing.
    """
    os.environ[RUN] = uuid.uuid4().hex
    temporary = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    tempfile.tempdir = temporary.name

    def end(number, frame):
        # Threads and processes may be starting others, and writing files.
        for _ in range(50):
            for pid in (pids := processesWith(f"{RUN}={os.environ[RUN]}")):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            shutil.rmtree(temporary.name, ignore_errors=True)
            if not pids and not os.path.exists(temporary.name):
                break
            time.sleep(0.05)
        os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)



class Served(Service):
    """
    A service of C{twistd tableflip} in a directory, and its release.
    """

    def __init__(self, directory, app, *options, **environment):
        self.place = Path(directory)
        self.releaseFile = self.place / "release.py"
        variables = {"RELEASE_FILE": self.releaseFile, **environment}
        super().__init__(
            [
                *("env", "-C", str(directory)),
                *(f"{name}={value}" for name, value in variables.items()),
                *(TWISTD, "--nodaemon", "--pidfile=twistd.pid", "tableflip", *options),
                *("--app", str(APPS / app)),
            ]
        )
        self.release("name = 'good'")

    def release(self, code):
        """
        Deploy this code: the next process that starts runs it.
        """
        self.releaseFile.write_text(code)

    def told(self, what, begin=0):
        """
        Return which events of a kind there were, from a place in all of them.
        """
        return [event for event in self.events[begin:] if event.what == what]

    def footprint(self):
        """
        Return what the serving process has open, and which other processes there are,
        including zombies.
        """
        others = [pid for pid in self.processes() if pid != self.pid]
        return descriptors(self.pid), others + zombiesOf([self.pid])


def descriptors(pid):
    """
    Return what the open descriptors of a process are, in words, except its TCP connections,
    and the one by which its successors know it.
    """
    found, stay = [], listeners()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            target = os.readlink(entry)
            isConnection = target.startswith("socket:") and target[8:-1] not in stay
            details = Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text()
            if not isConnection and f"\nPid:\t{pid}\n" not in details:
                found.append(re.sub(r"\d+", "N", target))
    return sorted(found)


def listeners():
    """
    Return the inodes of all sockets that are not TCP connections.
    """
    tcp = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    unix = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return {one[9] for one in tcp if one[3] == "0A"} | {one[6] for one in unix}


@contextmanager
def served(*arguments, **environment):
    """
    A service that runs, and is terminated at the end.
    """
    service = Served(*arguments, **environment)
    try:
        service.start()
        yield service
    finally:
        service.stop()
        service.discard()


class WhoAnswers:
    """
    A question for them.

    @ivar answers: when answers came, in seconds since the epoch, and from which
        process.
    """

    def __init__(self):
        self.answers = []

    def request(self, *, isLast):
        return b"x\n"

    def readAnswer(self, sock):
        with sock.makefile() as stream:
            line = stream.readline()
        match = re.fullmatch(r"x \w+ \d+ (\d+) \.\n", line)
        if match is None:
            raise WrongAnswer(f"the connection was closed after {line!r}")
        self.answers.append((time.time(), int(match[1])))
        return True


class Load:
    """
    Clients that ask, each with a connection for each request.

    @ivar samples: what they saw.
    @ivar answers: see L{WhoAnswers}.
    """

    def __init__(self, port, count=2, pause=0.01):
        """
        @param pause: how long each waits between two requests, in seconds.
        """
        question = WhoAnswers()
        self.samples, self.answers = [], question.answers
        self._pause = pause
        self._isOver = threading.Event()
        clients = [
            Client(("127.0.0.1", port), question, self.samples.append) for _ in range(count)
        ]
        self._threads = [threading.Thread(target=self._run, args=(one,)) for one in clients]

    @property
    def failures(self):
        """
        What they saw that was not an answer.
        """
        return [sample for sample in self.samples if sample.error]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception):
        self._isOver.set()
        for thread in self._threads:
            thread.join()

    def _run(self, client):
        while not self._isOver.wait(self._pause):
            client.alone()


@dataclass(frozen=True)
class Answer:
    """
    What answered, if anything did.
    """

    pid: int
    generation: int


class Staying:
    """
    A connection that its client never closes by itself.

    @ivar answer: what it is connected with.
    @ivar ended: when the other side closed it, in seconds since the epoch.
    """

    ended = None

    def __init__(self, port):
        self._sock = socket.create_connection(("127.0.0.1", port), DEADLINE)
        self._stream = self._sock.makefile("rw")
        self.answer = self.ask()

    def ask(self):
        """
        Ask once more, and return what answers; nothing, if the connection has ended.
        """
        try:
            self._stream.write("stay\n")
            self._stream.flush()
            words = self._stream.readline().split()
        except OSError:
            return None
        return Answer(int(words[3]), int(words[2])) if words else None

    def waitForItsEnd(self):
        """
        Wait until the connection is ended by the other side.
        """
        self._sock.settimeout(None)
        try:
            while self._sock.recv(100):
                pass
        except OSError:
            pass
        self.ended = time.time()

    def close(self):
        self._stream.close()
        self._sock.close()
