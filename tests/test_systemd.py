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
    no client notices; a reload with a bad release leaves the unit active and the
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
        "reload 3": "",
        "failing reload": "",
        "after a failing reload": ["active", True],
        "failures": [],
        "generations": [1, 2, 3],
        "stop": "",
        "after the stop": ["inactive", "success", []],
    }, shown


def test_the_unit_is_that_of_the_readme():
    """
    What decides how systemd treats the service is the same in the README and in
    the unit that is tested.
    """
    decisive = re.compile(r"^(?:Type|PIDFile|ExecReload|Restart|KillMode)=.*$", re.MULTILINE)

    def lines(path):
        found = decisive.findall(path.read_text())
        return [re.sub(r"(PIDFile=).*/", r"\1", line) for line in found]

    readme = Path(__file__).parent.parent / "README.md"
    assert lines(HERE / "driver.py") == lines(readme)
