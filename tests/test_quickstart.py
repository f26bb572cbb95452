"""
docs/quickstart.md, literally: its files are written, its commands run as they stand, and
each says what the page says.
"""

import re
import shutil
import sys
from pathlib import Path

import pytest
from test_systemd import inside, manager

__all__ = ["manager"]

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "quickstart.md").read_text()
STEP = re.compile(r"`(\S+)`:\n\n```\w+\n(.*?)```|```console\n(.*?)```", re.DOTALL)
ENTER = "mkdir -p ~/hello\ncd ~/hello\n. venv/bin/activate\n"


def stepsOf(heading):
    """
    Return what one does in a section of the page, as shell commands, and what each says.
    """
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    steps = []
    for name, text, commands in STEP.findall(section):
        if name:
            steps.append((f"mkdir -p $(dirname {name}); cat > {name} <<'END'\n{text}END", ""))
        else:
            typed = re.split(r"^\$ ", commands, flags=re.MULTILINE)[1:]
            steps.extend(tuple(each.split("\n", 1)) for each in typed)
    assert steps, heading
    return steps


def asScript(steps):
    """
    Return a shell script that does these steps, and numbers what they say.
    """
    marked = [f"echo '%%{number}'\n{command}" for number, (command, _) in enumerate(steps)]
    return "exec 2>&1\nset +m\n" + ENTER + "\n".join(marked)


def asPattern(said):
    """
    Return what matches the text on the page, and the same with other numbers and places.
    """
    pattern = re.escape(said).replace(re.escape("/home/you"), r"\S+")
    return re.sub(r"47\d\d", r"\\d+", pattern.replace(r"\.\.\.", ".*"))


def compare(steps, output):
    """
    Check that each step has said what the page says.
    """
    said = re.split(r"^%%\d+\n", output, flags=re.MULTILINE)[1:]
    assert len(said) == len(steps), output
    for (command, expected), text in zip(steps, said, strict=True):
        assert re.fullmatch(asPattern(expected), text, re.DOTALL), f"{command}\n{output}"


@pytest.fixture
def home(service):
    """
    A home directory whose network is its own, with a virtual environment: that of the tests.
    """
    if shutil.which("curl") is None or shutil.which("ip") is None:
        pytest.skip("there is no curl(1), or no ip(8) (Debian: apt-get install curl iproute2)")
    service.environment["HOME"] = str(service.directory)
    quietCurl(service.directory)
    (service.directory / "hello").mkdir()
    return service


def quietCurl(home):
    """
    Have curl say what it says at a terminal, where it shows no progress.
    """
    (home / ".curlrc").write_text("silent\nshow-error\n")


def run(service, script):
    """
    Run a shell script where port 8080 is free.
    """
    done = service.run("unshare", "--net", "--map-root-user", "true")
    if done.returncode != 0:
        pytest.skip(f"there can be no network of our own: {done.stderr}")
    alone = f"ip link set lo up\n{script}"
    return service.run("unshare", "--net", "--map-root-user", "bash", "-c", alone).stdout


SECTIONS = ["A service", "An upgrade", "A bad release", "Stop"]


def test_the_quick_start_is_what_happens(home):
    """
    A service of one's own is upgraded, survives a bad release, and is stopped.
    """
    (home.directory / "hello" / "venv").symlink_to(sys.prefix)
    steps = [step for heading in SECTIONS for step in stepsOf(heading)]
    compare(steps, run(home, asScript(steps)))
    assert home.processes() == []


@pytest.mark.slow
def test_the_quick_start_from_an_empty_directory(home):
    """
    The same, with an environment that is made and installed as the page says.
    """
    if not (ROOT / "src").exists():
        pytest.skip(f"{ROOT} is not a checkout of txtableflip: it has no src")
    (home.directory / "txtableflip").symlink_to(ROOT)
    (home.directory / "hello").rmdir()
    script = "cd\n" + "\n".join(command for command, _ in stepsOf("Install"))
    done = home.run("bash", "-e", "-c", script, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [step for heading in SECTIONS for step in stepsOf(heading)]
    compare(steps, run(home, asScript(steps)))


def test_the_quick_start_under_systemd_is_what_happens(manager):
    """
    The same under a real systemd: C{systemctl reload} fails if the upgrade does, and
    who served keeps serving.
    """
    home = manager
    quietCurl(home)
    (home / "hello").mkdir()
    (home / "hello" / "venv").symlink_to(sys.prefix)
    # Where that systemd looks for the units of its user.
    (home / ".config" / "systemd").mkdir(parents=True)
    (home / ".config" / "systemd" / "user").symlink_to(home / "units")
    (program, _), *_ = stepsOf("A service")
    steps = [(program, ""), *stepsOf("Under systemd")]
    done = inside(home, "bash", "-c", asScript(steps))
    compare(steps, done.stdout)
