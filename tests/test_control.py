"""
The control socket: who may ask a process, what, and what becomes of bad requests.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import DEADLINE
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from txtableflip._control import server as serverModule
from txtableflip._control.address import addressOf
from txtableflip._control.client import MAX_ANSWER, Patience, ask
from txtableflip._control.requests import FIELDS, MAX_LINE, Request, decode, encode
from txtableflip._control.server import Control, Session
from txtableflip._kernel import peerOf
from txtableflip.errors import InvalidRequest, NoAnswer, NobodyThere

# -- requests

VALUES = {bool: st.booleans(), str: st.text(max_size=20), int: st.integers()}
REQUESTS = st.sampled_from(sorted(FIELDS)).flatmap(
    lambda command: st.builds(
        Request,
        st.just(command),
        st.fixed_dictionaries(
            {}, optional={name: VALUES[types[0]] for name, types in FIELDS[command].items()}
        ),
    )
)


@given(REQUESTS)
def test_every_request_survives(request):
    """
    What is asked is what is heard, and it is one line.
    """
    line = request.encode()
    assert line.count(b"\n") == 1
    assert decode(line[:-1]) == request


@given(st.binary(max_size=100))
def test_noise_is_an_error_that_says_what_would_be_none(noise):
    """
    Whatever comes, it is a request or an error of ours.
    """
    try:
        request = decode(noise)
    except InvalidRequest as error:
        said = str(error)
    else:
        said = f"a request is a JSON object: {request}"
    assert said.startswith(("a request is a JSON object", "the command is one of"))


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ([], "a request is a JSON object"),
        ({}, "the command is one of status, upgrade"),
        ({"command": ["status"]}, "the command is one of"),
        ({"command": "uprade"}, "not 'uprade'"),
        ({"command": "status", "verbose": True}, "'verbose' is not a field of status"),
        ({"command": "upgrade", "dryrun": True}, "it has dryRun, expect, drainTimeout, detach"),
        ({"command": "upgrade", "dryRun": 1}, "dryRun of upgrade is of type bool, not 1"),
        ({"command": "upgrade", "drainTimeout": True}, "of type int or float, not True"),
        ({"command": "rollback", "reason": None}, "reason of rollback is of type str"),
    ],
)
def test_what_is_not_known_is_an_error_that_names_what_is(asked, reason):
    """
    So that who asks a process of another version learns why it was not understood.
    """
    with pytest.raises(InvalidRequest) as raised:
        decode(json.dumps(asked).encode())
    assert reason in str(raised.value)


def test_json_of_any_depth_is_an_error():
    """
    It does not raise what nobody expects.
    """
    with pytest.raises(InvalidRequest):
        decode(b"[" * 60000)


# -- addresses


def test_a_process_has_one_address_and_others_have_others():
    """
    It is the same whoever computes it, and of this start of this process only.
    """
    mine = addressOf(os.getpid())
    assert mine == addressOf(os.getpid())
    assert mine.startswith("\0txtableflip/")
    assert mine != addressOf(os.getppid())


@pytest.mark.process
def test_a_process_that_is_no_more_has_none():
    """
    Its number may be given again, and is another process then.
    """
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    with pytest.raises(NobodyThere, match=f"there is no process {ended.pid}"):
        addressOf(ended.pid)


@pytest.mark.parametrize("isThere", [True, False])
def test_a_process_that_ends_while_it_is_looked_at_is_nobody(monkeypatch, isThere):
    """
    The kernel says that what is in /proc of one that has just gone may not be read; who
    asks is not told that it is of another user.
    """
    original = Path.stat

    def stat(path, **options):
        if not isThere or path.parent.name == "ns":
            raise PermissionError if path.parent.name == "ns" else FileNotFoundError
        return original(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(NobodyThere, match="has just ended"):
        addressOf(os.getpid())


def test_the_kernel_says_who_listens():
    """
    Whoever accepts in its place.
    """
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as sock:
        listening.bind(f"\0{time.time()}")
        listening.listen()
        sock.connect(listening.getsockname())
        assert peerOf(sock) == (os.getpid(), os.geteuid())


# -- sessions


class Asking(StringTransport):
    """
    A transport on which somebody asks.
    """

    disconnected = False
    connected = True

    def __init__(self):
        super().__init__()
        self.socket, self._other = socket.socketpair()

    def abortConnection(self):
        self.aborting = True

    def answers(self):
        """
        Return what has been answered.
        """
        return [json.loads(line) for line in self.value().splitlines()]


@pytest.fixture
def asking(monkeypatch):
    """
    A session, its transport, and its clock.
    """
    clock = Clock()
    asked = []

    def answer(request, session):
        asked.append(request)
        return pending

    pending = Deferred()
    session, transport = Session(answer), Asking()
    session.callLater = clock.callLater
    session.makeConnection(transport)
    yield session, transport, clock, asked, pending
    transport.socket.close()
    transport._other.close()


def test_events_come_before_the_one_result(asking):
    """
    Each is an object in a line; behind the result the connection ends.
    """
    session, transport, _, asked, pending = asking
    session.dataReceived(b'{"command": "sta')
    session.dataReceived(b'tus"}\n{"command": "stop"}\n')
    assert asked == [Request("status")]
    session.tell({"name": "Started"})
    assert not transport.disconnecting
    pending.callback({"outcome": "done"})
    assert transport.answers() == [
        {"event": {"name": "Started"}},
        {"result": {"outcome": "done"}},
    ]
    assert transport.disconnecting
    session.tell({"name": "Late"})
    assert len(transport.answers()) == 2


@pytest.mark.parametrize("sent", [b"nonsense\n", b"x" * (MAX_LINE + 2), b'{"command": 1}\n'])
def test_a_request_that_cannot_be_understood_is_answered(asking, sent):
    """
    Nothing else is affected, and nobody waits.
    """
    session, transport, clock, asked, _ = asking
    session.dataReceived(sent)
    (answer,) = transport.answers()
    assert answer["result"]["outcome"] == "refused"
    assert transport.disconnecting
    assert asked == []
    assert clock.getDelayedCalls() == []


def test_who_asks_nothing_is_let_go(asking):
    """
    A connection without a request has an end.
    """
    _, transport, clock, _, _ = asking
    clock.advance(serverModule.REQUEST_TIMEOUT)
    assert "no request came within" in transport.answers()[0]["result"]["reason"]
    assert transport.disconnecting


def test_who_does_not_read_is_let_go(asking):
    """
    What cannot be sent is not kept without a limit.
    """
    session, transport, _, _, _ = asking
    session.pauseProducing()
    assert transport.aborting


def test_an_answer_that_raises_is_an_answer(asking):
    """
    Who asks is told, and the log has the traceback.
    """
    session, transport, _, _, pending = asking
    session.dataReceived(b'{"command": "status"}\n')
    pending.errback(ZeroDivisionError("by nought"))
    assert "by nought" in transport.answers()[0]["result"]["reason"]


@pytest.mark.parametrize(("uid", "isServed"), [(0, True), (os.geteuid(), True), (54321, False)])
def test_the_user_of_the_process_and_root_may_ask(monkeypatch, uid, isServed):
    """
    Anybody else gets an error, whatever is asked.
    """
    monkeypatch.setattr(serverModule, "peerOf", lambda sock: (1, uid))
    asked = []
    session, transport = Session(lambda request, session: asked.append(request) or {}), Asking()
    session.makeConnection(transport)
    session.dataReceived(b'{"command": "status"}\n')
    assert bool(asked) == isServed
    assert ("54321" in transport.answers()[0]["result"].get("reason", "")) != isServed
    session.connectionLost()


# -- asking


@pytest.fixture
def talking(monkeypatch):
    """
    Have a function talk, in a thread, with who connects to this process.
    """
    address = f"\0test/{os.getpid()}/{time.time()}"
    monkeypatch.setattr("txtableflip._control.client.addressOf", lambda pid: address)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()

        def talk(function):
            def run():
                sock, _ = listening.accept()
                with sock:
                    function(sock)

            thread = threading.Thread(target=run)
            thread.start()
            threads.append(thread)

        threads = []
        yield talk
        for thread in threads:
            thread.join(DEADLINE)


def test_the_result_comes_behind_the_events(talking):
    """
    However the bytes arrive.
    """
    events = []

    def answer(sock):
        assert decode(sock.makefile("rb").readline()[:-1]) == Request("status")
        for byte in encode({"event": {"name": "Started"}}) + encode({"result": {"a": 1}}):
            sock.sendall(bytes([byte]))

    talking(answer)
    result = ask(os.getpid(), Request("status"), Patience.of(DEADLINE), events.append)
    assert result == {"a": 1}
    assert events == [{"name": "Started"}]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"", "without an answer"),
        (b"nonsense\n", "sent what is not an answer"),
        (b'{"result": 3}\n', "sent what is not an answer"),
        (b"x" * (MAX_ANSWER + 1), "is too long"),
    ],
)
def test_what_is_no_answer_is_an_error(talking, said, reason):
    """
    Whether anything was done is not known then.
    """

    def answer(sock):
        sock.recv(100)
        try:
            sock.sendall(said)
        except OSError:
            assert len(said) > MAX_ANSWER

    talking(answer)
    with pytest.raises(NoAnswer, match=reason):
        ask(os.getpid(), Request("status"), Patience.of(DEADLINE), print)


def test_an_answer_that_does_not_come_is_an_error(talking):
    """
    Who asks says how long to wait.
    """
    done = threading.Event()
    talking(lambda sock: done.wait(DEADLINE))
    try:
        with pytest.raises(NoAnswer, match="has not answered in time"):
            ask(os.getpid(), Request("status"), Patience.of(0.01), print)
    finally:
        done.set()


def test_a_process_says_how_long_it_may_take():
    """
    Unless who asks has said so.
    """
    for seconds, isLonger in ((None, True), (5.0, False)):
        patience = Patience.of(seconds)
        before = patience.until
        patience.hear({"within": 100})
        assert (patience.until > before + 50) == isLonger


def test_a_process_that_is_none_of_ours_is_told_from_one_that_does_not_answer():
    """
    Nobody listens at its address.
    """
    with pytest.raises(NobodyThere, match="does not run under txtableflip"):
        ask(os.getpid(), Request("status"), Patience.of(1), print)


def test_somebody_in_the_place_of_a_process_is_not_believed(talking):
    """
    The kernel says who listens.
    """
    talking(lambda sock: None)
    with pytest.raises(NobodyThere, match=f"process {os.getpid()} listens in the place of"):
        ask(os.getppid(), Request("status"), Patience.of(DEADLINE), print)


# -- both


SERVICE = """
import os, sys
from twisted.internet import reactor
from txtableflip._control.server import Control
answer = {"outcome": "done", "pid": os.getpid()}
control = Control(reactor, lambda request, session: answer, set())
reactor.callWhenRunning(control.listen)
reactor.callWhenRunning(print, "ready", flush=True)
reactor.addSystemEventTrigger("before", "shutdown", control.stop)
reactor.run()
"""


@pytest.fixture
def serving():
    """
    A process that can be asked.
    """
    command = [sys.executable, "-c", SERVICE]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.process
def test_a_process_answers(serving):
    """
    As often as it is asked.
    """
    for _ in range(3):
        result = ask(serving.pid, Request("status"), Patience.of(DEADLINE), print)
        assert result == {"outcome": "done", "pid": serving.pid}


@pytest.mark.process
def test_a_process_that_is_stopped_does_not_answer(serving):
    """
    Nobody waits for longer than was said, and a process that goes on answers again.
    """
    os.kill(serving.pid, signal.SIGSTOP)
    with pytest.raises(NoAnswer, match="in time"):
        ask(serving.pid, Request("status"), Patience.of(0.1), print)
    os.kill(serving.pid, signal.SIGCONT)
    result = ask(serving.pid, Request("status"), Patience.of(DEADLINE), print)
    assert result["pid"] == serving.pid


@pytest.mark.process
def test_who_waits_is_told_when_the_process_exits(serving):
    """
    Who has asked nothing yet, too.
    """
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(addressOf(serving.pid))
        ask(serving.pid, Request("status"), Patience.of(DEADLINE), print)
        serving.terminate()
        answer = json.loads(sock.makefile().readline())
    assert answer["result"]["reason"] == "the process exits"
    assert serving.wait(DEADLINE) == 0


FORKED = """
def fork():
    if os.fork() == 0:
        held = [os.stat(f"/proc/self/fd/{each}").st_ino for each in os.listdir("/proc/self/fd")
                if os.path.exists(f"/proc/self/fd/{each}")]
        print(*held, flush=True)
        os._exit(0)
    ours = [os.fstat(control._port.fileno()).st_ino]
    ours += [os.fstat(session.transport.fileno()).st_ino for session in control._sessions]
    print(*ours, flush=True)
answer = lambda request, session: (fork(), {})[1]
"""


@pytest.mark.process
def test_a_forked_process_holds_nothing_of_it():
    """
    Who asks a process is not to wait for the end of another one.
    """
    code = SERVICE.replace("reactor.run()", f"{FORKED}reactor.run()")
    code = code.replace("session: answer", "session: answer(request, session)")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            ask(process.pid, Request("status"), Patience.of(DEADLINE), print)
            lines = [set(process.stdout.readline().split()) for _ in range(2)]
        finally:
            process.kill()
    assert lines[0]
    assert lines[1]
    assert not lines[0] & lines[1]


@pytest.mark.process
def test_too_many_who_ask_nothing_keep_nobody_from_leaving(serving):
    """
    There is a limit, and then no answer; the process is none the worse.
    """
    socks = [socket.socket(socket.AF_UNIX) for _ in range(serverModule.MAX_SESSIONS)]
    for sock in socks:
        sock.connect(addressOf(serving.pid))
    with pytest.raises(NoAnswer, match="without an answer"):
        ask(serving.pid, Request("status"), Patience.of(DEADLINE), print)
    for sock in socks:
        sock.close()
    result = {}
    while not result:
        try:
            result = ask(serving.pid, Request("status"), Patience.of(DEADLINE), print)
        except NoAnswer:
            continue
    assert result["pid"] == serving.pid


def test_a_name_that_is_taken_is_a_warning_and_the_service_goes_on(monkeypatch):
    """
    A stranger may have bound it first.
    """
    logged = []
    monkeypatch.setattr(
        serverModule._log, "warn", lambda text, **fields: logged.append(text.format(**fields))
    )
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(addressOf(os.getpid()))
        control = Control(Clock(), lambda request, session: {}, set())
        control.listen()
        assert "cannot reach this process" in logged[0]
        assert control.stop().called
