"""
C{python -m txtableflip}: a program that has a command of its own is upgraded, and else
runs as it would alone.
"""

import os
import re
import runpy
import shutil
import signal
import sys
import sysconfig
import zipapp
from contextlib import suppress
from pathlib import Path

import pytest
from processes import APPS, DEADLINE, Clients, ask, deadProcess, until

from txtableflip._launch.program import ProgramError, _findPath
from txtableflip.testing._service import freePort, isAlive

PROGRAM = APPS / "anyprogram.py"
REPORTING = APPS / "reporting.py"
RUN = (sys.executable, "-m", "txtableflip")
ENDS = runpy.run_path(str(REPORTING), run_name="reporting")["ENDS"]


def commandFile(directory, module):
    """
    Write a console script as pip does, and return its path.
    """
    path = directory / "bin" / "anycommand"
    path.parent.mkdir()
    path.write_text(
        f"#!{sys.executable}\nimport sys\nfrom {module} import main\n"
        "if __name__ == '__main__':\n    sys.exit(main())\n"
    )
    path.chmod(0o755)
    return path


def asScript(service):
    return [str(PROGRAM)]


def asModule(service):
    shutil.copy(PROGRAM, service.directory / "anyprogram.py")
    return ["-m", "anyprogram"]


def asPackage(service):
    package = service.directory / "anypackage"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(PROGRAM, package / "__main__.py")
    return ["-m", "anypackage"]


def asConsoleScript(service):
    modules = service.directory / "modules"
    modules.mkdir()
    shutil.copy(PROGRAM, modules / "anyprogram.py")
    script = commandFile(service.directory, "anyprogram")
    service.environment["PYTHONPATH"] = str(modules)
    service.environment["PATH"] = f"{script.parent}{os.pathsep}{os.environ['PATH']}"
    # What is beside it in the file system is not what the shell would run.
    (service.directory / "anycommand").mkdir()
    return ["anycommand"]


def asZip(service):
    source = service.directory / "source"
    source.mkdir()
    shutil.copy(PROGRAM, source / "__main__.py")
    zipapp.create_archive(source, service.directory / "app.pyz")
    return ["app.pyz"]


def pidsIn(service):
    """
    Return which process the pid file names, if any.
    """
    with suppress(OSError, ValueError):
        return [service.pid]
    return []


def leaveStalePidFile(service):
    """
    Leave the pid file of a process whose number another one has by now.
    """
    service.pidFile.write_text(str(service.start("sleep", "1000").pid))
    os.utime(service.pidFile, (0, 0))


def upgradeTwice(service, port):
    """
    Upgrade under load, with other code each time; no client can tell.
    """
    with Clients(("127.0.0.1", port), count=4) as clients:
        for release in ("2", "3"):
            service.release(f"name = {release!r}")
            service.redeploy()
            until(
                lambda release=release: release in clients.releases or clients.failures,
                f"release {release}",
            )
    assert clients.failures == []
    assert clients.releases == {"1", "2", "3"}


def serving(service, port):
    """
    Wait until the service listens, and the pid file names its process.
    """

    def answers():
        with suppress(OSError):
            return ask(("127.0.0.1", port)) and pidsIn(service)
        return None

    until(answers, "an answer, and a pid file")


@pytest.mark.parametrize(
    "shape",
    [asScript, asModule, asPackage, asConsoleScript, asZip],
    ids=lambda shape: shape.__name__,
)
def test_a_program_of_any_shape_is_upgraded_under_load(service, shape):
    """
    Whatever names a program, it is upgraded twice, no client can tell, and each of its
    processes ends with the status with which it would end alone.
    """
    port = freePort()
    words = shape(service)
    options = ("--inherit-all", "--probation=0", "--pidfile=twistd.pid")
    first = service.start(*RUN, *options, "--", *words, "plain", str(port))
    serving(service, port)
    upgradeTwice(service, port)
    assert first.wait(DEADLINE) == 7


@pytest.mark.parametrize("way", ["reactor", "late", "twistd"])
def test_a_program_that_does_it_its_own_way_is_upgraded_under_load(service, way):
    """
    A program that installs a reactor of its choice, one that begins to listen late, and
    one that runs twistd are upgraded as any other.
    """
    port = freePort()
    options = ("--inherit-all", "--probation=0", "--pidfile=twistd.pid")
    service.start(*RUN, *options, "--", str(PROGRAM), way, str(port))
    serving(service, port)
    upgradeTwice(service, port)


def test_a_program_that_runs_twistd_as_a_daemon_is_upgraded_under_load(service):
    """
    A program whose twistd becomes a daemon, with a log and a pid file, is upgraded: both
    go on, and nobody has to change what the program tells twistd.
    """
    port = freePort()
    leaveStalePidFile(service)
    options = ("--inherit-all", "--probation=0")
    done = service.run(*RUN, *options, "--", str(PROGRAM), "daemon", str(port))
    assert done.returncode == 0, done.stderr
    service.waitFor("generation 1 serves")
    upgradeTwice(service, port)
    service.waitFor("generation 3 serves")
    last = service.pid
    os.kill(last, signal.SIGTERM)
    until(lambda: not isAlive(last), "its end")
    assert not service.pidFile.exists()


def test_twistd_itself_is_a_program(service):
    """
    twistd with a command that knows nothing of us is upgraded, as any program: here as a
    daemon, and on another signal.
    """
    listen = f"tcp:{freePort()}:interface=127.0.0.1"
    options = ("--inherit-all", "--probation=0", "--signal=USR2")
    done = service.run(*RUN, *options, "--", "twistd", "web", "--listen", listen, "--path=.")
    assert done.returncode == 0, done.stderr
    service.waitFor("generation 1 serves")
    old = service.pid
    os.kill(old, signal.SIGHUP)
    service.waitFor("ignoring SIGHUP: the signal that redeploys")
    os.kill(old, signal.SIGUSR2)
    until(lambda: not isAlive(old), lambda: service.log)
    service.waitFor("generation 2 serves")


def test_options_that_twistd_has_too_are_not_taken_for_its(service):
    """
    With --pidfile, which twistd understands as well, twistd writes none of its own, and
    is started again by our command line.
    """
    listen = f"tableflip:tcp:{freePort()}:interface=127.0.0.1"
    words = ("twistd", "--pidfile=other.pid", "web", "--listen", listen, "--path=.")
    done = service.run(*RUN, "--pidfile", "twistd.pid", "--", *words)
    assert done.returncode == 0, done.stderr
    until(service.pidFile.exists, "a pid file")
    service.redeploy()
    assert not (service.directory / "other.pid").exists()


def compare(service, alone, hosted):
    """
    Run a program alone, and by us, and see that it says the same and ends alike.
    """
    expected = service.run(*alone)
    done = service.run(*hosted)
    assert expected.stdout.startswith("[")
    assert (done.stdout, done.stderr) == (expected.stdout, expected.stderr)
    assert done.returncode == expected.returncode


@pytest.mark.parametrize("end", sorted(ENDS))
def test_a_program_ends_as_it_would_alone(service, end):
    """
    Exit statuses, tracebacks, signals, hooks, threads that are left and processes that
    are spawned: nothing tells a program, or who started it, that we have run it.
    """
    compare(
        service,
        (sys.executable, str(REPORTING), end, "--", "-x"),
        (*RUN, "--", str(REPORTING), end, "--", "-x"),
    )


@pytest.mark.parametrize("options", [[], ["-I"], ["-X", "dev"]], ids=str)
@pytest.mark.parametrize("shape", ["link", "module", "package", "directory", "zip"])
def test_a_program_finds_itself_where_it_would_alone(service, shape, options):
    """
    C{sys.argv}, C{sys.path} and C{__main__} are what Python would have made of them,
    also where it keeps the program's directory out of the path.
    """
    source = service.directory / "source"
    package = source / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copy(REPORTING, package / "__main__.py")
    shutil.copy(REPORTING, source / "__main__.py")
    zipapp.create_archive(source, service.directory / "app.pyz")
    shutil.copy(REPORTING, service.directory / "module.py")
    (service.directory / "package").symlink_to(package)
    (service.directory / "link.py").symlink_to(source / "__main__.py")
    words = {
        "link": ["link.py"],
        "module": ["-m", "module"],
        "package": ["-m", "package"],
        "directory": ["source"],
        "zip": ["app.pyz"],
    }[shape]
    if options == ["-I"] and "-m" in words:
        pytest.skip("nothing of the working directory can be imported")
    python, *run = RUN
    words += ["returns", "y"]
    compare(service, (python, *options, *words), (python, *options, *run, "--", *words))


def test_a_program_with_a_syntax_error_says_where_and_no_more(service):
    """
    A program that is no Python is answered as Python answers it.
    """
    (service.directory / "bad.py").write_text("x = = 2\n")
    expected = service.run(sys.executable, "bad.py")
    done = service.run(*RUN, "--", "bad.py")
    assert (done.returncode, done.stderr) == (expected.returncode, expected.stderr)


WRONG = {
    "": "say what to run, after --",
    "--inherit-all": "say what to run, after --",
    "--inherit-all --": "say what to run, after --",
    "--inherit-all app.py x": "write -- before the program: -- app.py x",
    "-- nowhere.py": "there is no program nowhere.py",
    "-- ./nowhere": "there is no program ./nowhere",
    "-- -m": "-m is to name a module",
    "-- -m nowhere.below": "there is no module nowhere",
    "-- -m os.path.below": "there is no module os.path.below",
    "-- -c pass": "-c stands where a program is to be",
    "-- true": "is not a program in Python",
    "-- .": " has no __main__.py",
    "--drain-timeout 0 -- app.py": "a timeout must be a positive number of seconds, not 0.0",
    "--probation -1 -- app.py": "probation must be a number of seconds, not -1.0",
    "--max-generations 1 -- app.py": "maxGenerations must be 2 at least, not 1",
    "--signal TERM -- app.py": "SIGTERM has a meaning of its own",
    "--directory here -- app.py": "here is not a directory",
    "--bogus -- app.py": "option --bogus not recognized",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_command_line_is_refused(service, words):
    """
    Each has its own words, status 2, and no traceback; and the program has not begun.
    """
    (service.directory / "app.py").write_text("print('begun')")
    done = service.run(*RUN, *words.split())
    assert WRONG[words] in done.stderr
    assert done.stderr.startswith("python -m txtableflip: ")
    assert "Traceback" not in done.stderr
    assert (done.returncode, done.stdout) == (2, "")


def test_what_a_module_lacks_itself_is_told_as_python_does(service):
    """
    A module that is there, and imports what is not, fails with its own traceback.
    """
    (service.directory / "lacking.py").write_text("import nowhere\n")
    done = service.run(*RUN, "--", "-m", "lacking")
    assert done.returncode == 1
    assert "import nowhere" in done.stderr
    assert "txtableflip" not in done.stderr.replace(str(service.directory), "")


def test_the_help_names_all_options_of_the_twistd_command(service):
    """
    --help has each option of C{twistd tableflip}, but for --app, and says what PROGRAM is.
    """
    theirs = service.run(sys.executable, "-m", "twisted", "tableflip", "--help").stdout
    names = set(re.findall(r"--[a-z-]+=?", theirs))
    done = service.run(*RUN, "--help")
    assert done.returncode == 0
    assert names - set(re.findall(r"--[a-z-]+=?", done.stdout)) == {"--app", "--app="}
    assert "-- PROGRAM" in done.stdout


def test_a_pid_file_of_a_process_that_lives_is_not_taken(service):
    """
    A second start with the same pid file is refused, and says whose it is.
    """
    other = service.start("sleep", "1000")
    service.pidFile.write_text(str(other.pid))
    done = service.run(*RUN, "--pidfile=twistd.pid", "--", str(REPORTING), "returns")
    assert done.returncode == 1
    assert f"names process {other.pid}, which is running" in done.stderr
    assert service.pid == other.pid


@pytest.mark.parametrize(
    "leave",
    [
        leaveStalePidFile,
        lambda service: service.pidFile.write_text(str(deadProcess())),
        lambda service: service.pidFile.write_text("nobody"),
        lambda service: service.pidFile.touch(),
    ],
    ids=["given again", "dead", "no number", "empty"],
)
def test_a_stale_pid_file_is_replaced(service, leave):
    """
    What has outlived its process, or names none, is no obstacle; the new one names the
    process that serves, and is removed with it.
    """
    leave(service)
    options = ("--inherit-all", "--pidfile=twistd.pid")
    process = service.start(*RUN, *options, "--", str(PROGRAM), "plain", str(freePort()))
    until(lambda: process.pid in pidsIn(service), "our pid")
    process.terminate()
    process.wait(DEADLINE)
    assert not service.pidFile.exists()


LOGGING = "from twisted.python.log import startLogging; startLogging(sys.stderr)"
REPLACED = "del sys.modules['twisted.internet.reactor']; selectreactor.install()"
WITHOUT_UNIX = (
    "from zope.interface import classImplementsOnly, implementedBy\n"
    "from twisted.internet.interfaces import IReactorUNIX\n"
    "kind = selectreactor.SelectReactor\n"
    "classImplementsOnly(kind, implementedBy(kind) - IReactorUNIX)\n"
    "selectreactor.install()"
)


@pytest.mark.parametrize("logging", ["", LOGGING], ids=["silent", "logging"])
@pytest.mark.parametrize(
    ("imported", "installed", "why"),
    [
        ("reactor", REPLACED, "this program has replaced its first reactor by another"),
        ("main", WITHOUT_UNIX, "SelectReactor cannot hand sockets to a new process"),
    ],
    ids=["replaced", "unfit"],
)
def test_a_program_that_cannot_be_upgraded_says_so(service, imported, installed, why, logging):
    """
    One that puts another reactor in the place of its first, and one whose reactor cannot
    do it, run as ever, and whoever starts it reads that there will be no upgrades, and
    why, whether the program logs or not.
    """
    (service.directory / "app.py").write_text(
        "import sys\n"
        f"from twisted.internet import {imported}, selectreactor\n"
        f"{installed}\n"
        "from twisted.internet import reactor\n"
        f"{logging}\n"
        "reactor.callWhenRunning(reactor.callLater, 0.1, reactor.stop)\n"
        "reactor.run()\n"
        "sys.exit(type(reactor).__name__)\n"
    )
    done = service.run(*RUN, "--", "app.py")
    assert f"upgrades are disabled: {why}" in done.stderr
    assert done.stderr.count("upgrades are disabled") == 1
    assert done.stderr.endswith("SelectReactor\n")
    assert done.returncode == 1


def test_a_file_goes_before_a_command_and_a_command_before_a_directory(tmp_path, monkeypatch):
    """
    In the checkout of a program, its name is the command, and not its directory; a file
    of that name is what it says.
    """
    (tmp_path / "scripts").mkdir()
    command = commandFile(tmp_path / "scripts", "anyprogram")
    monkeypatch.setenv("PATH", str(command.parent))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "anycommand").mkdir()
    assert _findPath("anycommand") == str(command)
    assert _findPath("./anycommand") == "./anycommand"
    (tmp_path / "anycommand").rmdir()
    (tmp_path / "anycommand").touch()
    assert _findPath("anycommand") == "anycommand"
    (tmp_path / "anycommand").unlink()
    command.unlink()
    with pytest.raises(ProgramError, match="no program anycommand"):
        _findPath("anycommand")


def test_a_command_of_this_interpreter_is_found_without_a_path(monkeypatch):
    """
    Nobody has to activate a virtual environment.
    """
    monkeypatch.setenv("PATH", "/nowhere")
    assert Path(_findPath("twistd")).parent == Path(sysconfig.get_path("scripts"))
