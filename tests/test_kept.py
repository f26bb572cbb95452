"""
A real service under C{tableflip run}: crashes, upgrades, and whoever watches.
"""

import os
import shlex
import shutil
import signal
import sys
from pathlib import Path
from threading import Thread

import pytest
from commandlines import atOnce
from keepers import KEEPER, PROGRAM, childrenOf, isRefused, kept, real
from processes import DEADLINE, Clients, ask, until

__all__ = ["kept", "real"]


def test_no_client_is_refused_whatever_is_killed(real):
    """
    Three crashes and four upgrades, failed ones between: one process id, nobody refused,
    and nobody fails in an upgrade.
    """
    real.begin()
    failed = 0
    with Clients(real.address, 8) as clients:
        for turn in range(3):
            real.crash()
            lost, clients.failures = clients.failures, []
            assert not any("Refused" in each for each in lost)
            failed += len(lost)
            real.service.release(f"name = '{turn + 2}'")
            done = real.upgrade()
            assert done.returncode == 0, done.stderr
            clients.waitForMore()
            real.service.release("raise ValueError('a bad release')")
            done = real.upgrade()
            assert (done.returncode, "a bad release" in done.stderr) == (1, True)
            real.service.release(f"name = '{turn + 2}'")
            clients.waitForMore()
            assert clients.failures == []
    assert failed <= 3 * 8
    assert real.status()["keeper"]["restarts"] == 3
    assert real.stop() == 0
    assert not real.service.processes()


@pytest.mark.slow
def test_a_keeper_that_was_stopped_during_upgrades_knows_who_serves(real):
    """
    More was said than its queue takes, and each process says the rest when it can, in
    whatever order: none of it is lost.
    """
    real.begin()
    serving = real.main()
    os.kill(real.pid, signal.SIGSTOP)
    for generation in range(2, 8):
        os.kill(serving, signal.SIGHUP)
        serves = f"] generation {generation} serves\n"
        real.waitFor(serves)
        serving = int(real.log.partition(serves)[0].rpartition(" pid ")[2])
    os.kill(real.pid, signal.SIGCONT)

    def isKnown():
        kept = real.status()["keeper"]
        return (kept["main"], kept["state"], kept["isReady"]) == (serving, "Serving", True)

    until(isKnown, lambda: real.log)
    assert ask(real.address)[1] == 7
    assert real.upgrade().returncode == 0
    assert real.stop() == 0


CONTAINER = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
INITS = {
    "process 1": CONTAINER,
    "tini": ["tini", "-g", "--"],
    "dumb-init": ["dumb-init"],
}


def needed(command):
    """
    Return a command, if it can be run here.
    """
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]} (Debian: apt-get install {command[0]})")
    if command == CONTAINER and os.geteuid() != 0:
        pytest.skip("only root makes a pid namespace")
    return command


@pytest.mark.parametrize("init", INITS)
def test_a_container_outlives_its_upgrades_and_crashes(real, init):
    """
    With the keeper as its process 1, or below a small init that sends each signal to a
    whole group: one process id, nobody refused, and a stop that drains.
    """
    real.begin(before=needed(INITS[init]))
    first = real.log.count("started process")
    with Clients(real.address, 4) as clients:
        for child in map(int, childrenOf(real.pid)):
            os.kill(child, signal.SIGKILL)
        real.waitFor("started process", first + 1)
        real.waitFor("generation 2 serves")
        lost, clients.failures = clients.failures, []
        assert not any("Refused" in each for each in lost)
        os.kill(real.pid, signal.SIGHUP)
        real.waitFor("generation 3 serves")
        real.waitFor("upgrade done")
        clients.waitForMore()
        assert clients.failures == []
    with real.hold() as sock:
        os.kill(real.pid if init == "process 1" else real.process.pid, signal.SIGTERM)
        until(lambda: "SIGTERM from" in real.log, lambda: real.log)
        until(lambda: isRefused(real.address), "a refusal")
        assert real.process.poll() is None
        sock.sendall(b"bye\n")
    assert real.process.wait(DEADLINE) == 0
    assert not real.service.processes()


@pytest.mark.parametrize("init", INITS)
def test_a_container_ends_with_its_keeper(real, init):
    """
    Whatever its process 1 is: connections are aborted, and nothing is left.
    """
    inner = [] if init == "process 1" else needed(INITS[init])
    real.begin(before=[*needed(CONTAINER), *inner], depth=2 if inner else 1)
    with real.hold() as sock:
        os.kill(real.pid, signal.SIGKILL)
        assert real.process.wait(DEADLINE) != 0
        until(lambda: not real.service.processes(), "the end of all")
        assert isAborted(sock)


def isAborted(sock):
    """
    Say whether nobody answers on a connection any more.
    """
    try:
        sock.sendall(b"bye\n")
        return sock.recv(100) == b""
    except ConnectionError:
        return True


def test_a_keeper_that_is_killed_can_be_started_again_at_once(real):
    """
    Nobody watches it: its process stops listening, and finishes what is open beside the
    next one.
    """
    real.begin()
    with real.hold() as sock:
        os.kill(real.pid, signal.SIGKILL)
        real.process.wait(DEADLINE)
        until(lambda: isRefused(real.address), "a refusal")
        old = real.service.processes()
        real.service.release("name = 'next'")
        real.begin()
        assert ask(real.address) == ("next", 1)
        sock.sendall(b"bye\n")
        assert sock.recv(100).startswith(b"bye 1 1 ")
    until(lambda: not set(old) & set(real.service.processes()), "the end of the old one")
    assert real.stop() == 0
    assert not real.service.processes()


SUPERVISORD = """
[supervisord]
nodaemon=true
logfile={directory}/supervisord.log
pidfile={directory}/supervisord.pid
[unix_http_server]
file={directory}/supervisor.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{directory}/supervisor.sock
[program:myapp]
command={command}
stopwaitsecs=60
autorestart=true
stdout_logfile={directory}/keeper.log
redirect_stderr=true
"""


def supervised(real):
    """
    Have supervisord start a keeper, and return what asks supervisord.
    """
    directory = real.service.directory
    command = shlex.join([*KEEPER, "--", *atOnce(PROGRAM)])
    config = directory / "supervisord.conf"
    config.write_text(SUPERVISORD.format(directory=directory, command=command))
    real.service.environment["ENDPOINTS"] = f"tableflip:tcp:{real.port}:interface=127.0.0.1"
    scripts = Path(sys.executable).parent
    real.process = real.service.start(scripts / "supervisord", "-c", str(config))

    def control(*words):
        return real.service.run(scripts / "supervisorctl", "-c", str(config), *words).stdout

    until((directory / "keeper.log").exists, "its log")
    real.waitFor("generation 1 serves")
    real.keeper = int(control("pid", "myapp"))
    until(lambda: real.status()["keeper"]["stored"], "what is stored")
    return control


def test_supervisord_sees_one_process(real):
    """
    RUNNING, with the same process id, after an upgrade and after a crash; a stop drains.
    """
    control = supervised(real)
    with Clients(real.address, 4) as clients:
        assert real.upgrade().returncode == 0
        clients.waitForMore()
        assert clients.failures == []
        real.crash()
        clients.waitForMore()
        assert not any("Refused" in each for each in clients.failures)
    assert control("status", "myapp").split()[1:4] == ["RUNNING", "pid", f"{real.keeper},"]
    with real.hold() as sock:
        stopping = Thread(target=control, args=("stop", "myapp"))
        stopping.start()
        until(lambda: isRefused(real.address), "a refusal")
        sock.sendall(b"bye\n")
        assert sock.recv(100)
    stopping.join(DEADLINE)
    assert "STOPPED" in control("status", "myapp")
    real.process.send_signal(signal.SIGTERM)
    assert real.process.wait(DEADLINE) == 0


def test_supervisord_starts_a_keeper_again_that_is_killed(real):
    """
    And what it has kept finishes what is open, beside the next one.
    """
    control = supervised(real)
    killed = real.keeper
    with real.hold() as sock:
        real.service.release("name = 'next'")
        os.kill(killed, signal.SIGKILL)
        real.waitFor("generation 1 serves", 2)
        until(lambda: ask(real.address) == ("next", 1), "an answer of the next one")
        sock.sendall(b"bye\n")
        assert sock.recv(100).startswith(b"bye 1 1 ")
    until(lambda: "RUNNING" in control("status", "myapp"), "it to run for a second")
    real.keeper = int(control("pid", "myapp"))
    assert real.keeper != killed
    assert real.main() in real.service.processes()
    assert "stopped" in control("stop", "myapp")
    real.process.send_signal(signal.SIGTERM)
    assert real.process.wait(DEADLINE) == 0
    assert not real.service.processes()
