"""
What the application opens and stops while its successor starts: clients do not notice
in which of the two that was.
"""

import os
import socket
from pathlib import Path

import pytest
from chains import Chain
from processes import DEADLINE, Clients, ask, until

from txtableflip.testing._service import freePort, isAlive

CODE = """
from twisted.internet.protocol import DatagramProtocol, Factory
from twisted.protocols.basic import LineOnlyReceiver

class Answering(LineOnlyReceiver):
    delimiter = b"\\n"

    def lineReceived(self, line):
        answer = b"%s r %d %d .\\n" % (line, upgrader.generation, os.getpid())
        self.transport.write(answer)
        self.transport.loseConnection()

class Numbers(DatagramProtocol):
    def datagramReceived(self, datagram, address):
        answer = b"%s r %d %d ." % (datagram, upgrader.generation, os.getpid())
        self.transport.write(answer, address)

ports = {}
answering = Factory.forProtocol(Answering)

def open_(kind):
    reactor = upgrader.reactor
    listen = {
        "tcp": lambda: reactor.listenTCP(PORT, answering, interface="127.0.0.1"),
        "unix": lambda: reactor.listenUNIX("s.sock", answering, wantPID=True),
        "udp": lambda: reactor.listenUDP(PORT, Numbers(), "127.0.0.1"),
        "unixgram": lambda: reactor.listenUNIXDatagram("d.sock", Numbers()),
    }
    ports[kind] = listen[kind]()

def close(kind):
    return ports.pop(kind).stopListening()
"""
"""
What each release can be told to do: listen, and stop to.
"""

FROZEN = Path(__file__).parent / "releases" / "wire-1.zip"
KINDS = ("tcp", "unix", "udp", "unixgram")
WATCHED = {"probation": 60.0}


def askByDatagram(address, question, wrap):
    """
    Ask a service once, from a socket of its own.

    @return: the release and the generation that have answered.
    """
    isUNIX = isinstance(address, str)
    ours = f"{address}.{question}" if isUNIX else ("127.0.0.1", 0)
    with socket.socket(socket.AF_UNIX if isUNIX else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(DEADLINE)
        sock.bind(ours)
        try:
            sock.sendto(question.encode(), address)
            words = sock.recv(999).decode().split()
        finally:
            if isUNIX:
                os.unlink(ours)
    assert (words[0], words[4]) == (question, ".")
    return words[1], int(words[2])


class Pair:
    """
    A process that serves, and the one that it has started, which is not ready yet.
    """

    def __init__(self, service):
        self.chain = Chain(service)
        self.directory = service.directory
        self.port = freePort()

    def start(self, options=None):
        """
        Start the first.
        """
        _, self.old = self.chain.startReady(options, f"PORT = {self.port}\n{CODE}")
        return self

    def upgrade(self):
        """
        Start the second.
        """
        self.upgrading = self.old.begin("upgrader.upgrade()")
        self.new = self.chain.generation(2)
        return self.new

    def commit(self):
        """
        Have the second say that it is ready, and serve.
        """
        assert self.new.ask("upgrader.ready()") == {"result": None}

    def takeOver(self):
        """
        Have it serve for good.
        """
        self.commit()
        assert self.upgrading.outcome() == {"result": None}

    def address(self, kind):
        """
        Where clients find a listener.
        """
        path = {"unix": "s.sock", "unixgram": "d.sock"}.get(kind)
        return str(self.directory / path) if path else ("127.0.0.1", self.port)

    def clients(self, kind):
        """
        Some that do not forgive.
        """
        asking = askByDatagram if kind in ("udp", "unixgram") else ask
        return Clients(self.address(kind), 3, asking=asking)

    def names(self):
        """
        What is left of UNIX listeners in the file system.
        """
        return sorted(path.name for path in self.directory.glob("*.sock*"))


def do(process, call):
    """
    Have a process do something.
    """
    assert process.ask(call) == {"result": None}


@pytest.fixture
def pair(service):
    """
    Two processes that have not been started.
    """
    return Pair(service)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_opened_while_the_child_starts_is_served_by_it(pair, kind):
    """
    No client is refused, or waits for more than the switch: the socket came with Commit,
    and the child listens there when it serves.
    """
    pair.start()
    pair.upgrade()
    do(pair.old, f"open_({kind!r})")
    listening = pair.new.begin(f"upgrader.whenServing().addCallback(lambda _: open_({kind!r}))")
    with pair.clients(kind) as clients:
        pair.takeOver()
        assert listening.outcome() == {"result": None}
        clients.waitForMore()
        until(lambda: 2 in clients.generations or clients.failures, "an answer of the child")
    assert clients.failures == []
    assert clients.generations == {1, 2}
    assert len(pair.new.ask("upgrader.used")["result"]) == 1


def test_what_is_opened_may_be_claimed_any_time_on_probation(pair):
    """
    Until it is final the child finds it; clients have waited, and none was refused.
    """
    pair.start(WATCHED)
    pair.upgrade()
    for kind in KINDS:
        do(pair.old, f"open_({kind!r})")
    pair.commit()
    assert pair.new.ask("upgrader.used") == {"result": []}
    crowds = []
    for kind in KINDS:
        # These connect, or send, before anybody listens.
        crowds.append(pair.clients(kind))
        for thread in crowds[-1]._threads:
            thread.start()
        do(pair.new, f"open_({kind!r})")
    for crowd in crowds:
        crowd.waitForMore()
    do(pair.new, "upgrader.confirm()")
    assert pair.upgrading.outcome() == {"result": None}
    for crowd in crowds:
        crowd.waitForMore()
        crowd.__exit__(None, None, None)
        assert crowd.failures == []
        assert crowd.generations == {2}
    assert pair.names() == ["d.sock", "s.sock", "s.sock.lock"]


def test_what_is_opened_and_never_claimed_is_dropped_when_it_is_final(pair):
    """
    As all that nobody claims: clients are refused, the path goes, and the address can be
    had anew.
    """
    pair.start()
    pair.upgrade()
    for kind in KINDS:
        do(pair.old, f"open_({kind!r})")
    pair.takeOver()
    until(lambda: pair.names() == [], "the end of the paths")
    dropped = pair.new.ask("upgrader.changes.dropped")["result"]
    assert len(dropped) == len(KINDS)
    with pytest.raises(ConnectionRefusedError):
        ask(pair.address("tcp"))
    for kind in ("tcp", "unix"):
        do(pair.new, f"open_({kind!r})")
        assert ask(pair.address(kind)) == ("r", 2)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stopped_while_the_child_starts_is_served_by_it(pair, kind):
    """
    Its release listens there: it has the socket, with its path and its lock, and no
    client is refused.
    """
    pair.start()
    do(pair.old, f"open_({kind!r})")
    names = pair.names()
    pair.upgrade()
    do(pair.new, f"open_({kind!r})")
    with pair.clients(kind) as clients:
        clients.waitForMore()
        do(pair.old, f"close({kind!r})")
        assert pair.old.ask("upgrader.used") == {"result": []}
        pair.takeOver()
        clients.waitForMore()
    assert clients.failures == []
    assert clients.generations == {1, 2}
    assert pair.names() == names
    if kind == "unix":
        assert os.readlink(pair.directory / "s.sock.lock") == str(pair.new.pid)
    do(pair.new, f"close({kind!r})")
    assert pair.names() == []


@pytest.mark.parametrize("end", ["is final", "is rolled back", "has failed"])
def test_what_is_stopped_and_not_wanted_ends_with_the_upgrade(pair, end):
    """
    Whoever serves then: its clients are refused, its path and its lock are gone.
    """
    pair.start(WATCHED)
    for kind in KINDS:
        do(pair.old, f"open_({kind!r})")
    pair.upgrade()
    if end == "is rolled back":
        # What the child has taken is no more the parent's for that.
        for kind in KINDS:
            do(pair.new, f"open_({kind!r})")
    for kind in KINDS:
        do(pair.old, f"close({kind!r})")
    assert pair.names() == ["d.sock", "s.sock", "s.sock.lock"]
    if end == "has failed":
        pair.new.begin("os._exit(3)").forget()
    else:
        pair.commit()
        wish = "confirm()" if end == "is final" else "withdraw('unwanted')"
        do(pair.new, f"upgrader.{wish}")
    assert ("error" in pair.upgrading.outcome()) == (end != "is final")
    until(lambda: pair.names() == [], lambda: f"the end of {pair.names()}")
    with pytest.raises(ConnectionRefusedError):
        ask(pair.address("tcp"))
    if end == "is rolled back":
        # A datagram socket is bound as long as anybody has it.
        pair.new.leave()
    serving = pair.new if end == "is final" else pair.old
    for kind in KINDS:
        do(serving, f"open_({kind!r})")
        with pair.clients(kind) as clients:
            clients.waitForMore(3)
        assert clients.failures == []


@pytest.mark.parametrize("end", ["is final", "is rolled back"])
def test_what_the_child_stops_on_probation_is_there_until_it_is_final(pair, end):
    """
    The parent may serve there again, and so the path and the socket stay; if it does not,
    they are dropped, as what nobody has claimed.
    """
    pair.start(WATCHED)
    for kind in KINDS:
        do(pair.old, f"open_({kind!r})")
    names = pair.names()
    pair.upgrade()
    for kind in KINDS:
        do(pair.new, f"open_({kind!r})")
    pair.commit()
    for kind in KINDS:
        do(pair.new, f"close({kind!r})")
    assert pair.names() == names
    do(pair.new, "open_('tcp')")
    assert ask(pair.address("tcp")) == ("r", 2)
    do(pair.new, "close('tcp')")
    if end == "is final":
        do(pair.new, "upgrader.confirm()")
        assert pair.upgrading.outcome() == {"result": None}
        until(lambda: pair.names() == [], "the end of the paths")
        assert len(pair.new.ask("upgrader.changes.dropped")["result"]) == len(KINDS)
        assert pair.new.ask("upgrader.changes.kept") == {"result": []}
        with pytest.raises(ConnectionRefusedError):
            ask(pair.address("tcp"))
    else:
        do(pair.old, "upgrader.rollback('not well')")
        assert "not well" in str(pair.upgrading.outcome())
        assert pair.names() == names
        assert ask(pair.address("tcp")) == ("r", 1)
        assert ask(pair.address("unix")) == ("r", 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("isClaimed", [True, False])
def test_what_is_stopped_and_opened_again_is_what_it_was(pair, kind, isClaimed):
    """
    The child has its socket, so nobody else could be bound there: it is the same one,
    for the parent and for the child, however often; no client is refused.
    """
    pair.start(WATCHED)
    do(pair.old, f"open_({kind!r})")
    pair.upgrade()
    if isClaimed:
        do(pair.new, f"open_({kind!r})")
    with pair.clients(kind) as clients:
        for _ in range(3):
            do(pair.old, f"close({kind!r})")
            do(pair.old, f"open_({kind!r})")
            clients.waitForMore()
        pair.commit()
        if not isClaimed:
            do(pair.new, f"open_({kind!r})")
        until(lambda: 2 in clients.generations or clients.failures, "an answer of the child")
        do(pair.new, "upgrader.withdraw('unwanted')")
        assert pair.upgrading.outcome()["error"] == "RolledBack"
        clients.answers.clear()
        until(lambda: 1 in clients.generations or clients.failures, "one of the parent")
    assert clients.failures == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_came_goes_back_with_the_rest(pair, kind):
    """
    The parent takes back what it had opened meanwhile, and it is as it was: no client is
    refused; what was opened on probation is parked until then.
    """
    pair.start(WATCHED)
    pair.upgrade()
    do(pair.old, f"open_({kind!r})")
    with pair.clients(kind) as clients:
        pair.commit()
        do(pair.new, f"open_({kind!r})")
        until(lambda: 2 in clients.generations or clients.failures, "an answer of the child")
        do(pair.new, "upgrader.withdraw('unwanted')")
        assert pair.upgrading.outcome()["error"] == "RolledBack"
        pair.new.leave()
        clients.waitForMore()
    assert clients.failures == []
    assert clients.generations == {1, 2}
    do(pair.old, f"close({kind!r})")
    assert pair.names() == []
    # And it is handed on as ever.
    do(pair.old, f"open_({kind!r})")


def test_what_opens_and_stops_under_load_does_not_disturb_the_others(pair):
    """
    One listener stays, others come and go while each of several children starts; also
    if the child fails.
    """
    pair.start()
    do(pair.old, "open_('tcp')")
    do(pair.old, "open_('udp')")
    with pair.clients("tcp") as clients:
        for isGood in (False, False, True):
            pair.upgrade()
            do(pair.old, "open_('unix')")
            do(pair.old, "close('udp')")
            if isGood:
                do(pair.new, "open_('tcp')")
                pair.takeOver()
            else:
                pair.new.begin("os._exit(3)").forget()
                assert pair.upgrading.outcome()["error"] == "ChildExited"
                until(lambda: not isAlive(pair.new.pid), "its end")
                assert ask(pair.address("unix")) == ("r", 1)
                do(pair.old, "close('unix')")
                do(pair.old, "open_('udp')")
            clients.waitForMore()
    assert clients.failures == []
    assert clients.generations == {1, 2}
    until(lambda: pair.names() == [], "the end of the path")


def test_files_and_sockets_that_came_are_found_by_name(pair):
    """
    Also a newer one in the place of what the child had not asked for; and what the
    parent has closed meanwhile, the child has still if it had taken it.
    """
    pair.start(WATCHED)
    for name in ("kept", "replaced", "closed"):
        Path(pair.directory / name).write_text(name)
        do(pair.old, f"upgrader.fds.addFile({name!r}, os.open({name!r}, 0))")
    pair.upgrade()
    assert pair.new.ask("os.pread(upgrader.fds.file('closed').fileno(), 9, 0).decode()") == {
        "result": "closed"
    }
    Path(pair.directory / "newer").write_text("newer")
    for name in ("replaced", "came"):
        do(pair.old, f"upgrader.fds.addFile({name!r}, os.open('newer', 0))")
    do(pair.old, "upgrader.fds.file('closed').close()")
    pair.commit()
    found = {"kept": "kept", "replaced": "newer", "came": "newer", "closed": "closed"}
    for name, text in found.items():
        read = f"os.pread(upgrader.fds.file({name!r}).fileno(), 9, 0).decode()"
        assert pair.new.ask(read) == {"result": text}


def test_a_file_that_is_replaced_when_the_child_has_it_in_use_fails_the_upgrade(pair):
    """
    It would go on with the old one: it says so, and the parent keeps serving; the next has
    the newer one.
    """
    pair.start()
    do(pair.old, "open_('tcp')")
    do(pair.old, "upgrader.fds.addFile('x', 0)")
    pair.upgrade()
    do(pair.new, "open_('tcp')")
    do(pair.new, "upgrader.fds.file('x')")
    do(pair.old, "upgrader.fds.addFile('x', 0)")
    with pair.clients("tcp") as clients:
        refused = pair.new.ask("upgrader.ready()")
        assert refused["error"] == "ChannelError"
        assert pair.upgrading.outcome()["error"] == "ChildRefused"
        pair.new.leave()
        clients.waitForMore()
        pair.upgrade()
        do(pair.new, "open_('tcp')")
        do(pair.new, "upgrader.fds.file('x')")
        pair.takeOver()
        clients.waitForMore()
    assert clients.failures == []
    assert "has replaced the file x" in refused["message"]


def test_two_that_the_kernel_chose_the_port_of_are_two(pair):
    """
    Each process opens one with port 0 while the child starts: the child can have both.
    """
    anyPort = "upgrader.reactor.listenTCP(0, answering, interface='127.0.0.1')"
    port = f"{anyPort}.getHost().port"
    pair.start(WATCHED)
    pair.upgrade()
    first = pair.old.ask(port)["result"]
    second = pair.new.ask(port)["result"]
    pair.commit()
    assert pair.new.ask(port) == {"result": first}
    assert first != second
    for number in (first, second):
        assert ask(("127.0.0.1", number)) == ("r", 2)


def test_a_child_of_the_release_before_is_committed_as_ever(pair, tmp_path):
    """
    It takes no changes, and none are sent: what was opened meanwhile ends with the
    parent, and its address can be had.
    """
    environment = tmp_path / "environment"
    environment.write_text(f"PYTHONPATH={FROZEN}\n")
    pair.start({"envFile": str(environment)})
    do(pair.old, "open_('unix')")
    pair.upgrade()
    assert "wire-1.zip" in pair.new.ask("sys.modules['txtableflip'].__file__")["result"]
    do(pair.new, "open_('unix')")
    for kind in ("tcp", "unixgram"):
        do(pair.old, f"open_({kind!r})")
    pair.takeOver()
    pair.old.leave()
    assert pair.names() == ["s.sock", "s.sock.lock"]
    do(pair.new, "open_('tcp')")
    for kind in ("tcp", "unix"):
        assert ask(pair.address(kind)) == ("r", 2)
