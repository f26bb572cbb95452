"""
What one is told: the reason, to whoever asks, and what to do about it.
"""

import errno
import os
import signal
import socket
import sys

import pytest
from processes import APPS, TWISTD, ask, until
from twisted.internet.error import CannotListenError

from txtableflip._handover.manifest import Key
from txtableflip._launch.pidfile import PidFile
from txtableflip._launch.supervised import PROCESS_1, SUPERVISORD, SYSTEMD, watchedBy
from txtableflip._sockets.inuse import whyInUse
from txtableflip.errors import PidFileError

ANSWERING = str(APPS / "answering.py")


# -- an error of the application's own

MISTAKES = {
    "int": "number = int('80a')",
    "json": "import json\njson.loads('')",
    "unicode": "b'\\xff'.decode('ascii')",
    "ours": "from txtableflip import InvalidEndpoint\nraise InvalidEndpoint('not that one')",
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("isFirst", [True, False])
def test_a_ValueError_of_the_application_keeps_its_traceback(
    service, address, mistake, isFirst
):
    """
    It is not taken for a mistake on the command line, at the first start nor later.
    """
    code = f"name = 'n'\ndef configured():\n    exec({MISTAKES[mistake]!r})\nconfigured()\n"
    if isFirst:
        service.release(code)
        done = service.run(TWISTD, "--nodaemon", "tableflip", "--app", ANSWERING)
        assert done.returncode == 1
        said = done.stdout + done.stderr
    else:
        service.twistd("tableflip", "--app", ANSWERING)
        service.release(code)
        service.fail()
        (said,) = service.failures()
    assert "in configured" in said
    assert "Usage: " not in said


# -- where nobody logs

UNLOGGED = """
import logging, sys
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from txtableflip import Upgrader
{configure}
upgrader = Upgrader(reactor, upgradeTimeout=55.0)
upgrader.redeployOn("HUP")
upgrader.endpoint(sys.argv[1].removeprefix("tableflip:")).listen(Factory())
reactor.callWhenRunning(lambda: upgrader.ready())
reactor.callLater(0.2, print, "runs", flush=True)
reactor.run()
"""


@pytest.mark.parametrize("configured", [True, False])
def test_a_failed_upgrade_is_told_where_nobody_logs(service, address, configured):
    """
    By logging, if that is configured, and else on standard error; and it is told once.
    """
    configure = "logging.basicConfig(filename='own.log')" if configured else ""
    (service.directory / "app.py").write_text(UNLOGGED.format(configure=configure))
    endpoint = service.environment["ENDPOINTS"]
    out, errors = service.directory / "out", service.directory / "errors"
    with out.open("w") as stdout, errors.open("w") as stderr:
        process = service.start(
            *(sys.executable, "app.py", endpoint), stdout=stdout, stderr=stderr
        )
    until(lambda: "runs" in out.read_text(), "its start")
    (service.directory / "app.py").write_text("raise SystemExit('not today')")
    process.send_signal(signal.SIGHUP)
    told = service.directory / "own.log" if configured else errors
    until(
        lambda: told.exists() and "upgrade failed" in told.read_text(),
        lambda: f"the failure in {errors.read_text()}",
    )
    assert "not today" in told.read_text()
    assert told.read_text().count("upgrade failed") == 1
    if configured:
        assert "upgrade failed" not in errors.read_text()


def test_where_somebody_logs_nothing_is_told_twice(service, address):
    """
    Also what was logged before anybody did.
    """
    service.environment["TXTABLEFLIP_CHANNEL"] = "none"
    log = service.directory / "twistd.log"
    with log.open("w") as stream:
        service.start(
            *(TWISTD, "--nodaemon", "tableflip", "--app", ANSWERING),
            stdout=stream,
            stderr=stream,
        )
    service.waitFor("generation 1 serves")
    service.environment.pop("TXTABLEFLIP_CHANNEL")
    assert log.read_text().count("starting as generation 1") == 1


# -- an address that is in use

KEPT = [Key("listener", "tcp", "127.0.0.1:80", 0), Key("listener", "unix", "/run/x", 0)]


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (("127.0.0.1", 80, errno.EADDRINUSE), "put tableflip: before the endpoint"),
        (("localhost", 80, errno.EADDRINUSE), "put tableflip: before the endpoint"),
        ((None, "/run/x", errno.EADDRINUSE), "put tableflip: before the endpoint"),
        (("", 80, errno.EADDRINUSE), "keep its interface, or stop the service"),
        (("::", 80, errno.EADDRINUSE), "keep its interface, or stop the service"),
        (("", 81, errno.EADDRINUSE), None),
        (("127.0.0.1", 80, errno.EACCES), None),
        ((None, "/run/y", errno.EADDRINUSE), None),
    ],
)
def test_it_is_told_if_the_process_before_has_the_address(error, hint):
    """
    And nothing is, if somebody else has, or it is another error.
    """
    interface, port, number = error
    found = whyInUse(
        CannotListenError(interface, port, OSError(number, os.strerror(number))), KEPT
    )
    assert found is None if hint is None else hint in found
    assert whyInUse(ValueError(), KEPT) is None


@pytest.mark.parametrize(
    ("endpoint", "hint"),
    [
        ("tcp:{port}:interface=127.0.0.1", "put tableflip: before the endpoint again"),
        ("tableflip:tcp:{port}", "keep its interface, or stop the service and start it once"),
    ],
)
def test_a_release_that_cannot_listen_beside_the_old_one_is_told_why(
    service, address, endpoint, hint
):
    """
    The prefix got lost, or the interface is another: that is what the failure says.
    """
    service.environment["ENDPOINTS"] = ""
    app = (APPS / "answering.py").read_text()
    (service.directory / "app.py").write_text(
        app.replace('os.environ["ENDPOINTS"]', 'RELEASE["endpoint"]')
    )
    first = f"tableflip:tcp:{address[1]}:interface=127.0.0.1"
    service.release(f"name = '1'\nendpoint = {first!r}")
    service.twistd("tableflip", "--app", "app.py")
    service.release(f"name = '2'\nendpoint = {endpoint.format(port=address[1])!r}")
    service.fail()
    (failure,) = service.failures()
    assert hint in failure
    assert failure.count(hint) == 1 or "Its last output" in failure
    assert ask(address) == ("1", 1)


# -- the pid file


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.EMFILE, "Raise the limit on open files"),
        (errno.ENOSPC, "Make room on its file system"),
        (errno.EDQUOT, "Make room on its file system"),
        (errno.EACCES, "Make its directory writable"),
        (errno.ENOENT, "Make its directory"),
        (errno.EIO, "Make its directory writable"),
    ],
)
def test_a_pid_file_that_cannot_be_written_says_what_to_do(tmp_path, monkeypatch, number, hint):
    """
    The advice is for the error that there is.
    """

    def fail(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(PidFileError, match=f"{os.strerror(number)}. {hint}"):
        PidFile(str(tmp_path / "pid")).prepare()


# -- who watches


@pytest.mark.parametrize(
    ("environment", "ids", "expected"),
    [
        ({}, (1, 1, 0), PROCESS_1),
        ({"SUPERVISOR_ENABLED": "1"}, (5, 5, 4), SUPERVISORD),
        ({"INVOCATION_ID": "x"}, (5, 5, 1), SYSTEMD),
        ({"NOTIFY_SOCKET": "x"}, (5, 5, 1), SYSTEMD),
        # A daemon; one of a shell; and one that nobody watches.
        ({"INVOCATION_ID": "x"}, (5, 4, 1), None),
        ({"INVOCATION_ID": "x"}, (5, 5, 4), None),
        ({}, (5, 5, 1), None),
    ],
)
def test_it_is_known_who_would_take_an_upgrade_for_the_end(environment, ids, expected):
    """
    Where that is certain; the warning says what to do today.
    """
    assert watchedBy(environment, *ids) == expected


def test_a_service_below_supervisord_warns_at_the_start_and_in_no_successor(service, address):
    """
    Once is enough.
    """
    service.environment["SUPERVISOR_ENABLED"] = "1"
    service.twistd("tableflip", "--app", ANSWERING)
    service.redeploy()
    assert service.log.count("supervisord takes the exit of this process") == 1


def test_stopping_while_the_old_process_drains_is_no_alarm(service, address):
    """
    All of its processes get the signal at once, as systemd sends it, in either order.
    """
    service.twistd("tableflip", "--app", ANSWERING)
    with socket.create_connection(address, 30) as held:
        held.sendall(b"stay\n")
        assert held.recv(99)
        os.kill(service.pid, signal.SIGHUP)
        service.waitFor("upgrade done")
        for pid in sorted(service.processes(), reverse=True):
            os.kill(pid, signal.SIGTERM)
        until(lambda: len(service.processes()) <= 1, "the end of the new one")
        held.sendall(b"bye\n")
        until(lambda: not service.processes(), "the end of both")
    assert "#critical" not in service.log
