"""
C{twistd tableflip}, as the user sees it.
"""

import os
import shlex
import signal
import socket
import subprocess
import sys
from functools import cache

import pytest
from processes import APPS, TWISTD, ask, until
from twisted.python.usage import UsageError

from twisted import version
from txtableflip import currentUpgrader
from txtableflip.tap import Options
from txtableflip.testing._service import freePort, isAlive

pytestmark = pytest.mark.wheel
OLD_TWISTD = version.major < 26

SAYING = """
from twisted.application.service import Application, Service
from twisted.python import usage

class Saying(Service):
    '''
    Writes what it was made with into a file, and ends the process.
    '''
    def __init__(self, *words):
        self.words = words

    def startService(self):
        from twisted.internet import reactor
        super().startService()
        with open("said", "a") as file:
            print(*self.words, file=file)
        reactor.callWhenRunning(reactor.stop)

def asApplication(*words):
    application = Application(" ".join(words))
    Saying(*words).setServiceParent(application)
    return application
"""


@cache
def twistdKnowsTableflip():
    """
    Say whether this Python's twistd has the command.
    """
    done = subprocess.run([TWISTD, "--help"], capture_output=True, text=True, check=False)
    return "tableflip" in done.stdout


@pytest.fixture(autouse=True)
def _needsTwistd(request):
    """
    Skip where txtableflip's plugin is not installed.
    """
    if request.node.get_closest_marker("process") and not twistdKnowsTableflip():
        pytest.skip(f"{TWISTD} does not know the command tableflip: install txtableflip")


def write(service, files):
    """
    Write Python files, with L{SAYING} at the beginning, where twistd will run.
    """
    for name, code in files.items():
        path = service.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{SAYING}\n{code}\n")


def foreground(service, *arguments):
    """
    Run C{twistd -n tableflip} to its end.
    """
    return service.run(TWISTD, "-n", "tableflip", *arguments)


# -- what can be run


OPTIONS = """
class Options(usage.Options):
    optParameters = [("word", "w", "none", "A word.")]
    def parseArgs(self, *rest):
        self.rest = rest
    def postOptions(self):
        if self["word"] == "bad":
            raise usage.UsageError("--word must not be bad: use good")
def makeService(options):
    assert options.parent is not None
    return Saying("options", options["word"], *options.rest)
"""
EVERYTHING = """
service = Saying("service")
application = asApplication("application")

def makeService():
    return Saying("made")
"""
CLASS = """
class Mine(Saying):
    def __init__(self):
        self.words = ["class"]
"""

FORMS = {
    "module with an application": (
        {"app.py": "application = asApplication('application')"},
        ["app"],
        "application",
    ),
    "module with a service": ({"app.py": "service = Saying('service')"}, ["app"], "service"),
    "module with makeService": (
        {"app.py": "def makeService():\n    return Saying('made')"},
        ["app"],
        "made",
    ),
    "module with makeService and Options": ({"app.py": OPTIONS}, ["app"], "options none"),
    "module with makeService and options given": (
        {"app.py": OPTIONS},
        ["app", "--", "--word", "good", "x", "-y"],
        "options good x -y",
    ),
    "module:makeService and options given": (
        {"app.py": OPTIONS},
        ["app:makeService", "--", "-w", "good"],
        "options good",
    ),
    "the first of the usual attributes": (
        {"app.py": EVERYTHING},
        ["app"],
        "application",
    ),
    "attribute that is a service": (
        {"app.py": "mine = Saying('mine')\nservice = Saying('service')"},
        ["app:mine"],
        "mine",
    ),
    "attribute that is an Application": (
        {"app.py": "mine = asApplication('my application')"},
        ["app:mine"],
        "my application",
    ),
    "attribute that returns a service": (
        {"app.py": "def mine(word='returned'):\n    return Saying(word)"},
        ["app:mine"],
        "returned",
    ),
    "attribute that returns an Application": (
        {"app.py": "mine = lambda: asApplication('returned application')"},
        ["app:mine"],
        "returned application",
    ),
    "class of a service": (
        {"app.py": CLASS},
        ["app:Mine"],
        "class",
    ),
    "module in a package": (
        {"package/__init__.py": "", "package/app.py": "service = Saying(__name__)"},
        ["package.app"],
        "package.app",
    ),
    ".tac file": (
        {"my-app.tac": "application = asApplication('tac')"},
        ["my-app.tac"],
        "tac",
    ),
    ".py file": ({"my-app.py": "service = Saying('file')"}, ["./my-app.py"], "file"),
    ".py file with Options": (
        {"my-app.py": OPTIONS},
        ["my-app.py", "--", "--word=good"],
        "options good",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_app_is_run(form, service):
    """
    Whatever --app names is made once, with its options, and run.
    """
    files, arguments, said = FORMS[form]
    write(service, files)
    done = foreground(service, "--app", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (service.directory / "said").read_text() == f"{said}\n"


def test_another_twistd_command_is_run_with_its_options(service):
    """
    C{twistd tableflip --app web -- ...} is C{twistd web ...} that can be
    redeployed.
    """
    port = freePort()
    (service.directory / "page.txt").write_text("found")
    service.twistd(
        *("tableflip", "--app", "web", "--"),
        *("--listen", f"tableflip:tcp:{port}:interface=127.0.0.1", "--path", "."),
    )

    def get():
        with socket.create_connection(("127.0.0.1", port), 30) as sock:
            sock.sendall(b"GET /page.txt HTTP/1.0\r\n\r\n")
            with sock.makefile() as stream:
                return stream.read()

    assert get().endswith("\n\nfound")
    service.redeploy()
    assert get().endswith("\n\nfound")
    service.waitFor("generation 2 serves")


ASKING = """
from twisted.application.service import ServiceMaker
from twisted.python import usage

class Options(usage.Options):
    def postOptions(self):
        self.early = self.parent.subCommand, self.parent.subOptions is self
        self.parent["umask"] = 0o27

def makeService(options):
    late = options.parent.subCommand, options.parent.subOptions is options
    return Saying(*options.early, *late, options.parent["umask"])

asking = ServiceMaker("asking", "asking", "Says what twistd's options say.", "asking")
"""


@pytest.mark.parametrize("before", [["asking"], ["tableflip", "--app", "asking"]])
def test_a_command_finds_in_twistds_options_what_it_would_under_twistd(service, before):
    """
    That it is the subcommand, while it parses its options and when it makes its
    service; and what it changes there is changed.
    """
    write(service, {"asking.py": ASKING, "twisted/plugins/asking_plugin.py": ""})
    plugin = service.directory / "twisted" / "plugins" / "asking_plugin.py"
    plugin.write_text("from asking import asking")
    service.environment["PYTHONPATH"] = str(service.directory)
    done = service.run(TWISTD, "-n", *before)
    assert done.returncode == 0, done.stdout + done.stderr
    said = (service.directory / "said").read_text()
    assert said == f"asking True asking True {0o27}\n"


IMPORTED = {
    "twisted.application.service": (
        "from twisted.application import service\ndef makeService():\n    return Saying('made')"
    ),
    "a module of one's own": (
        "import application\nimport makeService\nservice = Saying('made')"
    ),
}


@pytest.mark.parametrize("imported", IMPORTED)
def test_a_module_that_is_imported_is_not_taken_for_the_application(service, imported):
    """
    Though it has the name of one of the usual attributes.
    """
    write(service, {"app.py": IMPORTED[imported], "application.py": "", "makeService.py": ""})
    done = foreground(service, "--app", "app")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (service.directory / "said").read_text() == "made\n"


OBSERVERS = {
    "new": (
        "from twisted.logger import ILogObserver, textFileLogObserver\n"
        "application.setComponent(ILogObserver, textFileLogObserver(open('own.log', 'a')))\n"
    ),
    "legacy": (
        "from twisted.python.log import ILogObserver, FileLogObserver\n"
        "its = FileLogObserver(open('own.log', 'a')).emit\n"
        "application.setComponent(ILogObserver, its)\n"
    ),
}


@pytest.mark.parametrize("before", [["tableflip", "--app"], ["--python"]])
@pytest.mark.parametrize("kind", OBSERVERS)
def test_a_log_observer_of_the_application_is_used(service, kind, before):
    """
    An Application's own ILogObserver, of either kind, logs everything, in every
    generation, and twistd.log is not made.
    """
    observer = OBSERVERS[kind]
    code = (APPS / "answering.py").read_text()
    (service.directory / "app.tac").write_text(code + observer)
    port = freePort()
    service.environment["ENDPOINTS"] = f"tableflip:tcp:{port}:interface=127.0.0.1"
    log = service.directory / "own.log"
    done = service.run(TWISTD, *before, "app.tac")
    assert done.returncode == 0, done.stdout + done.stderr
    until(lambda: log.exists() and "generation 1 serves" in log.read_text(), "its start")
    service.redeploy()
    until(lambda: "generation 2 serves" in log.read_text(), "the upgrade")
    assert not (service.directory / "twistd.log").exists()


def test_options_that_are_right_are_taken(service):
    """
    The options of twistd tableflip are used: a signal's name may have SIG and
    small letters, and a timeout a fraction.
    """
    write(service, {"app.py": "service = Saying('served')"})
    options = ["--signal", "sigusr2", "--upgrade-timeout", "0.5", "--drain-timeout=1e3"]
    done = foreground(service, "-a", "app", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (service.directory / "said").exists()


def test_the_signal_that_redeploys_can_be_chosen(service):
    """
    With --signal USR2 that signal redeploys, and SIGHUP stays what the
    application makes of it.
    """
    heard = service.directory / "heard"
    handler = (
        "import signal\n"
        "def note(number, frame):\n"
        "    with open('heard', 'a') as file:\n"
        "        file.write('HUP ')\n"
        "signal.signal(signal.SIGHUP, note)\n"
    )
    service.release(f"name = '1'\n{handler}")
    port = freePort()
    service.environment["ENDPOINTS"] = f"tableflip:tcp:{port}:interface=127.0.0.1"
    application = str(APPS / "answering.py")
    first = service.twistd("tableflip", "--signal", "USR2", "--app", application)
    os.kill(first, signal.SIGHUP)
    until(lambda: heard.exists() and heard.read_text() == "HUP ", "SIGHUP in the first")
    assert ask(("127.0.0.1", port)) == ("1", 1)

    service.release(f"name = '2'\n{handler}")
    os.kill(first, signal.SIGUSR2)
    until(lambda: service.pid != first, "a successor")
    until(lambda: not isAlive(first), "the end of the first")
    assert ask(("127.0.0.1", port)) == ("2", 2)
    second = service.pid
    os.kill(second, signal.SIGHUP)
    until(lambda: heard.read_text() == "HUP HUP ", "SIGHUP in the second")
    assert ask(("127.0.0.1", port)) == ("2", 2)
    assert service.log.count("upgrade: started generation") == 1


# -- what cannot

MISTAKEN = {
    "app.py": """
service = Saying("service")
number = 1

def nothing():
    pass

def needing(thing):
    return service
""",
    "bare.py": "",
    "package/__init__.py": "",
    "strict.py": OPTIONS,
}
MISSING = "--app is missing: say what to run, as in --app web"
NOT_FOUND = (
    "there is no twistd command of that name, and no module {} in {{here}} or on the path"
)
NO_FILE = "there is no such file in {here}"
NOTHING = "it has none of application, service, makeService: add one, or write module:attribute"
NOT_RUN = "is not a service, an Application or a function that returns one"
NEEDING = "a function is called without arguments, and this one has missing a required argument"
ERRORS = {
    "": MISSING,
    "--app ''": MISSING,
    "--app": "option --app requires argument",
    "--app nosuch": f"--app nosuch: {NOT_FOUND.format('nosuch')}",
    "--app package.no:x": f"--app package.no:x: {NOT_FOUND.format('package.no')}",
    "--app nosuch.tac": f"--app nosuch.tac: {NO_FILE}",
    "--app dir.py": f"--app dir.py: {NO_FILE}",
    "--app app:nosuch": "--app app:nosuch: the module has no attribute nosuch",
    "--app app:": "--app app:: write module:attribute",
    "--app :app": "--app :app: write module:attribute",
    "--app bare": f"--app bare: {NOTHING}",
    "--app bare.py": f"--app bare.py: {NOTHING}",
    "--app app:number": f"--app app:number: 1 {NOT_RUN}",
    "--app app:nothing": f"--app app:nothing: None {NOT_RUN}",
    "--app app:needing": f"--app app:needing: {NEEDING}: 'thing'",
    "--app tableflip": "--app tableflip would run itself: name your application",
    "--app app -- -p 80": "--app app: it takes no options, and was given -p 80",
    "--app web -- --nosuch": "--app web: option --nosuch not recognized",
    "--app strict -- -w bad": "--app strict: --word must not be bad: use good",
    "--app app --nosuch": "option --nosuch not recognized",
    "--app app -s KILL": "SIGKILL has a meaning of its own: use HUP, USR2 or another signal",
    "--app app --drain-timeout 0": (
        "Parameter type enforcement failed: a timeout must be a positive number of seconds, "
        "not 0.0"
    ),
}


@pytest.mark.parametrize("line", ERRORS)
def test_what_cannot_be_run_is_refused_with_what_to_do(line, service):
    """
    A mistake on the command line ends the command with a status, nothing has
    been run, and the last line says what it is.
    """
    write(service, MISTAKEN)
    (service.directory / "dir.py").mkdir()
    done = foreground(service, *shlex.split(line))
    assert done.returncode in (1, mistakeStatus(service))
    expected = ERRORS[line].format(here=service.directory)
    assert lastLine(done).partition(": ")[2] == expected
    assert not (service.directory / "said").exists()
    assert not service.pidFile.exists()


def test_chroot_is_refused(service):
    """
    --chroot is refused with the reason, because no next version could start.
    """
    write(service, {"app.py": "service = Saying('service')"})
    done = service.run(TWISTD, "-n", "--chroot", ".", "tableflip", "--app", "app")
    assert done.returncode in (1, mistakeStatus(service))
    assert lastLine(done).endswith(
        ": --chroot cannot be used: the next version could not be started from inside, "
        "where there is no Python"
    )
    assert not (service.directory / "said").exists()


def mistakeStatus(service):
    """
    Return with which status twistd leaves after a mistake on its command line:
    old versions of Twisted say 0.
    """
    return service.run(TWISTD, "--nosuch").returncode if OLD_TWISTD else 1


def lastLine(done):
    """
    Return the last line that a command has written.
    """
    return (done.stdout + done.stderr).strip().splitlines()[-1]


def refusal(*arguments):
    """
    Return how twistd tableflip refuses its options, before it has made or
    loaded anything.
    """
    options = Options()
    options.parent = {}
    with pytest.raises(UsageError) as caught:
        options.parseOptions(["--app", "nosuch", *arguments])
    assert currentUpgrader() is None
    return str(caught.value)


@pytest.mark.parametrize("option", ["--upgrade-timeout", "--drain-timeout", "--stop-timeout"])
@pytest.mark.parametrize("value", ["0", "-0.0", "-1", "nan", "inf", "-inf", "1e999"])
def test_a_timeout_is_a_positive_number(option, value):
    """
    What is no positive and finite number of seconds is no timeout.
    """
    text = f"a timeout must be a positive number of seconds, not {float(value)!r}"
    assert refusal(f"{option}={value}").endswith(text)


@pytest.mark.parametrize("option", ["--upgrade-timeout", "--drain-timeout", "--stop-timeout"])
@pytest.mark.parametrize("value", ["soon", "", "1s", "0x10"])
def test_a_timeout_is_a_number(option, value):
    """
    What is no number is refused, and the refusal quotes it.
    """
    assert refusal(f"{option}={value}").endswith(repr(value))


@pytest.mark.parametrize("name", ["NOSUCH", "12", "", "SIG", "SIG_BLOCK", "SIGSIGHUP", "HUP "])
def test_a_signal_has_a_name(name):
    """
    What is no name of a signal is refused, with the names to use.
    """
    expected = f"{name!r} is not a signal: use HUP, USR2 or another name of signal(7)"
    assert refusal("--signal", name) == expected


@pytest.mark.parametrize("name", ["KILL", "STOP", "CHLD", "TERM", "INT", "SIGPIPE", "kill"])
def test_a_signal_that_has_another_job_is_refused(name):
    """
    A signal that cannot be handled, or that the reactor handles, is refused.
    """
    full = f"SIG{name.upper().removeprefix('SIG')}"
    expected = f"{full} has a meaning of its own: use HUP, USR2 or another signal"
    assert refusal("--signal", name) == expected


@pytest.mark.parametrize(
    ("files", "name", "last"),
    [
        (
            {"app.py": "def mine():\n    return undefined\nmine()"},
            "app",
            "NameError: name 'undefined' is not defined",
        ),
        (
            {"app.tac": "def mine():\n    return undefined\nmine()"},
            "app.tac",
            "NameError: name 'undefined' is not defined",
        ),
        (
            {"app.py": "def mine():\n    import nosuchmodule\nmine()"},
            "app",
            "ModuleNotFoundError: No module named 'nosuchmodule'",
        ),
        (
            {"app.py": "def mine():\n    raise TypeError('mine')"},
            "app:mine",
            "TypeError: mine",
        ),
    ],
)
def test_an_error_in_the_application_is_shown_with_its_traceback(files, name, last, service):
    """
    What goes wrong in the user's own code is shown as it is, with the place,
    and not as a mistake on the command line.
    """
    write(service, files)
    done = foreground(service, "--app", name)
    assert done.returncode == 1
    said = (done.stdout + done.stderr).strip().splitlines()
    assert said[-1] == last
    assert any("in mine" in line and "app." in line for line in said[-5:]), said
    assert "Usage:" not in said[0]


@pytest.mark.parametrize("module", ["txtableflip", "twisted.plugins.txtableflip_plugin"])
def test_no_import_chooses_the_reactor(module, service):
    """
    Importing txtableflip, any of its modules, or its plugin leaves the choice
    of the reactor to twistd.
    """
    done = service.run(
        sys.executable,
        "-c",
        "import pkgutil, sys, txtableflip, importlib\n"
        f"importlib.import_module({module!r})\n"
        f"if {module!r} == 'txtableflip':\n"
        "    for found in pkgutil.iter_modules(txtableflip.__path__, 'txtableflip.'):\n"
        "        importlib.import_module(found.name)\n"
        "    assert 'txtableflip.tap' in sys.modules\n"
        "assert 'twisted.internet.reactor' not in sys.modules\n",
    )
    assert done.returncode == 0, done.stderr


def test_twistd_may_choose_the_reactor(service):
    """
    C{twistd --reactor} decides which reactor runs under twistd tableflip.
    """
    write(service, {"app.py": "service = Saying('served')"})
    done = service.run(TWISTD, "-n", "--reactor=select", "tableflip", "--app", "app")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (service.directory / "said").exists()
    assert "twisted.internet.selectreactor" in done.stdout
