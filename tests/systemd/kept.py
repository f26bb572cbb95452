"""
A service under tableflip run, under systemd; prints what came of it as JSON.

    python kept.py DIRECTORY
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys

from units import APPS, DEADLINE, PORT, TWISTD, Clients, Unit, ask, refused, until

ADDRESS = ("127.0.0.1", PORT)
UNIT = """
[Service]
Type=notify
WorkingDirectory={directory}
Environment="ENDPOINTS=tableflip:tcp:{port}:interface=127.0.0.1 tableflip:unix:{path}"
Environment=RELEASE_FILE={directory}/release.py {mark}
ExecStart={tableflip} run --forward-store -- {twistd} --nodaemon --pidfile= \
    --logfile=twistd.log tableflip --probation {probation} --app {app}
ExecReload={tableflip} upgrade $MAINPID
Restart=always
KillMode={mode}
FileDescriptorStoreMax=8
"""


class Kept(Unit):
    def __init__(self, directory, **values):
        self.path = f"{directory}/s.sock"
        bin_ = os.path.dirname(sys.executable)
        super().__init__(
            directory,
            UNIT,
            port=PORT,
            path=self.path,
            tableflip=shutil.which("tableflip", path=bin_),
            twistd=TWISTD,
            app=APPS / "answering.py",
            **values,
        )

    def stopWith(self, held):
        """
        Stop while a connection has an answer to come, and return what came of both.
        """
        held.sendall(b"stay\n")
        first = held.recv(99)
        stopping = subprocess.Popen(["systemctl", "--user", "stop", "web"])
        until(lambda: not os.path.exists(self.path), "the end of listening")
        held.sendall(b"bye\n")
        last = held.recv(99)
        status = stopping.wait(DEADLINE)
        left = self.processes()
        return [bool(first), bool(last), status, self.show("Result"), left]


def upgrades(unit, told):
    """
    Good releases and a bad one; all that may be killed is; and a restart.
    """
    keeper = unit.mainPid
    with Clients(ADDRESS, 4) as clients:
        for number in (2, 3):
            unit.release(f"name = '{number}'")
            told[f"reload {number}"] = unit.act("reload")
            told[f"status {number}"] = unit.show("StatusText")
        unit.release("raise ValueError('bad release')")
        told["bad reload"] = unit.act("reload")
        told["why"] = unit.show("StatusText")
        states = ("ActiveState", "SubState", "Result", "ReloadResult")
        told["after a bad reload"] = [unit.show(name) for name in states]
        clients.waitForMore()
    told["failures"] = clients.failures
    unit.release("name = '4'")
    with Clients(ADDRESS, 4) as clients:
        os.kill(serving(unit), signal.SIGKILL)
        until(lambda: 4 in clients.generations, lambda: f"its answers\n{unit.log[-3000:]}")
        told["same main process"] = [unit.mainPid == keeper, unit.show("NRestarts")]
        told["restart"] = unit.act("restart")
        until(lambda: 5 in clients.generations, lambda: f"its answers\n{unit.log[-3000:]}")
        told["path"] = ask(unit.path)
        os.kill(unit.mainPid, signal.SIGKILL)
        until(lambda: 6 in clients.generations, lambda: f"its answers\n{unit.log[-3000:]}")
        told["after the keeper"] = unit.show("NRestarts")
    told["refused"] = refused(clients)


def serving(unit):
    """
    Return the process that answers.
    """
    with socket.create_connection(ADDRESS, DEADLINE) as sock:
        sock.sendall(b"x\n")
        return int(sock.recv(99).split()[3])


def main(directory):
    told = {}
    unit = Kept(directory, probation=0.1, mode="control-group")
    told["start"] = unit.act("start")
    told["status"] = unit.show("StatusText")
    upgrades(unit, told)
    for name, mode, probation in (
        ("control-group", "control-group", 0),
        ("mixed", "mixed", 0),
        ("on probation", "control-group", 60),
    ):
        unit = Kept(directory, probation=probation, mode=mode)
        if unit.show("ActiveState") != "active":
            unit.act("start")
        if probation:
            os.kill(unit.mainPid, signal.SIGHUP)
            unit.waitFor("on probation for 60")
        with socket.create_connection(ADDRESS, DEADLINE) as held:
            told[name] = unit.stopWith(held)
    sys.stdout.write(json.dumps(told))


main(sys.argv[1])
