"""
The environment of the next version, from a file and by another command.
"""

import os
import shlex
import signal
import sys

import pytest
from processes import APPS, TWISTD, ask

from txtableflip import EnvironmentFileError
from txtableflip._launch.envfile import parseEnvironment
from txtableflip.testing._service import freePort

NAMED = "name = __import__('os').environ.get('RELEASE', 'none')"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("A=1", {"A": "1"}),
        ("A=1\nB=2\n", {"A": "1", "B": "2"}),
        ("# A=1\n; B=2\n\n  \nC=3", {"C": "3"}),
        ("  A = 1  \r\n", {"A": "1"}),
        ("A=", {"A": ""}),
        ("A=b=c", {"A": "b=c"}),
        ("A=b # c", {"A": "b # c"}),
        ("A='b c'", {"A": "b c"}),
        ('A=" b "', {"A": " b "}),
        ('A="b\\"c"', {"A": 'b"c'}),
        ("A=it's", {"A": "it's"}),
        ("A=1\nA=2", {"A": "2"}),
        ("A=\u00e9", {"A": "\u00e9"}),
    ],
)
def test_lines_that_set_variables(text, expected):
    """
    Each line sets one variable, with or without quotes around its value.
    """
    assert parseEnvironment(text, "file") == expected


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("A", 1),
        ("A=1\nexport B=2", 2),
        ("=1", 1),
        ("1A=1", 1),
        ("\n\nA-B=1", 3),
        ("A='b", 1),
        ("A='b' c", 1),
        ("A=b\0c", 1),
    ],
)
def test_a_line_that_sets_none_is_named(text, line):
    """
    What is no such line is an error that says which line it is.
    """
    with pytest.raises(EnvironmentFileError, match=f"^file, line {line}: "):
        parseEnvironment(text, "file")


def start(service, *options):
    """
    Start the answering service with these options of ours, and return its
    address.
    """
    port = freePort()
    service.environment["ENDPOINTS"] = f"tableflip:tcp:{port}:interface=127.0.0.1"
    service.twistd("tableflip", *options, "--app", str(APPS / "answering.py"))
    return ("127.0.0.1", port)


def test_the_file_is_read_at_the_start_and_at_each_upgrade(service):
    """
    Every generation has the environment that the file has then.
    """
    service.release(NAMED)
    file = service.directory / "environment"
    file.write_text("RELEASE=first\n")
    address = start(service, "--env-file", "environment")
    assert ask(address) == ("first", 1)
    file.write_text("RELEASE=second\n")
    service.redeploy()
    assert ask(address) == ("second", 2)


def test_a_name_that_the_file_does_not_name_any_more_is_gone(service):
    """
    And what was in its place at the start is there again.
    """
    service.release(f"import os; {NAMED} + os.environ['STOOD']")
    service.environment["STOOD"] = "before"
    file = service.directory / "environment"
    file.write_text("RELEASE=first\nSTOOD=instead\n")
    address = start(service, "--env-file", "environment")
    assert ask(address) == ("firstinstead", 1)
    service.redeploy()
    assert ask(address) == ("firstinstead", 2)
    file.write_text("")
    service.redeploy()
    assert ask(address) == ("nonebefore", 3)
    service.redeploy()
    assert ask(address) == ("nonebefore", 4)


SPOILING = """
import os
name = "_".join([os.environ.get("PASSWORD", "no"), os.environ["GROWING"]])
name += "_" + os.environ.get("DOTENV", "none")
ours = {each for each in os.environ if each.startswith("TXTABLEFLIP")}
name += "_" + "".join(ours - {"TXTABLEFLIP_TEST"})
os.environ.pop("PASSWORD", None)
os.environ["GROWING"] += "x"
os.environ["DOTENV"] = "loaded"
"""


def test_what_the_application_does_to_its_environment_ends_with_it(service):
    """
    A password that it takes away, a path that it lengthens and a file that it loads
    are for the successor as they were at the first start.
    """
    service.release(SPOILING)
    service.environment.update(PASSWORD="secret", GROWING="x")
    address = start(service)
    for generation in (1, 2, 3):
        assert ask(address) == ("secret_x_none_", generation)
        if generation < 3:
            service.redeploy()


@pytest.mark.parametrize("broken", ["RELEASE\n", None])
def test_a_file_that_cannot_be_used_fails_the_upgrade(service, broken):
    """
    A line that cannot be understood, or a file that is gone, is a failed upgrade
    with the reason; the old process keeps serving, and is upgraded when the file is
    there again.
    """
    service.release(NAMED)
    file = service.directory / "environment"
    file.write_text("RELEASE=first\n")
    address = start(service, "--env-file", "environment")
    if broken is None:
        file.unlink()
    else:
        file.write_text(broken)
    service.fail()
    reason = "line 1: write NAME=value" if broken else "No such file or directory"
    assert reason in service.failures()[0]
    assert ask(address) == ("first", 1)
    file.write_text("RELEASE=second\n")
    service.redeploy()
    assert ask(address) == ("second", 2)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--env-file", "nosuch"], "--env-file: [Errno 2] No such file or directory: 'nosuch'"),
        (["--env-file", "bad"], "--env-file: bad, line 1: write NAME=value, not 'x'"),
        (["--command", ""], "a command names a program"),
        (["--command", "'x"], "No closing quotation"),
    ],
)
def test_a_mistake_is_said_at_the_start(service, options, reason):
    """
    What could not be used later is refused now.
    """
    (service.directory / "bad").write_text("x")
    done = service.run(TWISTD, "-n", "tableflip", *options, "--app", "web")
    assert reason in done.stdout + done.stderr
    assert not service.pidFile.exists()


def test_another_command_takes_over(service):
    """
    The command that the user has given is the successor, outright.
    """
    app = str(APPS / "answering.py")
    line = [sys.executable, "-c", "import os, sys; os.environ['RELEASE'] = 'other'; "]
    line[-1] += "os.execv(sys.argv[1], sys.argv[1:])"
    line += [sys.executable, TWISTD, "-n", "--pidfile=", "-l", "twistd.log", "tableflip"]
    line += ["--app", app]
    service.release(NAMED)
    address = start(service, "--command", shlex.join(line))
    assert ask(address) == ("none", 1)
    service.redeploy()
    assert ask(address) == ("other", 2)


def test_a_command_that_is_none_fails_the_upgrade(service):
    """
    A program that is not there is a failed upgrade, which names it.
    """
    address = start(service, "--command", "/no/such/program --option")
    service.fail()
    assert "/no/such/program" in service.failures()[0]
    assert ask(address) == ("1", 1)
    os.kill(service.pid, signal.SIGTERM)
