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
ExecStart={tableflip} run {forward} -- {twistd} --nodaemon --pidfile= \
    --logfile=twistd.log tableflip --probation {probation} {options} --app {app}
ExecReload={tableflip} upgrade $MAINPID
Restart=always
KillMode={mode}
FileDescriptorStoreMax={room}
{more}
"""


class Kept(Unit):
    """
    The unit of the documents.
    """

    def __init__(
        self,
        directory,
        *,
        probation=0,
        mode="control-group",
        hasStore=True,
        options="",
        more="",
    ):
        """
        @param options: of C{twistd tableflip}.
        @param more: lines of the unit.
        """
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
            forward="--forward-store" if hasStore else "",
            room=8 if hasStore else 0,
            probation=probation,
            mode=mode,
            options=options,
            more=more,
        )

    def stopWith(self, *held):
        """
        Stop while connections have an answer to come, and return what came of all.
        """
        stopping = subprocess.Popen(["systemctl", "--user", "stop", "web"])
        until(lambda: not os.path.exists(self.path), "the end of listening")
        answered = [finish(each) for each in held]
        status = stopping.wait(DEADLINE)
        return [all(answered), status, self.show("Result"), self.processes()]


def hold():
    """
    Return a connection that stays, to whoever serves.
    """
    held = socket.create_connection(ADDRESS, DEADLINE)
    held.sendall(b"stay\n")
    assert held.recv(99)
    return held


def finish(held):
    """
    Return whether the last answer comes on such a connection.
    """
    with held:
        try:
            held.sendall(b"bye\n")
            return held.recv(99).startswith(b"bye")
        except ConnectionError:
            return False


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
    unit = Kept(directory, probation=0.1)
    told["start"] = unit.act("start")
    told["status"] = unit.show("StatusText")
    upgrades(unit, told)
    for mode in ("control-group", "mixed"):
        unit = Kept(directory, mode=mode)
        if unit.show("ActiveState") != "active":
            unit.act("start")
        told[mode] = unit.stopWith(hold())
        unit.act("start")
        older = hold()
        unit.act("reload")
        told[f"{mode}, one drains"] = unit.stopWith(older, hold())
    unit = Kept(directory, probation=60)
    unit.act("start")
    os.kill(unit.mainPid, signal.SIGHUP)
    unit.waitFor("on probation for 60")
    told["on probation"] = unit.stopWith(hold())
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1])
