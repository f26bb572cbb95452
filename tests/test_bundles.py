"""
Services that are one file, or one folder, as the tools of PyPI make them, are replaced
by the next such file.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import APPS, DEADLINE, Clients, until

import twisted
import txtableflip
from txtableflip.testing._service import freePort

BIN = Path(sys.executable).parent
PACKAGES = str(Path(twisted.__file__).parent.parent)
OURS = Path(txtableflip.__file__).parent
BUILDING = 10 * DEADLINE
UNNEEDED = [
    f"--exclude-module={name}"
    for name in (
        *("matplotlib", "numpy", "PIL", "hypothesis", "pytest", "setuptools", "tkinter"),
        *("twisted.trial", "twisted.conch", "twisted.web", "twisted.words", "twisted.mail"),
        *("cryptography", "OpenSSL", "h2", "autobahn", "txtableflip.testing"),
    )
]


def sources(directory, release):
    """
    Write the application into a directory of its own.
    """
    place = directory / f"sources.{release}"
    place.mkdir()
    text = (APPS / "bundled.py").read_text()
    (place / "bundled.py").write_text(text.replace('RELEASE = "1"', f'RELEASE = "{release}"'))
    return place


def run(*command):
    """
    Run a tool to its end.
    """
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=BUILDING, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def withPex(*options):
    """
    Return what makes a PEX, of a release and with everything that it needs.
    """

    def build(directory, release):
        place = sources(directory, release)
        shutil.copytree(OURS, place / "txtableflip")
        made = directory / f"pex.{release}"
        installed = ["--venv-repository", sys.prefix, "twisted", "-D", place]
        run(BIN / "pex", *installed, "-e", "bundled:main", "-o", made, *options)
        return made

    return build


def withShiv(directory, release):
    """
    Make a zipapp that unpacks itself, with everything in it that can be imported here.
    """
    place = sources(directory, release)
    shutil.copytree(OURS, place / "txtableflip")
    for name in (
        "twisted",
        "zope",
        "automat",
        "constantly",
        "hyperlink",
        "incremental",
        "attr",
    ):
        copyPackage(name, place)
    for name in ("idna", "typing_extensions.py", "attrs"):
        copyPackage(name, place)
    made = directory / f"shiv.{release}"
    run(BIN / "shiv", "--site-packages", place, "-e", "bundled:main", "-o", made)
    return made


def copyPackage(name, place):
    """
    Copy an installed package, or module.
    """
    installed = Path(PACKAGES) / name
    if installed.is_dir():
        shutil.copytree(installed, place / name, ignore=shutil.ignore_patterns("test"))
    elif installed.exists():
        shutil.copy(installed, place)


def withPyInstaller(form):
    """
    Return what makes a program with an interpreter in it.
    """

    def build(directory, release):
        script = sources(directory, release) / "bundled.py"
        made = directory / "dist" / release
        where = ["--distpath", made, "--workpath", directory / "work", "--specpath", directory]
        options = [form, "--log-level=ERROR", "--noconfirm", *UNNEEDED]
        run(BIN / "pyinstaller", *options, *where, script)
        return made / "bundled"

    return build


TOOLS = {
    "PEX": withPex(),
    "PEX with a virtual environment": withPex("--venv"),
    "shiv": withShiv,
}
SLOW_TOOLS = {
    "PyInstaller, one file": withPyInstaller("--onefile"),
    "PyInstaller, one folder": withPyInstaller("--onedir"),
}


@pytest.mark.parametrize(
    "tool", [*TOOLS, *(pytest.param(tool, marks=pytest.mark.slow) for tool in SLOW_TOOLS)]
)
def test_a_bundle_is_replaced_twice_by_the_one_that_is_there_then(service, tool):
    """
    The successor runs what has been put in the place of the file, or of the folder, and
    not what the old one has unpacked; and so does its own successor.
    """
    build, directory = {**TOOLS, **SLOW_TOOLS}[tool], service.directory
    port = freePort()
    service.environment.update(
        ENDPOINTS=f"tcp:{port}:interface=127.0.0.1",
        PIDFILE=str(service.pidFile),
        PEX_ROOT=str(directory / "cache"),
        SHIV_ROOT=str(directory / "cache"),
    )
    releases = [build(directory, release) for release in ("1", "2")]
    releases.append(directory / "again")
    copy = shutil.copytree if releases[0].is_dir() else shutil.copy
    copy(releases[0], releases[2])
    place = directory / "app"
    program = place / "bundled" if releases[0].is_dir() else place
    releases[0].rename(place)
    with open(directory / "twistd.log", "w") as log:
        service.start(program, stdout=log)
    # A PEX unpacks itself first, and makes a virtual environment.
    patience = 5 * DEADLINE
    until(service.pidFile.exists, lambda: f"the first generation:\n{service.log}", patience)
    with Clients(("127.0.0.1", port), 2) as clients:
        for number, release in enumerate(releases[1:], 2):
            place.rename(directory / f"old.{number}")
            release.rename(place)
            service.redeploy()
            clients.waitForMore()
    assert clients.failures == []
    assert set(clients.answers) == {("1", 1), ("2", 2), ("1", 3)}
    os.kill(service.pid, signal.SIGTERM)
