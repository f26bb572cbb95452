"""
The examples, started by the commands in their first lines, and redeployed.
"""

import glob
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest
import wsproto
from processes import DEADLINE, Clients, asOrdinaryUser, connect, until
from test_drain import WebSocket

from txtableflip.testing._service import freePort, isAlive

EXAMPLES = Path(__file__).parent.parent / "examples"


def deploy(service, name, *change):
    """
    Put an example into the service's directory, with one text in it replaced.
    """
    code = (EXAMPLES / name).read_text()
    if change:
        old, new = change
        assert code.count(old) == 1, f"{old!r} in {name}"
        code = code.replace(old, new)
    (service.directory / name).write_text(code)


def startScript(service, name, endpoint):
    """
    Start an example in the foreground, and wait until it serves.
    """
    with (service.directory / "twistd.log").open("wb") as log:
        process = service.start(sys.executable, name, endpoint, stdout=log, stderr=log)
    service.waitFor("generation 1 serves")
    return process


def echo(address, line):
    """
    Send a line, and return what comes back.
    """
    with connect(address) as sock, sock.makefile("rwb") as stream:
        stream.write(line)
        stream.flush()
        return stream.readline()


def get(address, path="/"):
    """
    Return the body of a web server's page.
    """
    with connect(address) as sock:
        sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = b""
        while part := sock.recv(4096):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0], head
    return body.decode()


@pytest.fixture
def address():
    """
    Where the example is to listen.
    """
    return "127.0.0.1", freePort()


@pytest.fixture
def endpoint(address):
    """
    The same as an endpoint string.
    """
    return f"tcp:{address[1]}:interface={address[0]}"


UPPER = "self.sendLine(line)", "self.sendLine(line.upper())"


@pytest.mark.wheel
def test_echo_script(service, address, endpoint):
    """
    echo.py, a plain script, is replaced by its next version on SIGHUP.
    """
    deploy(service, "echo.py")
    process = startScript(service, "echo.py", endpoint)
    assert f"this is process {process.pid}\n" in service.log
    assert echo(address, b"Hear\n") == b"Hear\n"
    deploy(service, "echo.py", *UPPER)
    process.send_signal(signal.SIGHUP)
    child = service.childOf(1)
    assert process.wait(DEADLINE) == 0
    assert echo(address, b"Hear\n") == b"HEAR\n"
    assert f"this is process {child}\n" in service.log
    assert service.processes() == [child]


@pytest.mark.wheel
def test_echo_tac(service, address, endpoint):
    """
    echo.tac under twistd -y, a daemon, is replaced by its next version on
    SIGHUP.
    """
    service.environment["ENDPOINT"] = endpoint
    deploy(service, "echo.tac")
    service.twistd("-y", "echo.tac")
    assert echo(address, b"Hear\n") == b"Hear\n"
    deploy(service, "echo.tac", *UPPER)
    service.redeploy()
    assert echo(address, b"Hear\n") == b"HEAR\n"


def test_web(service, address, endpoint):
    """
    web.py under twistd tableflip, a daemon, tells who has answered, before and
    after an upgrade; and a broken release of it changes nothing.
    """
    service.environment["ENDPOINT"] = endpoint
    deploy(service, "web.py")
    first = service.twistd("tableflip", "--app", "web.py")
    assert get(address) == f"release 1, generation 1, process {first}\n"
    deploy(service, "web.py", 'RELEASE = "1"', 'raise RuntimeError("broken")')
    service.fail()
    assert "RuntimeError: broken" in service.failures()[0]
    assert get(address) == f"release 1, generation 1, process {first}\n"
    deploy(service, "web.py", 'RELEASE = "1"', 'RELEASE = "2"')
    second = service.redeploy()
    assert get(address) == f"release 2, generation 2, process {second}\n"


def test_upgrader_script(service, address, endpoint):
    """
    upgrader.py is replaced by its next version on SIGHUP, its pid file names
    the one that serves, and is gone after the last.
    """
    pidFile = service.directory / "upgrader.pid"
    deploy(service, "upgrader.py")
    process = startScript(service, "upgrader.py", endpoint)
    assert int(pidFile.read_text()) == process.pid
    assert get(address) == "Hello\n"
    deploy(service, "upgrader.py", r"Hello\n", r"Good day\n")
    process.send_signal(signal.SIGHUP)
    assert process.wait(DEADLINE) == 0
    assert get(address) == "Good day\n"
    second = int(pidFile.read_text())
    assert second == service.childOf(1)
    os.kill(second, signal.SIGTERM)
    until(lambda: not isAlive(second), "the end of the second generation")
    assert not pidFile.exists()


@pytest.fixture
def database(service):
    """
    The data source name of a PostgreSQL server of our own.
    """
    found = shutil.which("initdb") or max(
        glob.glob("/usr/lib/postgresql/*/bin/initdb"), default=""
    )
    if not found:
        pytest.skip("there is no PostgreSQL (Debian: apt-get install postgresql)")
    # Its socket has a long name, and root may not run it.
    with tempfile.TemporaryDirectory() as name:
        if os.geteuid() == 0:
            shutil.chown(name, "nobody")
        programs, data = Path(os.path.realpath(found)).parent, f"{name}/data"
        made = [programs / "initdb", "--no-sync", "--auth=trust", "--username=notes", data]
        subprocess.run([*asOrdinaryUser(), *made], check=True, capture_output=True)
        server = [programs / "postgres", "-D", data, "-k", name, "-h", "", "-F"]
        with service.start(*asOrdinaryUser(), *server, stderr=subprocess.DEVNULL) as process:
            where = ["-h", name, "-U", "notes", "-d", "postgres"]
            ready = [programs / "pg_isready", "--quiet", *where]
            until(lambda: subprocess.run(ready, check=False).returncode == 0, "PostgreSQL")
            yield f"host={name} user=notes dbname=postgres"
            process.send_signal(signal.SIGINT)


def post(address, text):
    """
    Note something.
    """
    connection = HTTPConnection(*address, timeout=DEADLINE)
    with closing(connection):
        connection.request("POST", "/notes", body=text)
        return connection.getresponse().read()


def test_klein_with_postgresql(service, address, endpoint, database):
    """
    klein_postgres.py loses no note that it has acknowledged, counts in one process
    at a time, and is not replaced by a release that cannot reach its database.
    """
    pytest.importorskip("klein")
    psycopg2 = pytest.importorskip("psycopg2")
    service.environment.update(ENDPOINT=endpoint, DATABASE=database)
    deploy(service, "klein_postgres.py")
    service.twistd("tableflip", "--app", "klein_postgres.py")
    noted = []

    def note(address, text, wrap):
        assert post(address, text) == b"noted\n"
        noted.append(text)
        return "noted", 1

    with Clients(address, 2, asking=note, pause=0.02) as clients:
        deploy(service, "klein_postgres.py", "cp_reconnect=True", "cp_reconnect=True, port=1")
        service.fail()
        assert "PGSQL.1" in service.failures()[0]
        deploy(service, "klein_postgres.py", 'RELEASE = "1"', 'RELEASE = "2"')
        service.redeploy()
        clients.waitForMore()
        with closing(psycopg2.connect(database)) as connection:
            cursor = connection.cursor()

            def counting():
                connection.rollback()
                cursor.execute("SELECT process FROM counts ORDER BY at")
                return [process for (process,) in cursor.fetchall()]

            until(lambda: service.pid in counting(), "a count by the new process")
            processes = counting()
    assert clients.failures == []
    # One after the other, and not in turns.
    assert processes == sorted(processes, key=list(dict.fromkeys(processes)).index)
    body = get(address, "/notes")
    shown = dict(re.findall(r"^(\S+) \(release (\d)\)$", body, re.MULTILINE))
    assert shown.keys() == set(noted)
    assert set(shown.values()) == {"1", "2"}


def test_websocket(service, address, endpoint):
    """
    websocket.py ticks, tells its clients by a close frame that it goes away, and
    ticks in the next release for who comes back.
    """
    pytest.importorskip("autobahn")
    service.environment["ENDPOINT"] = endpoint
    deploy(service, "websocket.py")
    service.twistd("tableflip", "--drain-timeout", "2", "--app", "websocket.py")
    client = WebSocket(address, "/")
    assert client.next().data.startswith("release 1: ")
    deploy(service, "websocket.py", 'RELEASE = "1"', 'RELEASE = "2"')
    old = service.pid
    os.kill(old, signal.SIGHUP)
    while not isinstance(event := client.next(), wsproto.events.CloseConnection):
        assert event.data.startswith("release 1: ")
    assert event.code == 1001
    client.answerClose(event, mayReset=True)
    until(lambda: not isAlive(old), "the end of the old process")
    again = WebSocket(address, "/")
    assert again.next().data.startswith("release 2: ")
    again.sock.close()


def runDemo(service, **options):
    """
    Start the demonstration, quicker than a person could follow it.
    """
    service.environment["TMPDIR"] = str(service.directory)
    demo = str(EXAMPLES / "demo.py")
    return service.start(
        sys.executable, demo, "--pause", "0.2", stdout=subprocess.PIPE, text=True, **options
    )


def test_demo(service):
    """
    demo.py shows five upgrades, a failed one and a crash under load, with the verdict of
    each as an operator sees it; reports that no request failed and that the chat goes on,
    and leaves nothing behind: no process, no file.
    """
    output, _ = runDemo(service).communicate(timeout=3 * DEADLINE)
    for number in range(1, 7):
        assert re.search(rf"^ *[\d.]+ s +release {number}, .* answers$", output, re.MULTILINE)
        assert number == 1 or f"generation {number} serves: process" in output
    assert "exited with status 1 before it had taken over (phase: initialise)" in output
    assert "RuntimeError: this release is broken" in output
    assert "tableflip upgrade has ended with status 1" in output
    assert "the chat has not reconnected: 10 lines, none lost" in output
    assert re.search(r"release 6, process \d+ answers: none refused, \d cut\n", output)
    last = output.splitlines()[-1]
    assert re.match(
        r"5 upgrades, 1 failed upgrade, 1 crash: [\d,]+ requests, 0 failures;", last
    )
    assert service.processes() == []
    assert not list(service.directory.glob("txtableflip*"))


def test_demo_that_fails_says_so(service):
    """
    demo.py whose web server never works exits with another status than 0, with
    the server's own words.
    """
    shutil.copytree(EXAMPLES, service.directory / "examples")
    (service.directory / "examples" / "web.py").write_text("1 / 0\n")
    done = service.run(sys.executable, "examples/demo.py")
    assert done.returncode != 0
    assert "ZeroDivisionError" in done.stdout + done.stderr
    assert service.processes() == []


def test_demo_that_is_interrupted_leaves_nothing_behind(service):
    """
    Control-C in the middle of the demonstration ends the service, too.
    """
    demo = runDemo(service, start_new_session=True)
    for line in demo.stdout:
        if "release 2," in line:
            break
    demo.send_signal(signal.SIGINT)
    assert demo.wait(DEADLINE) == 130
    assert service.processes() == []


@pytest.mark.parametrize("name", ["Dockerfile", "supervisord.conf", "myapp.service"])
def test_what_supervisors_are_told_is_what_the_documents_say(name):
    """
    The lines that decide are those of docs/supervisors.md and of the README, which
    are tested with the real ones.
    """
    documents = [EXAMPLES.parent / "docs" / "supervisors.md", EXAMPLES.parent / "README.md"]
    said = "\n".join(path.read_text() for path in documents)
    decisive = (
        r"^(?:ENTRYPOINT|STOPSIGNAL|command|stopwaitsecs|Type|Exec|KillMode|Timeout|FileD).*"
    )
    lines = re.findall(decisive, (EXAMPLES / name).read_text(), re.MULTILINE)
    assert lines
    assert [line for line in lines if line not in said.splitlines()] == []


def test_the_unit_is_one(service):
    """
    systemd finds nothing wrong with myapp.service, but that it is not installed here.
    """
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze(1) (Debian: apt-get install systemd)")
    done = service.run("systemd-analyze", "verify", str(EXAMPLES / "myapp.service"))
    wrong = [line for line in done.stderr.splitlines() if "myapp.service" in line]
    assert [line for line in wrong if "is not executable" not in line] == []
