"""
However a program was started, its successor is started in the same way.

The table of forms is that of the README.  Each form runs with the
default reactor; a daemon, C{twist} and a script run with each of the others,
too: how a process is started again does not depend on the reactor otherwise.
"""

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import zipapp
from contextlib import suppress
from pathlib import Path

import pytest
from processes import APPS, TWISTD, Clients, PidFileWatch, ask, connect, until

from txtableflip.testing._service import freePort, isAlive

LAUNCHED = APPS / "launched.py"
PAGE = "the whole page\n" * 100


def askWeb(address, question, wrap):
    """
    Ask a web server for the page of which the tests know every byte.
    """
    with connect(address, wrap) as sock:
        sock.sendall(b"GET /page.txt HTTP/1.0\r\n\r\n")
        answer = b""
        while part := sock.recv(65536):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")), head
    assert body.decode() == PAGE, f"{len(body)} bytes"
    return "web", 0


class Launch:
    """
    One way to start a program, with what it needs in place.
    """

    def __init__(self, service, port):
        self.service = service
        self.directory = service.directory
        self.endpoint = f"tableflip:tcp:{port}:interface=127.0.0.1"
        self.asking = ask
        service.environment["ENDPOINTS"] = self.endpoint

    def web(self):
        (self.directory / "page.txt").write_text(PAGE)
        self.asking = askWeb
        return ["web", "--listen", self.endpoint, "--path", "."]

    def tap(self):
        """
        Write an application that listens on our endpoint into a file, as the
        services of old were kept.
        """
        shutil.copy(LAUNCHED, self.directory / "launched.py")
        (self.directory / "late.py").write_text(
            "import os\n"
            "from twisted.application import service, strports\n"
            "class Late(service.MultiService):\n"
            "    def privilegedStartService(self):\n"
            "        import launched\n"
            "        made = strports.service(os.environ['ENDPOINTS'], launched.factory)\n"
            "        made.setServiceParent(self)\n"
            "        super().privilegedStartService()\n"
        )
        made = (
            "from late import Late; from twisted.application import service;"
            "application = service.Application('tap');"
            "Late().setServiceParent(application);"
            "service.IProcess(application);"
            "from twisted.persisted.sob import IPersistable;"
            "IPersistable(application).save(filename='app.tap')"
        )
        self.importable()
        done = self.service.run(sys.executable, "-c", made)
        assert done.returncode == 0, done.stderr
        return ["-f", "app.tap"]

    def importable(self):
        """
        Let modules in our directory be imported, besides those that can be.
        """
        before = os.environ.get("PYTHONPATH", "")
        self.service.environment["PYTHONPATH"] = f"{self.directory}{os.pathsep}{before}"

    def copied(self, *names):
        """
        Copy the program to a place in our directory.
        """
        place = self.directory.joinpath(*names)
        place.parent.mkdir(exist_ok=True)
        shutil.copy(LAUNCHED, place)
        return place

    def package(self):
        self.copied("package", "__main__.py")
        return [sys.executable, "-m", "package"]

    def consoleScript(self):
        """
        Write what pip writes for an entry point.
        """
        self.copied("launched.py")
        self.importable()
        script = self.directory / "command"
        script.write_text(
            f"#!{sys.executable}\nimport sys, launched\nsys.exit(launched.main())\n"
        )
        script.chmod(0o755)
        return ["./command"]

    def zipapp(self):
        self.copied("zipped", "launched.py")
        archive = self.directory / "app.pyz"
        zipapp.create_archive(
            self.directory / "zipped", archive, interpreter=sys.executable, main="launched:main"
        )
        archive.chmod(archive.stat().st_mode | stat.S_IXUSR)
        return ["./app.pyz"]


TWIST = str(Path(TWISTD).parent / "twist")
TEXT = "--log-format=text"
TABLEFLIP = ["tableflip", "--app", str(LAUNCHED)]
SCRIPT = [sys.executable, str(LAUNCHED)]

# As in the README: what is started, and how it is called there.
DAEMONS = {
    "twistd tableflip --app app.py": lambda launch: TABLEFLIP,
    "twistd web --listen tableflip:tcp:8080": Launch.web,
    "twistd --python app.tac": lambda launch: ["--python", str(LAUNCHED)],
    "twistd --file app.tap": Launch.tap,
}
OTHERS = {
    "twist tableflip --app app.py": lambda launch: [TWIST, TEXT, *TABLEFLIP],
    "twist web --listen tableflip:tcp:8080": lambda launch: [TWIST, TEXT, *launch.web()],
    "python -m twisted web --listen tableflip:tcp:8080": lambda launch: [
        *(sys.executable, "-m", "twisted", TEXT),
        *launch.web(),
    ],
    "python app.py": lambda launch: SCRIPT,
    "python -X dev -W error::SyntaxWarning app.py": lambda launch: [
        *(sys.executable, "-X", "dev", "-W", "error::SyntaxWarning"),
        str(LAUNCHED),
    ],
    "python -m package": Launch.package,
    "a console script": Launch.consoleScript,
    "python app.pyz": lambda launch: [sys.executable, *launch.zipapp()],
    "./app.pyz": Launch.zipapp,
}
REACTORS = ["poll", "select", "asyncio"]


def upgradeTwice(service, launch, port, redeploy):
    """
    Have a running program replaced twice, under load, by visibly other code
    where there is any, and see that no client notices.
    """
    with Clients(("127.0.0.1", port), 4, asking=launch.asking) as clients:
        for generation in (2, 3):
            service.release(f"name = '{generation}'")
            redeploy(generation)
            clients.waitForMore()
    assert clients.failures == []
    if launch.asking is ask:
        assert clients.generations == {1, 2, 3}
        assert clients.releases == {"1", "2", "3"}


@pytest.mark.parametrize(
    ("form", "reactor"),
    [(form, "default") for form in DAEMONS]
    + [("twistd tableflip --app app.py", reactor) for reactor in REACTORS],
)
def test_a_daemon_is_replaced_twice(service, form, reactor):
    """
    No client of a daemon notices two upgrades, and the pid file always names a
    process of it.
    """
    port = freePort()
    launch = Launch(service, port)
    service.twistd(f"--reactor={reactor}", *DAEMONS[form](launch))
    with PidFileWatch(service) as watch:
        upgradeTwice(service, launch, port, lambda generation: service.redeploy())
    assert watch.mistakes == []
    assert len(watch.seen) == 3


@pytest.mark.parametrize(
    ("form", "reactor"),
    [(form, "default") for form in (*DAEMONS, *OTHERS)]
    + [
        pytest.param(form, reactor, marks=pytest.mark.slow)
        for form in ("twist tableflip --app app.py", "python app.py")
        for reactor in REACTORS
    ],
)
def test_a_process_in_the_foreground_is_replaced_twice(service, form, reactor):
    """
    No client of a process in the foreground notices two upgrades; each process
    is the child of the one before, and ends with status 0.
    """
    port = freePort()
    launch = Launch(service, port)
    if form in DAEMONS:
        command = [TWISTD, "--nodaemon", *DAEMONS[form](launch)]
    else:
        command = OTHERS[form](launch)
    if reactor != "default" and command[0] == TWIST:
        command[1:1] = [f"--reactor={reactor}"]
    elif reactor != "default":
        service.environment["REACTOR"] = reactor
    with (service.directory / "twistd.log").open("a") as log:
        first = service.start(*command, stdout=log, stderr=subprocess.STDOUT)
    service.waitFor("generation 1 serves")
    serving = [first.pid]

    def redeploy(generation):
        os.kill(serving[-1], signal.SIGHUP)
        serving.append(service.childOf(generation - 1))
        until(lambda: not isAlive(serving[-2]), f"the end of {serving[-2]}:\n{service.log}")

    upgradeTwice(service, launch, port, redeploy)
    assert first.wait() == 0
    assert service.processes() == [serving[-1]]


def test_an_endpoint_that_is_made_late_is_inherited(service):
    """
    A program whose first endpoint is made when the reactor runs already is not
    ready before it listens: its successor finds the socket, and no client
    notices.
    """
    port = freePort()
    launch = Launch(service, port)
    with (service.directory / "twistd.log").open("a") as log:
        script = str(APPS / "lateendpoint.py")
        first = service.start(sys.executable, script, stdout=log, stderr=subprocess.STDOUT)
    service.waitFor("generation 1 serves")
    assert "not ready" not in service.log
    with Clients(("127.0.0.1", port), 2, asking=launch.asking) as clients:
        os.kill(first.pid, signal.SIGHUP)
        service.childOf(1)
        until(lambda: not isAlive(first.pid), "the end of the first")
        clients.waitForMore()
    assert clients.failures == []
    assert clients.generations == {1, 2}
    assert service.log.count("(inherited socket)") == 1
    assert "nothing that listens in this process can be inherited" not in service.log


def test_the_forms_in_the_documents_are_those_that_are_tested():
    """
    The documents name each of these forms, and no other.
    """
    document = Path(__file__).parent.parent / "docs" / "launching.md"
    table = document.read_text().partition("| started as | |")[2].partition("\n\n")[0]
    forms = re.findall(r"^\| (`[^`]+`|a console script) \|", table, re.MULTILINE)
    assert [form.strip("`") for form in forms] == [*DAEMONS, *OTHERS]


def findable(service):
    """
    Let a Python that does not find itself, and so not its virtual environment, import
    what can be imported here.
    """
    service.environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)


def test_a_process_by_another_name_is_replaced_twice(service):
    """
    With a name that leads to no interpreter (C{exec -a}, C{ExecStart=@} of systemd), the
    successor is the same program by the same name.
    """
    port = freePort()
    service.environment["ENDPOINTS"] = f"tableflip:tcp:{port}:interface=127.0.0.1"
    findable(service)
    words = ["my service", TWISTD, "-n", "-l", "twistd.log", *TABLEFLIP]
    service.start(*words, executable=sys.executable)
    service.waitFor("generation 1 serves")
    for generation in (2, 3):
        pid = service.redeploy()
        assert ask(("127.0.0.1", port)) == ("1", generation)
        assert Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"my service\0")


def test_an_application_that_names_its_process_is_replaced_twice(service):
    """
    twistd starts itself again by the name that the application has given it, which
    leads to no interpreter either.
    """
    port = freePort()
    service.environment["ENDPOINTS"] = f"tableflip:tcp:{port}:interface=127.0.0.1"
    findable(service)
    naming = "service.IProcess(application).processName = 'named'"
    made = 'service.Application("launched")'
    code = LAUNCHED.read_text().replace(made, f"{made}\n    {naming}")
    (service.directory / "app.py").write_text(code)
    service.twistd("tableflip", "--app", "app.py")
    for generation in (2, 3):
        service.redeploy()
        assert ask(("127.0.0.1", port)) == ("1", generation)
        assert Path(f"/proc/{service.pid}/cmdline").read_bytes().startswith(b"named\0")


TITLED = """
import setproctitle
setproctitle.setproctitle("titled " + "x" * 1_000_000)
"""


@pytest.fixture
def untraceable(service):
    """
    A service whose processes are not found by their environment: they are ended by what
    the log says of them.
    """
    yield service
    for pid in map(int, re.findall(r"started generation \d+ as process (\d+)", service.log)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: not isAlive(pid), f"the end of {pid}")


def test_a_program_that_writes_a_title_over_its_environment_is_replaced_twice(untraceable):
    """
    Also if it has done that before we could look: what the kernel shows of it then is
    neither its arguments nor its environment.
    """
    service, port = untraceable, freePort()
    launch = Launch(service, port)
    # Who measures adds to its environment, of which not all is in one place then.
    service.environment.pop("COVERAGE_PROCESS_CONFIG", None)
    (service.directory / "app.py").write_text(TITLED + LAUNCHED.read_text())
    with (service.directory / "twistd.log").open("a") as log:
        first = service.start(sys.executable, "app.py", stdout=log, stderr=log)
    service.waitFor("generation 1 serves")
    pid = first.pid
    for generation in (2, 3):
        assert Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"titled xxx")
        assert b"RELEASE_FILE" not in Path(f"/proc/{pid}/environ").read_bytes()
        os.kill(pid, signal.SIGHUP)
        pid = service.childOf(generation - 1)
        service.waitFor(f"generation {generation} serves")
        assert launch.asking(("127.0.0.1", port), "x", lambda sock: sock) == ("1", generation)
    service.waitFor("upgrade done", 2)


INSIDE = [sys.executable, str(APPS / "inside.py")]


@pytest.mark.parametrize("form", ["daemon", "foreground"])
@pytest.mark.parametrize("way", ["tahoe", "carbon", "buildbot"])
def test_a_program_that_runs_twistd_inside_is_replaced_twice(service, way, form):
    """
    Its own command line stays as it is, and twistd is kept in the foreground where it
    is: a successor writes to the same log, and is not taken for dead.
    """
    port = freePort()
    service.environment["ENDPOINTS"] = f"tableflip:tcp:{port}:interface=127.0.0.1"
    words = [*INSIDE, way, "--pidfile="]
    if form == "daemon":
        done = service.run(*words)
        assert done.returncode == 0, done.stdout + done.stderr
    else:
        service.start(*words, "--nodaemon", "--logfile=twistd.log")
    service.waitFor("generation 1 serves")
    for generation in (2, 3):
        service.release(f"name = '{generation}'")
        service.redeploy()
        assert ask(("127.0.0.1", port)) == (str(generation), generation)
    assert service.log.count("upgrade done") == 2
    assert "upgrades will fail" not in service.log


def test_a_program_whose_twistd_looks_at_a_pid_file_says_at_the_start_what_to_do(service):
    """
    There, no successor could start: that is said at once.
    """
    port = freePort()
    service.environment["ENDPOINTS"] = f"tableflip:tcp:{port}:interface=127.0.0.1"
    service.start(*INSIDE, "carbon", "--pidfile=its.pid", "-n", "--logfile=twistd.log")
    service.waitFor("generation 1 serves")
    assert "upgrades will fail, because this program has twistd look at" in service.log
    assert "its.pid" in service.log
