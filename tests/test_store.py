"""
What is deposited with a service manager, and what a process that is started again makes
of it.
"""

import os
import signal
import socket
import stat
import sys

import pytest
from managers import told
from processes import APPS, DEADLINE, TWISTD, Clients, Gate, ask, until

from txtableflip._handover.store import listNames
from txtableflip.testing._service import freePort, isAlive

__all__ = ["told"]


class Stored:
    """
    A service whose manager has a store.
    """

    def __init__(self, service, told):
        self.service = service
        self.told = told
        self.activated = {}
        self.address = ("127.0.0.1", freePort())
        self.path = str(service.directory / "s.sock")
        service.environment |= {
            "NOTIFY_SOCKET": told.address,
            "FDSTORE": "20",
            "ENDPOINTS": f"tableflip:tcp:{self.address[1]}:interface=127.0.0.1 "
            f"tableflip:unix:{self.path}",
        }

    def start(self, *options):
        """
        Start a first generation with what is stored, and return its process id when it
        has deposited what it has.
        """
        self.told.told.clear()
        passed = {**self.activated, **self.told.store}
        store = [f"{name}={number}" for name, number in passed.items()]
        done = self.service.run(
            *(sys.executable, str(APPS / "passed.py"), *store, "--"),
            *(TWISTD, "tableflip", *options, "--app", str(APPS / "answering.py")),
            pass_fds=passed.values(),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        until(lambda: self.told.heard("READY"), "ready")
        self.settled()
        return self.service.pid

    def settled(self):
        """
        Wait until exactly one list is stored, with what it names.
        """
        until(lambda: self.named() == set(self.told.store), lambda: f"{self.told.store}")

    def named(self):
        """
        Return what the only list says that there is, and its own name.
        """
        lists = [name for name in list(self.told.store) if "-list-" in name]
        if len(lists) != 1:
            return None
        text = os.pread(self.told.store[lists[0]], 1 << 20, 0)
        return {*text.partition(b"\n")[0].decode().split(), *lists}

    def generation(self):
        return ask(self.address)[1]

    def kill(self):
        pid = self.service.pid
        os.kill(pid, signal.SIGKILL)
        until(lambda: not isAlive(pid), "its end")


@pytest.fixture
def stored(service, told):
    """
    A service whose manager has a store, and which has not been started.
    """
    return Stored(service, told)


def test_who_is_killed_and_started_again_refuses_nobody(stored):
    """
    Clients of all kinds of sockets wait in the queue meanwhile; and after an upgrade as
    before, the store has what the process that serves would hand on.
    """
    stored.start()
    count, inode = len(stored.told.store), os.stat(stored.path).st_ino
    stored.service.redeploy()
    # The one before is stored, too, until it has ended.
    until(lambda: len(stored.told.store) == count, lambda: f"{stored.told.store}")
    stored.settled()
    with Clients(stored.address, 4) as tcp, Clients(stored.path, 2) as unix:
        for generation in (3, 4):
            stored.kill()
            stored.start()
            assert stored.generation() == generation
            for clients in (tcp, unix):
                until(lambda n=generation, c=clients: n in c.generations, "it to answer")
    failures = [*tcp.failures, *unix.failures]
    # Those whom the killed one had accepted.
    assert not [each for each in failures if "Refused" in each or "NotFound" in each]
    assert len(failures) <= 2 * 6
    assert os.stat(stored.path).st_ino == inode
    assert "starting as generation 1" not in stored.service.log


def test_a_stop_and_a_start_refuse_nobody_and_bind_the_path_anew(stored):
    """
    The path is removed at a stop, as ever, and whoever comes afterwards reaches the new
    process and not a socket that nobody can.
    """
    stored.start()
    with Clients(stored.address, 4) as tcp:
        pid = stored.service.pid
        os.kill(pid, signal.SIGTERM)
        until(lambda: not isAlive(pid), "its end")
        assert not os.path.exists(stored.path)
        stored.start()
        until(lambda: 2 in tcp.generations, "an answer")
        assert ask(stored.path)[1] == 2
    assert tcp.failures == []


@pytest.mark.parametrize("when", ["initialising", "on probation"])
@pytest.mark.parametrize("whom", ["the old one", "both"])
def test_a_stop_during_an_upgrade_leaves_alive_what_is_stored(stored, when, whom):
    """
    Whoever else has a socket in that moment: the next start is to answer who has come.
    """
    service = stored.service
    pids = [stored.start("--probation", "60")]
    gate = Gate(service)
    if when == "initialising":
        service.release(gate.code)
    os.kill(pids[0], signal.SIGHUP)
    pids.append(service.childOf(1))
    if when == "initialising":
        gate.reached()
    else:
        service.waitFor("on probation")
    service.release("name = 'next'")
    with Clients(stored.address, 4) as tcp:
        for pid in pids if whom == "both" else pids[:1]:
            os.kill(pid, signal.SIGTERM)
        gate.open()
        until(lambda: not service.processes(), lambda: service.log)
        stored.start()
        until(lambda: "next" in tcp.releases, lambda: f"an answer: {tcp.failures[-1:]}")
    assert tcp.failures == []


def test_sockets_of_a_socket_unit_go_with_the_stored_ones(stored):
    """
    Their numbers stay, whether there is a store or not, and nobody is refused.
    """
    with socket.create_server(("127.0.0.1", 0)) as activated:
        address = activated.getsockname()
        stored.activated = {"web": activated.fileno()}
        stored.service.environment["ENDPOINTS"] += " tableflip:systemd:domain=INET:index=0"
        stored.start()
        stored.kill()
        stored.start()
        assert [ask(each)[1] for each in (address, stored.address)] == [2, 2]
        stored.service.redeploy()
        stored.settled()
        stored.kill()
        stored.start()
        assert ask(address)[1] == 4
        stored.kill()
        without(lambda name: True, stored.told)
        os.unlink(stored.path)
        stored.start()
        assert [ask(each)[1] for each in (address, stored.address)] == [1, 1]


def without(names, told):
    for name in list(told.store):
        if names(name):
            os.close(told.store.pop(name))


def loseTheList(told):
    without(lambda name: "-list-" in name, told)


def loseOne(told):
    [name, *_] = [name for name in told.store if "-list-" not in name]
    without(lambda each: each == name, told)


def isSocket(number):
    return stat.S_ISSOCK(os.fstat(number).st_mode)


def exchange(told):
    # Not the counters.
    sockets = [name for name, number in told.store.items() if isSocket(number)]
    one, other = sockets
    told.store[one], told.store[other] = told.store[other], told.store[one]


def garble(told):
    [name] = [name for name in told.store if "-list-" in name]
    size = os.fstat(told.store[name]).st_size
    os.pwrite(told.store[name], b"\0" * (size // 2), size // 2)


def anotherKind(told):
    [name, *_] = [name for name in told.store if "-list-" not in name]
    file = os.open("/dev/null", os.O_RDONLY)
    os.dup2(file, told.store[name])
    os.close(file)


@pytest.mark.parametrize("damage", [loseTheList, loseOne, exchange, garble, anotherKind])
def test_what_is_not_complete_is_let_go_as_a_whole(stored, damage):
    """
    Else the service manager would keep the ports of a service that cannot listen there.
    """
    stored.start()
    stored.kill()
    damage(stored.told)
    os.unlink(stored.path)
    stored.start()
    assert stored.generation() == 1
    assert ask(stored.path)[1] == 1
    assert (
        stored.service.log.count("are incomplete: dropping them and starting as generation 1")
        == 1
    )


def test_what_a_helper_of_another_process_is_told_is_not_for_it(stored):
    """
    LISTEN_PID says for whom it is.
    """
    stored.start()
    stored.service.environment |= {
        "LISTEN_PID": "1",
        "LISTEN_FDS": "1",
        "LISTEN_FDNAMES": listNames(1)[0],
    }
    stored.kill()
    loseTheList(stored.told)
    without(lambda name: True, stored.told)
    os.unlink(stored.path)
    stored.start()
    assert stored.generation() == 1
    assert "starting as generation 1" not in stored.service.log


OPENING = """
from twisted.internet import endpoints, protocol, reactor
opened = []
factory = protocol.Factory.forProtocol(protocol.Protocol)
where = "tableflip:tcp:{port}:interface=127.0.0.1"
def heard(line):
    if line == "open":
        endpoint = endpoints.serverFromString(reactor, where)
        endpoint.listen(factory).addCallback(opened.append)
    elif line == "close":
        opened.pop().stopListening()
"""


def test_listeners_come_and_go_in_the_store_as_in_the_process(stored):
    """
    What is closed is refused at once, and can be listened on again; and while a release
    that fails is tried, the store stays complete.
    """
    port = freePort()
    stored.service.release(f"name = '1'\n{OPENING.format(port=port)}")
    stored.start()
    before = set(stored.told.store)
    for _ in range(2):
        ask(stored.address, "open")
        until(lambda: len(stored.told.store) == len(before) + 1, "one more")
        stored.settled()
        socket.create_connection(("127.0.0.1", port), DEADLINE).close()
        ask(stored.address, "close")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), DEADLINE)
        until(lambda: len(stored.told.store) == len(before), "one less")
        stored.settled()
    ask(stored.address, "open")
    stored.service.release("raise ValueError")
    stored.service.fail()
    # And the process itself, which a next one is to know.
    until(
        lambda: len(stored.told.store) == len(before) + 2,
        lambda: f"it to be there: {stored.told.told[-9:]} {stored.service.log[-3000:]}",
    )
    stored.settled()


def test_more_than_there_is_room_for_is_not_stored_and_said(stored):
    """
    Rather than to find at the next start that something is missing.
    """
    stored.service.environment["FDSTORE"] = "3"
    stored.told.told.clear()
    stored.service.twistd("tableflip", "--app", str(APPS / "answering.py"))
    stored.service.waitFor("descriptors are not stored: there are 3, and room for 1")
    assert stored.told.store == {}


@pytest.mark.parametrize("reactor", ["epoll", "poll", "select", "asyncio"])
def test_who_has_lost_its_keeper_finishes_what_is_open_and_ends(stored, reactor):
    """
    Whatever its reactor says of a pipe that has ended; also if it is a successor, and
    somebody sends SIGTERM as well.
    """
    stored.service.environment["TXTABLEFLIP_KEEPER"] = str(stored.told.pipe)
    done = stored.service.run(
        *(TWISTD, f"--reactor={reactor}", "tableflip", "--app", str(APPS / "answering.py")),
        pass_fds=[stored.told.pipe],
    )
    assert done.returncode == 0, done.stderr
    stored.service.waitFor("generation 1 serves")
    pid = stored.service.redeploy()
    with socket.create_connection(stored.address, DEADLINE) as held:
        held.sendall(b"stay\n")
        assert held.recv(99)
        stored.told.leave()
        stored.service.waitFor("the keeper has exited")
        os.kill(pid, signal.SIGTERM)
        until(lambda: not os.path.exists(stored.path), "it to stop listening")
        held.sendall(b"bye\n")
        assert held.recv(99)
    until(lambda: not stored.service.processes(), "its end")
