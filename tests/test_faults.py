"""
What goes wrong in an upgrade, done on purpose to real processes: whichever
process fails, and at whichever step, exactly one ends up serving, the pid file
names it, and the log says what happened.
"""

import os
import select
import shutil
import signal
import socket
import time

import pytest
from processes import APPS, Clients, Gate, ask, connect, until

from txtableflip.testing._service import freePort, isAlive, stateOf

SAY = (
    "import os, signal, sys, time\nprint('last words of {name}', file=sys.stderr, flush=True)\n"
)
"""
What a release says before it fails, as its own last words.
"""


class Site:
    """
    The answering service as a daemon, on one port and one path.
    """

    def __init__(self, service):
        self.service = service
        self.port = freePort()
        self.address = ("127.0.0.1", self.port)
        self.path = service.directory / "s.sock"
        self.endpoint = f"tableflip:tcp:{self.port}:interface=127.0.0.1"
        service.environment["ENDPOINTS"] = f"{self.endpoint} tableflip:unix:{self.path}"

    def start(self, *options, code=""):
        """
        Start it, with some code in the first release.
        """
        self.service.release(f"name = 'first'\n{code}")
        app = str(APPS / "answering.py")
        return self.service.twistd("tableflip", *options, "--app", app)

    def startPlainly(self):
        """
        Start it by C{twistd -y}: its release runs before there is an Upgrader.
        """
        return self.service.twistd("-y", str(APPS / "answering.py"))

    def upgrade(self, name="good"):
        """
        Deploy a release that is as it should be.
        """
        self.service.release(f"name = {name!r}")
        return self.service.redeploy()

    def shouldBeServedBy(self, pid, release, generation):
        """
        Check that this process serves, that there is no other, and that all
        that names a process names this one.
        """
        service = self.service
        until(lambda: service.processes() == [pid], lambda: f"{pid} alone:\n{service.log}")
        assert service.pid == pid
        assert os.readlink(f"{self.path}.lock") == str(pid)
        for address in (self.address, str(self.path)):
            for _ in range(3):
                assert ask(address) == (release, generation)


@pytest.fixture
def site(service):
    """
    A service for what goes wrong.
    """
    return Site(service)


# -- the release is broken

CHANNEL = "import txtableflip\nchannel = txtableflip.currentUpgrader()._ours._parent._channel\n"
BROKEN = {
    "raises": ("raise RuntimeError('no database')", "exited with status 1"),
    "leaves well": ("sys.exit(0)", "exited with status 0"),
    "leaves ill": ("sys.exit(3)", "exited with status 3"),
    "is killed": ("os.kill(os.getpid(), 9)", "was killed by SIGKILL"),
    "hangs": ("while True: time.sleep(1)", "was not ready after 30 seconds"),
    "lacks a module": ("import nosuchmodule", "exited with status 1"),
    "is no Python": ("def f(:", "exited with status 1"),
    "sends garbage": (
        f"{CHANNEL}channel.transport.socket.send(b'garbage!')\ntime.sleep(60)",
        "sent what is not a valid message",
    ),
    "closes the channel": (
        f"{CHANNEL}os.close(channel.transport.fileno())\ntime.sleep(60)",
        "closed the upgrade channel but kept running",
    ),
    "gives up": ("sys.exit('no configuration')", "exited with status 1"),
}
OWN_WORDS = {
    "raises": "RuntimeError: no database",
    "gives up": "no configuration",
    "lacks a module": "ModuleNotFoundError: No module named 'nosuchmodule'",
    "is no Python": "SyntaxError: invalid syntax",
}
AT_START = {
    "raises": BROKEN["raises"],
    "leaves well": BROKEN["leaves well"],
    "is killed by a signal that has no name": (
        "os.kill(os.getpid(), 40)",
        "was killed by signal 40",
    ),
    "hangs up": ("os.close(3)\ntime.sleep(60)", "closed the upgrade channel but kept running"),
    "sends garbage": ("os.write(3, b'garbage!')\ntime.sleep(60)", "sent what is not a valid"),
}


def failEach(site, clients, broken, phase):
    """
    Deploy each broken release, and a good one after it.
    """
    service = site.service
    for number, (name, (code, outcome)) in enumerate(broken.items()):
        old = service.pid
        words = "" if name == "is no Python" else SAY.format(name=name)
        service.release(f"name = 'broken'\n{words}{code}")
        service.fail()
        said = service.failures()[-1]
        assert outcome in said, said
        assert f"(phase: {phase})" in said, said
        assert OWN_WORDS.get(name, f"last words of {name}") in said, said
        until(lambda old=old: service.processes() == [old], "the end of the failed one")
        assert service.pid == old
        assert ask(site.address)[1] == number + 1
        clients.waitForMore()
        site.upgrade()
    assert clients.failures == []
    assert clients.releases == {"first", "good"}
    assert clients.generations == set(range(1, len(broken) + 2))
    assert len(service.failures()) == len(broken)


def test_each_way_to_be_broken_leaves_the_old_process_serving(site):
    """
    Ten broken releases are deployed under load, each followed by a good one: no
    client notices, the old process goes on, and the log has the phase, the
    outcome and the last words of each.
    """
    # Each of the others has ended by then, on the slowest machine.
    site.start("--upgrade-timeout", "30")
    with Clients(site.address, 4) as clients:
        failEach(site, clients, BROKEN, "initialise")


def test_a_release_may_be_broken_before_it_has_an_upgrader(site):
    """
    Under plain twistd a release that fails, hangs up or sends garbage before it
    has greeted its parent leaves the old process serving as well.
    """
    site.service.release("name = 'first'")
    site.startPlainly()
    with Clients(site.address, 4) as clients:
        failEach(site, clients, AT_START, "start")


def test_a_release_that_wants_a_port_of_somebody_else_fails(site):
    """
    A release that cannot listen on one of its endpoints fails, with the reason
    in the log, and has taken none of the others away.
    """
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = f"tableflip:tcp:{other.getsockname()[1]}:interface=127.0.0.1"
        first = site.start()
        site.service.release(f"import os\nos.environ['ENDPOINTS'] += ' {taken}'")
        with Clients(site.address, 4) as clients:
            site.service.fail()
            clients.waitForMore()
        assert clients.failures == []
        (failure,) = site.service.failures()
        assert "(phase: initialise)" in failure
        assert "CannotListenError" in failure
        assert "Address already in use" in failure
        site.shouldBeServedBy(first, "first", 1)
    site.shouldBeServedBy(site.upgrade(), "good", 2)


@pytest.mark.parametrize("how", ["is gone", "is no key"])
def test_a_key_that_cannot_be_read_is_a_failed_upgrade(service, certificate, how):
    """
    A successor that cannot read the key of a TLS endpoint fails, with its
    traceback in the log and in the failure; the old process keeps serving, and is
    replaced when the key is there again.
    """
    key = service.directory / "key.pem"
    shutil.copy(certificate, key)
    port = freePort()
    service.environment["ENDPOINTS"] = (
        f"tableflip:ssl:{port}:interface=127.0.0.1:privateKey={key}:certKey={key}"
    )
    first = service.twistd("tableflip", "--app", str(APPS / "answering.py"))
    good = key.read_text()
    if how == "is gone":
        key.unlink()
    else:
        key.write_text("nothing")
    service.fail()
    (failure,) = service.failures()
    assert "Traceback" in failure
    assert ("No such file or directory" if how == "is gone" else "Error") in failure
    assert service.pid == first
    assert isAlive(first)
    key.write_text(good)
    service.redeploy()


def test_a_release_without_its_application_says_so_in_the_log(site):
    """
    When what C{--app} names is gone, which twistd says on a standard output
    that a daemon does not have, the failed upgrade has the reason all the same.
    """
    service = site.service
    module = service.directory / "mine.py"
    shutil.copy(APPS / "answering.py", module)
    first = service.twistd("tableflip", "--app", "mine")
    module.unlink()
    service.fail()
    assert "no module mine" in service.failures()[0]
    site.shouldBeServedBy(first, "1", 1)


def test_garbage_does_not_make_an_orphan_of_a_child_that_cannot_be_ended(site):
    """
    A child that has sent garbage is not wanted; though it survives SIGTERM for
    a while, it never takes the closed channel for a dead parent, and never
    serves beside it.
    """
    first = site.start(code="from txtableflip._handover import ending\nending.TERM_GRACE = 2\n")
    site.service.release(
        f"name = 'orphan'\n{CHANNEL}import signal\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
        "channel.transport.socket.send(b'garbage!')\n"
    )
    with Clients(site.address, 4) as clients:
        site.service.fail()
    assert clients.failures == []
    assert clients.releases == {"first"}
    assert "sent what is not a valid message" in site.service.failures()[0]
    site.shouldBeServedBy(first, "first", 1)


def test_a_child_that_makes_itself_a_daemon_cannot_speak_in_a_later_upgrade(site):
    """
    What a failed child has left behind is told to leave, and is not believed
    when it says that it is ready while its parent waits for another child.
    """
    service = site.service
    first = site.start()
    stray, good = Gate(service), Gate(service)
    service.release(
        "import os\nname = 'stray'\nif os.fork(): os._exit(0)\nos.setsid()\n"
        "for number in (0, 1, 2): os.dup2(os.open(os.devnull, os.O_RDWR), number)\n"
        + stray.code
    )
    service.fail()
    assert "exited with status 0" in service.failures()[0]
    (pid,) = set(service.processes()) - {first}
    service.release("name = 'good'\n" + good.code)
    os.kill(first, signal.SIGHUP)
    good.reached()
    stray.open()
    until(lambda: not isAlive(pid), lambda: f"the end of the stray:\n{service.log}")
    assert ask(site.address) == ("first", 1)
    good.open()
    until(lambda: not isAlive(first), lambda: f"a successor:\n{service.log}")
    site.shouldBeServedBy(service.pid, "good", 2)


# -- a process dies or falls silent: what test_fault_table.py does not show of that

STOP = "os.kill(os.getpid(), signal.SIGSTOP)"


def wrap(where, before="pass", after="pass"):
    """
    Return code that has something done before and after each call of a method.
    """
    module, name, method = where.split()
    return (
        f"import os, signal, time, {module}\n"
        f"def wrapped(*arguments, original={module}.{name}.{method}):\n"
        f"    {before}\n"
        f"    original(*arguments)\n"
        f"    {after}\n"
        f"{module}.{name}.{method} = wrapped\n"
    )


SAY_READY = "txtableflip._handover.parent Parent sayReady"
TAKE_OVER = "txtableflip._generation Generation accept"
COMMIT = "txtableflip._handover.child Child commit"
PARK = "txtableflip._generation Generation park"


def test_a_parent_that_dies_while_the_child_initialises_leaves_it_serving(site):
    """
    A child whose parent dies before it is ready goes on initialising, and then
    serves without being told.
    """
    service = site.service
    first = site.start()
    gate = Gate(service)
    service.release("name = 'orphan'\n" + gate.code)
    os.kill(first, signal.SIGHUP)
    gate.reached()
    child = service.childOf(1)
    os.kill(first, signal.SIGKILL)
    until(lambda: not isAlive(first), "the end of the parent")
    gate.open()
    service.waitFor("generation 2 serves")
    site.shouldBeServedBy(child, "orphan", 2)
    site.shouldBeServedBy(site.upgrade(), "good", 3)


def test_a_parent_that_dies_while_it_drains_is_not_missed(site):
    """
    When the old process is killed while a connection keeps it, the new one
    keeps serving, and can be upgraded then.
    """
    service = site.service
    first = site.start()
    with connect(site.address) as sock, sock.makefile("rw") as stream:
        stream.write("stay\n")
        stream.flush()
        assert stream.readline()
        service.release("name = 'good'")
        os.kill(first, signal.SIGHUP)
        until(lambda: service.pid != first, "a successor")
        second = service.pid
        assert isAlive(first)
        os.kill(first, signal.SIGKILL)
        until(lambda: not isAlive(first), "the end of the parent")
        site.shouldBeServedBy(second, "good", 2)
    site.shouldBeServedBy(site.upgrade("better"), "better", 3)


QUICK = (
    "import txtableflip._handover.child\n"
    "txtableflip._handover.child.COMMIT_TIMEOUT = 3\n"
    "import txtableflip._handover.ending\n"
    "txtableflip._handover.ending.TERM_GRACE = 0.5\n"
)


@pytest.mark.parametrize(
    ("step", "phase"),
    [
        pytest.param({"where": SAY_READY, "before": STOP}, "initialise", id="before_ready"),
        pytest.param({"where": SAY_READY, "after": STOP}, "commit", id="after_ready"),
        pytest.param({"where": TAKE_OVER, "after": STOP}, "commit", id="before_serving"),
    ],
)
def test_a_child_that_falls_silent_is_ended_at_its_deadline(site, step, phase):
    """
    A child that is stopped at any step is ended when its time is over, and the
    parent serves as if it had never been; clients have waited, and no more.
    """
    first = site.start("--upgrade-timeout", "10", code=QUICK)
    site.service.release("name = 'frozen'\n" + wrap(**step))
    with Clients(site.address, 4) as clients:
        site.service.fail()
        clients.waitForMore()
        assert f"(phase: {phase})" in site.service.failures()[0]
        site.shouldBeServedBy(first, "first", 1)
        site.shouldBeServedBy(site.upgrade(), "good", 2)
    assert clients.failures == []
    assert clients.releases == {"first", "good"}


def test_a_child_that_is_told_to_leave_and_only_hangs_up_is_killed(site):
    """
    A child that was not ready in time, and on SIGTERM closes the channel and
    nothing else, is killed, for it would keep the sockets.
    """
    first = site.start("--upgrade-timeout", "5", code=QUICK)
    site.service.release(
        f"{CHANNEL}import os, signal, time\n"
        "hangUp = lambda *ignored: os.close(channel.transport.fileno())\n"
        "signal.signal(signal.SIGTERM, hangUp)\n"
        "while True: time.sleep(1)\n"
    )
    site.service.fail()
    assert "was not ready after 5 seconds" in site.service.failures()[0]
    site.shouldBeServedBy(first, "first", 1)


def stateBecomes(pid, letter):
    """
    Wait until a process is in this state of proc(5).
    """
    until(lambda: stateOf(pid)[0] == letter, f"state {letter} of {pid}")


def test_from_ready_to_serving_nobody_accepts_and_clients_wait(site):
    """
    A parent whose child has said Ready accepts nothing any more: who connects
    then, while the child is kept from serving, is answered by the child.
    """
    service = site.service
    parked = service.directory / "parked"
    touch = f"open({str(parked)!r}, 'w').close()"
    first = site.start(code=wrap(PARK, after=touch))
    service.release("name = 'good'\n" + wrap(SAY_READY, after=STOP))
    os.kill(first, signal.SIGHUP)
    until(parked.exists, "a parked parent")
    child = service.childOf(1)
    stateBecomes(child, "T")
    waiting = [connect(address) for address in (site.address, str(site.path)) * 5]
    for sock in waiting:
        sock.sendall(b"stay\n")
    # The parent has had the time to accept them, had it wanted to.
    assert select.select(waiting, [], [], 0.2)[0] == []
    os.kill(child, signal.SIGCONT)
    for sock in waiting:
        with sock, sock.makefile() as stream:
            assert stream.readline().split() == ["stay", "good", "2", str(child), "."]
    until(lambda: not isAlive(first), "the end of the parent")
    site.shouldBeServedBy(child, "good", 2)


def test_a_parent_that_falls_silent_before_it_commits_gets_the_service_back(site):
    """
    A child that waits for Commit until its own deadline leaves, since a parent
    that is frozen may wake up; it does, and keeps serving.
    """
    service = site.service
    first = site.start("--upgrade-timeout", "20", code=wrap(PARK, after=STOP))
    service.release("name = 'refused'")
    with Clients(site.address, 4) as clients:
        os.kill(first, signal.SIGHUP)
        child = service.childOf(1)
        stateBecomes(first, "T")
        until(lambda: not isAlive(child), "the end of the child")
        assert service.pid == first
        os.kill(first, signal.SIGCONT)
        service.waitFor("upgrade failed")
        clients.waitForMore()
    assert clients.failures == []
    assert clients.releases == {"first"}
    assert "the parent did not answer" in service.failures()[0]
    site.shouldBeServedBy(first, "first", 1)


def test_a_parent_that_sleeps_after_commit_does_not_end_the_child_that_serves(site):
    """
    A parent that is frozen, or kept busy, for longer than its deadline after it
    has sent Commit finds on waking that the child has served since, and leaves.
    """
    service = site.service
    first = site.start(code=QUICK + wrap(COMMIT, after=STOP))
    service.release("name = 'good'")
    with Clients(site.address, 4) as clients:
        os.kill(first, signal.SIGHUP)
        child = service.childOf(1)
        stateBecomes(first, "T")
        service.waitFor("generation 2 serves")
        assert ask(site.address) == ("good", 2)
        time.sleep(3.5)  # is longer than COMMIT_TIMEOUT
        os.kill(first, signal.SIGCONT)
        until(lambda: not isAlive(first), lambda: f"the end of the parent:\n{service.log}")
    assert clients.failures == []
    assert service.failures() == []
    site.shouldBeServedBy(child, "good", 2)


def test_garbage_from_a_child_that_has_taken_over_does_not_end_it(site):
    """
    What a child says after it has taken over for good cannot make the parent end it,
    for nobody would serve then.
    """
    garbage = "channel.transport.socket.send(b'garbage!')"
    first = site.start()
    site.service.release(
        f"name = 'good'\n{CHANNEL}"
        f"final = txtableflip.currentUpgrader().whenFinal()\n"
        f"final.addCallback(lambda ignored: {garbage})\n"
    )
    # A connection keeps the parent for long enough to hear it.
    with connect(site.address) as sock, sock.makefile("rw") as stream:
        stream.write("stay\n")
        stream.flush()
        assert stream.readline()
        os.kill(first, signal.SIGHUP)
        child = site.service.childOf(1)
        site.service.waitFor("sent what is not a valid message")
    site.shouldBeServedBy(child, "good", 2)


# -- signals at the wrong time


def test_a_signal_during_an_upgrade_that_fails_tries_again(site):
    """
    SIGHUP while a child starts is remembered: when that child fails, what is
    deployed by then is started without being asked for again.
    """
    service = site.service
    first = site.start()
    gate = Gate(service)
    service.release(gate.code + "raise RuntimeError('too early')")
    os.kill(first, signal.SIGHUP)
    gate.reached()
    service.release("name = 'good'")
    for _ in range(5):
        os.kill(first, signal.SIGHUP)
    gate.open()
    until(lambda: not isAlive(first), lambda: f"a successor:\n{service.log}")
    assert len(service.failures()) == 1
    assert "RuntimeError: too early" in service.failures()[0]
    site.shouldBeServedBy(service.childOf(1, 2), "good", 2)


def test_twenty_signals_during_an_upgrade_make_one_more(site):
    """
    However many SIGHUPs come while a child starts, it is upgraded once in its
    turn, since it may have been started before the newest code was there.
    """
    service = site.service
    first = site.start()
    gate = Gate(service)
    service.release("name = 'second'\n" + gate.code)
    os.kill(first, signal.SIGHUP)
    gate.reached()
    service.release("name = 'third'")
    for _ in range(20):
        os.kill(first, signal.SIGHUP)
        time.sleep(0.005)
    gate.open()
    service.waitFor("generation 3 serves")
    site.shouldBeServedBy(service.childOf(2), "third", 3)
    assert service.log.count("upgrade: started") == 2


def test_a_burst_of_signals_ends_in_one_process_with_the_newest_code(site):
    """
    Twenty SIGHUPs within a second, sent to whatever the pid file names, lead to
    the code that was there at the last of them, in one process, under load.
    """
    service = site.service
    site.start()
    with Clients(site.address, 4) as clients:
        for number in range(20):
            if number == 19:
                service.release("name = 'newest'")
            os.kill(service.pid, signal.SIGHUP)
            time.sleep(0.04)
        # The first signal leads to one upgrade, and those during it to another.
        until(
            lambda: (
                "newest" in clients.releases
                and len(service.processes()) == 1
                and service.log.count("upgrade: started")
                == service.log.count("upgrade done")
                >= 2
            ),
            lambda: f"the newest code, alone:\n{service.log}",
        )
    assert clients.failures == []
    generation = max(clients.generations)
    assert generation <= 8
    assert clients.generations == set(range(1, generation + 1))
    until(lambda: len(service.processes()) == 1, "one process")
    assert ask(site.address)[0] == "newest"


@pytest.mark.parametrize("addressee", ["old", "new"])
def test_a_signal_while_the_parent_drains_starts_the_next(site, addressee):
    """
    SIGHUP to the new process while the old one drains, or to the old one that
    has been replaced, starts the third at once.
    """
    service = site.service
    first = site.start()
    with connect(site.address) as sock, sock.makefile("rw") as stream:
        stream.write("stay\n")
        stream.flush()
        assert stream.readline()
        service.release("name = 'second'")
        os.kill(first, signal.SIGHUP)
        service.waitFor("generation 2 serves")
        until(lambda: service.pid != first, "a successor")
        second = service.pid
        service.release("name = 'third'")
        os.kill(first if addressee == "old" else second, signal.SIGHUP)
        service.waitFor("generation 3 serves")
        until(lambda: not isAlive(second), "the end of the second")
        assert isAlive(first)
    until(lambda: not isAlive(first), "the end of the first")
    site.shouldBeServedBy(service.childOf(2), "third", 3)


def test_a_signal_to_a_child_that_is_starting_does_not_kill_it(site):
    """
    SIGHUP to a child that has no handler for it yet waits until it has one, and
    then is an order like any other.
    """
    service = site.service
    first = site.start()
    gate = Gate(service)
    service.release("name = 'second'\n" + gate.code)
    os.kill(first, signal.SIGHUP)
    gate.reached()
    child = service.childOf(1)
    service.release("name = 'third'")
    os.kill(child, signal.SIGHUP)
    gate.open()
    service.waitFor("generation 3 serves")
    assert service.failures() == []
    site.shouldBeServedBy(service.childOf(2), "third", 3)


@pytest.mark.parametrize("child", ["waits", "is stopped"])
def test_to_stop_the_service_during_an_upgrade_ends_both_processes(site, child):
    """
    SIGTERM while a child initialises ends the child, also if it does not react,
    and then the parent; nothing is left, no process and no name of one.
    """
    service = site.service
    first = site.start(
        code="from txtableflip._handover import ending\nending.TERM_GRACE = 0.5\n"
    )
    gate = Gate(service)
    service.release(gate.code)
    os.kill(first, signal.SIGHUP)
    gate.reached()
    pid = service.childOf(1)
    if child == "is stopped":
        os.kill(pid, signal.SIGSTOP)
        stateBecomes(pid, "T")
    os.kill(first, signal.SIGTERM)
    until(lambda: not service.processes(), lambda: f"the end of all:\n{service.log}")
    assert "this process was told to stop, and terminates its successor" in service.log
    assert not service.pidFile.exists()
    assert not site.path.exists()
    assert not os.path.lexists(f"{site.path}.lock")
