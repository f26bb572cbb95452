"""
The unit file of the README under a real systemd.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from broken import BAD

HERE = Path(__file__).parent / "systemd"
NAMESPACES = ["--mount", "--pid", "--fork", "--kill-child", "--net", "--ipc", "--uts"]


def inside(directory, *command):
    """
    Run a command beside a systemd of its own.
    """
    try:
        return subprocess.run(
            ["unshare", *NAMESPACES, str(HERE / "enter.sh"), str(directory), *command],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    finally:
        forgetControlGroup(directory)


def forgetControlGroup(directory):
    """
    Remove the control group of that systemd, which is empty by now.
    """
    mounts = re.findall(r"^\S+ (\S+) cgroup2 ", Path("/proc/mounts").read_text(), re.MULTILINE)
    for mount in mounts:
        for group in Path(mount).glob(f"txtableflip-{Path(directory).name}-*"):
            for path in sorted(group.glob("**/"), reverse=True):
                path.rmdir()


@pytest.fixture
def manager(tmp_path):
    """
    A directory for a systemd of its own, if one can be run here.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can make namespaces for a systemd")
    for needed in ("/usr/lib/systemd/systemd", "/usr/bin/unshare"):
        if not os.path.exists(needed):
            pytest.skip(f"there is no {needed} (Debian: apt-get install systemd util-linux)")
    if shutil.which("ip") is None:
        pytest.skip("there is no ip(8) (Debian: apt-get install iproute2)")
    done = inside(tmp_path, "systemctl", "--user", "is-system-running")
    if done.stdout.strip() not in ("running", "degraded"):
        pytest.skip(f"a systemd cannot be run here: {done.stdout[-100:]} {done.stderr[-300:]}")
    return tmp_path


def test_the_unit_survives_what_its_operator_does(manager):
    """
    Under Type=forking with a PIDFile, the main process follows two reloads that
    no client notices, and that wait until the new process serves; a reload with a bad
    release fails, has its reason in the journal, and leaves the unit active and the
    process the same; a process that is killed is replaced; and a stop ends all.
    """
    done = inside(manager, sys.executable, str(HERE / "driver.py"), str(manager))
    log = manager / "twistd.log"
    shown = done.stdout + done.stderr + (log.read_text() if log.exists() else "no log")
    assert done.returncode == 0, shown
    told = json.loads(done.stdout)
    assert told == {
        "start": "",
        "reload 2": "",
        "replaced by 2": True,
        "reload 3": "",
        "replaced by 3": True,
        "failing reload": "Job for web.service failed.",
        "after a failing reload": ["active", True],
        "failures": [],
        "generations": [1, 2, 3],
        "stop": "",
        "after the stop": ["inactive", "success", []],
    }, shown


def run(manager, script, *words):
    """
    Run a script beside a systemd of its own, and return what it tells, and what to show
    if that is not as it should be.
    """
    done = inside(manager, sys.executable, str(HERE / script), str(manager), *words)
    log = manager / "twistd.log"
    shown = done.stdout + done.stderr + (log.read_text()[-9000:] if log.exists() else "no log")
    assert done.returncode == 0, shown
    return json.loads(done.stdout), shown


def test_what_systemd_stores_refuses_nobody(manager):
    """
    Not when the process is killed, nor when the service is restarted; a UNIX path is
    reached right after that; and after a stop nothing is left.
    """
    told, shown = run(manager, "stored.py")
    assert told == {
        "start": 0,
        "killed": ["1", True],
        "refused": [],
        "restart": 0,
        "path": ["1", 3],
        "refused at a restart": [],
        "stop": 0,
        "after the stop": ["inactive", "success"],
        "left": [False, []],
        "start again": 0,
        "afresh": ["1", 1],
    }, shown


def test_the_unit_with_a_keeper_does_what_the_documents_say(manager):
    """
    A reload waits for the outcome, and fails with the reason; the main process stays the
    same, also if what serves is killed; a restart, and the end of the keeper, refuse
    nobody; and a stop cuts nothing that is under way, whomever systemd tells.
    """
    told, shown = run(manager, "kept.py")
    assert "(phase: initialise); the old one keeps serving" in told.pop("why"), shown
    drained = [True, 0, "success", []]
    assert told == {
        "start": 0,
        "status": "generation 1 serves",
        "reload 2": 0,
        "status 2": "generation 2 serves",
        "reload 3": 0,
        "status 3": "generation 3 serves",
        "bad reload": 1,
        "after a bad reload": ["active", "running", "success", "exit-code"],
        "failures": [],
        "same main process": [True, "0"],
        "restart": 0,
        "path": ["4", 5],
        "after the keeper": "1",
        "refused": [],
        "control-group": drained,
        "control-group, one drains": drained,
        "mixed": drained,
        "mixed, one drains": drained,
        "on probation": drained,
    }, shown


@pytest.mark.slow
def test_a_reload_says_of_each_bad_release_what_is_wrong(manager):
    """
    By its exit status, the status of the unit and the journal; the unit is active, and
    the old release keeps serving.  That of a good one is 0.
    """
    told, shown = run(manager, "bad.py")
    texts = {kind: told[kind].pop() for kind in BAD}
    states = ["active", "running", "success", "exit-code"]
    failed = [1, states, True, True, ["1", 1]]
    assert told == {
        "start": 0,
        **dict.fromkeys(BAD, failed),
        "good": [0, "generation 2 serves", "success"],
        "failures": [],
    }, f"{texts}\n{shown}"


def test_a_process_that_hangs_is_replaced_and_nobody_is_refused(manager):
    """
    With a keeper, its process stays the main process, and systemd sees no failure;
    without one, systemd kills the service, and starts it again with what it has stored.
    """
    told, shown = run(manager, "hung.py")
    assert told == {
        "kept": [["active", "running", "success", "0"], True, False, [], True],
        "alone": [["active", "running", "success", "1"], False, False, [], False],
        "results": ["watchdog", "success"],
    }, shown


def test_a_keeper_that_is_killed_is_started_again(manager):
    """
    With a store nobody is refused; and unless C{KillMode=mixed} kills what drains, that
    finishes.  A restart on probation refuses nobody, either.
    """
    told, shown = run(manager, "killed.py")
    assert told == {
        "control-group, a store": [True, [], []],
        "control-group, none": [True, 1, []],
        "mixed, a store": [False, [], []],
        "mixed, none": [False, 1, []],
        "restart": [0, []],
    }, shown


@pytest.mark.parametrize(
    ("tested", "document"),
    [
        ("kept.py", "README.md"),
        ("kept.py", "docs/supervisors.md"),
        ("driver.py", "docs/operating.md"),
    ],
)
def test_the_units_are_those_of_the_documents(tested, document):
    """
    What decides how systemd treats the service is the same in a document and in the
    unit that is tested.
    """
    decisive = re.compile(r"^(?:Type|PIDFile|ExecReload|Restart|KillMode)=.*$", re.MULTILINE)

    def lines(path):
        # The directories differ.
        found = decisive.findall(path.read_text().replace("{mode}", "control-group"))
        return [re.sub(r"(?<==)\S*/|[{}]", "", line) for line in found]

    wanted = lines(HERE / tested)
    assert len(wanted) >= 4
    assert lines(HERE.parent.parent / document) == wanted
