"""
One log file for several processes: no line is lost, torn or doubled, whoever
rotates the file.
"""

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress

import pytest
from processes import APPS, DEADLINE, TWISTD, Clients, ask, connect, fewOrMany, until

from txtableflip._launch.logfile import SharedLogFile, appendOnly
from txtableflip.testing._service import freePort, isAlive

WRITER = """
import sys
from txtableflip._launch.logfile import SharedLogFile

name, count, length = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
log = SharedLogFile("shared.log", ".", rotateLength=length or None)
print("open", flush=True)
sys.stdin.readline()
for number in range(count):
    log.write(f"{name} {number} {'x' * (number % 90)}.\\n")
"""


def contents(directory, name="shared.log"):
    """
    Return the lines of a log and of all its rotated files.
    """
    paths = [path for path in directory.iterdir() if path.name.startswith(name)]
    return Counter(line for path in paths for line in path.read_bytes().splitlines())


@pytest.mark.process
@pytest.mark.parametrize(("count", "rotateLength"), [(5000, 0), (1500, 4000)])
def test_processes_that_write_at_once_lose_no_line(count, rotateLength, tmp_path):
    """
    Three processes write to one log without a pause, with rotation and without:
    each line is in it once, whole, and so is nothing else.
    """
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, name, str(count), str(rotateLength)],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in "abc"
    ]
    try:
        for writer in writers:
            assert writer.stdout.readline() == "open\n"
        for writer in writers:
            writer.stdin.write("go\n")
            writer.stdin.flush()
        for writer in writers:
            _, errors = writer.communicate(timeout=DEADLINE)
            assert (writer.returncode, errors) == (0, "")
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    expected = Counter(
        f"{name} {number} {'x' * (number % 90)}.".encode()
        for name in "abc"
        for number in range(count)
    )
    assert contents(tmp_path) == expected
    rotated = len(list(tmp_path.glob("shared.log.*")))
    # How much the others write while one rotates, for which nobody waits, is chance.
    assert rotated == 0 if not rotateLength else rotated > 1


@pytest.fixture
def opened(tmp_path):
    """
    A function that opens the log of a directory anew, as a process would.
    """
    logs = []

    def make(**options):
        logs.append(SharedLogFile("shared.log", str(tmp_path), **options))
        return logs[-1]

    yield make
    for log in logs:
        log.close()


def files(directory):
    """
    Return what is in the files of a directory, by their names.
    """
    return {path.name: path.read_text() for path in directory.iterdir()}


def test_who_has_not_rotated_goes_on_in_the_new_file(opened, tmp_path):
    """
    When one rotates the log, the other's next line is in the new file.
    """
    one, other = opened(), opened()
    one.write("1\n")
    other.write("2\n")
    one.rotate()
    other.write("3\n")
    one.write("4\n")
    assert files(tmp_path) == {"shared.log.1": "1\n2\n", "shared.log": "3\n4\n"}


def test_a_file_that_is_moved_or_removed_by_somebody_else_is_made_again(opened, tmp_path):
    """
    After a rename, as logrotate's, or a removal the next line is in a new file
    of the old name, or in the one that has been made there.
    """
    log = opened()
    log.write("1\n")
    path = tmp_path / "shared.log"
    path.rename(tmp_path / "shared.log-20260101")
    log.write("2\n")
    assert files(tmp_path) == {"shared.log-20260101": "1\n", "shared.log": "2\n"}
    path.unlink()
    log.write("3\n")
    assert path.read_text() == "3\n"
    path.rename(tmp_path / "old")
    path.write_text("created by logrotate\n")
    log.write("4\n")
    assert path.read_text() == "created by logrotate\n4\n"


def test_a_file_that_cannot_be_made_again_is_written_on(opened, tmp_path):
    """
    Where no new file can be made, as in a directory that is gone, or full, or
    somebody else's, nothing is lost: the old file goes on, until there is one.
    """
    directory, moved = tmp_path / "logs", tmp_path / "moved"
    directory.mkdir()
    log = SharedLogFile("shared.log", str(directory), rotateLength=5)
    log.write("one\n")
    directory.rename(moved)
    log.write("two\n")
    log.write("three\n")
    directory.mkdir()
    log.write("four\n")
    log.close()
    assert contents(directory) == {b"four": 1}
    assert contents(moved) == {b"one": 1, b"two": 1, b"three": 1}


def test_a_rotation_that_fails_in_the_middle_is_not_the_end_of_the_log(
    opened, tmp_path, monkeypatch
):
    """
    When the old file has got another name and there is no room for a new one
    (ENOSPC), the log goes on as soon as there is, also if another process was
    first to make it.
    """

    def full(log):
        raise OSError(errno.ENOSPC, "No space left on device")

    log = opened(rotateLength=2)
    log.write("1\n")
    with monkeypatch.context() as patch:
        patch.setattr(SharedLogFile, "_openFile", full)
        with pytest.raises(ValueError, match="closed file"):
            log.write("2\n")
    (tmp_path / "shared.log").write_text("a\n")
    log.write("3\n")
    assert contents(tmp_path) == {b"1": 1, b"a": 1, b"3": 1}


def test_threads_that_write_at_once_lose_no_line(tmp_path):
    """
    Threads write to one log while it is moved away again and again: each line
    is in it once, and whole.
    """
    log = SharedLogFile("shared.log", str(tmp_path), rotateLength=None)
    failures = []

    def write(name):
        try:
            for number in range(500):
                log.write(f"{name} {number}\n")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    moves = 0
    while moves == 0 or any(thread.is_alive() for thread in threads):
        with suppress(FileNotFoundError):
            (tmp_path / "shared.log").rename(tmp_path / f"shared.log.moved{moves}")
            moves += 1
    log.close()
    assert failures == []
    expected = [f"{name} {number}".encode() for name in "abcd" for number in range(500)]
    assert contents(tmp_path) == Counter(expected)


def test_a_file_that_is_cut_short_goes_on_at_its_end(opened, tmp_path):
    """
    After a truncation, as logrotate's copytruncate, the next line is the first
    of the file, and no hole is before it.
    """
    log = opened()
    log.write("1\n" * 1000)
    os.truncate(tmp_path / "shared.log", 0)
    log.write("2\n")
    assert files(tmp_path) == {"shared.log": "2\n"}


def test_opening_a_log_keeps_what_is_in_it(opened, tmp_path):
    """
    A second process that opens the log appends to it.
    """
    opened().write("1\n")
    opened().write("2\n")
    assert files(tmp_path) == {"shared.log": "1\n2\n"}


def test_a_file_that_another_makes_meanwhile_is_not_emptied(opened, tmp_path, monkeypatch):
    """
    When two processes make the log at once, neither empties what the other has
    written: nothing depends on whether the file was there a moment before.
    """
    exists = os.path.exists
    written = []

    def thenWritten(path):
        found = exists(path)
        with open(path, "a") as file:
            written.append(file.write("of another\n"))
        return found

    monkeypatch.setattr(os.path, "exists", thenWritten)
    log = opened(defaultMode=0o600)
    monkeypatch.undo()
    log.write("1\n")
    assert files(tmp_path) == {"shared.log": "of another\n" * len(written) + "1\n"}


def test_the_length_counts_what_others_write(opened, tmp_path):
    """
    The log is rotated when it is rotateLength bytes long, whoever wrote them.
    """
    one, other = opened(rotateLength=10), opened(rotateLength=10)
    one.write("12345\n")
    other.write("123\n")
    one.write("new\n")
    assert files(tmp_path) == {"shared.log.1": "12345\n123\n", "shared.log": "new\n"}


def test_two_who_rotate_for_one_reason_rotate_once(opened, tmp_path):
    """
    Who is about to rotate a file that another has just rotated does not rotate
    again.
    """
    one, other = opened(), opened()
    one.write("1\n")
    one.rotate()
    other.rotate()
    other.write("2\n")
    assert files(tmp_path) == {"shared.log.1": "1\n", "shared.log": "2\n"}


@pytest.mark.parametrize("kind", [fcntl.LOCK_EX, fcntl.LOCK_SH])
def test_a_lock_on_the_directory_is_not_waited_for(kind, opened, tmp_path):
    """
    While another process rotates, or anybody has a lock on the log's directory, lines go
    on into the file that is there; the first one after that is in a new file.
    """
    log = opened(rotateLength=4)
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(directory, kind)
        log.write("1234\n")
        log.write("5\n")
        log.rotate()
        log.write("6\n")
    finally:
        os.close(directory)
    assert files(tmp_path) == {"shared.log": "1234\n5\n6\n"}
    log.write("7\n")
    assert files(tmp_path) == {"shared.log.1": "1234\n5\n6\n", "shared.log": "7\n"}


def test_no_more_files_are_kept_than_wanted(opened, tmp_path):
    """
    maxRotatedFiles is respected, whoever rotates.
    """
    one, other = opened(maxRotatedFiles=2), opened(maxRotatedFiles=2)
    for number, log in enumerate([one, other, one, other]):
        log.write(f"{number}\n")
        log.rotate()
    assert files(tmp_path) == {"shared.log": "", "shared.log.1": "3\n", "shared.log.2": "2\n"}


def test_an_open_file_can_be_made_to_append(tmp_path):
    """
    After appendOnly, what is written goes to the end, wherever that is now; and
    the other flags of the file stay.
    """
    path = tmp_path / "log"
    path.write_text("1\n")
    with path.open("rb+", buffering=0) as stream:
        before = fcntl.fcntl(stream.fileno(), fcntl.F_GETFL)
        appendOnly(stream.fileno())
        assert fcntl.fcntl(stream.fileno(), fcntl.F_GETFL) == before | os.O_APPEND
        with path.open("a") as other:
            other.write("2\n")
        stream.write(b"3\n")
    assert path.read_text() == "1\n2\n3\n"


# -- in real daemons

LOGGING = (
    "from twisted.logger import Logger\n"
    "def heard(question):\n"
    "    Logger('test').info('{name} heard {question}', name=name, question=question)\n"
)


def answering(service, *arguments, code=LOGGING):
    """
    Start the answering service, which logs what it hears, and return its
    address.
    """
    service.release(f"name = '1'\n{code}")
    port = freePort()
    service.environment["ENDPOINTS"] = f"tableflip:tcp:{port}:interface=127.0.0.1"
    service.twistd(*arguments)
    return ("127.0.0.1", port)


BY_COMMAND = ("tableflip", "--app", str(APPS / "answering.py"))
BY_TAC = ("-y", str(APPS / "answering.py"))


@pytest.mark.parametrize("arguments", [BY_COMMAND, BY_TAC])
def test_a_signal_to_one_process_rotates_the_log_of_both(arguments, service):
    """
    On SIGUSR1 to the process that serves the log is rotated, as twistd does it;
    the old process, which still has a connection, goes on in the new file.  The
    log that plain twistd has made for the first generation does not follow,
    and goes on where it was.
    """
    address = answering(service, *arguments)
    old = service.pid
    rotated = service.directory / "twistd.log.1"
    with connect(address) as sock, sock.makefile("rw") as stream:

        def stay():
            stream.write("stay\n")
            stream.flush()
            return stream.readline().split()[1]

        assert stay() == "1"
        service.release(f"name = '2'\n{LOGGING}")
        os.kill(old, signal.SIGHUP)
        until(lambda: service.pid != old, "a successor")
        assert ask(address, "before") == ("2", 2)
        os.kill(service.pid, signal.SIGUSR1)
        until(rotated.exists, "the rotation")
        until((service.directory / "twistd.log").exists, "the new file")
        assert ask(address, "after") == ("2", 2)
        assert stay() == "1"
    until(lambda: not isAlive(old), "the end of the old process")
    heard = re.compile(r"\] (\d heard \w+)$", re.MULTILINE)
    before = heard.findall(rotated.read_text())
    after = heard.findall((service.directory / "twistd.log").read_text())
    if arguments == BY_COMMAND:
        assert before == ["1 heard stay", "2 heard before"]
        assert after == ["2 heard after", "1 heard stay"]
    else:
        assert before == ["1 heard stay", "2 heard before", "1 heard stay"]
        assert after == ["2 heard after"]
    assert service.log.count("Main loop terminated") == 1


def test_a_signal_rotates_the_log_of_the_first_generation(service):
    """
    On SIGUSR1 a process that has never been upgraded rotates its log.
    """
    address = answering(service, *BY_COMMAND)
    os.kill(service.pid, signal.SIGUSR1)
    until((service.directory / "twistd.log.1").exists, "the rotation")
    until((service.directory / "twistd.log").exists, "the new file")
    assert ask(address, "after") == ("1", 1)
    assert "1 heard after" in (service.directory / "twistd.log").read_text()


def test_the_application_may_have_that_signal_for_itself(service):
    """
    If the application handles SIGUSR1, it goes on doing so, in the next
    generation too, and the log is not rotated.
    """
    handler = (
        "import signal\n"
        "def note(number, frame):\n"
        "    with open('noted', 'a') as file:\n"
        "        file.write(name)\n"
        "signal.signal(signal.SIGUSR1, note)\n"
    )
    noted = service.directory / "noted"
    answering(service, *BY_COMMAND, code=LOGGING + handler)
    os.kill(service.pid, signal.SIGUSR1)
    until(lambda: noted.exists() and noted.read_text() == "1", "the signal")
    service.release(f"name = '2'\n{LOGGING}{handler}")
    service.redeploy()
    os.kill(service.pid, signal.SIGUSR1)
    until(lambda: noted.read_text() == "12", "the signal in the next generation")
    assert not (service.directory / "twistd.log.1").exists()


def test_the_log_is_where_twistd_is_told_to_put_it(service):
    """
    C{--logfile} names the log of every generation.
    """
    port = freePort()
    service.environment["ENDPOINTS"] = f"tableflip:tcp:{port}:interface=127.0.0.1"
    service.release(f"name = '1'\n{LOGGING}")
    log = service.directory / "other" / "own.log"
    log.parent.mkdir()
    done = service.run(TWISTD, "--logfile=other/own.log", *BY_COMMAND)
    assert done.returncode == 0, done.stdout + done.stderr
    until(lambda: log.exists() and "generation 1 serves" in log.read_text(), "the first")
    service.redeploy()
    until(lambda: "generation 2 serves" in log.read_text(), "the second")
    assert ask(("127.0.0.1", port), "after") == ("1", 2)
    until(lambda: "1 heard after" in log.read_text(), "what the second logs")
    assert not (service.directory / "twistd.log").exists()


def test_a_daemon_has_no_standard_output_to_log_to(service):
    """
    A daemon that is to log to standard output is refused, as by twistd.
    """
    service.environment["ENDPOINTS"] = ""
    done = service.run(TWISTD, "--logfile=-", *BY_COMMAND)
    assert done.returncode == 1
    assert done.stderr.strip() == "Daemons cannot log to stdout, exiting!"


@fewOrMany(6, 20)
def test_no_line_is_lost_over_upgrades_and_rotations(service, upgrades):
    """
    The log and the access log of a site lose and garble nothing while the log
    is rotated by signal, by its size, and by somebody who moves it away, and the
    service is upgraded many times under load.
    """
    port = freePort()
    app = service.directory / "site.py"
    app.write_text(
        "from twisted.application import service, strports\n"
        "from twisted.python.logfile import LogFile\n"
        "from twisted.web.server import Site\n"
        "from twisted.web.resource import Resource\n"
        "class Page(Resource):\n"
        "    isLeaf = True\n"
        "    def render_GET(self, request):\n"
        "        question = request.postpath[0].decode()\n"
        "        log.info('asked {question} to the end', question=question)\n"
        "        return f'{question} 1 {currentUpgrader().generation} 0 .'.encode()\n"
        "from twisted.logger import Logger\n"
        "from txtableflip import currentUpgrader\n"
        "log = Logger('test')\n"
        "application = service.Application('site')\n"
        f"endpoint = 'tableflip:tcp:{port}:interface=127.0.0.1'\n"
        "site = Site(Page(), logPath='access.log')\n"
        "strports.service(endpoint, site).setServiceParent(application)\n"
    )

    def askSite(address, question, wrap):
        with connect(address, wrap) as sock:
            sock.sendall(f"GET /{question} HTTP/1.0\r\n\r\n".encode())
            answer = b""
            while part := sock.recv(4096):
                answer += part
        words = answer.partition(b"\r\n\r\n")[2].decode().split()
        assert words[0] == question
        assert words[-1] == "."
        return words[1], int(words[2])

    service.twistd("tableflip", "--app", "site.py")
    log = service.directory / "twistd.log"
    with Clients(("127.0.0.1", port), 4, asking=askSite) as clients:
        for number in range(upgrades):
            clients.waitForMore()
            if number % 3 == 1:
                os.kill(service.pid, signal.SIGUSR1)
            elif number % 3 == 2:
                log.rename(service.directory / f"away.{number}")
            service.redeploy()
        clients.waitForMore()
    os.kill(service.pid, signal.SIGTERM)
    until(lambda: not service.processes(), "the end of the service")
    assert clients.failures == []
    texts = [path.read_text() for path in service.directory.glob("away.*")] + [service.log]
    asked = re.findall(
        r"^\S+ \[test#info\] asked (\S+) to the end$", "".join(texts), re.MULTILINE
    )
    assert len(asked) == len(set(asked)) == clients.total
    access = "".join(path.read_text() for path in service.directory.glob("access.log*"))
    lines = re.findall(
        r'^"127.0.0.1" - - \[[^]]+\] "GET /(\S+) HTTP/1.0" 200 .*$', access, re.MULTILINE
    )
    assert sorted(lines) == sorted(asked)
    assert len(access.splitlines()) == len(lines)
