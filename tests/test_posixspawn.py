"""
A process that is started without a look at each descriptor of ours.
"""

import os
import signal
import sys

import pytest
import pytest_twisted
from processes import DEADLINE
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol

from txtableflip._handover import posixspawn
from txtableflip._handover.posixspawn import PosixProcess, isSupported

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not isSupported(), reason="the kernel has no pidfds"),
]

SHOW = (
    "import os, sys\n"
    "for name in sorted(os.listdir('/proc/self/fd'), key=int):\n"
    "    try:\n"
    "        print(name, os.readlink(f'/proc/self/fd/{name}'), file=sys.stderr)\n"
    "    except OSError:\n"
    "        pass  # the list's own\n"
)

IGNORED = (signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ)


class Ended(ProcessProtocol):
    """
    What a process has written, and how it has ended.
    """

    def __init__(self):
        self.written = b""
        self.events = []
        self.end = Deferred()

    def connectionMade(self):
        self.events.append("made")

    def errReceived(self, data):
        self.written += data

    def processExited(self, reason):
        self.events.append("exited")

    def processEnded(self, reason):
        self.events.append("ended")
        self.end.callback(reason.value)


def start(program, descriptors, environment=None):
    """
    Start a program in Python, and return what is told of it.
    """
    protocol = Ended()
    argv = [sys.executable, "-S", "-c", program]
    PosixProcess(reactor, protocol, argv, environment or {}, descriptors)
    return protocol


def whenEnded(protocol):
    return protocol.end.addTimeout(DEADLINE, reactor)


@pytest_twisted.ensureDeferred
async def test_it_has_the_descriptors_that_it_is_given_and_no_others(tmp_path):
    """
    It has what it is given under the numbers that are said, also if these are each
    other's, or its own; nothing that the application has made inheritable, which stays so
    here; and nothing that is closed by exec(3).
    """
    made = [os.open(tmp_path / name, os.O_CREAT | os.O_RDWR) for name in "abcd"]
    try:
        a, b, c, d = made
        os.set_inheritable(c, True)
        made.append(high := os.dup2(d, 300))
        protocol = start(SHOW, {0: 0, 1: 1, a: b, b: a})
        await whenEnded(protocol)
        lines = dict(line.split(maxsplit=1) for line in protocol.written.decode().splitlines())
        files = {int(n): os.path.basename(to) for n, to in lines.items() if "/" in to}
        assert {n: name for n, name in files.items() if name in "abcd"} == {a: "b", b: "a"}
        assert os.get_inheritable(c)
        assert os.get_inheritable(high)
    finally:
        for fileno in made:
            os.close(fileno)


@pytest.mark.parametrize("how", ["exit", "signal", "core", "waited for"])
@pytest_twisted.ensureDeferred
async def test_its_end_is_told_once(how):
    """
    Exit status or signal are told when it has ended, and its last words when nobody has its
    standard error any more; if the application has waited for it, its end all the same.
    """
    program = {
        "exit": "import sys; sys.exit('last words')",
        "signal": "import os; os.kill(os.getpid(), 9)",
        "core": "import os; os.abort()",
        "waited for": "",
    }[how]
    protocol = start(program, {})
    process = protocol.transport
    if how == "waited for":
        os.waitpid(process.pid, 0)  # noqa: ASYNC222 - as an application may
    reason = await whenEnded(protocol)
    told = {"exit": (1, None), "signal": (None, signal.SIGKILL), "core": (None, signal.SIGABRT)}
    assert (reason.exitCode, reason.signal) == told.get(how, (None, None))
    assert protocol.events == ["made", "exited", "ended"]
    assert protocol.written == (b"last words\n" if how == "exit" else b"")
    with pytest.raises(ProcessExitedAlready):
        process.signalProcess("TERM")


@pytest_twisted.ensureDeferred
async def test_its_end_is_known_while_another_has_its_standard_error():
    """
    A process that it has left behind keeps its standard error open: its own end is told
    before that, and nothing is final until then.
    """
    protocol = start(
        "import os, sys\n"
        "if os.fork() == 0:\n"
        "    sys.stdin.buffer.read(1)\n"
        "    os.write(2, b'the last')\n",
        {0: (pipe := os.pipe())[0]},
    )
    os.close(pipe[0])
    exited = Deferred()
    protocol.processExited = lambda reason: exited.callback(reason.value.exitCode)
    assert await exited.addTimeout(DEADLINE, reactor) == 0
    assert not protocol.end.called
    os.close(pipe[1])
    await whenEnded(protocol)
    assert protocol.written == b"the last"


@pytest_twisted.ensureDeferred
async def test_it_ignores_no_signal_that_is_ignored_here():
    """
    Python ignores SIGPIPE, and who was started by nohup(1) the end of its terminal: a new
    program begins with neither, and has just the environment that it is given.
    """
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert all(signal.getsignal(number) == signal.SIG_IGN for number in IGNORED)
    try:
        protocol = Ended()
        argv = ["sh", "-c", "grep SigIgn /proc/self/status >&2; echo $NAME >&2"]
        PosixProcess(reactor, protocol, argv, {"NAME": "ü", "PATH": os.environ["PATH"]}, {})
        await whenEnded(protocol)
    finally:
        signal.signal(signal.SIGHUP, previous)
    _, ignored, name = protocol.written.decode().split()
    ours = [number for number in IGNORED if int(ignored, 16) >> (number - 1) & 1]
    assert (ours, name) == ([], "ü")


def test_what_is_not_a_program_is_an_error_and_leaves_nothing_open():
    """
    What cannot be executed is an error at once, and no descriptor is lost.
    """
    before = sorted(os.listdir("/proc/self/fd"))
    for argv, error in ((["/nowhere"], FileNotFoundError), (["a\0b"], ValueError)):
        with pytest.raises(error, match=r"/nowhere|null"):
            PosixProcess(reactor, Ended(), argv, {}, {0: 0, 1: 1})
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("name", ["pidfd_open", "P_PIDFD"])
def test_where_there_are_no_pidfds_it_is_not_supported(name, monkeypatch):
    """
    A system without pidfds is known before anything is started.
    """
    monkeypatch.delattr(os, name)
    assert not posixspawn.isSupported()


def descriptors():
    """
    Return how many descriptors this process has open.
    """
    return len(os.listdir("/proc/self/fd"))


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("isLeft", [False, True])
async def test_nothing_of_a_process_that_has_ended_is_left_open(isLeft):
    """
    Whether it was read to its end, or left to others before.
    """
    before = descriptors()
    protocol = start("print('words')", {})
    if isLeft:
        for stream in list(protocol.transport.pipes):
            protocol.transport.closeChildFD(stream)
    await whenEnded(protocol)
    assert descriptors() == before
