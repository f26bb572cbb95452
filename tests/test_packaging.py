"""
What users get: names, docstrings, interfaces, and the files of the wheel.
"""

import argparse
import ast
import email
import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import types
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from twisted.application.service import IService, IServiceMaker
from twisted.internet import interfaces
from twisted.logger import ILogObserver
from twisted.plugin import IPlugin, getPlugins
from zope.interface.verify import verifyClass, verifyObject

import txtableflip
from txtableflip import Upgrader, UpgradeService, _lifecycle, _steps, command, run, tap
from txtableflip._draining.connections import CountedTCPServer
from txtableflip._handover.channel import Channel, MessageReceiver
from txtableflip._handover.spawned import Spawned
from txtableflip._sockets.endpoint import InheritableEndpoint
from txtableflip._sockets.ports import _ListeningPort
from txtableflip._sockets.unixport import CountedUNIXServer, UNIXPort
from txtableflip.endpoints import TableflipStringParser
from txtableflip.interfaces import IUpgrader
from txtableflip.log import observer
from txtableflip.tap import Host
from txtableflip.testing import FakeUpgrader

pytestmark = pytest.mark.wheel
TESTS = Path(__file__).parent


def findCheckout():
    """
    Return the directory of the project's sources, or skip the test that needs
    them: these tests also run against an installed package.
    """
    checkout = TESTS.parent
    for needed in ("pyproject.toml", "src/txtableflip", "twisted/plugins"):
        if not (checkout / needed).exists():
            pytest.skip(f"{checkout} is no checkout of txtableflip: it has no {needed}")
    return checkout


def modules():
    """
    Return all modules of the package.
    """
    found = [txtableflip]
    for each in pkgutil.walk_packages(txtableflip.__path__, "txtableflip."):
        try:
            found.append(importlib.import_module(each.name))
        except ModuleNotFoundError as error:
            # An older Twisted does not have it, and does not need what knows of it.
            if error.name != "twisted.web._websocket_impl":
                raise
    return found


# -- names


def test_the_public_names_are_all_there_and_in_order():
    """
    C{__all__} is sorted, has no name twice, and lists what the package defines
    or imports, and nothing else.
    """
    names = txtableflip.__all__
    assert names == sorted(set(names))
    (shown,) = [
        each
        for each in ast.parse(inspect.getsource(txtableflip)).body
        if isinstance(each, ast.If) and ast.unparse(each.test) == "TYPE_CHECKING"
    ]
    present = {alias.name for each in shown.body for alias in each.names}
    assert present == set(names)


def test_every_error_is_a_public_name():
    """
    Whatever txtableflip raises on purpose can be caught by a name of the
    package, or is a ValueError of an option.
    """
    errors = {
        name
        for name, value in vars(importlib.import_module("txtableflip.errors")).items()
        if inspect.isclass(value) and issubclass(value, Exception)
    }
    assert errors <= set(txtableflip.__all__)
    assert "UpgradeFailed" in errors


@pytest.mark.parametrize("name", txtableflip.__all__)
def test_every_public_name_is_documented(name):
    """
    Each public name says what it is, in a docstring of its own.
    """
    assert getattr(txtableflip, name).__doc__


# -- docstrings

DOCUMENTED_ELSEWHERE = {
    *dir(_steps.Steps),
    *dir(_lifecycle.Lifecycle),
    *dir(MessageReceiver),
    *interfaces.IProtocol,
    *interfaces.IReactorTCP,
    *interfaces.IReactorSSL,
    *interfaces.IReactorUNIX,
    *interfaces.IReactorUNIXDatagram,
    *interfaces.IReactorUDP,
    *interfaces.IReactorMulticast,
    *interfaces.IReactorSocket,
}
"""
The names of methods of which an interface says what they are for: those who
implement it need not repeat that.
"""


def undocumented(module):
    """
    Return the public functions, classes and methods of a module that say
    nowhere what they are for.
    """
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value) and not value.__doc__:
            yield name
        if inspect.isclass(value):
            if not vars(value).get("__doc__"):
                yield name
            yield from (f"{name}.{method}" for method in undocumentedMethods(value))


def undocumentedMethods(cls):
    """
    Return the public methods of a class without a docstring, but for those
    that override what has one.
    """
    kinds = (types.FunctionType, classmethod, staticmethod, property)
    for name, value in vars(cls).items():
        isPublicMethod = isinstance(value, kinds) and not name.startswith("_")
        isDocumented = inspect.getdoc(getattr(cls, name)) or name in DOCUMENTED_ELSEWHERE
        if isPublicMethod and not isDocumented:
            yield name


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_everything_public_is_documented(module):
    """
    Each module, class, function and method has a docstring, or has one in what
    it overrides or implements.
    """
    assert module.__doc__
    assert list(undocumented(module)) == []


@pytest.mark.parametrize("path", sorted(TESTS.glob("test_*.py")), ids=lambda path: path.name)
def test_every_test_says_what_it_tests(path):
    """
    Each test has a docstring, which is one sentence or more, and so has each
    file of tests.
    """
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    silent = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.name.startswith("test_")
        and not (ast.get_docstring(node) or "").endswith(".")
    ]
    assert silent == []


# -- interfaces


@pytest.mark.parametrize(
    ("interface", "cls"),
    [
        (IUpgrader, Upgrader),
        (IUpgrader, FakeUpgrader),
        (IService, UpgradeService),
        (IService, Host),
        (interfaces.IStreamServerEndpointStringParser, TableflipStringParser),
        (interfaces.IStreamServerEndpoint, InheritableEndpoint),
        (interfaces.IListeningPort, UNIXPort),
        (interfaces.IListeningPort, _ListeningPort),
        (interfaces.IReadDescriptor, UNIXPort),
        (interfaces.ITransport, CountedTCPServer),
        (interfaces.ITCPTransport, CountedTCPServer),
        (interfaces.ITLSTransport, CountedTCPServer),
        (interfaces.ITransport, CountedUNIXServer),
        (interfaces.IUNIXTransport, CountedUNIXServer),
        (interfaces.IProtocol, Channel),
        (interfaces.IProcessProtocol, Spawned),
    ],
    ids=lambda value: value.__name__,
)
def test_a_class_implements_what_it_says(interface, cls):
    """
    Each class has the methods of its interfaces, with their arguments.
    """
    assert interface.implementedBy(cls)
    assert verifyClass(interface, cls)


def test_the_log_observer_is_one():
    """
    What C{--logger} is told to use provides ILogObserver.
    """
    assert verifyObject(ILogObserver, observer())


def test_the_announcements_are_what_twisted_looks_for():
    """
    Twisted finds the prefix and the command once each, and they provide their
    interfaces.
    """
    parsers = getPlugins(interfaces.IStreamServerEndpointStringParser)
    (parser,) = [each for each in parsers if each.prefix == "tableflip"]
    (command,) = [each for each in getPlugins(IServiceMaker) if each.tapname == "tableflip"]
    for interface, plugin in (
        (interfaces.IStreamServerEndpointStringParser, parser),
        (IServiceMaker, command),
    ):
        assert verifyObject(IPlugin, plugin)
        assert verifyObject(interface, plugin)
    assert command.options().parent is None
    assert command.makeService.__module__ == "txtableflip.tap"


# -- the version


@pytest.mark.parametrize("options", [tap.Options, run.Options])
def test_the_version_is_that_of_the_distribution(options, capsys):
    """
    C{--version} of C{twistd tableflip} and of C{python -m txtableflip} says which
    version of txtableflip this is, and not which one of Twisted.
    """
    assert txtableflip.__version__ == metadata.version("txtableflip")
    with pytest.raises(SystemExit) as exited:
        options().parseOptions(["--version"])
    assert exited.value.code == 0
    assert capsys.readouterr().out == f"txtableflip {txtableflip.__version__}\n"


def test_the_command_says_its_version(capsys):
    """
    C{tableflip --version} does, too.
    """
    with pytest.raises(SystemExit) as exited:
        command.main(["--version"])
    assert exited.value.code == 0
    assert capsys.readouterr().out == f"txtableflip {txtableflip.__version__}\n"


# -- files


def test_twisted_is_left_alone():
    """
    No C{__init__.py} of ours is in twisted or twisted.plugins: it would hide
    Twisted's own, or its plugins.
    """
    theirs = findCheckout() / "twisted"
    assert [path.name for path in theirs.rglob("*.py")] == ["txtableflip_plugin.py"]


def test_nothing_of_twisted_is_installed_over():
    """
    The installed distribution has no file of Twisted's.
    """
    installed = [str(path) for path in metadata.files("txtableflip") or ()]
    assert installed
    ours = [path for path in installed if path.startswith("twisted/")]
    assert set(ours) <= {
        "twisted/plugins/txtableflip_plugin.py",
        *(path for path in ours if "__pycache__/txtableflip_plugin." in path),
    }


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """
    A copy of the checkout, with what a machine may have left in it.
    """
    checkout = findCheckout()
    for needed in ("hatchling", "hatch_fancy_pypi_readme"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed}, which builds the wheel, is not installed")
    made = tmp_path_factory.mktemp("copy")
    for name in ("src", "twisted", "tests", "share"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(checkout / name, made / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", ".gitignore"):
        shutil.copy(checkout / name, made / name)
    plugins = made / "twisted" / "plugins"
    (plugins / "dropin.cache").write_bytes(b"of this machine")
    (plugins / "__pycache__").mkdir()
    (plugins / "__pycache__" / "txtableflip_plugin.cpython-311.pyc").write_bytes(b"old")
    return made


def build(copy, what, into):
    """
    Have the build backend make a distribution, as pip would.
    """
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import hatchling.build as backend, sys; print(backend.{what}(sys.argv[1]))",
            str(into),
        ],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return into / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def wheel(copy, tmp_path_factory):
    """
    The path of the wheel.
    """
    return build(copy, "build_wheel", tmp_path_factory.mktemp("wheel"))


def test_the_wheel_has_the_package_the_plugin_and_nothing_else(copy, wheel):
    """
    In the wheel are the modules, the mark that they are typed, the plugin, and
    what pip needs to know; not a cache, and no package of Twisted's.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    about = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    shared = {name for name in names if name.split("/")[0].endswith(".data")}
    package = {
        str(path.relative_to(copy / "src"))
        for path in (copy / "src" / "txtableflip").rglob("*")
        if path.name == "py.typed" or path.suffix == ".py"
    }
    assert {"txtableflip/__init__.py", "txtableflip/py.typed"} <= package
    plugin = "twisted/plugins/txtableflip_plugin.py"
    assert names - about - shared == package | {plugin}
    assert {name.partition("/data/share/")[2] for name in shared} == SHARED
    assert {name.partition("/")[2] for name in about} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
    }


def test_what_pypi_shows_leads_somewhere(wheel):
    """
    Each link of the long description is absolute, and names a file that there is.
    """
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        about = email.message_from_bytes(archive.read(name))
    assert about["Author"] == "The txtableflip developers"
    urls = dict(url.split(", ") for url in about.get_all("Project-URL"))
    links = re.findall(r"\]\(([^)]*)\)", about.get_payload())
    assert len(links) > 20
    for link in links:
        assert link.startswith("https://"), link
        if link.startswith(urls["Source"]):
            path = link.removeprefix(urls["Source"]).partition("main/")[2]
            assert (findCheckout() / path.partition("#")[0]).exists(), link


def test_the_source_distribution_has_the_tests_and_no_cache(copy, tmp_path):
    """
    In the source distribution are the sources, the plugin and the tests, which
    need no more than it has.
    """
    with tarfile.open(build(copy, "build_sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "pyproject.toml",
        "LICENSE",
        "README.md",
        "src/txtableflip/py.typed",
        "twisted/plugins/txtableflip_plugin.py",
        "tests/conftest.py",
        "tests/apps/answering.py",
    } <= names
    caches = ("dropin.cache", ".pyc", "plugins/__init__.py", "twisted/__init__.py")
    assert [name for name in names if name.endswith(caches)] == []


def test_twistd_finds_what_the_wheel_installs(wheel, tmp_path):
    """
    With the files of the wheel where Python finds them, and nothing else of
    ours, twistd has the command, and Twisted is whole.
    """
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    libraries = [str(tmp_path), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    code = (
        "import sys, txtableflip\n"
        f"assert txtableflip.__file__.startswith({str(tmp_path)!r}), txtableflip\n"
        "from twisted.scripts.twistd import run\n"
        "sys.argv = ['twistd', '--help']\n"
        "run()\n"
    )
    # -S, so that an editable installation is not found.
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(libraries)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    commands = [line.split()[0] for line in done.stdout.splitlines() if line.strip()]
    assert {"tableflip", "web"} <= set(commands)


# -- what is installed beside the package

SHARED = {
    "man/man1/tableflip.1",
    "man/man1/twistd-tableflip.1",
    "man/man1/txtableflip.1",
    "bash-completion/completions/tableflip",
    "zsh/site-functions/_tableflip",
}


def optionsOf(parser):
    """
    Return the commands and the long options of a parser of argparse's.
    """
    for action in parser._actions:
        yield from (word for word in action.option_strings if word.startswith("--"))
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield name
                yield from optionsOf(child)


@pytest.mark.parametrize("name", sorted(SHARED))
def test_the_manual_pages_and_the_completions_have_every_option(name):
    """
    None is missing: C{make share} makes them anew.
    """
    text = (findCheckout() / "share" / name).read_text().replace("\\-", "-")
    if "twistd" in name:
        expected = {f"--{word.rstrip('=')}" for word in tap.Options().longOpt}
    elif "txtableflip" in name:
        expected = {f"--{word.rstrip('=')}" for word in run.Options().longOpt}
    else:
        expected = set(optionsOf(command._parser([])))
        assert {"upgrade", "--dry-run"} <= expected
    expected -= {"--help"}
    assert {word for word in expected if word not in text} == set()
    if name.startswith("man"):
        assert f"txtableflip {txtableflip.__version__}" in text


COMPLETE = """
source {script}
COMP_WORDS=({words}) COMP_CWORD={last}
COMPREPLY=()
complete=$(complete -p tableflip | sed 's/.*-F \\([^ ]*\\).*/\\1/')
$complete tableflip "${{COMP_WORDS[COMP_CWORD]}}"
echo "${{COMPREPLY[@]}}"
"""


@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "expected"),
    [("tableflip up", "upgrade"), ("tableflip upgrade --dr", "--dry-run --drain-timeout")],
)
def test_bash_completes(words, expected):
    """
    A command by its first letters, and an option of it.
    """
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    script = findCheckout() / "share" / "bash-completion" / "completions" / "tableflip"
    code = COMPLETE.format(script=script, words=words, last=len(words.split()) - 1)
    done = subprocess.run([bash, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == expected.split(), done.stderr
