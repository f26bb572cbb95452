"""
What a new process starts before it is final inherits nothing of ours, and nothing that
ends with the old one.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from processes import APPS, TWISTD, Gate, ask, until
from twisted.internet.testing import MemoryReactor

from txtableflip._handover.lastoutput import Output
from txtableflip.testing._service import freePort, isAlive

COMPANIONS = (
    f"import sys; sys.path.insert(0, {str(APPS)!r}); import companions\n"
    "companions.start({directory!r}, faithful={faithful})\n"
    "name = 'n'\n"
)


@pytest.fixture
def beats(service):
    """
    Where companions write to; without it, they end.
    """
    directory = service.directory / "beats"
    directory.mkdir()
    service.port = freePort()
    service.environment["ENDPOINTS"] = f"tableflip:tcp:{service.port}:interface=127.0.0.1"
    return directory


def answering(service):
    """
    Start the answering service as a daemon.
    """
    return service.twistd("tableflip", "--app", str(APPS / "answering.py"))


def go_on(beats, names):
    """
    Wait until all of these have written once more, and more than once.
    """
    read = {name: until(lambda n=name: numberOf(beats / n), name) for name in names}
    for name, before in read.items():
        until(lambda n=name, b=before: numberOf(beats / n) >= b + 3, f"more of {name}")


def numberOf(path):
    return int(path.read_text()) if path.exists() else 0


def test_what_was_started_before_ready_lives_over_ten_upgrades(service, beats):
    """
    A helper and a forked worker of each generation write on to their standard streams
    after their process has gone, and so do the threads of the last; and nothing piles
    up that nobody writes to.
    """
    answering(service)
    service.release(COMPANIONS.format(directory=str(beats), faithful=False))
    pids = [service.redeploy() for _ in range(10)]
    started = [f"{kind}.{pid}" for pid in pids for kind in ("helper", "worker")]
    go_on(beats, [*started, f"thread.{pids[-1]}"])
    pipes = {*pipesOf(pids[-1])}
    assert len(pipes) >= 2 * len(pids)
    service.release("name = 'bare'")
    # They end now, all but what writes on to the pipes that it has for good.
    for path in beats.iterdir():
        path.unlink(missing_ok=True)
    beats.rename(beats.with_name("gone"))
    last = service.redeploy()
    until(lambda: service.processes() == [last], lambda: f"the end of {service.processes()}")
    until(lambda: not pipes & {*pipesOf(last)}, "the end of the pipes")


def pipesOf(pid):
    """
    Return the pipes that a process has open.
    """
    return [target for target in descriptorsOf(pid) if target.startswith("pipe:")]


def test_a_line_does_not_end_a_process_whose_parent_was_killed(service, beats):
    """
    Whatever it and its companions write then goes where it would have gone, and it
    serves.
    """
    old = answering(service)
    gate = Gate(service)
    service.release(
        COMPANIONS.format(directory=str(beats), faithful=True)
        + gate.code
        + "import os\n"
        + "for n in range(300): os.write(1 + n % 2, b'x' * 999 + b'\\n')\n"
        + "name = 'survivor'"
    )
    os.kill(old, signal.SIGHUP)
    new = service.childOf(1)
    gate.reached()
    os.kill(old, signal.SIGKILL)
    until(lambda: not isAlive(old), f"the end of {old}")
    gate.open()
    service.waitFor("generation 2 serves")
    assert ask(("127.0.0.1", service.port))[0] == "survivor"
    go_on(beats, [f"{kind}.{new}" for kind in ("helper", "worker", "thread")])


@pytest.mark.parametrize(
    ("release", "words"),
    [
        ("print('usage: it takes a --config')\nraise SystemExit(3)", "it takes a --config"),
        ("import os\nos.system('echo said by a helper; exit 1')\n1/0", "said by a helper"),
        ("import sys\nprint('on both', flush=True)\nsys.exit('of them')", "of them\non both"),
    ],
)
def test_what_is_said_on_standard_output_counts_as_last_words(service, beats, release, words):
    """
    Many programs say there why they do not start, and twistd does.
    """
    answering(service)
    service.release(release)
    service.fail()
    assert words in service.failures()[0].replace("\n\t", "\n")


def test_twistds_own_complaint_is_in_the_failure(service, beats):
    """
    Such as of a release without a plugin that there was.
    """
    plugins = service.directory / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    plugin = plugins / "mine.py"
    app = str(APPS / "answering.py")
    plugin.write_text(
        "from twisted.application.service import ServiceMaker\n"
        "mine = ServiceMaker('mine', 'mine_tap', '', 'mine')\n"
    )
    (service.directory / "mine_tap.py").write_text(
        "import runpy\nfrom twisted.python.usage import Options\n"
        "from twisted.application.service import IService\ndef makeService(options):\n"
        f"    return IService(runpy.run_path({app!r})['application'])\n"
    )
    service.environment["PYTHONPATH"] = str(service.directory)
    service.twistd("mine")
    plugin.unlink()
    service.fail()
    assert "Unknown command: mine" in service.failures()[0]


def test_standard_output_is_one_stream_over_upgrades(service, beats):
    """
    What a process prints before it is final, and after that, and what its parent does,
    stands there once and as it was printed.
    """
    code = (
        "import os\nprint('begun', flush=True)\nfrom twisted.internet import reactor\n"
        "name = 'n'\n"
        "def heard(line): os.write(1, line.encode() + b'\\n')\n"
    )
    service.release(code)
    out = service.directory / "out"
    with out.open("wb") as stream:
        service.start(
            *(TWISTD, "--nodaemon", "--logfile=twistd.log"),
            *("tableflip", "--app", str(APPS / "answering.py")),
            stdout=stream,
        )
    service.waitFor("generation 1 serves")
    for word in ("one", "two", "three"):
        service.redeploy()
        ask(("127.0.0.1", service.port), word)
    until(lambda: "three\n" in out.read_text(), "the last line")
    assert out.read_text().split() == [
        "begun",
        "begun",
        "one",
        "begun",
        "two",
        "begun",
        "three",
    ]


HOLDS = "import os, time\nif os.fork() == 0:\n    time.sleep({seconds})\n    os._exit(0)\n"
UNHEARD = (
    # As C code forks: nobody is told.
    "import ctypes, time\nif ctypes.CDLL(None).fork() == 0:\n"
    "    time.sleep({seconds})\n    ctypes.CDLL(None)._exit(0)\n"
)


@pytest.mark.parametrize("forked", [HOLDS, UNHEARD])
def test_the_old_process_is_known_to_have_ended_whatever_a_fork_holds(service, beats, forked):
    """
    A worker that was forked from it while the next version started has its end of the
    channel, or would have: the new one is alone all the same, and upgraded next.
    """
    code = "name = 'n'\ndef heard(line):\n    if line == 'fork':\n"
    body = forked.format(seconds=600)
    service.release(code + "".join(f"        {line}\n" for line in body.splitlines()))
    old = answering(service)
    gate = Gate(service)
    service.release(gate.code + "name = 'new'")
    os.kill(old, signal.SIGHUP)
    gate.reached()
    ask(("127.0.0.1", service.port), "fork")
    os.kill(old, signal.SIGKILL)
    gate.open()
    service.waitFor("generation 2 serves")
    service.release("name = 'newer'")
    os.kill(service.childOf(1), signal.SIGHUP)
    service.waitFor("generation 3 serves")


@pytest.mark.parametrize("forked", [HOLDS, UNHEARD])
def test_the_end_of_a_new_process_is_told_at_once_whatever_its_fork_holds(
    service, beats, forked
):
    """
    Its parent does not wait for the upgrade's timeout, which is longer than any test.
    """
    service.twistd(
        *("tableflip", "--upgrade-timeout", "9999", "--app", str(APPS / "answering.py"))
    )
    service.release(forked.format(seconds=600) + "import os, signal\nos.kill(os.getpid(), 9)")
    service.fail()
    assert "was killed by SIGKILL" in service.failures()[0]
    assert ask(("127.0.0.1", service.port))[0] == "1"


def test_a_forked_process_does_not_hold_the_channel(service, beats):
    """
    It is closed in whatever is forked, so that its end is that of the process.
    """
    service.release(
        "import os, time\nname = 'n'\n"
        "def heard(line):\n    if os.fork() == 0:\n        time.sleep(600)\n"
    )
    old = answering(service)
    gate = Gate(service)
    service.release(gate.code + "name = 'new'")
    os.kill(old, signal.SIGHUP)
    gate.reached()
    before = set(service.processes())
    ask(("127.0.0.1", service.port))
    (forked,) = until(lambda: set(service.processes()) - before, "a fork")
    assert channelsOf(old)
    until(lambda: not channelsOf(forked), "the end of its copy")
    gate.open()
    service.waitFor("upgrade done")


def channelsOf(pid):
    """
    Return the connected UNIX stream sockets without a name that a process has.
    """
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    unnamed = {f"socket:[{row[6]}]" for row in rows if row[4] == "0001" and len(row) == 7}
    return unnamed.intersection(descriptorsOf(pid))


def descriptorsOf(pid):
    """
    Return what a process has open.
    """
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


@pytest.mark.process
def test_a_forked_process_does_not_hold_what_is_read_on():
    """
    It would not read there, and who writes would wait for ever when we are gone.
    """
    read, write = os.pipe()
    output = Output(MemoryReactor(), 1, read, lambda each: None)
    pid = os.fork()
    if pid == 0:
        isOpen = os.path.exists(f"/proc/self/fd/{read}")
        os._exit(1 if isOpen else 0)
    assert os.waitpid(pid, 0)[1] == 0
    output.close()
    os.close(write)
