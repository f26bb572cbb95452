"""
The main promise: a daemon is redeployed again and again under load, and no
client can tell.
"""

import os
import re
import shutil
import signal
import socket
import ssl
import stat
import threading
from collections import Counter
from functools import partial

import h2.config
import h2.connection
import h2.events
from processes import APPS, Clients, PidFileWatch, ask, connect, descriptors, until

from txtableflip.testing._service import freePort, isAlive


def answering(service, endpoint, *options):
    """
    Start the answering service as a daemon, on one endpoint.
    """
    service.environment["ENDPOINTS"] = endpoint
    return service.twistd("tableflip", *options, "--app", str(APPS / "answering.py"))


def upgradeUnder(service, clients, generations):
    """
    Redeploy once for each of these generations, each time under load, and wait
    until it has answered.
    """
    for number in generations:
        service.release(f"name = '{number}'")
        service.redeploy()
        until(
            lambda number=number: number in clients.generations or clients.failures,
            f"an answer of generation {number}",
        )


def terminate(service):
    """
    End a service as its operator would, and wait until nothing is left of it.
    """
    os.kill(service.pid, signal.SIGTERM)
    until(lambda: not service.processes(), "the end of the service")


def test_no_client_notices_ten_upgrades(service):
    """
    Eight clients that connect without a pause meet ten upgrades by SIGHUP, and
    each of their questions is answered in full; the pid file names a living
    process throughout, and nothing piles up.
    """
    port = freePort()
    first = answering(service, f"tableflip:tcp:{port}:interface=127.0.0.1")
    openAtFirst = descriptors(first)
    clients = Clients(("127.0.0.1", port), pause=0)
    with clients, PidFileWatch(service) as watch:
        upgradeUnder(service, clients, range(2, 12))
        clients.waitForMore()
    assert clients.failures == []
    assert clients.generations == set(range(1, 12))
    assert watch.mistakes == []
    assert len(watch.seen) == 11
    assert service.processes() == [service.pid]
    assert service.zombies() == []
    until(
        lambda: len(descriptors(service.pid)) <= len(openAtFirst),
        lambda: f"no more than {openAtFirst}, but there are {descriptors(service.pid)}",
    )
    terminate(service)
    assert not service.pidFile.exists()


def test_a_unix_path_stays_the_same_over_upgrades(service):
    """
    Over upgrades under load a UNIX socket's path keeps its inode and its mode,
    its lock names the process that serves, and both are gone after the last.
    """
    path = service.directory / "s.sock"
    lock = service.directory / "s.sock.lock"
    answering(service, f"tableflip:unix:{path}:mode=600")
    born = path.lstat()
    assert stat.S_IMODE(born.st_mode) == 0o600
    seen = set()
    looking = threading.Event()

    def look():
        while not looking.wait(0.002):
            try:
                now = path.lstat()
                seen.add((now.st_ino, stat.S_IMODE(now.st_mode), lock.is_symlink()))
            except FileNotFoundError:
                seen.add("no path")

    watching = threading.Thread(target=look)
    watching.start()
    try:
        with Clients(str(path)) as clients:
            for number in range(2, 5):
                upgradeUnder(service, clients, [number])
                assert os.readlink(lock) == str(service.pid)
    finally:
        looking.set()
        watching.join()
    assert clients.failures == []
    assert clients.generations == {1, 2, 3, 4}
    assert seen == {(born.st_ino, 0o600, True)}
    terminate(service)
    assert not path.exists()
    assert not lock.is_symlink()


def askHTTP1(sock, path):
    """
    Get a path by HTTP/1.1, and return the body, which must be whole.
    """
    request = f"GET /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    sock.sendall(request.encode())
    answer = b""
    while part := sock.recv(4096):
        answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    length = int(re.search(rb"(?i)content-length: *(\d+)", head)[1])
    assert len(body) == length, f"{len(body)} of {length} bytes"
    return body.decode()


def askHTTP2(sock, path):
    """
    Get a path by HTTP/2, and return the body, which must be whole.
    """
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    connection.send_headers(
        1,
        [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "localhost"),
            (":path", f"/{path}"),
        ],
        end_stream=True,
    )
    sock.sendall(connection.data_to_send())
    body = b""
    while True:
        data = sock.recv(4096)
        assert data, f"the connection ended after {body!r}"
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                body += event.data
            elif isinstance(event, h2.events.StreamEnded):
                return body.decode()
        sock.sendall(connection.data_to_send())


def test_tls_and_its_protocol_negotiation_survive_upgrades(service, certificate):
    """
    Over TLS, clients that offer HTTP/2 are given HTTP/2 by every generation,
    clients that do not get HTTP/1.1, and none of them notices three upgrades.
    """
    port = freePort()
    service.environment["ENDPOINTS"] = (
        f"tableflip:ssl:{port}:interface=127.0.0.1:privateKey={certificate}"
        f":certKey={certificate}"
    )
    service.twistd("tableflip", "--app", str(APPS / "web.py"))
    contexts = {}
    for offer in (("h2", "http/1.1"), ("http/1.1",)):
        contexts[offer[0]] = ssl.create_default_context(cafile=certificate)
        contexts[offer[0]].set_alpn_protocols(offer)
    spoken = Counter()

    def askSecurely(address, question, wrap):
        number = int(question.partition(".")[0])
        best = "h2" if number % 2 else "http/1.1"
        # A connection that is cut, and not closed, is an error.
        secure = partial(
            contexts[best].wrap_socket,
            server_hostname="localhost",
            suppress_ragged_eofs=False,
        )
        with connect(address, secure) as sock:
            assert sock.selected_alpn_protocol() == best
            words = {"h2": askHTTP2, "http/1.1": askHTTP1}[best](sock, question).split()
        assert (words[0], words[4]) == (question, "."), words
        spoken[best, int(words[2])] += 1
        return words[1], int(words[2])

    with Clients(("127.0.0.1", port), 4, asking=askSecurely) as clients:
        upgradeUnder(service, clients, (2, 3, 4))
        until(
            lambda: {("h2", 4), ("http/1.1", 4)} <= set(spoken) or clients.failures,
            "both protocols spoken by generation 4",
        )
    assert clients.failures == []
    assert clients.generations == {1, 2, 3, 4}


def test_a_port_of_ipv6_survives_upgrades(service):
    """
    What listens on tcp6 is redeployed as what listens on tcp is.
    """
    port = freePort()
    answering(service, rf"tableflip:tcp6:{port}:interface=\:\:1")
    with Clients(("::1", port), 4) as clients:
        upgradeUnder(service, clients, (2, 3))
    assert clients.failures == []
    assert clients.generations == {1, 2, 3}


UNANSWERED = 100
"""
How many datagrams may be on their way: a machine that is overloaded may take long to
answer, and a queue of the kernel's has room for some 270.
"""


def test_every_datagram_is_answered_once_over_upgrades(service):
    """
    Numbered datagrams that come steadily during three upgrades are each
    answered, and each by one process only, none after its successor.
    """
    port = freePort()
    service.environment["PORT"] = str(port)
    service.twistd("tableflip", "--drain-timeout", "1", "--app", str(APPS / "datagrams.py"))
    answers = Counter()
    generations = []
    sent = 0
    done = threading.Event()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        sock.settimeout(0.05)

        def send():
            nonlocal sent
            while not done.wait(0.002):
                # What the kernel keeps for a socket is limited, however long we wait.
                if sent - len(answers) < UNANSWERED:
                    sock.send(b"%d" % sent)
                    sent += 1

        def receive():
            while True:
                try:
                    number, generation = sock.recv(100).split()
                except TimeoutError:
                    if given_up.is_set() or (done.is_set() and len(answers) >= sent):
                        return
                    continue
                answers[int(number)] += 1
                generations.append(int(generation))

        given_up = threading.Event()
        threads = [threading.Thread(target=task) for task in (send, receive)]
        for thread in threads:
            thread.start()
        try:
            for number in (2, 3, 4):
                service.redeploy()
                until(lambda number=number: number in generations, f"an answer of {number}")
        finally:
            done.set()
            threads[0].join()
            threads[1].join(10)
            given_up.set()
            threads[1].join()
    assert set(generations) == {1, 2, 3, 4}
    assert generations == sorted(generations)
    assert answers == Counter(range(sent))


def test_an_open_connection_stays_with_the_process_that_accepted_it(service):
    """
    A connection that is open across the switch is answered by the old process
    until it is closed, and then the old process leaves.
    """
    port = freePort()
    address = ("127.0.0.1", port)
    old = answering(service, f"tableflip:tcp:{port}:interface=127.0.0.1")
    with connect(address) as sock, sock.makefile("rw") as stream:

        def stay():
            stream.write("stay\n")
            stream.flush()
            return stream.readline().split()

        assert stay() == ["stay", "1", "1", str(old), "."]
        service.release("name = '2'")
        os.kill(old, signal.SIGHUP)
        until(lambda: service.pid != old, "a successor")
        for _ in range(20):
            assert ask(address) == ("2", 2)
        assert stay() == ["stay", "1", "1", str(old), "."]
        assert isAlive(old)
    until(lambda: not isAlive(old), "the end of the old process")
    assert service.processes() == [service.pid]


def test_a_connection_that_stays_too_long_is_cut(service):
    """
    At the drain timeout the old process ends the connections that are still
    open, and leaves.
    """
    port = freePort()
    address = ("127.0.0.1", port)
    old = answering(
        service, f"tableflip:tcp:{port}:interface=127.0.0.1", "--drain-timeout", "1"
    )
    with connect(address) as sock, sock.makefile("rw") as stream:
        stream.write("stay\n")
        stream.flush()
        assert stream.readline()
        service.redeploy()
        assert not isAlive(old)
        assert stream.read() == ""
    service.waitFor("drained: 0 connections closed (0 after a protocol goodbye), 1 aborted")
    assert ask(address) == ("1", 2)


def askWeb(address, question, wrap):
    """
    Ask a web server for the page of which the tests know every byte.
    """
    with connect(address, wrap) as sock:
        body = askHTTP1(sock, f"page.txt?question={question}")
    assert body == "the whole page\n" * 100, f"{len(body)} bytes"
    return "web", 0


def test_plain_twistd_web_is_redeployed_with_nothing_but_a_string(service):
    """
    C{twistd web --listen tableflip:...}, a daemon, is redeployed twice under
    load: no client notices, and each request is in the log, once and whole.
    """
    port = freePort()
    pages = service.directory / "pages"
    pages.mkdir()
    (pages / "page.txt").write_text("the whole page\n" * 100)
    service.twistd(
        "web", "--listen", f"tableflip:tcp:{port}:interface=127.0.0.1", "--path", str(pages)
    )
    web = Clients(("127.0.0.1", port), 4, asking=askWeb)
    with web as clients, PidFileWatch(service) as watch:
        for _ in range(2):
            clients.waitForMore()
            service.redeploy()
        clients.waitForMore()
    assert clients.failures == []
    assert watch.mistakes == []
    assert len(watch.seen) == 3
    terminate(service)
    assert not service.pidFile.exists()
    for number in (1, 2, 3):
        assert f"generation {number} serves" in service.log
    line = re.compile(
        r'^\S+ \[\S+\] "127\.0\.0\.1" - - \[[^]]+\] '
        r'"GET /page\.txt\?question=([\d.]+) HTTP/1\.1" 200 1500 "-" "-"$',
        re.MULTILINE,
    )
    logged = Counter(line.findall(service.log))
    assert set(logged.values()) == {1}
    assert len(logged) == clients.total
    assert service.log.count("GET /page.txt") == clients.total


def test_a_tac_file_is_redeployed_by_plain_twistd(service):
    """
    C{twistd -y app.tac}, a daemon, is redeployed twice under load: no client
    notices, and what any generation logs is in the log, once and whole.
    """
    port = freePort()
    shutil.copy(APPS / "answering.py", service.directory / "app.tac")
    service.environment["ENDPOINTS"] = f"tableflip:tcp:{port}:interface=127.0.0.1"
    release = (
        "from twisted.logger import Logger\n"
        "log = Logger()\n"
        "def heard(question):\n"
        "    log.info('{name} heard {question} to the end', name=name, question=question)\n"
    )
    service.release(f"name = '1'\n{release}")
    service.twistd("-y", "app.tac")
    with Clients(("127.0.0.1", port), 4) as clients, PidFileWatch(service) as watch:
        for number in (2, 3):
            clients.waitForMore()
            service.release(f"name = '{number}'\n{release}")
            service.redeploy()
            until(lambda number=number: number in clients.generations, "an answer of it")
        clients.waitForMore()
    assert clients.failures == []
    assert clients.answers.keys() == {("1", 1), ("2", 2), ("3", 3)}
    assert watch.mistakes == []
    assert len(watch.seen) == 3
    terminate(service)
    assert not service.pidFile.exists()
    line = re.compile(r"^\S+ \[\S+\] (\d) heard ([\d.]+) to the end$", re.MULTILINE)
    logged = Counter(line.findall(service.log))
    assert set(logged.values()) == {1}
    heard = Counter(release for release, _ in logged)
    assert heard == Counter({name: n for (name, _), n in clients.answers.items()})
    assert service.log.count("heard") == clients.total
