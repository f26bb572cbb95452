"""
What differs between two releases is handled, and told to the operator.
"""

import json
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile

import pytest
from processes import APPS, TWISTD, Clients, Service, ask, asOrdinaryUser, until

from txtableflip.testing._service import freePort


class Releases:
    """
    A running tests/apps/releases.py, and what each generation found changed.
    """

    def __init__(self, service):
        self.service = service
        self.directory = service.directory

    def start(self, *listens, prefix=()):
        """
        Start the program with code that listens so.

        @param prefix: what to put before its command.
        """
        self.release(*listens)
        command = (*prefix, sys.executable, str(APPS / "releases.py"), str(self.directory))
        self.service.start(*command)
        return self.changes(1)

    def release(self, *listens):
        """
        Deploy code that listens so.
        """
        body = "".join(f"    {line}\n" for line in listens)
        self.service.release(f"import socket\nasync def listen(upgrader):\n{body}    pass\n")

    def upgrade(self, *listens):
        """
        Deploy code that listens so, and return what the new generation found.
        """
        generation = 1 + len(list(self.directory.glob("changes.*")))
        self.release(*listens)
        self.service.redeploy()
        return self.changes(generation)

    def changes(self, generation):
        path = self.directory / f"changes.{generation}"
        until(path.exists, f"generation {generation}\n{self.service.log}")
        return json.loads(path.read_text())


@pytest.fixture
def releases(service):
    """
    A program that is all release, not started yet.
    """
    return Releases(service)


def endpoint(description):
    return f"await upgrader.endpoint({description!r}).listen(factory)"


def test_what_is_kept_bound_and_dropped_is_told(releases):
    """
    A listener that stays, one that is new, and one that is gone are told apart
    in an attribute and in one log event; the one that is gone is closed.
    """
    kept, dropped, bound = freePort(), freePort(), freePort()
    releases.start(
        endpoint(f"tcp:{kept}:interface=127.0.0.1"),
        endpoint(f"tcp:{dropped}:interface=127.0.0.1"),
    )
    changes = releases.upgrade(
        endpoint(f"tcp:{kept}:interface=localhost"),
        endpoint(f"tcp:{bound}:interface=127.0.0.1"),
    )
    assert changes["kept"] == [f"tcp 127.0.0.1:{kept}"]
    assert changes["bound"] == [f"tcp 127.0.0.1:{bound}"]
    assert changes["dropped"] == [f"tcp 127.0.0.1:{dropped}"]
    assert changes["foreign"] == []
    assert f"dropped ['tcp 127.0.0.1:{dropped}']" in releases.service.log
    assert ask(("127.0.0.1", kept))[1] == ask(("127.0.0.1", bound))[1] == 2
    with pytest.raises(ConnectionRefusedError):
        ask(("127.0.0.1", dropped))


def test_a_dropped_path_is_removed_after_the_commit_and_not_before(releases):
    """
    A release that drops a unix path and then fails leaves it alone; one that
    succeeds has removed it.
    """
    path = releases.directory / "socket"
    port = freePort()
    releases.start(endpoint(f"unix:{path}"), endpoint(f"tcp:{port}:interface=127.0.0.1"))
    inode = path.stat().st_ino
    releases.release(endpoint(f"tcp:{port}:interface=127.0.0.1"), "raise ValueError('no')")
    releases.service.fail()
    assert path.stat().st_ino == inode
    assert ask(str(path))[1] == 1
    releases.upgrade(endpoint(f"tcp:{port}:interface=127.0.0.1"))
    assert not path.exists()
    assert not path.with_name("socket.lock").is_symlink()


def backlog(port):
    """
    Return the length of a listening socket's queue, as ss(8) shows it.
    """
    shown = subprocess.run(
        ["ss", "-ltnH", f"sport = :{port}"], capture_output=True, text=True, check=True
    )
    return int(shown.stdout.split()[2])


@pytest.mark.skipif(shutil.which("ss") is None, reason="there is no ss(8) to look with")
def test_a_new_backlog_and_a_new_mode_take_effect_when_the_new_release_serves(releases):
    """
    The options that a release gives to an inherited listener are applied to
    it, and told; a release that fails changes nothing.
    """
    path = releases.directory / "socket"
    port = freePort()
    releases.start(
        endpoint(f"tcp:{port}:interface=127.0.0.1:backlog=33"),
        endpoint(f"unix:{path}:mode=600"),
    )
    following = (
        endpoint(f"tcp:{port}:interface=127.0.0.1:backlog=77"),
        endpoint(f"unix:{path}:mode=660"),
    )
    releases.release(*following, "raise ValueError('no')")
    releases.service.fail()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert backlog(port) == 33
    changes = releases.upgrade(*following)
    assert changes["changed"] == [
        f"tcp 127.0.0.1:{port}: backlog 33, now 77",
        f"unix {path}: mode 600, now 660",
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert backlog(port) == 77


def test_a_backlog_that_there_cannot_be_fails_the_release_at_once(releases):
    """
    What listen(2) would not take is found while the release starts, and not when
    it is to serve.
    """
    port = freePort()
    releases.start(endpoint(f"tcp:{port}:interface=127.0.0.1"))
    releases.release(endpoint(f"tcp:{port}:interface=127.0.0.1:backlog={2**31}"))
    releases.service.fail()
    (failure,) = releases.service.failures()
    assert "(phase: initialise)" in failure
    assert f"tcp 127.0.0.1:{port}: the backlog must be" in releases.service.log
    assert ask(("127.0.0.1", port))[1] == 1


def test_a_listener_that_a_release_stops_before_it_is_ready_is_gone(releases):
    """
    What was to be changed about it is not changed any more.
    """
    path = releases.directory / "socket"
    kept, stopped = freePort(), freePort()
    releases.start(
        endpoint(f"tcp:{kept}:interface=127.0.0.1"),
        endpoint(f"tcp:{stopped}:interface=127.0.0.1"),
        endpoint(f"unix:{path}:mode=600"),
    )
    releases.upgrade(
        endpoint(f"tcp:{kept}:interface=127.0.0.1"),
        f"port = {endpoint(f'tcp:{stopped}:interface=127.0.0.1:backlog=77')}",
        "await port.stopListening()",
        endpoint(f"unix:{path}:mode=77660"),
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert ask(("127.0.0.1", kept))[1] == 2
    with pytest.raises(ConnectionRefusedError):
        ask(("127.0.0.1", stopped))


@pytest.mark.parametrize(
    "listen",
    [
        "listenUDP({port}, protocol, interface='127.0.0.1')",
        "listenMulticast({port}, protocol, interface='127.0.0.1')",
        "listenUNIXDatagram('datagrams', protocol)",
    ],
)
def test_a_port_that_its_protocol_closes_is_gone(releases, listen):
    """
    A datagram protocol closes the port that is its transport: no child inherits
    that, its address is free, and upgrades fail and succeed as before.
    """
    port = freePort()
    tcp = endpoint(f"tcp:{port}:interface=127.0.0.1")
    listening = [
        "from twisted.internet.protocol import DatagramProtocol",
        "protocol = DatagramProtocol()",
        f"upgrader.reactor.{listen.format(port=port)}",
    ]
    closing = "await protocol.transport.stopListening()"
    changes = releases.start(*listening, closing, *listening, tcp, closing)
    assert changes["used"] == [f"tcp 127.0.0.1:{port}"]
    releases.release(tcp, "raise ValueError('no')")
    releases.service.fail()
    assert ask(("127.0.0.1", port))[1] == 1
    changes = releases.upgrade(*listening, tcp)
    assert len(changes["kept"]) == len(changes["bound"]) == 1
    assert ask(("127.0.0.1", port))[1] == 2


def test_who_listens_again_before_the_port_is_closed_keeps_the_new_one(releases):
    """
    A port that is told to stop is closed a moment later: that does not concern
    another, which has its address by then.
    """
    path = releases.directory / "socket"
    port = freePort()
    changes = releases.start(
        f"port = {endpoint(f'unix:{path}')}",
        "closed = port.stopListening()",
        endpoint(f"unix:{path}"),
        "await closed",
        endpoint(f"tcp:{port}:interface=127.0.0.1"),
    )
    assert changes["used"] == [f"unix {path}", f"tcp 127.0.0.1:{port}"]
    assert ask(str(path))[1] == 1


def test_a_listener_outside_the_inventory_is_named_in_a_warning(releases):
    """
    A port that is bound without tableflip is found when the process serves.
    """
    port, foreign = freePort(), freePort()
    changes = releases.start(
        endpoint(f"tcp:{port}:interface=127.0.0.1"),
        f"reactor.listenTCP({foreign}, factory, interface='127.0.0.1')",
    )
    assert changes["foreign"] == [f"tcp 127.0.0.1:{foreign}"]
    assert f"tcp 127.0.0.1:{foreign} is not inheritable" in releases.service.log


def test_sockets_of_other_families_are_no_obstacle(releases):
    """
    What listens to the kernel or to other virtual machines keeps no process from
    taking over: the former is not a listener, and the latter is named.
    """
    port, foreign = freePort(), freePort()
    changes = releases.start(
        endpoint(f"tcp:{port}:interface=127.0.0.1"),
        "upgrader.kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM)",
        "upgrader.kernel.bind((0, 1))",
    )
    assert changes["foreign"] == []
    try:
        socket.socket(socket.AF_VSOCK).close()
    except OSError as error:
        pytest.skip(f"there are no vsock(7) sockets here: {error}")
    changes = releases.upgrade(
        endpoint(f"tcp:{port}:interface=127.0.0.1"),
        "upgrader.machines = socket.socket(socket.AF_VSOCK)",
        f"upgrader.machines.bind((socket.VMADDR_CID_ANY, {foreign}))",
        "upgrader.machines.listen()",
    )
    assert changes["foreign"] == [f"AF_VSOCK (4294967295, {foreign})"]


@pytest.mark.parametrize(
    ("first", "second", "key"),
    [
        ("tcp:{port}:interface=localhost", "tcp:{port}:interface=127.0.0.1", "127.0.0.1"),
        ("tcp:{port}", "tcp:{port}:interface=0.0.0.0", "0.0.0.0"),
        (
            r"tcp6:{port}:interface=\:\:1",
            r"tcp6:{port}:interface=0\:0\:0\:0\:0\:0\:0\:1",
            "[::1]",
        ),
        (r"tcp6:{port}", r"tcp6:{port}:interface=\:\:", "[::]"),
    ],
)
def test_addresses_that_mean_the_same_are_the_same(releases, first, second, key):
    """
    A listener is inherited by any spelling of its address.
    """
    port = freePort()
    releases.start(endpoint(first.format(port=port)))
    changes = releases.upgrade(endpoint(second.format(port=port)))
    network = first.partition(":")[0]
    assert changes["kept"] == [f"{network} {key}:{port}"]
    assert changes["bound"] == []


def test_a_relative_path_and_an_absolute_one_are_the_same(releases):
    """
    A unix listener is inherited by any spelling of its path.
    """
    path = releases.directory / "socket"
    releases.start(endpoint("unix:socket"))
    changes = releases.upgrade(endpoint(f"unix:{path}"))
    assert changes["kept"] == [f"unix {path}"]
    assert ask(str(path))[1] == 2


def test_ports_that_the_kernel_chose_stay_the_same_and_apart(releases):
    """
    Two listeners on port 0 have the same ports as before after each upgrade,
    though one of them is stopped and started again in between.
    """
    listens = [endpoint("tcp:0:interface=127.0.0.1"), endpoint("tcp:0:interface=127.0.0.1")]
    writing = [
        f"a = {listens[0]}",
        f"b = {listens[1]}",
        "open('ports', 'a').write(f'{a.getHost().port} {b.getHost().port}\\n')",
    ]
    releases.start(*writing)
    releases.upgrade(*writing)
    releases.upgrade(*writing)
    ports = (releases.directory / "ports").read_text().splitlines()
    assert len(ports) == 3
    assert len(set(ports)) == 1
    first, second = ports[0].split()
    assert first != second


def test_services_with_a_reactor_of_their_own_choice_are_inherited(releases):
    """
    TCPServer and UDPServer services that are given the inheriting reactor keep
    their sockets.
    """
    tcp, udp = freePort(), freePort()
    code = (
        "from twisted.application import internet",
        "from twisted.internet.protocol import DatagramProtocol",
        "options = dict(interface='127.0.0.1', reactor=upgrader.reactor)",
        f"internet.TCPServer({tcp}, factory, **options).startService()",
        f"internet.UDPServer({udp}, DatagramProtocol(), **options).startService()",
    )
    releases.start(*code)
    changes = releases.upgrade(*code)
    assert changes["kept"] == [f"tcp 127.0.0.1:{tcp}", f"udp 127.0.0.1:{udp}"]
    assert changes["bound"] == changes["foreign"] == []
    assert ask(("127.0.0.1", tcp))[1] == 2


def test_systemds_sockets_are_inherited(service):
    """
    Sockets that systemd has passed to the first generation, by index and by
    name, serve on in the next ones; the path is not unlinked, and the child
    does not see systemd's variables.
    """
    port = freePort()
    path = service.directory / "activated"
    service.environment["ENDPOINTS"] = (
        "tableflip:systemd:domain=INET:index=0 tableflip:systemd:domain=UNIX:name=web"
    )
    service.start(
        sys.executable,
        str(APPS / "activate.py"),
        f"api={port}",
        f"web={path}",
        "--",
        TWISTD,
        *("--logfile=twistd.log", "tableflip", "--app", str(APPS / "answering.py")),
    )
    service.waitFor("generation 1 serves")
    inode = path.stat().st_ino
    with Clients(("127.0.0.1", port), 4) as tcp, Clients(str(path), 4) as unix:
        for number in (2, 3):
            pid = service.redeploy()
            for clients in (tcp, unix):
                until(lambda n=number, c=clients: n in c.generations or c.failures, "it")
            with open(f"/proc/{pid}/environ") as variables:
                assert "LISTEN_" not in variables.read()
    assert tcp.failures == unix.failures == []
    os.kill(service.pid, signal.SIGTERM)
    until(lambda: not service.processes(), "the end")
    assert path.stat().st_ino == inode


def test_a_systemd_socket_that_was_not_passed_is_a_clear_error(service):
    """
    A systemd endpoint without a socket from systemd says what to check.
    """
    service.environment["ENDPOINTS"] = "tableflip:systemd:domain=INET:name=nosuch"
    done = service.run(TWISTD, "-n", "tableflip", "--app", str(APPS / "answering.py"))
    assert "systemd has passed no such socket" in done.stdout + done.stderr


def test_inherit_all_needs_no_change_of_the_application(service):
    """
    With --inherit-all, a plain twistd command with a plain endpoint is
    redeployed under load.
    """
    port = freePort()
    code = service.directory / "plain.py"
    code.write_text(
        "import os\n"
        "from twisted.application import internet, service\n"
        "from twisted.internet.protocol import Factory, Protocol\n"
        "from txtableflip import currentUpgrader\n"
        "class P(Protocol):\n"
        "    def dataReceived(self, data):\n"
        "        generation = currentUpgrader().generation\n"
        "        answer = f'{data.decode().strip()} 1 {generation} {os.getpid()} .'\n"
        "        self.transport.write(answer.encode())\n"
        "        self.transport.loseConnection()\n"
        "application = service.Application('plain')\n"
        f"internet.TCPServer({port}, Factory.forProtocol(P), interface='127.0.0.1')"
        ".setServiceParent(application)\n"
    )
    service.twistd("tableflip", "--inherit-all", "--app", str(code))
    with Clients(("127.0.0.1", port)) as clients:
        for number in (2, 3, 4):
            service.redeploy()
            until(lambda number=number: number in clients.generations or clients.failures, "it")
    assert clients.failures == []
    assert clients.generations == {1, 2, 3, 4}


def test_without_inherit_all_a_plain_application_is_warned_at_start(service):
    """
    An application of which nothing can be inherited says so when it starts.
    """
    service.twistd("tableflip", "--app", "web", "--", "--listen", "tcp:0:interface=127.0.0.1")
    service.waitFor("nothing that listens in this process can be inherited")


def pipes(count):
    """
    Return code that holds so many pipes, and tries each of them.
    """
    return (
        "import os",
        f"for n in range({count}):",
        "    if upgrader.generation == 1:",
        "        ends = os.pipe()",
        "        for end, name in zip(ends, ('r', 'w')):",
        "            upgrader.fds.addFile(f'{n}{name}', end)",
        "            os.close(end)",
        "    else:",
        "        reader, writer = upgrader.fds.file(f'{n}r'), upgrader.fds.file(f'{n}w')",
        "        os.write(writer.fileno(), b'x')",
        "        assert os.read(reader.fileno(), 1) == b'x'",
    )


@pytest.mark.process
@pytest.mark.parametrize("user", ["root", "an ordinary user"])
def test_four_thousand_descriptors_go_in_one_upgrade(user):
    """
    Two thousand pipes, which have four thousand descriptors, are inherited in
    one upgrade, by an ordinary user as by root.
    """
    if user == "root" and os.geteuid() != 0:
        pytest.skip("this is not root")
    prefix = () if user == "root" else asOrdinaryUser()
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        os.chmod(directory, 0o777)
        releases = Releases(Service(directory))
        try:
            (releases.directory / "limit").write_text("4100")
            port = freePort()
            code = (endpoint(f"tcp:{port}:interface=127.0.0.1"), *pipes(2000))
            releases.start(*code, prefix=prefix)
            changes = releases.upgrade(*code)
            assert len(changes["kept"]) == 4001
            assert ask(("127.0.0.1", port))[1] == 2
        finally:
            releases.service.kill()


def test_a_child_with_too_low_a_limit_fails_clearly(releases):
    """
    A child that may not have as many descriptors as it is handed fails, and
    says so; the old process keeps serving, and passes all of them when it may.
    """
    port = freePort()
    code = (endpoint(f"tcp:{port}:interface=127.0.0.1"), *pipes(200))
    releases.start(*code)
    (releases.directory / "limit").write_text("300")
    releases.service.fail()
    assert "the kernel dropped descriptors" in releases.service.log
    assert ask(("127.0.0.1", port))[1] == 1
    (releases.directory / "limit").write_text("1000")
    assert len(releases.upgrade(*code)["kept"]) == 401


def test_a_parent_at_its_limit_fails_clearly(releases):
    """
    A process that cannot open one descriptor more says so when it is to be
    upgraded, and keeps serving.
    """
    port = freePort()
    releases.start(endpoint(f"tcp:{port}:interface=127.0.0.1"), *pipes(10))
    pid = releases.service.pid
    held = len(os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (held, 1000))
    releases.service.fail()
    assert "could not be started" in releases.service.log
    assert "Too many open files" in releases.service.log
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (1000, 1000))
    releases.service.redeploy()
    assert ask(("127.0.0.1", port))[1] == 2
