"""
A web server and a chat are redeployed five times while clients use them without a pause.

    make demo                               # or: python examples/demo.py

It runs web.py and chat.py, which lie beside this file, under "tableflip run" in a
temporary directory, and changes their code before each "tableflip upgrade".  One release
is broken, and in the end the process that serves is killed.
"""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path

CLIENTS = 4
BETWEEN_REQUESTS = 0.004
DEADLINE = 60.0
MOST_SHOWN = 13
START = time.monotonic()

BOTH = """\
from twisted.application.service import MultiService

import chat
import web

service = MultiService()
web.service.setServiceParent(service)
chat.service.setServiceParent(service)
"""

RUN = ("tableflip", "run", "--", "twistd", "--nodaemon", "--pidfile=")
SERVICE = ("tableflip", "--probation", "1", "--migrate", "--app", "both")


class DemoError(Exception):
    """
    Something did not happen that should have.
    """


class Clients:
    """
    Threads that send one request after the other, each on a new connection.
    Whatever is not a whole and correct answer is a failure; but not what the process had
    accepted that was killed.
    """

    def __init__(self, port):
        self.port = port
        self.requests = 0
        self.failures = []
        self.cut = 0
        self.mayBeCut = False
        self.latest = (0, 0, 0)
        self.slowest = 0.0
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception):
        self._done.set()
        for thread in self._threads:
            thread.join()

    def __str__(self):
        return f"{self.requests:,} requests, {len(self.failures)} failures"

    def _run(self):
        while not self._done.wait(BETWEEN_REQUESTS):
            self.requests += 1
            asked = time.monotonic()
            try:
                self.latest = ask(self.port)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a failure
                if self.mayBeCut and not isinstance(error, ConnectionRefusedError):
                    self.cut += 1
                else:
                    self.failures.append(repr(error))
            self.slowest = max(self.slowest, time.monotonic() - asked)


def ask(port):
    """
    Send one request, and return the release, the generation and the process id
    that the answer tells.
    """
    connection = HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        connection.request("GET", "/", headers={"Connection": "close"})
        answer = connection.getresponse().read().decode()
    finally:
        connection.close()
    found = re.fullmatch(r"release (\d+), generation (\d+), process (\d+)\n", answer)
    if not found:
        raise DemoError(f"wrong answer {answer!r}")
    return tuple(map(int, found.groups()))


class Chat:
    """
    A connection on which something is said, and heard, from the first release to the last.
    """

    def __init__(self, port):
        self.lines = 0
        self._sock = socket.create_connection(("127.0.0.1", port), DEADLINE)
        self._heard = self._sock.makefile("rb")

    def say(self):
        """
        Say something, and hear it.
        """
        self.lines += 1
        said = f"line {self.lines}\n".encode()
        self._sock.sendall(said)
        heard = self._heard.readline()
        if heard != said:
            raise DemoError(f"the chat heard {heard!r} instead of {said!r}")

    def __str__(self):
        return f"{self.lines} lines, none lost"

    def close(self):
        self._heard.close()
        self._sock.close()


class Service:
    """
    web.py and chat.py in a process, under "tableflip run", in a directory of its own.
    """

    def __init__(self, directory):
        self.directory = Path(directory)
        self.port, self.chatPort = freePort(), freePort()
        self._keeper = None

    def write(self, release):
        """
        Put a release where the next process finds it.
        """
        for name in ("web.py", "chat.py"):
            code = Path(__file__).with_name(name).read_text()
            (self.directory / name).write_text(code.replace('RELEASE = "1"', release))
        (self.directory / "both.py").write_text(BOTH)

    def start(self):
        endpoints = {
            "ENDPOINT": f"tcp:{self.port}:interface=127.0.0.1",
            "CHAT_ENDPOINT": f"tcp:{self.chatPort}:interface=127.0.0.1",
        }
        with self._log.open("wb") as log:
            self._keeper = subprocess.Popen(  # noqa: S603
                [*RUN, *SERVICE],
                cwd=self.directory,
                # Releases that are written within a second have the same time.
                env={**os.environ, **endpoints, "PYTHONDONTWRITEBYTECODE": "1"},
                stdout=log,
                stderr=log,
            )

    @property
    def _log(self):
        return self.directory / "log"

    def mustRun(self):
        """
        @raise DemoError: if it does not.
        """
        if self._keeper.poll() is not None:
            raise DemoError(f"the service has ended:\n{self._log.read_text()}")

    def upgrade(self, clients):
        """
        Do what an operator does, and show what the clients see meanwhile.

        @return: the exit status, and what the command has said.
        """
        said = self.directory / "said"
        with said.open("wb") as output:
            command = subprocess.Popen(  # noqa: S603
                ["tableflip", "upgrade", str(self._keeper.pid)],  # noqa: S607
                stdout=output,
                stderr=output,
            )
        try:
            until(lambda: command.poll() is not None, clients, "the end of tableflip upgrade")
        finally:
            command.kill()
            command.wait()
        return command.returncode, said.read_text().splitlines()

    def end(self):
        """
        End it: politely, then for good; what it has started ends with it.
        """
        if self._keeper is None:
            return
        self._keeper.terminate()
        try:
            self._keeper.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()


def answers(service):
    """
    Say whether it serves.

    @raise DemoError: if it never will.
    """
    service.mustRun()
    with suppress(OSError):
        ask(service.port)
        return True
    return False


def freePort():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def isAlive(pid):
    """
    Say whether a process runs.  One that has ended stays a zombie until its
    parent looks, which in a container may be never.
    """
    with suppress(FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
        os.kill(pid, 0)
        return True
    return False


def say(text):
    """
    Print a line, in the place of the live count.
    """
    clear = "\r\033[K" if sys.stdout.isatty() else ""
    print(f"{clear}{time.monotonic() - START:6.1f} s  {text}", flush=True)


def show(lines):
    """
    Print what a command has said, without the middle of a long traceback.
    """
    if len(lines) > MOST_SHOWN:
        lines = [*lines[:7], "  ...", *lines[-5:]]
    print(*(f"            {line}" for line in lines), sep="\n", flush=True)


def until(condition, watch, what):
    """
    Show what the clients see until a condition is true.
    """
    end = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > end:
            raise DemoError(f"waited {DEADLINE:g} s in vain for {what}")
        if sys.stdout.isatty():
            print(f"\r          {watch}", end="", flush=True)
        time.sleep(0.05)


def pause(clients, seconds):
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() > end, clients, "the time to pass")


def deploy(service, clients, chat, release):
    """
    Deploy a release that works.
    """
    _, _, old = ask(service.port)
    service.write(f'RELEASE = "{release}"')
    say(f"web.py is now release {release}: tableflip upgrade")
    status, said = service.upgrade(clients)
    if status:
        raise DemoError("\n".join(["tableflip upgrade failed:", *said]))
    show(said[-1:])
    say("release {}, generation {}, process {} answers".format(*ask(service.port)))
    chat.say()
    until(lambda: not isAlive(old), clients, f"the end of process {old}")
    say(f"process {old} has exited; {clients}")
    say(f"the chat has not reconnected: {chat}")


def deployBroken(service, clients):
    """
    Deploy a release that fails before it has taken over.
    """
    service.write('raise RuntimeError("this release is broken")')
    say("web.py is now broken: tableflip upgrade")
    status, said = service.upgrade(clients)
    show(said)
    if status != 1:
        raise DemoError(f"tableflip upgrade ended with status {status}, and not with 1")
    say(f"tableflip upgrade has ended with status {status}")
    release, generation, pid = ask(service.port)
    say(f"release {release}, generation {generation}, process {pid} still answers; {clients}")


def kill(service, clients):
    """
    Kill the process that serves.
    """
    release, _, pid = ask(service.port)
    say(f"kill -9 {pid}, which is the process that serves")
    clients.mayBeCut = True
    os.kill(pid, signal.SIGKILL)
    until(lambda: clients.latest[2] != pid, clients, "another process to answer")
    clients.mayBeCut = False
    _, _, again = clients.latest
    say(f"release {release}, process {again} answers: none refused, {clients.cut} cut")


def run(service, seconds):
    """
    @return: the clients, who have seen everything.
    """
    print("A web server and a chat are redeployed five times under load; one more release")
    print("is broken, and in the end the process that serves is killed.\n")
    service.write('RELEASE = "1"')
    service.start()
    say(" ".join([*RUN, *SERVICE]))
    until(lambda: answers(service), "", "an answer")
    say("release {}, generation {}, process {} answers".format(*ask(service.port)))
    with Clients(service.port) as clients, closing(Chat(service.chatPort)) as chat:
        say(f"{CLIENTS} clients ask from now on, without a pause, and one chats")
        for release in (2, 3, 4, 5, 6):
            pause(clients, seconds)
            chat.say()
            deploy(service, clients, chat, release)
            if release == 3:  # noqa: PLR2004
                pause(clients, seconds)
                deployBroken(service, clients)
        pause(clients, seconds)
        kill(service, clients)
        pause(clients, seconds)
    return clients


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--pause", type=float, default=1.2, help="seconds between the steps")
    options = parser.parse_args()
    # The commands of the installation that this Python is of.
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    with tempfile.TemporaryDirectory(prefix="txtableflip-demo-") as directory:
        service = Service(directory)
        try:
            clients = run(service, options.pause)
        except DemoError as error:
            sys.exit(f"the demo failed: {error}")
        except KeyboardInterrupt:
            sys.exit(130)
        finally:
            service.end()
    say("the service has ended")
    for failure in clients.failures[:10]:
        print(failure)
    print(
        f"5 upgrades, 1 failed upgrade, 1 crash: {clients}; "
        f"the slowest answer took {clients.slowest:.2f} s."
    )
    sys.exit(1 if clients.failures else 0)


if __name__ == "__main__":
    main()
