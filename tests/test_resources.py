"""
What the machine refuses in the middle of an upgrade: processes, memory, room on
the disk, permission, room in a buffer.  The old process keeps serving, says why, and
is replaced as soon as it may be.  (Descriptors are in test_releases.py.)
"""

import json
import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from processes import APPS, DEADLINE, TWISTD, Clients, ask, asOrdinaryUser, until

from txtableflip.testing._service import stateOf

TABLEFLIP = shutil.which("tableflip", path=os.path.dirname(sys.executable))
ANSWERING = str(APPS / "answering.py")


def startAsNobody(service, *options):
    """
    Start a daemon as an ordinary user, who owns the directory.
    """
    prefix = asOrdinaryUser()
    if prefix:
        shutil.chown(service.directory, "nobody")
        for parent in service.directory.parents[:2]:
            parent.chmod(0o755)
    done = service.run(*prefix, TWISTD, *options, "tableflip", "--app", ANSWERING)
    assert done.returncode == 0, done.stdout + done.stderr
    service.waitFor("generation 1 serves")
    return service.pid


def shouldServeOn(service, address, pid, reason):
    """
    Check that an upgrade fails under load, for this reason, and that nothing
    has changed.
    """
    with Clients(address, 2) as clients:
        service.fail()
        clients.waitForMore()
    assert clients.failures == []
    assert reason in service.failures()[-1]
    assert ask(address)[1] == 1
    assert service.pid == pid
    until(lambda: service.processes() == [pid], "the old process alone")


def test_a_user_who_may_not_start_another_process_is_told_so(service, address):
    """
    At the limit of processes the upgrade fails (EAGAIN), and succeeds when the
    limit is raised.
    """
    service.release(
        "name = 'one'\n"
        "from resource import RLIMIT_NPROC, getrlimit, setrlimit\n"
        "soft, hard = getrlimit(RLIMIT_NPROC)\n"
        "def heard(line):\n"
        "    if line == 'poor': setrlimit(RLIMIT_NPROC, (1, hard))\n"
        "    if line == 'rich': setrlimit(RLIMIT_NPROC, (soft, hard))\n"
    )
    pid = startAsNobody(service)
    ask(address, "poor")
    shouldServeOn(service, address, pid, "Resource temporarily unavailable")
    assert "could not be started as" in service.failures()[0]
    ask(address, "rich")
    service.redeploy()


def test_a_machine_without_memory_for_another_process_is_told_of(service, address):
    """
    When there is no memory for a second process (ENOMEM, which only a machine
    that has none can make happen), the upgrade fails, and the next one may
    succeed.
    """
    service.release(
        "name = 'one'\n"
        "from errno import ENOMEM\n"
        "from txtableflip._handover import posixspawn\n"
        "def poor(*arguments):\n"
        "    posixspawn.spawn = spawn\n"
        "    raise OSError(ENOMEM, 'Cannot allocate memory')\n"
        "spawn, posixspawn.spawn = posixspawn.spawn, poor\n"
    )
    pid = service.twistd("tableflip", "--app", ANSWERING)
    shouldServeOn(service, address, pid, "Cannot allocate memory")
    service.redeploy()


def test_a_pid_file_that_may_not_be_replaced_is_a_failed_upgrade(service, address):
    """
    When the directory of the pid file has become read-only (EACCES) the child
    refuses, and the pid file names the old process.
    """
    run = service.directory / "run"
    run.mkdir(mode=0o777)
    run.chmod(0o777)
    (service.directory / "twistd.pid").symlink_to(run / "pid")
    pid = startAsNobody(service, f"--pidfile={run / 'pid'}")
    if asOrdinaryUser():
        shutil.chown(run, "root")
    run.chmod(0o555)
    try:
        shouldServeOn(service, address, pid, "Permission denied")
        assert "refused to take over" in service.failures()[0]
    finally:
        run.chmod(0o777)
    service.redeploy()


def test_a_log_that_may_not_be_opened_is_a_failed_upgrade(service, address):
    """
    A child that cannot open the log file (EACCES) fails, and why is in the log
    of the old process, which has it open.
    """
    pid = startAsNobody(service)
    log = service.directory / "twistd.log"
    if asOrdinaryUser():
        shutil.chown(log, "root")
    log.chmod(0o400)
    try:
        shouldServeOn(service, address, pid, "Permission denied")
    finally:
        log.chmod(0o666)
    service.redeploy()


def test_a_key_of_another_user_is_a_failed_upgrade(service, address):
    """
    A child that may not read the key of its certificate (EACCES) fails, and who has asked
    by the command is told, with how far it came.
    """
    pid = startAsNobody(service)
    # It may read all files (asOrdinaryUser), but for those of another's process.
    key = "/proc/1/environ"
    service.release(
        f"import os\nos.environ['ENDPOINTS'] += ' tableflip:ssl:0:privateKey={key}'"
    )
    done = service.run(TABLEFLIP, "upgrade", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["outcome"], told["phase"]) == (1, "failed", "initialise")
    assert f"Permission denied: '{key}'" in "\n".join(told["lastOutput"])
    assert told["serving"]["pid"] == pid
    shouldServeOn(service, address, pid, "Permission denied")


class SmallDisk:
    """
    A file system of 128 KiB, which only the service sees, and the test through
    its process.
    """

    def __init__(self, service):
        self.service = service
        self.path = service.directory / "disk"
        self.path.mkdir()

    def start(self, *options):
        """
        Start a service that has the disk, in the foreground.
        """
        mount = f"mount -t tmpfs -o size=128k tmpfs {self.path}"
        prefix = ["unshare", "--mount", "sh", "-c"]
        if os.geteuid() != 0 or self.service.run(*prefix, mount).returncode != 0:
            pytest.skip("to mount a small file system takes root, and unshare(1)")
        self.process = self.service.start(
            *(*prefix, f'{mount} && exec "$@"', "sh", TWISTD, "--nodaemon", *options),
            *("tableflip", "--app", ANSWERING),
        )

    def __truediv__(self, name):
        """
        A file on the disk, as the service sees it.
        """
        (pid, *_) = self.service.processes()
        return Path(f"/proc/{pid}/root{self.path}/{name}")

    def fill(self):
        """
        Leave no room.
        """
        with (self / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(b"x" * 4096)


def test_a_pid_file_for_which_there_is_no_room_is_a_failed_upgrade(service, address):
    """
    When the disk of the pid file is full (ENOSPC) the child refuses, and the
    pid file is as it was.
    """
    disk = SmallDisk(service)
    disk.start(f"--pidfile={disk.path}/pid", "--logfile=twistd.log")
    service.waitFor("generation 1 serves")
    old = disk.process
    disk.fill()
    with Clients(address, 2) as clients:
        old.send_signal(signal.SIGHUP)
        service.waitFor("upgrade failed")
        clients.waitForMore()
    assert clients.failures == []
    assert "No space left on device" in service.failures()[0]
    assert int((disk / "pid").read_text()) == old.pid
    (disk / "filler").unlink()
    old.send_signal(signal.SIGHUP)
    assert old.wait(DEADLINE) == 0
    assert ask(address)[1] == 2


def test_a_log_for_which_there_is_no_room_keeps_nobody_from_upgrading(service, address):
    """
    A full disk under the log costs lines of the log, and nothing else.
    """
    disk = SmallDisk(service)
    disk.start("--pidfile=", f"--logfile={disk.path}/log")
    old = disk.process
    until(lambda: service.processes() and (disk / "log").exists(), "a log")
    until(lambda: "generation 1 serves" in (disk / "log").read_text(), "a start")
    disk.fill()
    with Clients(address, 2) as clients:
        old.send_signal(signal.SIGHUP)
        assert old.wait(DEADLINE) == 0
        clients.waitForMore()
    assert clients.failures == []
    assert clients.generations == {1, 2}
    (new,) = service.processes()
    (disk / "filler").unlink()
    os.kill(new, signal.SIGHUP)
    until(lambda: "generation 3 serves" in (disk / "log").read_text(), "the log to go on")


def test_a_child_that_does_not_read_does_not_keep_its_parent_from_serving(service, address):
    """
    A manifest that does not fit into the socket's buffer is written as the
    child reads it; meanwhile the parent serves.
    """
    service.release(
        "name = 'one'\n"
        "import os\n"
        "from twisted.internet import reactor\n"
        "from txtableflip import currentUpgrader\n"
        "def add():\n"
        "    null = os.open(os.devnull, os.O_RDONLY)\n"
        "    for n in range(400): currentUpgrader().fds.addFile(f'{n}' + 'x' * 2000, null)\n"
        "reactor.callWhenRunning(add)\n"
    )
    first = service.twistd("--python", ANSWERING)
    until(lambda: len(os.listdir(f"/proc/{first}/fd")) > 400, "400 files")
    # Under plain twistd this runs before the Upgrader is made, which reads.
    service.release("name = 'two'\nimport os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\n")
    with Clients(address, 2) as clients:
        os.kill(first, signal.SIGHUP)
        child = service.childOf(1)
        until(lambda: stateOf(child)[0] == "T", "a child that is stopped")
        clients.waitForMore(100)
        assert clients.releases == {"one"}
        os.kill(child, signal.SIGCONT)
        until(lambda: "two" in clients.releases, lambda: f"the child:\n{service.log[-2000:]}")
    assert clients.failures == []
