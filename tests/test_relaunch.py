"""
The command, the directory and the environment of the next generation.
"""

import getopt
import json
import os
import subprocess
import sys

import pytest
from commandlines import FOREGROUND, parse
from hypothesis import assume, given
from hypothesis import strategies as st
from processes import DEADLINE
from twisted.application.app import ApplicationRunner

from txtableflip._launch import origin
from txtableflip._launch.chosen import findLauncher
from txtableflip._launch.command import Command
from txtableflip._launch.origin import CHANNEL_VARIABLE, recordDirectory
from txtableflip._launch.twistd import Twistd, keepInForeground

FLAGS = ["-n", "--nodaemon", "--nodae", "-o", "--no_save", "--euid", "--syslog", "-e"]
VALUED = ["-l", "--logfile", "--logf", "--pidfile", "--pidf", "-d", "--umask", "-y", "-u"]
# Values that look like something else.
VALUES = st.sampled_from(
    ["web", "--", "-n", "tableflip", "x.log", "--pidfile=", "a b", "é", "1"]
)
TAILS = st.sampled_from(
    [
        [],
        ["web"],
        ["web", "--port", "tcp:1"],
        ["tableflip", "--app", "web", "--", "--pidfile", "x", "-n"],
        ["--", "web", "--nodaemon"],
        ["--"],
        ["--", "--"],
    ]
)


@st.composite
def commandLines(draw):
    """
    Make valid arguments of twistd.
    """
    words = []
    for _ in range(draw(st.integers(0, 4))):
        if draw(st.booleans()):
            words.append(draw(st.sampled_from(FLAGS)))
            continue
        name, value = draw(st.sampled_from(VALUED)), draw(VALUES)
        if draw(st.booleans()):
            words += [name, value]
        else:
            words.append(f"{name}={value}" if name.startswith("--") else name + value)
    line = words + draw(TAILS)
    try:
        parse(line)
    except getopt.GetoptError:
        assume(False)
    return line


@given(commandLines())
def test_the_users_options_and_the_command_stay_and_ours_count_last(line):
    """
    twistd reads from the child's command line what it read from ours, and then
    not to become a daemon, to leave the pid file and to keep its name.
    """
    given_, rest = parse(line)
    childs, childsRest = parse(keepInForeground(line))
    assert childsRest == rest
    assert childs[: len(given_)] == given_
    assert childs[-3:] == [("--nodaemon", ""), ("--pidfile", ""), ("--originalname", "")]
    assert {name for name, _ in childs[len(given_) : -3]} <= {"--logger", "--logfile"}


@given(commandLines())
def test_the_command_line_does_not_grow_with_the_generations(line):
    """
    The child's child has the same command line as the child.
    """
    once = keepInForeground(line)
    assert keepInForeground(once) == once


@given(commandLines())
def test_the_log_stays_where_the_user_wanted_it(line):
    """
    A daemon's child writes to the same log file; the user's own observer, and
    syslog, are left alone.
    """
    names = {name for name, _ in parse(line)[0]}
    childs = parse(keepInForeground(line))[0]
    logs = [value for name, value in childs if name in ("-l", "--logfile")]
    before = [value for name, value in parse(line)[0] if name in ("-l", "--logfile")]
    isDaemon = not names & {"-n", "--nodaemon"}
    if "--syslog" not in names and isDaemon and not before:
        assert logs == ["twistd.log"]
    else:
        assert logs == before
    assert any(name == "--logger" for name, _ in childs) == ("--syslog" not in names)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["-n", "web"], ["-n", "--logger=txtableflip.log.observer", *FOREGROUND, "web"]),
        (
            ["-l", "--", "--", "web"],
            ["-l", "--", "--logger=txtableflip.log.observer", *FOREGROUND, "--", "web"],
        ),
        (["--logger", "mine", "-y", "a.tac"], ["--logger", "mine", "-y", "a.tac", *FOREGROUND]),
        (["--nosuch", "web"], ["--nosuch", "web"]),
        (["--logfile"], ["--logfile"]),
    ],
)
def test_examples_of_command_lines(line, expected):
    """
    What is inserted stands behind the options and before their end; what twistd
    would not understand is left alone.
    """
    assert keepInForeground(line) == expected


def test_the_directory_has_the_name_that_the_shell_gave_it(tmp_path, monkeypatch):
    """
    A symbolic link in $PWD is kept, so that it leads to the next release when
    it is moved.
    """
    (tmp_path / "one").mkdir()
    (tmp_path / "current").symlink_to("one")
    monkeypatch.chdir(tmp_path / "current")
    assert recordDirectory({"PWD": str(tmp_path / "current")}) == str(tmp_path / "current")


@pytest.mark.parametrize("named", [None, "/", "relative", ".", "/no/such/directory"])
def test_a_name_that_is_not_true_is_not_believed(tmp_path, monkeypatch, named):
    """
    A $PWD that is missing, relative or another directory does not count.
    """
    monkeypatch.chdir(tmp_path)
    assert recordDirectory({} if named is None else {"PWD": named}) == str(tmp_path)


def test_a_directory_that_has_been_removed_is_no_obstacle(tmp_path, monkeypatch):
    """
    A process that is started where there is no directory any more runs its
    successor in the root.
    """
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert recordDirectory({"PWD": str(gone)}) == "/"


def test_what_systemd_says_to_one_process_is_not_passed_on():
    """
    The child gets our environment, its own directory and the channel's number,
    and nothing that was meant for our process id.
    """
    ours = dict.fromkeys(("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"), "1")
    ours |= {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "5", "PWD": "/old"}
    assert Command("/bin/x", (), "/new").environment(ours) == {
        "NOTIFY_SOCKET": "/run/n",
        "WATCHDOG_USEC": "5",
        "PWD": "/new",
        CHANNEL_VARIABLE: "3",
    }


def test_where_we_are_already_needs_no_detour(tmp_path, monkeypatch):
    """
    The command is run directly in the directory where this process is.
    """
    monkeypatch.chdir(tmp_path)
    command = Command("/bin/x", ("a", "b"), str(tmp_path))
    assert command.argv() == ["/bin/x", "a", "b"]


@pytest.mark.process
def test_elsewhere_is_reached_through_an_interpreter(tmp_path, monkeypatch):
    """
    Another directory is gone to before the command is run, which gets its
    arguments as they are, whatever is in them.
    """
    monkeypatch.chdir("/")
    show = "import json, os, sys; print(json.dumps([os.getcwd(), sys.argv[1:]]))"
    arguments = ("-c", show, "a b", "--", "-c", "é", "")
    command = Command(sys.executable, arguments, str(tmp_path))
    done = subprocess.run(command.argv(), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [str(tmp_path), list(arguments[2:])]


@pytest.mark.process
def test_a_directory_that_is_gone_is_an_error_of_the_child(tmp_path, monkeypatch):
    """
    The command is not run in another directory than its own.
    """
    monkeypatch.chdir("/")
    command = Command(sys.executable, ("-c", "print('ran')"), str(tmp_path / "gone"))
    done = subprocess.run(command.argv(), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stdout == ""
    assert str(tmp_path / "gone") in done.stderr


# -- the channel, and the launcher


def test_the_channel_is_taken_once(monkeypatch):
    """
    Whoever asks first gets the number, and nobody can take it for another
    channel's later.
    """
    monkeypatch.setattr(origin, "_channel", 3)
    assert origin.takeChannel() == 3
    assert origin.takeChannel() is None


class Runner(ApplicationRunner):
    """
    What is on the stack while twistd runs, and does nothing but that.
    """

    def __init__(self, config):
        self.config = config

    def run(self, do):
        return do()


@pytest.fixture
def unknown():
    """
    Nobody has found yet what started this process.
    """
    findLauncher.cache_clear()
    yield
    findLauncher.cache_clear()


def test_a_program_is_started_again_as_it_was(unknown, monkeypatch):
    """
    Where there is no twistd, the arguments stay, and there is no pid file.
    """
    monkeypatch.setattr("txtableflip._launch.launcher.ARGUMENTS", ("-X", "dev", "app.py", "-n"))
    launcher = findLauncher()
    assert not isinstance(launcher, Twistd)
    command = launcher.command(None, "env")
    assert command.arguments == ("-X", "dev", "app.py", "-n")
    assert command.envFile == os.path.join(origin.DIRECTORY, "env")
    assert launcher.takePidFile() is None


def test_another_command_is_taken_as_it_stands(unknown):
    """
    What the user has given in the place of ours is not changed, under twistd
    either; its program is looked up now.
    """
    given_ = ["sh", "-c", "twistd web"]
    runner = Runner({})
    for launcher in (findLauncher(), Twistd(runner)):
        command = launcher.command(given_, None)
        assert os.path.isabs(command.executable)
        assert command.arguments == ("-c", "twistd web")


def test_twistd_is_found_once_and_its_pid_file_taken(unknown, monkeypatch):
    """
    What has been found while twistd's runner is on the stack stays, so that it
    may be asked from anywhere; and twistd removes no pid file any more.
    """
    monkeypatch.setattr("txtableflip._launch.twistd.ARGUMENTS", ("-X", "dev", "twistd", "web"))
    monkeypatch.setattr("txtableflip._launch.twistd.PROGRAM_ARGUMENTS", ("web",))
    runner = Runner({"pidfile": "web.pid"})
    found = runner.run(findLauncher)
    assert isinstance(found, Twistd)
    assert findLauncher() is found
    arguments = found.command(None, None).arguments
    assert arguments[:3] == ("-X", "dev", "twistd")
    assert list(arguments[3:]) == keepInForeground(["web"])
    assert (found.takePidFile(), found.takePidFile()) == ("web.pid", None)
    assert runner.config["pidfile"] == ""


def test_arguments_that_somebody_has_changed_are_left_alone(monkeypatch):
    """
    Where sys.argv is not the end of what the interpreter was started with, nobody
    knows which of it is twistd's.
    """
    monkeypatch.setattr("txtableflip._launch.twistd.ARGUMENTS", ("run.py", "web"))
    monkeypatch.setattr("txtableflip._launch.twistd.PROGRAM_ARGUMENTS", ("-n", "web"))
    assert Twistd(Runner({})).command(None, None).arguments == ("run.py", "web")


@pytest.mark.process
def test_a_log_that_blocks_does_not_keep_a_process_from_being_killed():
    """
    The watchdog ends a process with its status, also if the last entry in the
    log cannot be written, as when what hangs holds the lock of the log file.
    """
    program = (
        "import threading\n"
        "from twisted.logger import globalLogBeginner\n"
        "from txtableflip._launch import watchdog\n"
        "lock = threading.Lock()\n"
        "lock.acquire()\n"
        "stuck = lambda event: lock.acquire()\n"
        "globalLogBeginner.beginLoggingTo([stuck], redirectStandardIO=False)\n"
        "watchdog.LOG_TIMEOUT = 0.1\n"
        "watchdog.endIn(0.1, 7)\n"
        "lock.acquire()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=DEADLINE, check=False)
    assert done.returncode == 7
