"""
Rollouts to some machines behind HAProxy; prints what came of them as JSON.

    python driver.py DIRECTORY

This runs beside the machines, see C{enter.sh}.
"""

import json
import os
import re
import signal
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from processes import Clients, until

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent
NUMBERS = {f"web{number}": number for number in range(1, 5)}
BALANCER = ("127.0.0.1", 8000)
HAPROXY = """
defaults
    mode http
    # Nothing is hidden from the clients.
    retries 0
    timeout connect 10s
    timeout client 60s
    timeout server 60s

frontend front
    bind 127.0.0.1:8000
    default_backend web

backend web
    http-response set-header X-Served-By %s
"""


def address(machine):
    return f"10.77.0.1{NUMBERS[machine]}", 8080


def get(address, question="", wrap=None):
    """
    @return: the release that has answered, and on which machine, if the balancer says so.
    """
    connection = HTTPConnection(*address, timeout=20)
    connection.request("GET", "/")
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    assert answer.status == 200, (answer.status, body)
    return re.match("release (.*), gen", body)[1], answer.getheader("X-Served-By")


class Fleet:
    def __init__(self, directory):
        self.directory = Path(directory)

    def release(self, name, code=None):
        """
        Put a release where rollouts take it from.
        """
        web = (ROOT / "examples" / "web.py").read_text()
        code = code or web.replace('RELEASE = "1"', f'RELEASE = "{name}"')
        directory = self.directory / "releases" / name
        directory.mkdir(parents=True)
        (directory / "myapp.py").write_text(code)

    def rollout(self, name):
        """
        @return: the exit status of the playbook, and what it has printed.
        """
        start = [
            "/srv/myapp/venv/bin/twistd",
            "--pidfile=/srv/myapp/twistd.pid",
            "--logfile=/srv/myapp/twistd.log",
            *["tableflip", "--probation=1", "--directory=/srv/myapp/current", "--app=myapp"],
        ]
        variables = {
            "tableflip_release": name,
            "tableflip_source": str(self.directory / "releases" / name),
            "tableflip_start": start,
        }
        done = subprocess.run(
            [BIN / "ansible-playbook", "-v", "rollout.yml", "-e", json.dumps(variables)],
            # Not in the directory: the path of a socket must be short.
            env={
                **os.environ,
                "ANSIBLE_HOME": "/run/ansible",
                "ANSIBLE_INVENTORY": str(self.directory / "inventory.ini"),
            },
            cwd=ROOT / "examples" / "fleet",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        sys.stderr.write(done.stdout)
        return done.returncode, done.stdout

    def state(self):
        """
        @return: for each machine, the release that serves, and the one that the link leads to.
        """
        return {
            machine: [get(address(machine))[0], os.path.basename(self._link(machine))]
            for machine in NUMBERS
        }

    def _link(self, machine):
        return os.readlink(f"/proc/{self._first(machine)}/root/srv/myapp/current")

    def _first(self, machine):
        """
        @return: the process id here of the machine's process 1.
        """
        pid = (self.directory / machine / "pid").read_text().strip()
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]

    def signalSshd(self, machine, number):
        """
        Send a signal to each sshd of a machine, also to those of open connections.
        """
        space = os.readlink(f"/proc/{self._first(machine)}/ns/pid")
        for process in Path("/proc").glob("[0-9]*"):
            try:
                isThere = os.readlink(process / "ns" / "pid") == space
                if isThere and (process / "comm").read_text() == "sshd\n":
                    os.kill(int(process.name), number)
            except (FileNotFoundError, ProcessLookupError):
                pass

    def balance(self):
        """
        Start HAProxy; it ends with the namespace.
        """
        servers = "".join(
            f"    server {name} {':'.join(map(str, address(name)))}\n" for name in NUMBERS
        )
        configuration = self.directory / "haproxy.cfg"
        configuration.write_text(HAPROXY + servers)
        subprocess.Popen(["haproxy", "-db", "-f", configuration], stdout=sys.stderr)
        until(isAnswered, "an answer through the balancer")


def isAnswered():
    try:
        return get(BALANCER)
    except ConnectionError:
        return None


def main(directory):
    fleet = Fleet(directory)
    told = {}
    for name in ("1", "2", "4"):
        fleet.release(name)
    fleet.release("3", "1 / 0\n")

    told["start"] = fleet.rollout("1")[0], fleet.state()
    fleet.balance()
    with Clients(BALANCER, 4, asking=get) as clients:
        told["good"] = fleet.rollout("2")[0], fleet.state()
        clients.waitForMore()
        told["answers"] = sorted({" on ".join(answer) for answer in clients.answers})
        status, told["bad report"] = fleet.rollout("3")
        told["bad"] = status, fleet.state()
        fleet.signalSshd("web2", signal.SIGSTOP)
        status, told["unreachable report"] = fleet.rollout("4")
        fleet.signalSshd("web2", signal.SIGCONT)
        told["unreachable"] = status, fleet.state()
        status, told["second report"] = fleet.rollout("4")
        told["second"] = status, fleet.state()
        clients.waitForMore()
    told["failures"] = clients.failures
    sys.stdout.write(json.dumps(told))


main(sys.argv[1])
