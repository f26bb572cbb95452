"""
A web server is redeployed five times while clients ask it without a pause.

    make demo                               # or: python examples/demo.py

It runs web.py, which lies beside this file, as a daemon in a temporary
directory, and changes its code before each "tableflip upgrade".  One release is
broken.
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
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path

CLIENTS = 4
BETWEEN_REQUESTS = 0.004
DEADLINE = 60.0
START = time.monotonic()


class DemoError(Exception):
    """
    Something did not happen that should have.
    """


class Clients:
    """
    Threads that send one request after the other, each on a new connection.
    Whatever is no whole and correct answer is a failure.
    """

    def __init__(self, port):
        self.port = port
        self.requests = 0
        self.failures = []
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
                self.latest = max(self.latest, ask(self.port))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a failure
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


class Daemon:
    """
    web.py under twistd, in a directory of its own.
    """

    def __init__(self, directory):
        self.directory = Path(directory)
        self.port = freePort()
        self._pids = set()

    def write(self, release):
        """
        Put a release where the next process finds it.
        """
        code = Path(__file__).with_name("web.py").read_text()
        (self.directory / "web.py").write_text(code.replace('RELEASE = "1"', release))

    def start(self):
        environment = {**os.environ, "ENDPOINT": f"tcp:{self.port}:interface=127.0.0.1"}
        command = [installed("twistd"), "tableflip", "--probation", "1", "--app", "web.py"]
        if subprocess.run(command, cwd=self.directory, env=environment, check=False).returncode:  # noqa: S603
            raise DemoError("the web server did not start")

    @property
    def log(self):
        return (self.directory / "twistd.log").read_text()

    @property
    def pid(self):
        pid = int((self.directory / "twistd.pid").read_text())
        self._pids.add(pid)
        return pid

    def upgrade(self, clients):
        """
        Do what an operator does, and show what the clients see meanwhile.

        @return: the exit status, and what the command has said.
        """
        said = self.directory / "said"
        with said.open("wb") as output:
            command = subprocess.Popen(  # noqa: S603
                [installed("tableflip"), "upgrade"],
                cwd=self.directory,
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
        End every process that there was: politely, then for good.
        """
        with suppress(FileNotFoundError):
            self._pids.update(map(int, re.findall(r"as process (\d+)", self.log)))
            self._pids.add(self.pid)
        pids = self._pids
        for number in (signal.SIGTERM, signal.SIGKILL):
            pids = set(filter(isAlive, pids))
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            end = time.monotonic() + 10
            while any(map(isAlive, pids)) and time.monotonic() < end:
                time.sleep(0.02)


def installed(name):
    """
    Return the path of a command that was installed beside this Python.
    """
    return os.path.join(os.path.dirname(sys.executable), name)


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
    Print what a command has said.
    """
    print(*(f"            {line}" for line in lines), sep="\n", flush=True)


def until(condition, clients, what):
    """
    Show what the clients see until a condition is true.
    """
    end = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > end:
            raise DemoError(f"waited {DEADLINE:g} s in vain for {what}")
        if sys.stdout.isatty():
            print(f"\r          {clients}", end="", flush=True)
        time.sleep(0.05)


def pause(clients, seconds):
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() > end, clients, "the time to pass")


def deploy(daemon, clients, release):
    """
    Deploy a release that works.
    """
    old = daemon.pid
    daemon.write(f'RELEASE = "{release}"')
    say(f"web.py is now release {release}: tableflip upgrade")
    status, said = daemon.upgrade(clients)
    if status:
        raise DemoError("\n".join(["tableflip upgrade failed:", *said]))
    show(said[-1:])
    until(lambda: clients.latest[0] == release, clients, f"release {release} to answer")
    say("release {}, generation {}, process {} answers".format(*clients.latest))
    until(lambda: not isAlive(old), clients, f"the end of process {old}")
    say(f"process {old} has exited; {clients}")


def deployBroken(daemon, clients):
    """
    Deploy a release that fails before it has taken over.
    """
    daemon.write('raise RuntimeError("this release is broken")')
    say("web.py is now broken: tableflip upgrade")
    status, said = daemon.upgrade(clients)
    show(said)
    if status != 1:
        raise DemoError(f"tableflip upgrade ended with status {status}, and not with 1")
    say(f"tableflip upgrade has ended with status {status}")
    release, generation, pid = ask(daemon.port)
    say(f"release {release}, generation {generation}, process {pid} still answers; {clients}")


def run(daemon, seconds):
    """
    @return: the clients, who have seen everything.
    """
    print("A web server is redeployed five times under load; one more release is broken.\n")
    daemon.write('RELEASE = "1"')
    daemon.start()
    say(f"twistd tableflip --probation 1 --app web.py, in {daemon.directory}")
    say("release {}, generation {}, process {} answers".format(*ask(daemon.port)))
    with Clients(daemon.port) as clients:
        say(f"{CLIENTS} clients ask from now on, without a pause")
        for release in (2, 3, 4, 5, 6):
            pause(clients, seconds)
            deploy(daemon, clients, release)
            if release == 3:  # noqa: PLR2004
                pause(clients, seconds)
                deployBroken(daemon, clients)
        pause(clients, seconds)
    return clients


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--pause", type=float, default=1.2, help="seconds between the steps")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="txtableflip-demo-") as directory:
        daemon = Daemon(directory)
        try:
            clients = run(daemon, options.pause)
        except DemoError as error:
            sys.exit(f"the demo failed: {error}")
        except KeyboardInterrupt:
            sys.exit(130)
        finally:
            daemon.end()
    say("the web server has ended")
    for failure in clients.failures[:10]:
        print(failure)
    print(
        f"5 upgrades, 1 failed upgrade, {clients}; "
        f"the slowest answer took {clients.slowest:.2f} s."
    )
    sys.exit(1 if clients.failures else 0)


if __name__ == "__main__":
    main()
