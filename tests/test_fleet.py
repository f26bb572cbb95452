"""
The Ansible role of the examples, on machines of namespaces, behind HAProxy.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "fleet"
NAMESPACES = ["--mount-proc", "--pid", "--fork", "--kill-child", "--net", "--ipc", "--uts"]
NEEDED = {
    "/usr/sbin/sshd": "openssh-server",
    "/usr/sbin/haproxy": "haproxy",
    "/usr/bin/ssh-keygen": "openssh-client",
    "/usr/bin/unshare": "util-linux",
}

ANSIBLE = Path(sys.executable).with_name("ansible-playbook")
EXAMPLE = Path(__file__).parent.parent / "examples" / "fleet"

pytestmark = pytest.mark.process


@pytest.fixture
def ansible():
    """
    The C{ansible-playbook} beside this Python.
    """
    if not ANSIBLE.exists():
        pytest.skip("there is no ansible-playbook (pip install --group torture)")
    return ANSIBLE


@pytest.fixture
def directory(tmp_path, ansible):
    """
    A directory for some machines, if such can be made here.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can make namespaces for machines")
    for needed, package in NEEDED.items():
        if not os.path.exists(needed):
            pytest.skip(f"there is no {needed} (Debian: apt-get install {package})")
    if shutil.which("ip") is None:
        pytest.skip("there is no ip(8) (Debian: apt-get install iproute2)")
    made = subprocess.run(
        ["unshare", *NAMESPACES, "ip", "link", "add", "fleet", "type", "bridge"],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"namespaces cannot be made here: {made.stderr}")
    (tmp_path / "venv").symlink_to(sys.prefix)
    return tmp_path


def test_the_playbook_is_one(ansible):
    """
    As far as Ansible itself can tell without running it.
    """
    done = subprocess.run(
        [ansible, "--syntax-check", "rollout.yml"],
        cwd=EXAMPLE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_nothing_more_begins_after_a_host_that_is_unreachable(ansible, tmp_path):
    """
    Not even if another host of its batch goes on, when Ansible itself would continue.
    """
    role = tmp_path / "roles" / "tableflip_release" / "tasks"
    role.mkdir(parents=True)
    (role / "main.yml").write_text("- ansible.builtin.ping:\n")
    shutil.copy(EXAMPLE / "rollout.yml", tmp_path)
    here = {
        "ansible_connection": "local",
        "ansible_become": False,
        "ansible_python_interpreter": sys.executable,
        "tableflip_user": "nobody",
    }
    hosts = {f"web{number}": here for number in range(1, 9)}
    # Nothing listens at port 1.
    away = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
    hosts["web3"] = here | away | {"ansible_ssh_args": ""}
    inventory = tmp_path / "inventory.json"
    inventory.write_text(json.dumps({"web": {"hosts": hosts}}))
    done = subprocess.run(
        [ansible, "--inventory", inventory, "rollout.yml"],
        env={**os.environ, "ANSIBLE_HOME": str(tmp_path / "ansible")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    # The first task, and that of the role.
    reached = re.findall(r"^(web\d) +: ok=2 ", done.stdout, re.MULTILINE)
    assert reached == ["web1", "web2"], done.stdout
    assert "fatal: [web3]: UNREACHABLE!" in done.stdout
    assert '"not begun, because of web3"' in done.stdout


@pytest.mark.slow
def test_a_release_is_rolled_out_to_a_fleet(directory):
    """
    A good release reaches every host.  A bad one stops at the first: the playbook fails and
    names host and reason, the link leads back, and other hosts are not touched.  So it
    does at a host that is unreachable, and a second run does what is left.  No client of
    the balancer notices anything of all that.
    """
    enter = [HERE / "enter.sh", directory, sys.executable, "4"]
    drive = [sys.executable, HERE / "driver.py", directory]
    done = subprocess.run(
        ["unshare", *NAMESPACES, *enter, *drive],
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    bad, unreachable, second = (
        told.pop(f"{name} report") for name in ("bad", "unreachable", "second")
    )
    hosts = ["web1", "web2", "web3", "web4"]

    def every(release):
        return {host: [release, release] for host in hosts}

    assert told == {
        "start": [0, every("1")],
        "good": [0, every("2")],
        "answers": [f"{release} on {host}" for release in "12" for host in hosts],
        "bad": [2, every("2")],
        "unreachable": [4, every("2") | {"web1": ["4", "4"]}],
        "second": [0, every("4")],
        "failures": [],
    }, done.stderr
    assert re.search(
        r'"web1: release 3: the new process \d+ exited with status 1 .*; the old one keeps '
        r'serving: ZeroDivisionError: division by zero"',
        bad,
    ), bad
    assert "[web2]" not in bad
    assert "fatal: [web2]: UNREACHABLE!" in unreachable
    assert "[web3]" not in unreachable, unreachable
    assert re.search(r"^web1 .* changed=0 ", second, re.MULTILINE), second
