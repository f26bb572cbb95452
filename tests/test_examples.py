"""
The examples, started by the commands in their first lines, and redeployed.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import DEADLINE, connect, until

from txtableflip.testing._service import freePort, isAlive

pytestmark = pytest.mark.wheel
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


def get(address):
    """
    Return the body of a web server's first page.
    """
    with connect(address) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
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
    demo.py shows five upgrades and a failed one under load, reports that no
    request failed, and leaves nothing behind: no process, no file.
    """
    output, _ = runDemo(service).communicate(timeout=DEADLINE)
    for number in range(1, 7):
        assert re.search(rf"^ *[\d.]+ s +release {number}, .* answers$", output, re.MULTILINE)
    assert "RuntimeError: this release is broken" in output
    last = output.splitlines()[-1]
    assert re.match(r"5 upgrades, 1 failed upgrade, [\d,]+ requests, 0 failures;", last)
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
    Control-C in the middle of the demonstration ends the daemon, too.
    """
    demo = runDemo(service, start_new_session=True)
    for line in demo.stdout:
        if "release 2," in line:
            break
    demo.send_signal(signal.SIGINT)
    assert demo.wait(DEADLINE) == 130
    assert service.processes() == []
