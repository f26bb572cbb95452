"""
Signals: which redeploy, whose they are, and that none is lost or ends the service
without a word.
"""

import os
import signal
import sys

import pytest
from processes import APPS, TWISTD, ask, until

from txtableflip.testing._service import isAlive

ANSWERING = str(APPS / "answering.py")


@pytest.mark.parametrize("name", ["HUP", "USR2"])
def test_nothing_that_is_started_has_the_signal_blocked(service, address, name):
    """
    Neither in a first generation nor in a later one, though the signal does not end
    a process that has no handler for it yet.
    """
    service.release(
        "import subprocess\nname = 'n'\n"
        "with open('masks', 'a') as masks:\n"
        "    subprocess.run(['grep', 'SigBlk', '/proc/self/status'], stdout=masks)\n"
    )
    service.twistd("tableflip", "--signal", name, "--app", ANSWERING)
    number = getattr(signal, f"SIG{name}")
    os.kill(service.pid, number)
    service.waitFor("generation 2 serves")
    masks = (service.directory / "masks").read_text().split()[1::2]
    assert len(masks) == 2
    assert not [mask for mask in masks if int(mask, 16) & (1 << (number - 1))]


BLOCKED = """
import signal
from twisted.internet import reactor
from txtableflip import Upgrader

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
Upgrader(reactor).redeployOn("HUP")
print(*signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""


def test_a_signal_that_a_launcher_has_blocked_redeploys(service):
    """
    Also in a program without the service, which would have taken care of it before.
    """
    done = service.run(sys.executable, "-c", BLOCKED)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr


@pytest.mark.parametrize("who", ["helper", "itself"])
def test_a_signal_that_comes_while_a_process_starts_is_remembered(service, address, who):
    """
    By a first generation, and by a later one: it neither ends the process nor is lost.
    """
    service.twistd("tableflip", "--app", ANSWERING)
    kill = (
        "os.kill(os.getpid(), signal.SIGHUP)"
        if who == "itself"
        else ("import subprocess; subprocess.run(['kill', '-HUP', str(os.getpid())])")
    )
    flag = service.directory / "once"
    flag.touch()
    service.release(
        f"import os, signal, pathlib\nname = 'n'\nflag = pathlib.Path({str(flag)!r})\n"
        f"if flag.exists():\n    flag.unlink()\n    {kill}\n"
    )
    os.kill(service.pid, signal.SIGHUP)
    service.waitFor("generation 3 serves")


HANDLER = (
    "import signal\nfrom twisted.internet import reactor\nname = 'n'\n"
    "def mine(number, frame): open('came', 'a').write('x')\n"
    "def take(): signal.signal(signal.{signal}, mine)\n"
    "def heard(line): {heard}\n"
)


@pytest.mark.parametrize(
    ("name", "when", "line"),
    [
        ("SIGHUP", "take()", "SIGHUP redeploys, and its previous handler,"),
        ("SIGHUP", "reactor.callWhenRunning(take)", "SIGHUP does not redeploy any more"),
        ("SIGHUP", "", "SIGHUP does not redeploy any more: "),
        ("SIGTERM", "", "SIGTERM does not drain open connections any more"),
    ],
)
def test_a_signal_with_another_owner_is_warned_of(service, address, name, when, line):
    """
    Whether the application took it before, at the start, or at any time later; and the
    warning names the handler.
    """
    code = HANDLER.format(signal=name, heard="" if when else "take()") + when
    service.release(code.replace("heard(line): \n", "heard(line): pass\n"))
    service.twistd("tableflip", "--app", ANSWERING)
    if not when:
        ask(address)
    service.waitFor(line)
    warning = next(said for said in service.log.splitlines() if line in said)
    assert ".mine" in warning
    os.kill(service.pid, getattr(signal, name))
    if "redeploys" in line:
        service.waitFor("generation 2 serves")
    else:
        until((service.directory / "came").exists, "the handler of the application")


def test_nobody_is_warned_where_the_signals_are_ours(service, address):
    """
    Twisted's handlers are no owners.
    """
    service.twistd("tableflip", "--app", ANSWERING)
    service.redeploy()
    assert "replaced the handler" not in service.log
    assert "is not called any more" not in service.log


STOPPED = """
import signal
from twisted.internet import reactor
from txtableflip import Upgrader

def mine(number, frame):
    print("mine")

signal.signal(signal.SIGHUP, {before})
Upgrader(reactor).redeployOn("HUP")
reactor.callWhenRunning(reactor.stop)
reactor.run()
signal.raise_signal(signal.SIGHUP)
print("end")
"""


@pytest.mark.parametrize(
    ("before", "said"),
    [("mine", "mine\nend\n"), ("signal.SIG_IGN", "end\n"), ("signal.SIG_DFL", "end\n")],
)
def test_after_the_reactor_a_signal_does_what_it_did_before(service, before, said):
    """
    But for the default, which would kill a process that is about to exit cleanly.
    """
    done = service.run(sys.executable, "-c", STOPPED.format(before=before))
    assert (done.returncode, done.stdout) == (0, said), done.stderr


@pytest.mark.parametrize(("ours", "other"), [("HUP", "USR2"), ("USR2", "HUP")])
def test_a_signal_that_redeploys_elsewhere_ends_nothing(service, address, ours, other):
    """
    The log says which one it is here.
    """
    pid = service.twistd("tableflip", "--signal", ours, "--app", ANSWERING)
    os.kill(pid, getattr(signal, f"SIG{other}"))
    service.waitFor(f"ignoring SIG{other}: the signal that redeploys is SIG{ours}")
    assert ask(address) == ("1", 1)
    assert service.pid == pid


TAC = (
    "from twisted.application import service\nfrom txtableflip import UpgradeService\n"
    "application = service.Application('x')\n"
    "UpgradeService(signal='USR1').setServiceParent(application)\n"
)


@pytest.mark.parametrize("how", ["option", "tac"])
def test_the_signal_that_rotates_twistds_log_is_refused_at_the_start(service, address, how):
    """
    With the reason, and with what to use instead.
    """
    (service.directory / "app.tac").write_text(TAC)
    what = {
        "option": ["tableflip", "--signal", "sigusr1", "--app", ANSWERING],
        "tac": ["--python", "app.tac"],
    }[how]
    done = service.run(TWISTD, "--nodaemon", "--pidfile=", *what)
    assert done.returncode == 1
    assert "SIGUSR1 has twistd rotate its log: use HUP" in done.stdout + done.stderr


def test_twist_rotates_nothing_and_so_may_redeploy_on_any_signal(service, address):
    """
    The reason is twistd's alone.
    """
    log = service.directory / "twistd.log"
    twist = os.path.join(os.path.dirname(sys.executable), "twist")
    with log.open("w") as stream:
        process = service.start(
            *(twist, "--log-format=text", "tableflip", "--signal", "USR1"),
            *("--app", ANSWERING),
            stdout=stream,
            stderr=stream,
        )
    service.waitFor("generation 1 serves")
    process.send_signal(signal.SIGUSR1)
    service.waitFor("generation 2 serves")


THREADED = """
import signal, sys, threading, time
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.logger import globalLogBeginner, textFileLogObserver
globalLogBeginner.beginLoggingTo(
    [textFileLogObserver(open("twistd.log", "a"))], redirectStandardIO=False
)
def listen():
    serverFromString(reactor, sys.argv[1]).listen(Factory()).addBoth(print)
if sys.argv[2] == "main":
    endpoint = serverFromString(reactor, sys.argv[1])
    reactor.callWhenRunning(endpoint.listen, Factory())
    if sys.argv[3:] == ["early"]:
        signal.raise_signal(signal.SIGHUP)
else:
    reactor.callWhenRunning(listen)
threading.Thread(target=reactor.run, args=(False,), daemon=True).start()
while True:
    time.sleep(0.05)
"""


@pytest.mark.parametrize("early", [(), ("early",)])
def test_a_reactor_in_a_thread_survives_the_signal_and_says_that_it_is_refused(
    service, address, early
):
    """
    Once for each time that it comes, also before the reactor runs.
    """
    (service.directory / "app.py").write_text(THREADED)
    endpoint = service.environment["ENDPOINTS"]
    process = service.start(sys.executable, "app.py", endpoint, "main", *early)
    service.waitFor("upgrades by signal are disabled: this is not the main thread")
    refused = "upgrade refused: upgrades by signal are disabled"
    service.waitFor(refused, len(early))
    for count in (1, 2):
        process.send_signal(signal.SIGHUP)
        service.waitFor(refused, len(early) + count)
    assert service.log.count(refused) == len(early) + 2
    assert "Traceback" not in service.log
    assert isAlive(process.pid)


def test_an_endpoint_that_is_made_in_a_thread_listens_without_upgrades(service, address):
    """
    As on a platform that has none.
    """
    (service.directory / "app.py").write_text(THREADED)
    endpoint = service.environment["ENDPOINTS"]
    service.start(sys.executable, "app.py", endpoint, "thread")
    service.waitFor("which will not be inherited: this is not the main thread")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_service_that_cannot_be_upgraded_answers_each_request(service, address, when):
    """
    Whether it was asked before that was known, or after.
    """
    service.release(
        "import os\nfrom twisted.internet import reactor\nfrom twisted.internet.defer import "
        "Deferred\nfrom txtableflip import currentUpgrader\nname = 'n'\nwaiting = Deferred()\n"
        "currentUpgrader().notReadyUntil(waiting)\n"
        "def look():\n"
        "    if os.path.exists('fail'): waiting.errback(ValueError('the database is away'))\n"
        "    else: reactor.callLater(0.05, look)\n"
        "look()\n"
    )
    service.run(TWISTD, "tableflip", "--app", ANSWERING)
    until(service.pidFile.exists, "the pid file")
    fail = service.directory / "fail"
    if when == "after":
        fail.touch()
        service.waitFor("cannot be upgraded")
    os.kill(service.pid, signal.SIGHUP)
    if when == "before":
        service.waitFor("upgrade requested; deferred")
        fail.touch()
    service.waitFor("upgrade refused: this process cannot be upgraded: the database is")
