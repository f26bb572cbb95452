"""
The C{tableflip} command, with real processes: who asks is told, and by an exit status.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from broken import BAD, LATER
from processes import (
    APPS,
    DEADLINE,
    TWISTD,
    Clients,
    Gate,
    ask,
    asOrdinaryUser,
    connect,
    deadProcess,
    fewOrMany,
    until,
)

from txtableflip import command
from txtableflip.testing._service import freePort, isAlive

TABLEFLIP = shutil.which("tableflip", path=os.path.dirname(sys.executable))
SECONDS = ("--timeout", str(DEADLINE))


class Asked:
    """
    A service, and the command for its operator.
    """

    def __init__(self, service):
        self.service = service
        port = freePort()
        self.address = ("127.0.0.1", port)
        self.path = service.directory / "s.sock"
        service.environment["ENDPOINTS"] = (
            f"tableflip:tcp:{port}:interface=127.0.0.1 tableflip:unix:{self.path}"
        )

    def start(self, *options):
        """
        Start the first generation, and return its process id.
        """
        return self.service.twistd("tableflip", *options, "--app", str(APPS / "answering.py"))

    def run(self, *words):
        """
        Run the command, and return how it ended.
        """
        return self.service.run(TABLEFLIP, *words)

    def json(self, *words):
        """
        Run the command, and return its exit status and the object that it prints.
        """
        done = self.run(*words, "--json")
        assert done.stderr == ""
        assert done.stdout.count("\n") == 1
        return done.returncode, json.loads(done.stdout)

    def begin(self, *words):
        """
        Start the command, and go on.
        """
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return self.service.start(TABLEFLIP, *words, **pipes, text=True)


@pytest.fixture
def asked(service):
    """
    A service that has not been started, and the command.
    """
    return Asked(service)


@pytest.mark.process
def test_the_command_does_not_import_twisted():
    """
    An answer takes no longer than Python does to start.
    """
    code = (
        "import sys, txtableflip.command\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('twisted', 'zope')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


# -- upgrade

WHEN_SERVING = (
    "currentUpgrader().whenServing().addCallback(lambda _: reactor.callLater(0.1, {}))"
)
DYING = f"""import os
def die():
    os.write(2, b"no stock left\\n")
    os._exit(3)
{LATER.format(WHEN_SERVING.format("die"))}
"""


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_release_is_told(asked, kind):
    """
    The exit status is 1, the reason is on standard error, the JSON names the phase, and
    the old process keeps serving.
    """
    code, reason, phase = BAD[kind]
    options = ["--upgrade-timeout", "3"] if kind == "hang" else []
    variables = asked.service.directory / "env"
    variables.write_text("A=b\n")
    first = asked.start(*options, "--env-file", "env")
    with socket.create_server(("0.0.0.0", 0)) as taken:
        asked.service.release(code.format(taken=taken.getsockname()[1]))
        if kind == "environment":
            variables.write_text("nonsense\n")
        done = asked.run("upgrade", *SECONDS)
        status, told = asked.json("upgrade", *SECONDS)
    assert (done.returncode, status) == (1, 1), done.stderr
    assert reason in done.stderr
    assert done.stdout == ""
    assert (told["outcome"], told["changed"], told["failed"]) == ("failed", False, True)
    assert told["phase"] == phase
    assert reason in told["reason"] + "\n".join(told["lastOutput"])
    assert told["serving"]["pid"] == first
    assert ask(asked.address) == ("1", 1)


def test_a_release_that_dies_on_probation_is_told(asked):
    """
    It took over, and was rolled back: that has an exit status of its own.
    """
    first = asked.start("--probation", "30")
    asked.service.release(DYING)
    status, told = asked.json("upgrade", *SECONDS)
    assert status == 5
    assert (told["outcome"], told["changed"], told["phase"]) == (
        "rolledBack",
        True,
        "probation",
    )
    assert "exited with status 3" in told["reason"]
    assert told["other"]["exitStatus"] == 3
    assert told["lastOutput"][-1] == "no stock left"
    assert told["serving"]["pid"] == first
    assert ask(asked.address) == ("1", 1)


def disturb(service):
    """
    Have the log rotated, and somebody redeploy, who does not wait for the outcome.
    """
    for number in (signal.SIGUSR1, signal.SIGHUP):
        os.kill(service.pid, number)


@pytest.mark.slow
def test_every_verdict_is_true_under_load(asked):
    """
    Ten kinds of bad release, one that dies on probation, and a good one for twenty callers
    at once, while the log is rotated and others redeploy by the signal: each caller is told
    how its own upgrade went, a good one only when the new process serves; and no client
    notices anything, but those whose connections the one that dies had accepted.
    """
    service, patience = asked.service, ("--timeout", "600")
    variables = service.directory / "env"
    variables.write_text("A=b\n")
    asked.start("--probation", "3", "--upgrade-timeout", "30", "--env-file", "env")

    def askedBy(count):
        asking = []
        for number in range(count):
            asking.append(asked.begin("upgrade", *patience, *(["--json"] if number else [])))
            if not number % 5:
                disturb(service)
        ended = [(*each.communicate(timeout=600), each.returncode) for each in asking]
        assert [errors for out, errors, _ in ended[1:] if not out] == []
        return ended[0], [(status, json.loads(out)) for out, _, status in ended[1:]]

    def deploy(code, reason, phase, wanted):
        service.release(code)
        (out, errors, status), told = askedBy(2)
        assert (out, status) == ("", wanted), errors
        assert reason in errors
        assert [(status, each["phase"]) for status, each in told] == [(wanted, phase)]
        assert ask(asked.address) == ("1", 1)

    with Clients(asked.address, 4) as dropped:
        deploy(DYING, "exited with status 3", "probation", 5)
    # What it had accepted ends with it: two callers, and two signals at most.
    assert [each for each in dropped.failures if "Refused" in each] == []
    assert len(dropped.failures) <= 4 * 4
    with (
        socket.create_server(("0.0.0.0", 0)) as taken,
        Clients(asked.address, 4) as clients,
    ):
        for kind, (code, reason, phase) in BAD.items():
            variables.write_text("nonsense\n" if kind == "environment" else "A=b\n")
            deploy(code.format(taken=taken.getsockname()[1]), reason, phase, 1)
        variables.write_text("A=b\n")
        service.release("name = '2'")
        (_, _, status), told = askedBy(20)
        assert ask(asked.address)[0] == "2"
        assert [status, *(each for each, _ in told)] == [0] * 20
        assert len({each["serving"]["pid"] for _, each in told}) == 19
        clients.waitForMore()
    assert clients.failures == []
    assert clients.releases == {"1", "2"}
    assert list(service.directory.glob("twistd.log.*"))


def test_a_good_release_is_told_when_it_serves_for_good(asked):
    """
    Each phase is shown as it happens, and the exit status is 0 only when everybody is
    answered by the new release, and nobody can take that back.
    """
    first = asked.start("--probation", "1")
    gate = Gate(asked.service)
    asked.service.release(f"{gate.code}name = '2'")
    asking = asked.begin("upgrade", *SECONDS)
    gate.reached()
    assert asking.poll() is None
    gate.open()
    said, shown = asking.communicate(timeout=DEADLINE)
    assert asking.returncode == 0
    assert asked.service.log.count("upgrade done") == 1
    assert ask(asked.address) == ("2", 2)
    second = asked.service.pid
    assert said == f"generation 2 serves: process {second} in {asked.service.directory}\n"
    order = ["starting the next", "generation 2 is process", "initialises", "takes over"]
    places = [shown.index(words) for words in [*order, "serves, on probation for 1 s"]]
    assert places == sorted(places)
    until(lambda: not isAlive(first), "the end of the first")


def test_what_serves_is_in_the_result(asked):
    """
    With its process id, generation, directory, and since when.
    """
    first = asked.start()
    asked.service.release("name = '2'")
    status, told = asked.json("upgrade", *SECONDS)
    serving, other = told["serving"], told["other"]
    assert (status, told["outcome"], told["changed"]) == (0, "done", True)
    assert (serving["pid"], serving["generation"]) == (asked.service.pid, 2)
    assert serving["directory"] == str(asked.service.directory)
    assert other["since"] < serving["since"]
    assert other["pid"] == first
    assert told["seconds"] > 0


@fewOrMany(6, 20)
def test_callers_at_once_have_an_upgrade_each(asked, upgrades):
    """
    Whoever comes while one runs waits, goes on at whoever serves then, and has the
    disk read again.
    """
    asked.start()
    asking = [
        asked.begin("upgrade", *SECONDS, "--timeout", "600", "--json") for _ in range(upgrades)
    ]
    told = [json.loads(each.communicate(timeout=10 * DEADLINE)[0]) for each in asking]
    assert [each["outcome"] for each in told] == ["done"] * upgrades, asked.service.log[-3000:]
    assert sorted(each["serving"]["generation"] for each in told) == [*range(2, upgrades + 2)]
    assert ask(asked.address) == ("1", upgrades + 1)


def test_no_client_notices_what_is_asked_for(asked):
    """
    Good releases, bad ones and rehearsals under load.
    """
    asked.start()
    with Clients(asked.address, 4) as clients:
        for code, more, status in (
            ("name = '2'", (), 0),
            ("raise ValueError", (), 1),
            ("name = '3'", ("--dry-run",), 0),
            ("name = '4'", (), 0),
        ):
            asked.service.release(code)
            assert asked.run("upgrade", *SECONDS, *more).returncode == status
            clients.waitForMore()
    assert clients.failures == []
    assert clients.releases == {"1", "2", "4"}


def test_who_asks_too_early_waits_for_what_is_in_the_way(asked):
    """
    For the probation's end, here in the new process: and says so.
    """
    asked.start("--probation", "2")
    os.kill(asked.service.pid, signal.SIGHUP)
    asked.service.waitFor("on probation for 2 s")
    first = asked.service.pid
    until(lambda: asked.service.pid != first or len(asked.service.processes()) == 2, "two")
    second = asked.service.pid
    done = asked.run("upgrade", str(second), *SECONDS)
    assert done.returncode == 0
    assert "waiting: the parent may still roll back" in done.stderr
    assert "generation 3 serves" in done.stdout


def test_a_process_that_is_not_to_be_upgraded_says_why(asked):
    """
    Nobody waits for what never comes.
    """
    with socket.create_server(("0.0.0.0", 0)) as taken:
        listen = f"currentUpgrader().endpoint('tcp:{taken.getsockname()[1]}').listen(None)"
        asked.service.release(LATER.format(f"{listen}.addErrback(id)"))
        asked.service.run(TWISTD, "tableflip", "--app", str(APPS / "answering.py"))
        asked.service.waitFor("not ready, and cannot be upgraded")
        status, told = asked.json("upgrade", *SECONDS)
    assert (status, told["outcome"]) == (1, "refused")
    assert "in use" in told["reason"]


def test_who_was_replaced_says_by_whom(asked):
    """
    The command goes on there.
    """
    first = asked.start()
    with connect(asked.address) as sock:
        sock.sendall(b"stay\n")
        sock.recv(100)
        assert asked.run("upgrade", *SECONDS).returncode == 0
        second = asked.service.pid
        done = asked.run("upgrade", str(first), *SECONDS)
        assert f"process {second} serves now" in done.stderr
        assert "generation 3 serves" in done.stdout


def test_who_comes_too_late_asks_whom_the_pid_file_names_by_then(asked, monkeypatch):
    """
    The process that the command was sent to may have ended before it could say by whom
    it has been replaced.
    """
    asked.start()
    named = iter([deadProcess()])
    monkeypatch.setattr(command, "_pid", lambda options: next(named, asked.service.pid))
    assert command.main(["upgrade", *SECONDS]) == 0
    assert ask(asked.address) == ("1", 2)


def test_who_asks_may_go(asked):
    """
    What was begun goes on, and whoever interrupts it is told.
    """
    first = asked.start()
    gate = Gate(asked.service)
    asked.service.release(f"{gate.code}name = '2'")
    asking = asked.begin("upgrade")
    gate.reached()
    asking.send_signal(signal.SIGINT)
    _, said = asking.communicate(timeout=DEADLINE)
    assert asking.returncode == 4
    assert "interrupted: what was begun continues" in said
    assert "Traceback" not in said
    gate.open()
    until(lambda: asked.service.pid != first, "a successor")


def test_who_detaches_does_not_wait(asked):
    """
    The command says whether it begins now or later; if it cannot begin, that is told; and
    nothing is said of how it goes.
    """
    asked.start()
    gate = Gate(asked.service)
    asked.service.release(f"{gate.code}name = '2'")
    status, told = asked.json("upgrade", "--detach")
    assert (status, told["outcome"], told["changed"]) == (0, "begun", False)
    assert told["msg"].startswith("the upgrade has begun; tableflip status shows")
    gate.reached()
    done = asked.run("upgrade", "--detach")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("the upgrade is deferred: ")
    status, told = asked.json("upgrade", "--detach", "--dry-run")
    assert (status, told["outcome"]) == (1, "refused")
    gate.open()
    until(lambda: ask(asked.address) == ("2", 3), lambda: asked.service.log)
    (asked.service.directory / "gone").mkdir()
    status, told = asked.json("upgrade", "--detach", "--expect", "gone")
    assert (status, told["outcome"]) == (0, "begun")
    asked.service.waitFor("and not in")


@pytest.mark.parametrize("drainTimeout", ["0", "0.5"])
def test_how_long_connections_have_may_be_said_for_once(asked, drainTimeout):
    """
    As short as it is, the old process ends then; and the next time it is as usual.
    """
    first = asked.start("--drain-timeout", "600")
    with connect(asked.address) as sock:
        sock.sendall(b"stay\n")
        sock.recv(100)
        assert asked.run("upgrade", "--drain-timeout", drainTimeout).returncode == 0
        until(lambda: not isAlive(first), lambda: asked.service.log)
    with connect(asked.address) as sock:
        sock.sendall(b"stay\n")
        sock.recv(100)
        assert asked.run("upgrade", *SECONDS).returncode == 0
        asked.service.waitFor("open connections have 600.0 s to finish")


def test_a_release_has_a_label(asked):
    """
    Who asks is told of both, and so is the log; a file is read by each process.
    """
    label = asked.service.directory / "REVISION"
    label.write_text("v41")
    first = asked.start("--probation", "600", "--release-file", "REVISION")
    label.write_text("v42")
    asking = asked.begin("upgrade", "--timeout", "600", "--json")
    asked.service.waitFor("on probation for 600 s")
    for pid in (first, until(lambda: asked.service.pid != first and asked.service.pid, "two")):
        _, told = asked.json("status", str(pid))
        assert [each["release"] for each in told["generations"]] == ["v41", "v42"]
        assert told["serving"]["release"] == "v42"
    assert re.search(
        r"generation 2 pid \d+ release v42\] generation 2 serves", asked.service.log
    )
    confirmed = asked.run("confirm").stdout
    assert confirmed.startswith("generation 2 (release v42) serves: process")
    told = json.loads(asking.communicate(timeout=DEADLINE)[0])
    assert (told["serving"]["release"], told["other"]["release"]) == ("v42", "v41")
    label.unlink()
    status, told = asked.json("upgrade", *SECONDS)
    assert (status, told["serving"]["release"], told["other"]["release"]) == (1, "v42", None)
    assert "REVISION cannot be read" in "".join(told["lastOutput"])


# -- upgrades that may not be


def state(asked):
    """
    Return everything that an upgrade changes.
    """
    service = asked.service
    files = {each.name: each.lstat().st_ino for each in service.directory.iterdir()}
    return service.pid, service.processes(), files, ask(asked.address), ask(str(asked.path))


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("name = '2'", 0, "rehearsal: process"),
        ("raise ValueError('bad')", 1, "rehearsal failed: "),
    ],
)
def test_a_dry_run_tells_how_it_would_go_and_changes_nothing(asked, code, status, words):
    """
    Its child leaves, the same process serves, and the log does not speak of an upgrade
    that failed or was done.
    """
    asked.start()
    asked.service.release(code)
    before = state(asked)
    done = asked.run("upgrade", "--dry-run", *SECONDS)
    assert done.returncode == status
    until(lambda: len(asked.service.processes()) == 1, "the end of the child")
    assert state(asked) == before
    assert words in asked.service.log
    assert "#critical" not in asked.service.log
    assert not re.search("upgrade (failed|done)", asked.service.log)
    code, told = asked.json("upgrade", "--dry-run", *SECONDS)
    assert (code, told["changed"]) == (status, False)
    asked.service.release("name = '3'")
    assert asked.run("upgrade", *SECONDS).returncode == 0
    assert ask(asked.address) == ("3", 2)


def test_a_release_that_is_not_the_expected_one_does_not_take_over(asked, tmp_path):
    """
    A link that was not moved is no success; where it leads counts, not its name.
    """
    asked.start()
    (tmp_path / "other").mkdir()
    done = asked.run("upgrade", "--expect", "other", *SECONDS)
    assert done.returncode == 1
    assert f"runs in {tmp_path}, and not in {tmp_path / 'other'}" in done.stderr
    assert ask(asked.address) == ("1", 1)
    (tmp_path / "link").symlink_to(tmp_path)
    assert asked.run("upgrade", "--expect", "link", *SECONDS).returncode == 0
    assert ask(asked.address) == ("1", 2)


# -- status


SHOWN = ("pid", "generation", "release", "directory", "since")


def test_every_generation_is_shown(asked):
    """
    Whichever is asked; with its connections, and how the last upgrade went.
    """
    first = asked.start()
    with connect(asked.address) as sock:
        sock.sendall(b"stay\n")
        sock.recv(100)
        assert asked.run("upgrade", *SECONDS).returncode == 0
        second = asked.service.pid
        told = []
        for pid in (first, second):
            status, object_ = asked.json("status", str(pid))
            assert status == 0
            told.append([(each["generation"], each["pid"]) for each in object_["generations"]])
        assert told == [[(1, first), (2, second)]] * 2
        draining, serving = object_["generations"]
        shown = asked.run("status").stdout
        assert (draining["state"], serving["state"]) == ("Replaced", "Serving")
        assert draining["drain"]["connections"] == 1
        assert draining["drain"]["oldest"]["seconds"] >= 0
        assert serving["directory"] == str(asked.service.directory)
        since = {"since": serving["servingSince"]}
        assert object_["serving"] == {key: {**serving, **since}[key] for key in SHOWN}
        assert serving["lastUpgrade"]["outcome"] == "done"
        names = [each["name"] for each in serving["listeners"]]
        assert names == [f"tcp 127.0.0.1:{asked.address[1]}", f"unix {asked.path}"]
        for words in (
            "draining",
            "serving",
            "1 open connections have",
            "the last upgrade: done",
        ):
            assert words in shown
    asked.service.release("raise ValueError('bad')")
    asked.run("upgrade", *SECONDS)
    _, object_ = asked.json("status")
    last = object_["generations"][-1]["lastUpgrade"]
    assert (last["outcome"], last["isRehearsal"]) == ("failed", False)
    assert "ValueError: bad" in last["reason"]


def test_status_is_what_happens_now(asked):
    """
    A child that initialises is seen by its parent, and shown as soon as it can be asked.
    """
    first = asked.start()
    gate = Gate(asked.service)
    asked.service.release(f"{gate.code}name = '2'")
    asking = asked.begin("upgrade", *SECONDS)
    gate.reached()
    _, told = asked.json("status")
    child, parent = told["generations"]
    assert (parent["pid"], parent["state"]) == (first, "Upgrading")
    assert parent["child"] == child["pid"]
    assert told["serving"]["pid"] == first
    assert "does not answer" in child["error"]
    assert parent["lastUpgrade"]["outcome"] == "running"
    gate.open()
    assert asking.wait(DEADLINE) == 0


def test_who_watches_looks_again_until_interrupted(asked):
    """
    Each look is whole, and it ends without a complaint.
    """
    asked.start()
    watching = asked.begin("status", "--watch", "--json")
    for _ in range(2):
        assert json.loads(watching.stdout.readline())["outcome"] == "done"
    watching.send_signal(signal.SIGINT)
    _, said = watching.communicate(timeout=DEADLINE)
    assert said == ""


# -- rollback, confirm, stop


@pytest.mark.parametrize("addressee", ["old", "new"])
@pytest.mark.parametrize("command", ["rollback", "confirm"])
def test_the_probation_is_ended_by_whom_it_is_told(asked, command, addressee):
    """
    Either process may be asked; the caller, and the one who asked for the upgrade, are
    told when it is decided.
    """
    first = asked.start("--probation", "600")
    asked.service.release("name = '2'")
    asking = asked.begin("upgrade", "--timeout", "600", "--json")
    asked.service.waitFor("on probation for 600 s")
    second = until(lambda: asked.service.pid != first and asked.service.pid, "the pid file")
    pid = first if addressee == "old" else second
    status, told = asked.json(command, str(pid), *SECONDS)
    assert (status, told["outcome"]) == (0, "done"), told
    upgraded = json.loads(asking.communicate(timeout=DEADLINE)[0])
    serving = first if command == "rollback" else second
    assert told["serving"]["pid"] == upgraded["serving"]["pid"] == serving
    assert asking.returncode == (5 if command == "rollback" else 0)
    assert ask(asked.address) == (("1", 1) if command == "rollback" else ("2", 2))
    status, told = asked.json(command)
    assert (status, told["outcome"]) == (1, "refused")


def test_stop_waits_for_the_end(asked):
    """
    For connections, too; whoever asks meanwhile waits for the same end.
    """
    first = asked.start()
    with connect(asked.address) as sock:
        sock.sendall(b"stay\n")
        sock.recv(100)
        # No file names it as soon as the first has been heard.
        commands = (("stop", str(first)), ("stop", str(first), "--timeout", "0.2"))
        stopping = [asked.begin(*command) for command in commands]
        assert stopping[1].wait(DEADLINE) == 4
        assert isAlive(first)
        assert stopping[0].poll() is None
    assert stopping[0].communicate(timeout=DEADLINE) == (f"process {first} has exited\n", "")
    assert stopping[0].returncode == 0
    assert not isAlive(first)


def test_stop_on_probation_is_for_both(asked):
    """
    The service is to end, whichever of the two is asked.
    """
    asked.start("--probation", "600")
    os.kill(asked.service.pid, signal.SIGHUP)
    asked.service.waitFor("on probation for 600 s")
    assert asked.run("stop", *SECONDS).returncode == 0
    assert asked.service.processes() == []


def test_who_waits_is_told_that_the_service_stops(asked):
    """
    Nobody serves any more: that is an exit status of its own.
    """
    asked.start()
    gate = Gate(asked.service)
    asked.service.release(f"{gate.code}name = '2'")
    asking = asked.begin("upgrade", *SECONDS, "--json")
    gate.reached()
    assert asked.run("stop", *SECONDS).returncode == 0
    told = json.loads(asking.communicate(timeout=DEADLINE)[0])
    assert (asking.returncode, told["outcome"]) == (3, "nobody")


# -- what cannot be asked


def test_a_pid_file_that_is_stale_or_names_nothing_is_told(asked):
    """
    Nobody is there, and why.
    """
    for text, reason in (
        (str(deadProcess()), "it is stale"),
        ("", "does not name a process"),
        ("-1", "does not name a process"),
        (None, "cannot be read"),
    ):
        asked.service.pidFile.unlink(missing_ok=True)
        if text is not None:
            asked.service.pidFile.write_text(text)
        status, told = asked.json("upgrade")
        assert (status, told["outcome"]) == (3, "nobody")
        assert reason in told["reason"]


def test_a_process_that_is_none_of_ours_is_told(asked):
    """
    Nobody is there who could be asked, though the process lives.
    """
    stranger = asked.service.start("sleep", "600")
    status, told = asked.json("status", str(stranger.pid))
    assert status == 3
    assert "it does not run under txtableflip" in told["reason"]


def test_another_users_process_is_told(asked):
    """
    It is not ours to ask.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can be two users")
    first = asked.start()
    done = asked.service.run(*asOrdinaryUser(), sys.executable, TABLEFLIP, "status", str(first))
    assert done.returncode == 3
    assert "belongs to user 0, and this is user" in done.stderr


def test_a_process_that_is_stopped_is_told(asked):
    """
    In the time that was said, and it is not known what it would do.
    """
    first = asked.start()
    os.kill(first, signal.SIGSTOP)
    try:
        status, told = asked.json("upgrade", "--timeout", "0.5")
    finally:
        os.kill(first, signal.SIGCONT)
    assert (status, told["outcome"]) == (4, "unknown")
    assert "has not answered in time" in told["reason"]


def test_a_process_in_a_container_is_told_from_a_stranger(asked):
    """
    It has another network: who asks is told to ask there.
    """
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root can make a network of its own")
    inside = asked.service.start("unshare", "--net", "sleep", "600")
    until(lambda: Path(f"/proc/{inside.pid}/comm").read_text() == "sleep\n", "sleep")
    done = asked.run("status", str(inside.pid))
    assert done.returncode == 3
    assert f"nsenter --target {inside.pid}" in done.stderr


def test_a_process_of_another_pid_namespace_is_asked_by_its_id_here(asked):
    """
    It is asked as any other; but the ids that it tells mean nothing here, and whom it has
    been replaced by is to be asked there.
    """
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root can make a pid namespace of its own")
    # What is process 1 there stays, and all that is there ends with it.
    inside = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c")
    twistd = (TWISTD, "--nodaemon", "--logfile=twistd.log", "tableflip")
    app = ("--app", str(APPS / "answering.py"))
    asked.service.start(*inside, '"$@" & sleep 600', "sh", *twistd, *app)
    asked.service.waitFor("generation 1 serves")
    (pid,) = [each for each in asked.service.processes() if isTwistd(each)]
    with connect(asked.address) as sock:
        sock.sendall(b"stay\n")
        sock.recv(100)
        status, told = asked.json("upgrade", str(pid), *SECONDS)
        assert (status, told["serving"]["generation"]) == (0, 2)
        status, told = asked.json("upgrade", str(pid), *SECONDS)
    assert (status, told["outcome"]) == (4, "unknown")
    assert "in its own pid namespace: ask there" in told["reason"]
    assert ask(asked.address)[1] == 2


def isTwistd(pid):
    """
    Say whether twistd is what a process runs.
    """
    return Path(f"/proc/{pid}/comm").read_text() == "twistd\n"


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("uprade",),
        ("upgrade", "x"),
        ("upgrade", "0"),
        ("status", str(2**70)),
        ("upgrade", "--drain-timeout", "-1"),
    ],
)
def test_wrong_usage_is_an_object_too(asked, words):
    """
    And nothing but that one object is printed.
    """
    status, told = asked.json(*words)
    assert (status, told["outcome"]) == (2, "usage")
    assert "invalid _" not in told["reason"]
    assert asked.run(*words).returncode == 2


# -- deploying

DEPLOYING = (Path(__file__).parent.parent / "docs" / "deploying.md").read_text()


def test_the_deploy_script_moves_the_link_back_on_failure(asked, tmp_path):
    """
    As it stands in the documents: the next start is of the release that serves.
    """
    (script,) = re.findall(r"```sh\n(.*?)```", DEPLOYING, re.DOTALL)
    (tmp_path / "deploy").write_text(script.replace("/srv/myapp", str(tmp_path)))
    asked.service.environment["RELEASE_FILE"] = "release.py"
    (tmp_path / "venv").symlink_to(sys.prefix)
    for name, code in (("a", "name = 'a'"), ("b", "name = 'b'"), ("c", "raise ValueError")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "release.py").write_text(code)
    current = tmp_path / "current"
    current.symlink_to("a")
    asked.start("--directory", str(current))
    for name, status, serving in (("b", 0, "b"), ("c", 1, "b"), ("a", 0, "a")):
        done = asked.service.run("sh", "deploy", name)
        assert done.returncode == status, done.stderr
        assert os.readlink(current) == serving
        assert ask(asked.address)[0] == serving
        assert asked.json("status")[1]["generations"][-1]["release"] == serving


def test_every_field_is_in_the_documents(asked):
    """
    What the command and a process print is described, field by field.
    """
    first = asked.start()
    asked.run("upgrade", *SECONDS)
    until(lambda: not isAlive(first), "the end of the first")
    objects = [asked.json("status")[1], asked.json("upgrade", "x")[1]]
    objects += [*objects[0]["generations"], objects[0]["generations"][0]["lastUpgrade"]]
    fields = {name for each in objects for name in each}
    assert [name for name in sorted(fields) if f"`{name}`" not in DEPLOYING] == []
