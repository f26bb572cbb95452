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
from twisted.application import app
from twisted.application.app import ApplicationRunner
from twisted.python import usage

from txtableflip._launch import origin
from txtableflip._launch.chosen import findLauncher
from txtableflip._launch.command import Command
from txtableflip._launch.origin import (
    CHANNEL_VARIABLE,
    UNDO_VARIABLE,
    parseEnviron,
    recordDirectory,
    recordEnvironment,
    recordProgram,
)
from txtableflip._launch.twistd import Twistd, TwistdInside, keepInForeground

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
    ours |= {"SYSTEMD_EXEC_PID": "1", "MAINPID": "1"}
    ours |= {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "5", "PWD": "/old"}
    assert Command("/bin/x", (), "/new").environment(ours) == {
        "NOTIFY_SOCKET": "/run/n",
        "WATCHDOG_USEC": "5",
        "PWD": "/new",
        CHANNEL_VARIABLE: "3",
    }


# -- the environment


@given(
    st.dictionaries(
        st.binary(min_size=1).filter(lambda name: not {0, 61} & set(name)),
        st.binary().filter(lambda value: 0 not in value),
    )
)
def test_every_environment_is_read_as_python_reads_it(variables):
    """
    Whatever bytes there are in it, it comes out as os.environ would have it.
    """
    text = b"".join(name + b"=" + value + b"\0" for name, value in variables.items())
    expected = {os.fsdecode(name): os.fsdecode(value) for name, value in variables.items()}
    assert parseEnviron(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        b"my server: port 80\0",
        b"my server: a=b\0\0\0\0",
        b"erver: a=b",
        b"\0\0",
        b"A=1\0\0",
        b"=1\0",
    ],
)
def test_a_title_that_was_written_over_the_environment_is_not_taken_for_it(text, tmp_path):
    """
    What the kernel shows may be the title that the process has given itself, and
    zeros: then the environment counts that the process has.
    """
    with pytest.raises(ValueError):
        parseEnviron(text)
    (tmp_path / "environ").write_bytes(text)
    found = recordEnvironment({"A": "now", CHANNEL_VARIABLE: "3"}, str(tmp_path / "environ"))
    assert found == {"A": "now"}


def test_a_watchdog_that_waits_for_another_process_is_nobody_elses(tmp_path):
    """
    Neither ours nor a successor's, which is not told whom it waits for.
    """
    for pid, kept in ((os.getpid(), {"WATCHDOG_PID", "WATCHDOG_USEC"}), (1, {"WATCHDOG_PID"})):
        current = {"WATCHDOG_PID": str(pid), "WATCHDOG_USEC": "5"}
        assert set(recordEnvironment(current, str(tmp_path / "nosuch"))) == kept


@pytest.mark.parametrize("value", ["", "4x", "-1", "999999", "99999999999999999999"])
def test_what_is_not_a_pipe_is_not_a_keepers(value):
    """
    It is ignored, and no process that this one starts sees it.
    """
    environment = {origin.KEEPER_VARIABLE: value}
    assert origin.recordKeeper(environment) is None
    assert environment == {}


def test_where_nothing_shows_the_first_environment_the_present_one_counts(tmp_path):
    """
    Without /proc the environment is that at the import; and it is copied.
    """
    current = {"A": "1"}
    found = recordEnvironment(current, str(tmp_path / "nosuch"))
    current["A"] = "2"
    assert found == {"A": "1"}


NAMES = st.sampled_from(["A", "B", "C", "PATH", "PWD", "é", "\udc80"])
VALUES_SET = st.text("ab'é\udc80")
VARIABLES = st.dictionaries(NAMES, VALUES_SET)
FILES = st.dictionaries(st.sampled_from(["A", "B", "PATH", "PWD", "D"]), VALUES_SET)


@given(VARIABLES, st.lists(FILES, min_size=1, max_size=4))
def test_each_generation_has_the_first_ones_environment_and_what_the_file_says_then(
    tmp_path_factory, first, files
):
    """
    Whatever the file has said before, a name that it does not name any more is gone,
    or what it was in the first generation; and nothing accumulates.
    """
    where = tmp_path_factory.getbasetemp()
    file, environ = where / "file", where / "environ"
    known = dict(first)
    for said in files:
        lines = [f'{name}="{value}"\n' for name, value in said.items()]
        file.write_text("".join(lines), errors="surrogateescape")
        childs = Command("/bin/x", (), "/new", str(file)).environment(known)
        own = {"PWD": "/new", CHANNEL_VARIABLE: "3"}
        shown = {name: value for name, value in childs.items() if name != UNDO_VARIABLE}
        assert shown == {**first, **said, **own}
        # What the child's application does to it changes nothing.
        environ.write_bytes(
            b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in childs.items())
        )
        now = {UNDO_VARIABLE: childs.get(UNDO_VARIABLE, "{}"), "A": "made up"}
        known = recordEnvironment(now, str(environ))
        assert now == {"A": "made up"}
        known = {**known, "PWD": first["PWD"]} if "PWD" in first else known
        assert {**first, "PWD": ""} == {**known, "PWD": ""}


@pytest.mark.parametrize("undo", ["", "x", "[]", "1", '{"A": 5}', '"A"'])
def test_an_undo_that_is_nonsense_undoes_nothing_else(undo, tmp_path):
    """
    Whoever sets our variable by himself has the environment that he has.
    """
    (tmp_path / "environ").write_bytes(b"B=1\0")
    assert recordEnvironment({UNDO_VARIABLE: undo}, str(tmp_path / "environ")) == {"B": "1"}


# -- the program


def test_a_python_that_knows_where_it_is_is_believed():
    """
    Also if that is a link, as in a virtual environment.
    """
    assert recordProgram(sys.executable, "python3") == (sys.executable, None)


@pytest.mark.parametrize(
    ("executable", "name"),
    [
        ("", "myservice"),
        (None, "myservice"),
        ("/bin/sh", "sh"),
        ("/no/such/python", "/no/such/python"),
    ],
)
def test_a_python_that_looks_for_itself_in_vain_is_found(executable, name):
    """
    By what it was called it finds nothing, or something else.
    """
    assert recordProgram(executable, name) == (os.path.realpath(sys.executable), name)


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


class Config(dict):
    """
    The options of twistd, as far as anybody here asks for them.
    """


class NoOptions(usage.Options):
    """
    What reads the command line of twistd, and finds nothing.
    """

    def parseOptions(self):
        super().parseOptions([])


def runAsTwistd(runner, do):
    """
    Do something where twistd would run an application, with this runner.
    """

    app.run(lambda config: runner.run(do), NoOptions)


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
    # sys.argv is another one: the application may do with that what it likes.
    runner, launchers = Runner(Config({"pidfile": "web.pid"})), []
    runner.config.subCommand = "web"
    runAsTwistd(runner, lambda: launchers.append(findLauncher()))
    (found,) = launchers
    assert isinstance(found, Twistd)
    assert findLauncher() is found
    arguments = found.command(None, None).arguments
    assert arguments[:3] == ("-X", "dev", "twistd")
    assert list(arguments[3:]) == keepInForeground(["web"])
    assert (found.takePidFile(), found.takePidFile()) == ("web.pid", None)
    assert runner.config["pidfile"] == ""


@pytest.mark.parametrize(
    "how", ["arguments of its own", "arguments of its own later", "not the program"]
)
def test_where_twistd_has_its_options_from_elsewhere_the_command_line_is_left_alone(
    unknown, monkeypatch, how
):
    """
    Where another program has changed sys.argv, or has given twistd options in another
    way, the command line is that program's; and a pid file at which twistd looks is
    told as an obstacle, also when it has been taken over.
    """
    changed = ("-n", "web") if how == "arguments of its own" else ("web",)
    monkeypatch.setattr("txtableflip._launch.twistd.ARGUMENTS", ("run.py", "web"))
    monkeypatch.setattr("txtableflip._launch.twistd.PROGRAM_ARGUMENTS", changed)
    runner, launchers = Runner({"pidfile": "web.pid"}), []
    if how == "not the program":
        monkeypatch.setattr(sys, "argv", ["run.py", "web"])
    run = Runner.run if how == "not the program" else runAsTwistd
    run(runner, lambda: launchers.append(findLauncher()))
    (found,) = launchers
    assert isinstance(found, TwistdInside)
    assert found.command(None, None).arguments == ("run.py", "web")
    assert found.takePidFile() == "web.pid"
    assert "the pid file web.pid" in found.obstacles([])[-1]


@pytest.mark.process
def test_a_log_that_blocks_does_not_keep_a_process_from_being_killed():
    """
    The watchdog ends a process with status 1, also if the last entry in the log
    cannot be written, as when what hangs holds the lock of the log file.
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
        "watchdog.Watchdog(list).endIn(0.1)\n"
        "lock.acquire()\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, stderr=subprocess.PIPE, timeout=DEADLINE, check=False)
    assert (done.returncode, done.stderr) == (1, b"")
