"""
What surrounds a daemon: its pid file, its user, its directory, its name, its
signals and its standard descriptors.
"""

import os
import pty
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from processes import (
    APPS,
    TWISTD,
    Clients,
    PidFileWatch,
    Service,
    ask,
    descriptors,
    fewOrMany,
    until,
)

import txtableflip
from txtableflip.testing._service import freePort, isAlive

ANSWERING = ["tableflip", "--app", str(APPS / "answering.py")]


@pytest.mark.parametrize("command", ["twistd tableflip", "twistd --python"])
@fewOrMany(4, 20)
def test_the_pid_file_is_right_over_many_upgrades(service, address, command, upgrades):
    """
    Looked at every 10 ms, the pid file always names a living process of ours,
    over upgrades of which every fourth fails.
    """
    app = str(APPS / "answering.py")
    service.twistd(*(["--python", app] if command.endswith("python") else ANSWERING))
    with PidFileWatch(service) as watch, Clients(address, 2) as clients:
        for number in range(upgrades):
            if number % 4 == 3:
                service.release("raise ValueError('bad')")
                service.fail()
            else:
                service.release(f"name = '{number}'")
                service.redeploy()
    assert watch.mistakes == []
    assert len(watch.seen) == 1 + upgrades * 3 // 4
    assert clients.failures == []


@pytest.mark.parametrize("named", ["a younger process", "itself", "nobody"])
def test_a_stale_pid_file_does_not_keep_a_service_from_starting(service, address, named):
    """
    A pid file that is older than the process which has its number now, or names
    no process, is removed.
    """
    if named == "nobody":
        gone = subprocess.Popen(["true"])
        gone.wait()
        service.pidFile.write_text(str(gone.pid))
        service.twistd(*ANSWERING)
    elif named == "itself":
        # exec keeps the number.
        line = f'echo $$ > {service.pidFile}; exec "$@"'
        done = service.run("sh", "-c", line, "sh", TWISTD, *ANSWERING)
        assert done.returncode == 0, done.stdout + done.stderr
        service.waitFor("generation 1 serves")
    else:
        service.pidFile.write_text("1")
        begun = time.time() - 3600
        os.utime(service.pidFile, (begun, begun))
        stranger = service.start("sleep", "1000")
        service.pidFile.write_text(str(stranger.pid))
        os.utime(service.pidFile, (begun, begun))
        service.twistd(*ANSWERING)
        assert isAlive(stranger.pid)
    assert ask(address) == ("1", 1)


@pytest.mark.parametrize("generation", [1, 2])
def test_a_living_service_is_not_started_twice(service, address, generation):
    """
    A pid file of a service that runs, in whichever generation, keeps another
    from starting, and the message names the process.
    """
    service.twistd(*ANSWERING)
    if generation == 2:
        service.redeploy()
    pid = service.pid
    done = service.run(TWISTD, *ANSWERING)
    assert done.returncode != 0
    assert f"PID {pid}" in done.stdout + done.stderr
    assert service.pid == pid
    assert ask(address) == ("1", generation)


def test_umask_directory_prefix_and_profile_go_from_generation_to_generation(service, address):
    """
    A successor has the umask and the directory of the first process, and runs
    under the profiler if that did.
    """
    rundir = service.directory / "run"
    rundir.mkdir()
    options = ["--umask=037", f"--rundir={rundir}", "--prefix=ours"]
    options += [f"--pidfile={service.pidFile}", f"--logfile={service.directory}/twistd.log"]
    options += ["--profile=profile", "--profiler=cprofile"]
    service.twistd(*options, *ANSWERING)
    service.redeploy()
    assert ask(address) == ("1", 2)
    found = Path(f"/proc/{service.pid}/status").read_text()
    assert "Umask:\t0037" in found
    assert os.readlink(f"/proc/{service.pid}/cwd") == str(rundir)
    pid = service.pid
    os.kill(pid, signal.SIGTERM)
    until(lambda: not isAlive(pid), "the end of the service")
    assert (rundir / "profile").stat().st_size > 0


def test_a_service_that_logs_to_syslog_is_replaced(service, address):
    """
    With C{--syslog} there is no log file, in any generation.
    """
    done = service.run(TWISTD, "--syslog", "--prefix=ours", *ANSWERING)
    assert done.returncode == 0, done.stdout + done.stderr
    for generation in (1, 2, 3):
        until(lambda generation=generation: answers(address, generation), "an answer")
        if generation < 3:
            os.kill(service.pid, signal.SIGHUP)
    assert not (service.directory / "twistd.log").exists()


def answers(address, generation):
    try:
        return ask(address) == ("1", generation)
    except ConnectionRefusedError:
        return False


def test_the_name_of_the_process_is_no_obstacle(service):
    """
    An application that names its process (IProcess) is upgraded, under its
    interpreter's own name.
    """
    port = freePort()
    service.environment["ENDPOINTS"] = f"tableflip:tcp:{port}:interface=127.0.0.1"
    app = service.directory / "named.tac"
    text = (APPS / "answering.py").read_text()
    app.write_text(f"{text}\nservice.IProcess(application).processName = 'named'\n")
    service.twistd("--originalname", "--python", str(app))
    service.redeploy()
    assert ask(("127.0.0.1", port)) == ("1", 2)


def test_a_start_that_fails_looks_as_twistd_makes_it(service):
    """
    The exit status and the message of a first generation that cannot start are
    twistd's own.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
        plain = service.run(TWISTD, "-n", "web", "--listen", endpoint)
        ours = service.run(
            TWISTD, "-n", "tableflip", "--app", "web", "--", "--listen", f"tableflip:{endpoint}"
        )
    assert (plain.returncode, ours.returncode) == (1, 1)
    assert "Address already in use" in plain.stdout + plain.stderr
    assert "Address already in use" in ours.stdout + ours.stderr


def interpreterForAll():
    """
    Return an interpreter, and an environment, with which any user can run what
    is tested here; or skip the test.
    """
    found = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    installed = [path for path in sys.path if path.endswith("site-packages")]
    ours = Path(txtableflip.__file__).parent.parent
    path = os.pathsep.join([str(ours), str(ours.parent), *installed])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    become = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    check = "import sys, twisted.web.server, txtableflip; "
    check += "sys.exit(sys.version_info[:2] != (%d, %d))"
    try:
        done = subprocess.run(
            [*become, str(found), "-c", check % sys.version_info[:2]],
            env=environment,
            capture_output=True,
            check=False,
        )
    except FileNotFoundError as error:
        pytest.skip(f"cannot become another user: {error}")
    if done.returncode != 0:
        pytest.skip(f"nobody can run what is tested with {found}: {done.stderr[-200:]!r}")
    return found, environment


@pytest.fixture
def shedding():
    """
    A service that root starts in a directory of nobody's, and what starts
    twistd there.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    python, environment = interpreterForAll()
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        os.chmod(directory, 0o755)
        shutil.chown(directory, "nobody", "nogroup")
        app = Path(directory) / "answering.py"
        shutil.copy(APPS / "answering.py", app)
        made = Service(directory, PYTHONPATH=environment["PYTHONPATH"])
        command = [python, "-m", "twisted.scripts.twistd"]
        launcher = Path(directory) / "twistd"
        launcher.write_text("from twisted.scripts.twistd import run\nrun()\n")
        command = [python, str(launcher), "-u", "nobody", "-g", "nogroup"]
        try:
            yield made, [*command, "tableflip", "--app", str(app)]
        finally:
            made.kill()


def test_root_opens_the_port_and_nobody_serves(shedding):
    """
    A service that root started on a privileged port, and which has become
    another user, is upgraded: the port is inherited.
    """
    service, command = shedding
    port = next(n for n in range(600, 1024) if isFree(n))
    service.environment["ENDPOINTS"] = f"tableflip:tcp:{port}:interface=127.0.0.1"
    log = service.directory / "twistd.log"
    log.touch()
    shutil.chown(log, "nobody", "nogroup")
    done = service.run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    service.waitFor("generation 1 serves")
    assert "upgrades will fail" not in service.log
    with Clients(("127.0.0.1", port), 2) as clients:
        service.redeploy()
        clients.waitForMore()
    assert clients.failures == []
    assert os.stat(f"/proc/{service.pid}").st_uid == 65534
    assert service.pidFile.owner() == "nobody"


def isFree(port):
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def test_files_that_the_new_user_cannot_open_are_named_at_the_start(shedding, certificate):
    """
    A log file and a key that only root may use keep the next version from
    starting: the service says so when it starts, and names them.
    """
    service, command = shedding
    key = service.directory / "key.pem"
    shutil.copy(certificate, key)
    key.chmod(0o600)
    service.environment["ENDPOINTS"] = (
        f"tableflip:ssl:{freePort()}:interface=127.0.0.1:privateKey={key}:certKey={key}"
    )
    done = service.run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    service.waitFor("generation 1 serves")
    assert "upgrades will fail, because user 65534 may not write to the log file" in service.log
    assert f"nor read the key or certificate {key}" in service.log
    service.fail()


def test_a_pid_file_that_the_new_user_cannot_replace_is_said_at_the_start(shedding):
    """
    Where the pid file's directory is root's, the service serves, says that it
    cannot be upgraded, and refuses to be.
    """
    service, command = shedding
    service.environment["ENDPOINTS"] = f"tableflip:tcp:{freePort()}:interface=127.0.0.1"
    shutil.chown(service.directory, "root", "root")
    done = service.run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    service.waitFor("serving, but cannot be upgraded: the pid file")
    pid = service.pid
    os.kill(pid, signal.SIGHUP)
    service.waitFor("upgrade refused: this process cannot be upgraded: the pid file")
    assert isAlive(pid)
    assert service.pid == pid


@fewOrMany(3, 10)
def test_a_signal_as_soon_as_there_is_a_pid_file_is_neither_lost_nor_deadly(
    service, address, upgrades
):
    """
    SIGHUP the moment that the pid file exists, when the service has not said a
    word yet, leads to an upgrade; in each of some starts.
    """
    for _ in range(upgrades):
        starting = service.start(TWISTD, *ANSWERING)
        pid = until(
            lambda: service.pidFile.exists() and service.pidFile.read_text(), "a pid file"
        )
        os.kill(int(pid), signal.SIGHUP)
        starting.wait()
        until(
            lambda pid=pid: service.pidFile.read_text() not in ("", pid), "a second generation"
        )
        until(lambda: ask(address) == ("1", 2), "its answer")
        os.kill(service.pid, signal.SIGTERM)
        until(lambda: not service.processes(), "the end of the service")


def test_nohup_does_not_keep_a_service_from_redeploying(service, address):
    """
    A program that was started with SIGHUP ignored listens to it all the same,
    and so does its successor.
    """
    service.start(
        "nohup", TWISTD, "-n", "-l", "twistd.log", *ANSWERING, stderr=subprocess.DEVNULL
    )
    service.waitFor("generation 1 serves")
    service.redeploy()
    service.redeploy()
    assert ask(address) == ("1", 3)


def test_a_terminal_that_closes_redeploys_a_service_in_its_foreground(service, address):
    """
    The hang-up of a terminal is a SIGHUP as any other: the service goes on,
    without a terminal.
    """
    ours, theirs = pty.openpty()
    take = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    take += "os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", take, TWISTD, "-n", "-l", "twistd.log", *ANSWERING]
    service.start(*command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    try:
        service.waitFor("generation 1 serves")
    finally:
        os.close(ours)
    until(lambda: ask(address) == ("1", 2), "an answer of generation 2")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_descriptors_are_no_obstacle(service, address, closed):
    """
    A service that was started without some of its standard descriptors is
    upgraded twice.
    """
    line = f'exec "$@" {closed}'
    command = [TWISTD, "-n", "-l", "twistd.log", *ANSWERING]
    service.start("sh", "-c", line, "sh", *command)
    service.waitFor("generation 1 serves")
    for _ in range(2):
        service.redeploy()
    assert ask(address) == ("1", 3)


def test_standard_output_may_be_a_pipe_that_nobody_reads(service, address):
    """
    A reader of the service's output that is gone keeps it neither from serving
    nor from being replaced.
    """
    reader, writer = os.pipe()
    command = [TWISTD, "-n", "-l", "twistd.log", *ANSWERING]
    service.start(*command, stdout=writer, stderr=writer)
    os.close(writer)
    service.waitFor("generation 1 serves")
    os.close(reader)
    for _ in range(2):
        service.redeploy()
    assert ask(address) == ("1", 3)


def settled(pid):
    """
    Return the descriptors of a process, if it has none of its parent any more: what
    that was known by is closed a moment after its end.
    """
    found = descriptors(pid)
    return found if "anon_inode:[pidfd]" not in found else None


def test_what_is_inherited_on_the_standard_descriptors_stays_blocking(service, address):
    """
    The terminal, or the pipe, that the service shares with others is not made
    non-blocking, nor the other way round; and no descriptor is left over.
    """
    main, terminal = pty.openpty()
    command = [TWISTD, "-n", "-l", "twistd.log", *ANSWERING]
    service.start(*command, stdin=terminal, stdout=terminal, stderr=terminal)
    try:
        service.waitFor("generation 1 serves")
        service.redeploy()
        before = until(lambda: settled(service.pid), "the end of all that was the parent's")
        for _ in range(3):
            service.redeploy()
        assert os.get_blocking(terminal)
        until(lambda: settled(service.pid) == before, lambda: descriptors(service.pid))
        assert stat.S_ISCHR(os.fstat(terminal).st_mode)
        links = [os.readlink(f"/proc/{service.pid}/fd/{n}") for n in range(3)]
        assert links == [os.ttyname(terminal)] * 3
    finally:
        os.close(main)
        os.close(terminal)
