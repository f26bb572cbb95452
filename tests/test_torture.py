"""
Services under torture: txtableflip.testing as users call it.
"""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import badreleases
import endurance
import keeper
import late
import migration
import overlap
import programs
import pytest
from processes import DEADLINE, TWISTD, connect, until

from txtableflip.testing import MISHAPS, Exchange, Http, Report, Torture, TortureError
from txtableflip.testing.__main__ import main, parse, questionOf
from txtableflip.testing._clients import KINDS, LASTING, Client, Sample
from txtableflip.testing._report import Deployment
from txtableflip.testing._service import Event, Service, environmentOf, freePort

WEB = Path(__file__).parent.parent / "examples" / "web.py"
LISTEN = "ENDPOINT=tcp:{port}:interface=127.0.0.1"
QUICKLY = ["--probation", "0"]
COMMAND = [
    "env",
    LISTEN,
    TWISTD,
    "--nodaemon",
    "--pidfile=",
    "tableflip",
    *QUICKLY,
    "--app",
    str(WEB),
]
IMPATIENT = [*COMMAND[:6], "--drain-timeout", "0.001", *COMMAND[6:]]

pytest_plugins = ["pytester"]


@pytest.mark.process
def test_no_client_can_tell_and_the_report_says_so(tmp_path):
    """
    A web server survives upgrades while older generations drain, and each mishap, while
    clients of all kinds ask it; the report has the numbers as a table, as JSON and as a
    picture.
    """
    report = Torture(COMMAND, Http(expect="release 1"), upgrades=5 * len(MISHAPS)).run()
    assert report.failures == []
    assert report.upgrades == 5 * len(MISHAPS)
    assert {one.kind for one in report.samples} == {*KINDS, "lasting"}
    assert max(one.alive for one in report.deployments) >= LASTING + 1
    failed = [one for one in report.deployments if not one.succeeded]
    assert [one.what for one in failed] == [mishap.name for mishap in MISHAPS]
    reasons = ["exited with status", *["killed by SIGKILL"] * 3]
    for deployment, reason in zip(failed, reasons, strict=True):
        assert reason in str(deployment)
    checkNumbers(report)
    checkPictures(report, tmp_path)


def checkNumbers(report):
    """
    Each generation has a row, and each kind of clients, which add up.
    """
    generations = report.perGeneration()
    assert [one["generation"] for one in generations] == list(range(1, report.upgrades + 2))
    assert all(one["answers"] > 0 for one in generations)
    total = len(report.samples)
    for rows in (generations, report.perKind()):
        assert sum(one["answers"] + one["lost"] for one in rows) == total
    lines = report.table().splitlines()
    assert lines[0].split()[:5] == ["generation", "process", "upgrade", "alive", "answers"]
    lost = f"{report.lost} lost with a process that died, " if report.lost else ""
    assert lines[-1] == f"20 upgrades, 4 that failed, {total:,} requests, {lost}0 failures"
    read = json.loads(report.json())
    assert read["perGeneration"] == generations
    assert len(read["samples"]) == total


def checkPictures(report, directory):
    """
    The picture is written in the format that the name of the file says.
    """
    report.picture(str(directory / "p.png"))
    report.picture(str(directory / "p.svg"))
    assert (directory / "p.png").read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in (directory / "p.svg").read_text()


@pytest.mark.process
@pytest.mark.wheel
def test_the_command_reports_what_clients_saw(tmp_path, capsys):
    """
    The command prints the table, writes what it is asked to, and exits with 0.
    """
    files = ["--json", str(tmp_path / "r.json"), "--picture", str(tmp_path / "r.png")]
    assert main(["--expect", "release 1", "--upgrades", "2", *files, "--", *COMMAND]) == 0
    printed = capsys.readouterr().out
    assert re.search(
        r"^upgrade: generation 3, process \d+, serves after", printed, re.MULTILINE
    )
    assert printed.strip().endswith(" requests, 0 failures")
    assert json.loads((tmp_path / "r.json").read_text())["upgrades"] == 2
    assert (tmp_path / "r.png").exists()


@pytest.mark.process
def test_a_service_that_cuts_connections_is_found_out(capsys):
    """
    A service whose drain timeout is too short for clients that wait has
    failures, in the table and in the exit status.
    """
    options = ["--upgrades", "3", "--clients", "4"]
    assert main(["--expect", "release 1", *options, "--", *IMPATIENT]) == 1
    printed = capsys.readouterr().out
    assert re.search(r"^ *raw +\d+ +0 +[1-9]", printed, re.MULTILINE), printed
    assert re.search(r"^ *\d+ +\w+(Error|Answer): ", printed, re.MULTILINE), printed


@pytest.mark.process
@pytest.mark.parametrize(
    "murder",
    [
        "os.kill(os.getppid(), 9); os.kill(os.getpid(), 9)",
        "reactor.callLater(0.1, os.kill, os.getpid(), 9)",
    ],
)
def test_a_service_that_does_not_outlive_its_upgrade_is_found_out(tmp_path, capsys, murder):
    """
    When no process is left, the report says so, and has what was seen by then.
    """
    (tmp_path / "web.py").write_text(
        f"{WEB.read_text()}\nfrom twisted.internet import reactor\n"
        f"if currentUpgrader().hasParent:\n    {murder}\n"
    )
    command = [*COMMAND[:-1], str(tmp_path / "web.py")]
    assert main(["--upgrades", "3", "--", *command]) == 1
    printed = capsys.readouterr().out
    assert re.search(r"no process of the service is left|which served, has exited", printed)
    assert re.search(r"^ *1 +\d+ +- +\d", printed, re.MULTILINE)


@pytest.mark.process
@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["nosuchprogram"], "nosuchprogram cannot be started"),
        ([sys.executable, "-c", "print('I leave'); raise SystemExit(3)"], "I leave"),
        ([sys.executable, "-c", "pass"], "it has no tableflip: endpoint"),
        ([*COMMAND[:1], "ENDPOINT=tcp:0", *COMMAND[2:]], "not what is expected"),
    ],
)
def test_what_cannot_be_tortured_is_told_so(command, reason, capsys):
    """
    A command that is no service ends the torture with status 2, and the reason.
    """
    assert main(["--", *command]) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.process
def test_an_answer_that_is_wrong_from_the_beginning_is_no_failure_of_upgrades(capsys):
    """
    If the first answer is not what was expected, there is nothing to torture.
    """
    assert main(["--expect", "release 2", "--", *COMMAND]) == 2
    assert "'release 1, generation 1, process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--send", "x", "--", "y"], "--send needs --expect"),
        (["--signal", "NONSENSE", "--", "y"], "--signal: "),
        ([], "required: command"),
    ],
)
def test_a_wrong_command_line_is_refused(arguments, reason, capsys):
    """
    What cannot be is said at once.
    """
    with pytest.raises(SystemExit):
        parse(arguments)
    assert reason in capsys.readouterr().err


def test_what_is_sent_may_have_escapes():
    """
    C{--send} and C{--expect} are a question in bytes and the whole answer.
    """
    question = questionOf(parse(["--send", r"a\r\n", "--expect", "b", "--", "x"]))
    assert question == Exchange(b"a\r\n", "b")
    assert questionOf(parse(["--get", "/x", "--", "x"])) == Http("/x", "")


def test_there_must_be_something_to_do():
    """
    No upgrades, no clients, and no command that can be started are errors.
    """
    for options in ({"upgrades": 0}, {"clients": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            Torture(["x"], Http(), **options)
    for command in ([], "python app.py", ["python", Path("app.py")]):
        with pytest.raises(ValueError, match="command must be a list of strings"):
            Torture(command, Http())


@pytest.mark.wheel
def test_the_fixture_tortures_and_fails_the_test(pytester):
    """
    The fixture returns the report, and fails a test whose service a client can
    tell.
    """
    pytester.makeconftest('pytest_plugins = ["txtableflip.testing.fixtures"]')
    pytester.makepyfile(
        f"""
        from txtableflip.testing import Http

        def test_good(torture):
            assert torture({COMMAND!r}, Http(expect="release 1"), upgrades=1).upgrades == 1

        def test_bad(torture):
            torture({IMPATIENT!r}, Http(expect="release 1"), upgrades=3, clients=4)
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*3 upgrades, 0 that failed, * requests, * failures*"])


@pytest.mark.process
def test_a_service_that_is_a_daemon_is_tortured_and_ended(tmp_path):
    """
    A service may become a daemon: it is found, upgraded, and ended.
    """
    files = [f"--pidfile={tmp_path}/twistd.pid", f"--logfile={tmp_path}/twistd.log"]
    command = [*COMMAND[:3], *files, *COMMAND[5:]]
    torture = Torture(command, Http(expect="release 1"), upgrades=2)
    assert torture.run().failures == []
    assert torture._service.processes() == []
    assert "generation 3 serves" in (tmp_path / "twistd.log").read_text()


@pytest.mark.process
def test_a_service_that_never_answers_the_signal_is_an_error():
    """
    A service that does not upgrade when it is told to is named, and ended.
    """
    service = Service([word.replace("{port}", str(freePort())) for word in COMMAND])
    try:
        service.start()
        service.patience = 1
        service._redeploy = signal.SIGCONT
        with pytest.raises(TortureError, match="waited 1 s in vain for the outcome of an upg"):
            service.upgrade()
    finally:
        service.stop()
        service.discard()
    assert service.processes() == []


@pytest.mark.process
def test_a_process_is_found_as_soon_as_it_has_been_started():
    """
    In the midst of execve(2) a process has no environment for a moment, and is
    not taken for one that is gone.
    """
    found = []
    for _ in range(200):
        with subprocess.Popen(["sleep", "60"], env={"A": "b"}) as process:
            try:
                found.append(environmentOf(process.pid))
            finally:
                process.kill()
    assert set(found) == {b"A=b\0"}


# -- the clients


class Server:
    """
    A server that sends the same to everybody who has sent a line.
    """

    def __init__(self, answer):
        self.answer = answer
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = self.socket.getsockname()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self.socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self.socket.close()

    def _run(self):
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            with client, client.makefile("rb") as stream:
                while stream.readline().strip():
                    pass
                client.sendall(self.answer)


def samplesOf(answer, question=None, kind="alone"):
    """
    Have one client ask a server that sends this, and return what it saw.
    """
    samples = []
    with Server(answer) as server:
        KINDS[kind](Client(server.address, question or Http(expect="good"), samples.append))
    return samples


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_answer_is_one(kind):
    """
    A right answer is one for each kind of clients.
    """
    good = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ngood"
    (sample,) = samplesOf(good, kind=kind)
    assert (sample.kind, sample.error) == (kind, "")
    assert sample.took >= 0


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", "RemoteDisconnected"),
        (b"nonsense\r\n\r\n", "BadStatusLine"),
        (b"HTTP/1.1 503 Go\r\nContent-Length: 4\r\n\r\naway", "status 503"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ngood", "IncompleteRead"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad", "not what was expected"),
    ],
)
def test_anything_else_is_a_failure(answer, error):
    """
    No answer, nonsense, another status, a part of an answer, and another answer
    are failures.
    """
    (sample,) = samplesOf(answer)
    assert error in sample.error


def test_an_exchange_ends_with_the_whole_answer():
    """
    What does not look like the whole answer in the end is none.
    """
    assert samplesOf(b"pong", Exchange(b"\n", "pong"))[0].error == ""
    assert "closed after 'pon'" in samplesOf(b"pon", Exchange(b"\n", "pong"))[0].error


def test_a_refused_connection_is_a_failure():
    """
    Where nobody listens the client says so.
    """
    samples = []
    Client(("127.0.0.1", freePort()), Http(), samples.append).alone()
    assert "refused" in samples[0].error


# -- the report


def test_a_sample_belongs_to_who_accepted_its_connection():
    """
    A connection belongs to the generation that served when it was made, though
    the answer came later; and what failed is counted there.
    """
    deployments = (
        Deployment("start", Event("serves", 10, 100.0, generation=1)),
        Deployment("upgrade", Event("serves", 11, 200.0, generation=2), 199.0),
    )
    samples = (
        Sample("kept", 150.0, 250.0, 0.001),
        Sample("alone", 200.5, 200.5, 0.002),
        Sample("alone", 201.0, 201.0, 0.0, "reset"),
    )
    first, second = Report(samples, deployments).perGeneration()
    assert (first["answers"], first["failures"], first["upgrade"]) == (1, 0, None)
    assert (second["answers"], second["failures"], second["upgrade"]) == (1, 1, 1.0)


def test_what_was_lost_with_a_process_that_died_as_planned_is_no_failure():
    """
    If that may have accepted the connection: one that was made before, or afterwards,
    or that was refused, has failed; and what was answered is not lost.
    """
    start = Deployment("start", Event("serves", 10, 100.0, generation=1))
    outcome = Event("upgrade failed", 10, 202.0, why="it died")
    died = Deployment(MISHAPS[-1].name, outcome, 199.0, 1, (200.0, 201.0))
    samples = [
        Sample("alone", 200.5, 200.5, 0.001, "ConnectionResetError: reset"),
        Sample("kept", 200.5, 202.5, 0.001, "WrongAnswer: none"),
        Sample("alone", 200.5, 200.5, 0.001),
        Sample("alone", 199.9, 200.5, 0.001, "ConnectionResetError: before"),
        Sample("alone", 201.1, 201.1, 0.001, "ConnectionResetError: after"),
        Sample("alone", 200.5, 200.5, 0.001, "ConnectionRefusedError: refused"),
    ]
    report = Report(tuple(samples), (start, died))
    assert report.lost == 2
    assert [one.rpartition(" ")[2] for one in report.failures] == ["before", "after", "refused"]
    (row,) = report.perGeneration()
    assert (row["answers"], row["lost"], row["failures"]) == (1, 2, 3)
    assert "6 requests, 2 lost with a process that died, 3 failures" in report.summary()


@pytest.mark.parametrize(
    ("what", "outcome"), [("upgrade", "upgrade failed"), (MISHAPS[0].name, "serves")]
)
def test_an_outcome_that_was_not_to_be_is_a_failure(what, outcome):
    """
    An upgrade that fails is a failure, and so is a mishap that does not keep
    the new process from serving.
    """
    start = Deployment("start", Event("serves", 10, 100.0, generation=1))
    other = Deployment(what, Event(outcome, 10, 101.0, why="it rained"), 100.5)
    (failure,) = Report((), (start, other)).failures
    assert failure.startswith(what)
    assert "UNEXPECTED" in failure


# -- what `make torture` runs, shortened


@pytest.mark.process
def test_the_footprint_stays_the_same():
    """
    After some upgrades under load a process has what it had after the third.
    """
    different, samples, _ = endurance.endure(6)
    assert different == []
    assert [sample.error for sample in samples if sample.error] == []


def test_a_footprint_that_grows_is_found_out():
    """
    Each thing that differs is named; a little more memory is none.
    """
    first = endurance.Footprint(["pipe:[N]"], 1, ["A=b"], 100, 0, True, ["twistd.log"], 5)
    changed = endurance.Footprint(["pipe:[N]"] * 2, 2, [], 110, 1, False, [], 6)
    assert len(endurance.differences(first, changed)) == 8
    alike = endurance.Footprint(["pipe:[N]"], 1, ["A=b"], 104, 0, True, ["twistd.log"], 5)
    assert endurance.differences(first, alike) == []


@pytest.mark.process
@pytest.mark.parametrize("act", ["exits", "is not well"])
def test_bad_releases_leave_nothing_behind(act):
    """
    The old process has what it had before, the operator is told why, and the next good
    release goes in.
    """
    rounds = badreleases.tryAct(act, rounds=2, within=0.3)
    assert [complaint for each in rounds for complaint in each.complaints] == []
    assert all(each.told for each in rounds)
    assert all(each.away > 0 for each in rounds)


@pytest.mark.process
@pytest.mark.parametrize("ofTwo", [False, True])
def test_a_late_service_is_upgraded_and_not_without_its_database(ofTwo):
    """
    Also if only one of its endpoints is late.
    """
    result = late.tryCell(late.Cell(0.5, "--inherit-all", ofTwo, idle=True), upgrades=1)
    assert result.complaints == []
    assert "the database is away" in result.reason


@pytest.mark.process
def test_connections_live_to_their_deadlines_or_until_they_are_too_many():
    """
    Upgrades go on meanwhile, and whatever waits for all older generations is alone.
    """
    chain, jobs, _ = overlap.tryOverlap(upgrades=5, slow=0, drainTimeout=5)
    assert chain.complaints == []
    assert chain.most <= overlap.MOST
    assert len(chain.lives) == 5
    assert jobs[-1] == "generation 6 works"


@pytest.mark.process
def test_connections_of_every_protocol_migrate():
    """
    Each client is served by the first generation and by the last one, and gets every byte.
    """
    result = migration.tryMigration(upgrades=2, factor=0)
    assert result.complaints == []
    assert [error for row in result.rows for error in row.errors] == []
    assert [row.migrated for row in result.rows] == [2 * migration.LEAST] * len(result.rows)
    assert (result.returned, result.stayed) == (0, 0)


@pytest.mark.process
def test_a_service_that_forgets_is_found_out_in_every_protocol():
    """
    The clients can tell.
    """
    _, blind = migration.tryControl()
    assert blind == []


@pytest.mark.process
def test_below_a_keeper_one_process_serves_whoever_is_killed():
    """
    At one moment of a probation: whoever says that it stops, and is killed first.
    """
    assert keeper.tryMoments(["new says Stopping"]) == (3, [])


@pytest.mark.process
def test_a_program_under_torture(tmp_path, capsys):
    """
    One of the programs of make torture, once.
    """
    assert programs.torture("upgrader.py", 1, tmp_path)
    assert re.search(r"upgrader.py +1 upgrades, .* 0 failures", capsys.readouterr().out)
    assert (tmp_path / "upgrader.py.png").exists()


def test_a_free_port_is_kept_for_the_service_that_is_to_listen_there():
    """
    Until the service listens, the kernel lets nobody else have the port, as it
    would when many tests look for one at once.
    """
    address = ("127.0.0.1", freePort())
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(address)
    with socket.socket() as service:
        service.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        service.bind(address)
        service.listen()
        connect(address).close()


SCRIPTS = {
    path.name: path
    for path in sorted(Path(late.__file__).parent.glob("*.py"))
    # That one has to install its programs first.
    if "\ndef main()" in path.read_text() and path.name != "anyprogram.py"
}


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize(
    ("name", "number"),
    [*((name, signal.SIGTERM) for name in SCRIPTS), ("faults.py", signal.SIGINT)],
)
def test_a_torture_that_is_stopped_leaves_nothing_behind(service, name, number):
    """
    Whatever its threads are doing: no process, and no file.
    """
    temporary = service.directory / "temporary"
    temporary.mkdir()
    service.environment["TMPDIR"] = str(temporary)
    with (service.directory / "output").open("w") as output:
        script = service.start(
            *(sys.executable, str(SCRIPTS[name])), stdout=output, stderr=output
        )
    until(lambda: len(service.processes()) > 1 and [*temporary.rglob("output")], "a service")
    script.send_signal(number)
    assert script.wait(DEADLINE) != 0
    assert service.processes() == []
    assert [*temporary.iterdir()] == []
