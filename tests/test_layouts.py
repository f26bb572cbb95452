"""
Wherever the new code lies, the successor runs it.
"""

import shutil
import sys
import venv
from pathlib import Path

import pytest
from processes import APPS, TWISTD, ask

import txtableflip
from txtableflip.testing._service import freePort

APPLICATION = (APPS / "answering.py").read_text()


@pytest.fixture
def port(service):
    """
    A free port, on which the service is to listen.
    """
    found = freePort()
    service.environment["ENDPOINTS"] = f"tableflip:tcp:{found}:interface=127.0.0.1"
    return found


def deploy(directory, release):
    """
    Put a release of the application into a directory.
    """
    directory.mkdir(parents=True)
    (directory / "app.py").write_text(APPLICATION)
    (directory / "release.py").write_text(f"name = '{release}'")


def link(path, target):
    """
    Make a symbolic link, or move it, in one step.
    """
    new = path.with_name(f"{path.name}.new")
    new.symlink_to(target)
    new.rename(path)


def start(service, command):
    """
    Run a shell command that starts a daemon, and wait until that serves.
    """
    done = service.run("sh", "-c", command)
    assert done.returncode == 0, done.stdout + done.stderr
    service.waitFor("generation 1 serves")


def daemon(service, *before, app="app.py"):
    """
    Return the words that start the application as a daemon, with its pid file
    and its log in the directory of the test.
    """
    where = service.directory
    options = f"--pidfile={where}/twistd.pid --logfile={where}/twistd.log"
    return f"{' '.join(before) or TWISTD} {options} tableflip --probation=0 --app {app}"


@pytest.mark.parametrize("oldOne", ["stays", "is deleted"])
def test_a_link_to_the_current_release_is_moved(service, port, oldOne):
    """
    The service was started in the directory that a link named: the successor
    runs in the one that it names now, also if the old one is gone.
    """
    releases = service.directory / "releases"
    current = service.directory / "current"
    deploy(releases / "1", "1")
    link(current, releases / "1")
    service.environment["RELEASE_FILE"] = "release.py"
    start(service, f"cd current && exec {daemon(service)}")
    assert ask(("127.0.0.1", port)) == ("1", 1)
    for generation in (2, 3):
        deploy(releases / str(generation), str(generation))
        link(current, releases / str(generation))
        if oldOne == "is deleted":
            shutil.rmtree(releases / str(generation - 1))
        service.redeploy()
        assert ask(("127.0.0.1", port)) == (str(generation), generation)


@pytest.mark.parametrize("oldOne", ["stays", "is deleted"])
def test_a_directory_that_was_given_is_looked_up_at_each_upgrade(service, port, oldOne):
    """
    Where no $PWD says by which name the directory was entered, as under systemd,
    C{--directory} does; each line of the log that tells of a start names the real one.
    """
    releases = service.directory / "releases"
    current = service.directory / "current"
    deploy(releases / "1", "1")
    link(current, releases / "1")
    service.environment["RELEASE_FILE"] = "release.py"
    app = f"app.py --directory {current}"
    start(service, f"cd -P current && unset PWD && exec {daemon(service, app=app)}")
    assert ask(("127.0.0.1", port)) == ("1", 1)
    assert f" in {releases}/1 (through {current})" in service.log
    for generation in (2, 3):
        deploy(releases / str(generation), str(generation))
        link(current, releases / str(generation))
        if oldOne == "is deleted":
            shutil.rmtree(releases / str(generation - 1))
        service.redeploy()
        assert ask(("127.0.0.1", port)) == (str(generation), generation)
        assert f" in {releases}/{generation} (through {current})" in service.log


def test_without_a_name_the_log_says_that_a_release_stays(service, port):
    """
    A service whose directory nobody has named is started again in the release that it
    was started in, and the log says so at the start.
    """
    deploy(service.directory / "releases" / "1", "1")
    link(service.directory / "current", "releases/1")
    service.environment["RELEASE_FILE"] = "release.py"
    start(service, f"cd -P current && unset PWD && exec {daemon(service)}")
    started = service.log.partition("an upgrade starts ")[2].partition("\n")[0]
    assert started.endswith(f" in {service.directory}/releases/1")


@pytest.mark.parametrize("given", ["current", "/no/such/directory"])
def test_a_directory_that_is_none_is_refused_at_the_start(service, given):
    """
    As is a relative one, which the successor would look for in itself.
    """
    (service.directory / "current").mkdir()
    done = service.run(TWISTD, "-n", "tableflip", "--directory", given, "--app", "web")
    assert done.returncode == 1
    assert "directory" in done.stdout + done.stderr
    assert given in done.stdout + done.stderr


def test_a_program_is_named_through_the_link(service, port):
    """
    The files of the application are named through a link, and the service was
    started elsewhere.
    """
    current = service.directory / "current"
    for release in ("1", "2"):
        directory = service.directory / release
        deploy(directory, release)
        beside = '__file__.replace("app.py", "release.py")'
        text = APPLICATION.replace('os.environ["RELEASE_FILE"]', beside)
        (directory / "app.py").write_text(text)
    link(current, "1")
    start(service, f"cd / && exec {daemon(service, app=current / 'app.py')}")
    assert ask(("127.0.0.1", port)) == ("1", 1)
    link(current, "2")
    service.redeploy()
    assert ask(("127.0.0.1", port)) == ("2", 2)


def environment(directory, release):
    """
    Make a virtual environment in which a release is installed, and in which
    everything else can be imported that can be here.
    """
    venv.create(directory, symlinks=True, with_pip=False)
    (packages,) = directory.glob("lib/python*/site-packages")
    ours = Path(txtableflip.__file__).parent.parent
    here = {
        str(ours),
        *(str(path) for path in map(Path, sys.path) if path.name == "site-packages"),
    }
    lines = [f"import site; site.addsitedir({path!r})\n" for path in here]
    (packages / "here.pth").write_text("".join(lines))
    install(directory, release)


def install(directory, release):
    """
    Install a release, as pip does: by files with a time of their own.
    """
    (packages,) = directory.glob("lib/python*/site-packages")
    new = packages / "deployed.py.new"
    new.write_text(
        APPLICATION.replace("RELEASE['name']", repr(f"release {release}".split()[1]))
    )
    new.rename(packages / "deployed.py")


@pytest.mark.parametrize("how", ["link moved", "made anew", "installed again"])
def test_a_virtual_environment_is_replaced(service, port, how):
    """
    The successor imports from the virtual environment as it is now: behind the
    link by which the old process was started, in the same place, or with the
    application installed again.
    """
    named = service.directory / "venv"
    first = service.directory / "venv.1" if how == "link moved" else named
    environment(first, "one")
    if how == "link moved":
        link(named, first)
    start(service, daemon(service, f"{named}/bin/python", TWISTD, app="deployed"))
    assert ask(("127.0.0.1", port)) == ("one", 1)
    if how == "link moved":
        environment(service.directory / "venv.2", "other")
        link(named, service.directory / "venv.2")
    elif how == "made anew":
        shutil.rmtree(named)
        environment(named, "other")
    else:
        install(named, "other")
    service.redeploy()
    assert ask(("127.0.0.1", port)) == ("other", 2)


def test_a_relative_program_and_another_directory_to_run_in(service, port):
    """
    Python was started by a relative path, and twistd, under a name of its own,
    then went to another directory: the successor is found by the same path.
    """
    deploy(service.directory / "here", "1")
    (service.directory / "there").mkdir()
    (service.directory / "here" / "our-twistd").symlink_to(TWISTD)
    service.environment["RELEASE_FILE"] = str(service.directory / "here" / "release.py")
    rundir = f"--rundir={service.directory}/there"
    start(service, f"cd here && exec {daemon(service, sys.executable, './our-twistd', rundir)}")
    (service.directory / "here" / "release.py").write_text("name = '2'")
    service.redeploy()
    assert ask(("127.0.0.1", port)) == ("2", 2)


def test_a_launcher_that_changes_the_directory(service, port):
    """
    A script of the shell goes to the current release and becomes the service.
    """
    deploy(service.directory / "releases" / "1", "1")
    deploy(service.directory / "releases" / "2", "2")
    current = service.directory / "current"
    link(current, "releases/1")
    launcher = service.directory / "launch"
    launcher.write_text(f"#!/bin/sh\ncd {current}\nexec {daemon(service)}\n")
    launcher.chmod(0o755)
    service.environment["RELEASE_FILE"] = "release.py"
    start(service, "./launch")
    assert ask(("127.0.0.1", port)) == ("1", 1)
    link(current, "releases/2")
    service.redeploy()
    assert ask(("127.0.0.1", port)) == ("2", 2)


def test_an_interpreter_that_is_gone_is_a_failed_upgrade(service, port):
    """
    Without its interpreter a successor cannot be started: the upgrade fails and
    names it, and the old process keeps serving until there is one again.
    """
    named = service.directory / "venv"
    environment(named, "one")
    start(service, daemon(service, f"{named}/bin/python", TWISTD, app="deployed"))
    (named / "bin").rename(service.directory / "bin")
    service.fail()
    assert f"No such file or directory: '{named}/bin/python'" in service.failures()[0]
    assert ask(("127.0.0.1", port)) == ("one", 1)
    (service.directory / "bin").rename(named / "bin")
    service.redeploy()
    assert ask(("127.0.0.1", port)) == ("one", 2)
