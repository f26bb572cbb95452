"""
What clients see while a release is deployed, by txtableflip and by other ways.

    make others                             # or: python benchmarks/others.py

Each way serves the same answers: at / at once, and at /slow after 0.3 s.  Each needs 0.5 s to
start, as a program of some size does.  Three kinds of clients ask without a pause: one makes
a connection for each request, one keeps its connection, one asks for what is slow.  None asks
again.  Five releases are deployed, and then one that raises when it is imported.

HAProxy is run if it is installed, and so are gunicorn and uvicorn.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from contextlib import ExitStack, suppress
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path

from measuring import DEADLINE

from txtableflip.testing._service import freePort, processesWith

BIN = Path(sys.executable).parent
DEPLOYMENTS = 5
RELEASE = """\
import time
time.sleep(0.5)
{code}
SLOW, RELEASE = 0.3, {number}
"""
TWISTED = """\
from twisted.application import strports
from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
import os, release

class Answer(Resource):
    isLeaf = True
    def render_GET(self, request):
        def answer():
            if not request._disconnected:
                request.write(b"release %d\\n" % release.RELEASE)
                request.finish()
        reactor.callLater(release.SLOW if request.path == b"/slow" else 0, answer)
        return NOT_DONE_YET

from twisted.application.service import Application
application = Application("answers")
strports.service(os.environ["ENDPOINT"], Site(Answer())).setServiceParent(application)
"""
WSGI = """\
import time, release
def application(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        time.sleep(release.SLOW)
    body = b"release %d\\n" % release.RELEASE
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
ASGI = """\
import asyncio, release
async def application(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(release.SLOW)
    body = b"release %d\\n" % release.RELEASE
    head = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": body})
"""
HAPROXY = """\
global
    stats socket {directory}/admin level admin
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    option redispatch
    retries 3
frontend all
    bind 127.0.0.1:{port}
    default_backend both
backend both
    server one 127.0.0.1:{one} check inter 100ms
    server two 127.0.0.1:{two} check inter 100ms
"""


class Way:
    """
    A server, and how it is deployed.

    @ivar port: where clients ask.
    """

    program = TWISTED
    needs = None

    def __init__(self, directory):
        self.directory = Path(directory)
        self.mark = f"TXTABLEFLIP_OTHERS={uuid.uuid4().hex}"
        self.port = freePort()
        (self.directory / "app.py").write_text(self.program)
        self.release(1)

    def release(self, number, code=""):
        (self.directory / "release.py").write_text(RELEASE.format(number=number, code=code))

    def run(self, *command, **options):
        environment = {
            **os.environ,
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(self.directory),
            **dict([self.mark.split("=")]),
            **options.pop("env", {}),
        }
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(
                command, cwd=self.directory, env=environment, stdout=log, stderr=log, **options
            )

    def end(self):
        while left := processesWith(self.mark):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        with suppress(AttributeError):
            self.process.wait()

    def twistd(self, endpoint, *command, **options):
        words = command or ("--python", "app.py")
        twistd = (str(BIN / "twistd"), "--nodaemon", "--pidfile=")
        return self.run(*twistd, *words, env={"ENDPOINT": endpoint}, **options)

    def start(self):
        self.process = self.serve()

    def serve(self):
        return self.twistd(f"tcp:{self.port}:interface=127.0.0.1")

    def deploy(self):
        self.process.terminate()
        self.process.wait(DEADLINE)
        self.process = self.serve()


class Restart(Way):
    """stop, then start"""


class Activated(Way):
    """the same, and systemd holds the socket (`.socket` unit)"""

    def start(self):
        self.listening = socket.create_server(("127.0.0.1", self.port), backlog=4096)
        super().start()

    def serve(self):
        # What systemd does between fork(2) and exec(3).
        become = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ.update("
            "LISTEN_FDS='1', LISTEN_FDNAMES='web', LISTEN_PID=str(os.getpid())); "
            "os.execv(sys.argv[2], sys.argv[2:])"
        )
        fileno = self.listening.fileno()
        return self.run(
            *(sys.executable, "-c", become, str(fileno)),
            *(str(BIN / "twistd"), "--nodaemon", "--pidfile=", "--python", "app.py"),
            env={"ENDPOINT": "systemd:domain=INET:index=0"},
            pass_fds=(fileno, 3),
        )


class Gunicorn(Way):
    """gunicorn, `kill -HUP`"""

    needs = "gunicorn"
    program = WSGI

    def serve(self):
        words = ("--workers=2", "--threads=8", "--worker-class=gthread", "--no-control-socket")
        return self.run(
            str(BIN / "gunicorn"), *words, f"--bind=127.0.0.1:{self.port}", "app:application"
        )

    def deploy(self):
        self.process.send_signal(signal.SIGHUP)


class Uvicorn(Gunicorn):
    """uvicorn with two workers, `kill -HUP`"""

    needs = "uvicorn"
    program = ASGI

    def serve(self):
        where = (
            "--host=127.0.0.1",
            f"--port={self.port}",
            "--workers=2",
            "--log-level=warning",
        )
        return self.run(str(BIN / "uvicorn"), *where, "app:application")


class Behind(Way):
    """HAProxy in front of two, each drained and restarted in turn"""

    needs = "haproxy"

    def start(self):
        self.ports = {"one": freePort(), "two": freePort()}
        configuration = HAPROXY.format(directory=self.directory, port=self.port, **self.ports)
        (self.directory / "haproxy.cfg").write_text(configuration)
        self.run("haproxy", "-f", "haproxy.cfg", "-db")
        self.both = {port: self.serveAt(port) for port in self.ports.values()}

    def serveAt(self, port):
        return self.twistd(f"tcp:{port}:interface=127.0.0.1")

    def deploy(self):
        for name, port in self.ports.items():
            self.say(f"set server both/{name} state drain")
            time.sleep(0.6)  # what it has begun takes half as long
            self.both[port].terminate()
            self.both[port].wait(DEADLINE)
            process = self.both[port] = self.serveAt(port)
            until(lambda p=port, process=process: isServing(p) or process.poll() is not None)
            if process.poll() is not None:
                return
            self.say(f"set server both/{name} state ready")
            time.sleep(0.6)  # it is to have been found well

    def say(self, command):
        """
        Tell HAProxy.
        """
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(str(self.directory / "admin"))
            admin.sendall(command.encode() + b"\n")
            while admin.recv(4096):
                pass


class Tableflip(Way):
    """txtableflip, `tableflip upgrade`"""

    def serve(self):
        self.pidFile = str(self.directory / "served.pid")
        endpoint = f"tableflip:tcp:{self.port}:interface=127.0.0.1"
        options = ("--pidfile", self.pidFile, "--nodaemon")
        return self.run(
            *(
                str(BIN / "twistd"),
                *options,
                "tableflip",
                "--probation",
                "1",
                "--app",
                "app.py",
            ),
            env={"ENDPOINT": endpoint},
        )

    def deploy(self):
        command = (str(BIN / "tableflip"), "upgrade", "--pidfile", self.pidFile)
        subprocess.run(command, check=False, capture_output=True)


def get(connection, path="/"):
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != HTTPStatus.OK or not body.startswith(b"release "):
        raise OSError(f"status {answer.status}: {body[:40]!r}")
    return int(body.split()[1])


def isServing(port):
    with suppress(OSError, ValueError):
        get(HTTPConnection("127.0.0.1", port, timeout=1))
        return True
    return False


class Clients:
    """
    Two clients of each kind.

    @ivar failures: what happened, and how often.
    """

    def __init__(self, port):
        self.port = port
        self.requests = 0
        self.failures = Counter()
        self.slowest = 0.0
        self.newest = 0
        self._end = threading.Event()
        kinds = [(path, kept) for path in ("/", "/slow") for kept in (False, True)]
        self._threads = [threading.Thread(target=self._ask, args=kind) for kind in kinds * 2]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception):
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, path, isKept):
        connection = HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        while not self._end.wait(0.005):
            began = time.monotonic()
            self.requests += 1
            try:
                self.newest = max(self.newest, get(connection, path))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a failure
                self.failures[kindOf(error)] += 1
                connection.close()
                self._end.wait(0.05)
            else:
                self.slowest = max(self.slowest, time.monotonic() - began)
            if not isKept:
                connection.close()
        connection.close()


def kindOf(error):
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    return "unavailable" if "status" in str(error) else "cut"


def until(condition, seconds=DEADLINE):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def measure(way):
    """
    @return: a row of the table.
    """
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        server = way(directory)
        stack.callback(server.end)
        server.start()
        if not until(lambda: isServing(server.port)):
            sys.exit((server.directory / "log").read_text())
        with Clients(server.port) as clients:
            for number in range(2, DEPLOYMENTS + 2):
                server.release(number)
                server.deploy()
                until(lambda number=number: clients.newest == number)
                time.sleep(1)
        server.release(99, "raise RuntimeError('bad release')")
        server.deploy()
        time.sleep(5)
        return Row(way.__doc__, clients, isServing(server.port))


class Row:
    def __init__(self, name, clients, isUp):
        kinds = clients.failures
        self.cells = [
            name,
            f"{clients.requests:,}",
            *(str(kinds[kind]) for kind in ("refused", "cut", "unavailable")),
            f"{clients.slowest:.1f} s",
            "serves" if isUp else "is down",
        ]


HEAD = [
    "deployed by",
    "requests",
    "refused",
    "cut",
    "unavailable",
    "slowest",
    "after a bad release",
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", help="of the ways, all if none is named")
    names = parser.parse_args().names
    ways = [Restart, Activated, Behind, Gunicorn, Uvicorn, Tableflip]
    print("|", " | ".join(HEAD), "|")
    print("|---" * len(HEAD) + "|")
    for way in ways:
        if names and way.__name__ not in names:
            continue
        if way.needs and not (shutil.which(way.needs) or (BIN / way.needs).exists()):
            print(f"| {way.__doc__} | {way.needs} is not installed |")
            continue
        print("|", " | ".join(measure(way).cells), "|", flush=True)


if __name__ == "__main__":
    main()
