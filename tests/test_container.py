"""
C{tableflip run} as process 1 of a container of a real engine: what docs/supervisors.md says.
"""

import os
import shutil
import signal
import uuid

import pytest
from keepers import TABLEFLIP, Real, isRefused
from processes import DEADLINE, Clients, until

# runc, because crun does not run where the kernel still has cgroups of version 1.
ENGINE = ("podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs")
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000")


class Container(Real):
    """
    A service in a container without an image: its root is an overlay of this machine's.
    """

    def __init__(self, service):
        super().__init__(service)
        self.name = f"txtableflip-{uuid.uuid4().hex}"
        self.inside = (*ENGINE, "exec", self.name)

    def engine(self, *words):
        """
        Return what the engine prints.
        """
        done = self.service.run(*ENGINE, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def run(self):
        """
        Start it, and wait until it serves.
        """
        directory = str(self.service.directory)
        self.service.environment["ENDPOINTS"] = f"tableflip:tcp:{self.port}:interface=127.0.0.1"
        before = (
            *(*ENGINE, "run", "--name", self.name, "--network=host", *LIMITS),
            *("--volume", f"{directory}:{directory}", "--workdir", directory),
            *(f"--env={name}={value}" for name, value in self.service.environment.items()),
            *("--rootfs", "/:O"),
        )
        return self.begin(before=before)

    def find(self, depth=1):
        return int(self.engine("inspect", "--format", "{{.State.Pid}}", self.name))

    def crash(self):
        """
        Kill who serves, inside, and wait until the next one does.
        """
        main = self.main()
        self.engine("exec", self.name, "kill", "-KILL", str(main))
        until(lambda: self.main() != main, lambda: self.log)

    def upgrade(self):
        return self.service.run(*self.inside, TABLEFLIP, "upgrade", "1", timeout=DEADLINE)


@pytest.fixture
def container(service):
    """
    A container that has not been started, and is removed in the end.
    """
    for needed in ENGINE[0], ENGINE[2]:
        if shutil.which(needed, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            pytest.skip(f"there is no {needed} (Debian: apt-get install {needed})")
    if os.geteuid() != 0:
        pytest.skip("only root runs a container on an overlay of the machine's own root")
    container = Container(service)
    yield container
    service.run(*ENGINE, "rm", "--force", "--time", "0", container.name)


def test_a_container_is_upgraded_from_outside(container):
    """
    By C{exec}, which gets the outcome, and by a signal: its process id stays the same, no
    client fails, and whoever asks for a bad release is told.
    """
    container.run()
    with Clients(container.address, 4) as clients:
        done = container.upgrade()
        assert done.returncode == 0, done.stderr
        container.service.release("raise ValueError('a bad release')")
        done = container.upgrade()
        assert (done.returncode, "a bad release" in done.stderr) == (1, True)
        container.service.release("name = '3'")
        container.engine("kill", "--signal", "HUP", container.name)
        container.waitFor("upgrade done", 2)
        clients.waitForMore()
        assert clients.failures == []
    assert container.find() == container.keeper


def test_a_container_outlives_what_serves_in_it(container):
    """
    Killed inside, three times: no client is refused, and at most those fail that it had
    accepted.
    """
    container.run()
    with Clients(container.address, 4) as clients:
        for _ in range(3):
            container.crash()
            clients.waitForMore()
    assert not any("Refused" in each for each in clients.failures)
    assert len(clients.failures) <= 3 * 4
    assert container.find() == container.keeper


def test_a_container_is_stopped_when_its_connections_have_drained(container):
    """
    With time enough, C{stop} cuts nothing, and the exit status is 0.
    """
    container.run()
    with container.hold() as sock:
        stopping = container.service.start(*ENGINE, "stop", "--time", "300", container.name)
        until(lambda: isRefused(container.address), "a refusal")
        assert stopping.poll() is None
        sock.sendall(b"bye\n")
        assert sock.recv(100)
    assert stopping.wait(DEADLINE) == 0
    assert container.process.wait(DEADLINE) == 0
    status = container.engine("inspect", "--format", "{{.State.ExitCode}}", container.name)
    assert status == "0"
    assert not container.service.processes()


def test_a_container_ends_with_its_keeper(container):
    """
    It is process 1: everything else in the container is killed with it.
    """
    container.run()
    with container.hold() as sock:
        os.kill(container.keeper, signal.SIGKILL)
        assert container.process.wait(DEADLINE) != 0
        until(lambda: not container.service.processes(), "the end of all")
        assert sock.recv(100) == b""
