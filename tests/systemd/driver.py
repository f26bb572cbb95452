"""
What an operator does to a unit, done; prints what came of it as JSON.

    python driver.py DIRECTORY

This runs beside a systemd of its own, see C{enter.sh}.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from processes import APPS, TWISTD, Clients, Service, ask, until
from units import journal

from txtableflip.testing._service import isAlive

PORT = 8080  # nobody else is in this network
UNIT = """
[Service]
Type=forking
PIDFile={directory}/twistd.pid
WorkingDirectory={directory}
Environment=ENDPOINTS=tableflip:tcp:{port}:interface=127.0.0.1
Environment=RELEASE_FILE={directory}/release.py {mark}
ExecStart={twistd} --pidfile={directory}/twistd.pid tableflip {options} --app {app}
ExecReload={tableflip} upgrade $MAINPID
Restart=always
KillMode=control-group
"""


def systemctl(*words):
    done = subprocess.run(
        ["systemctl", "--user", *words], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or done.stderr.strip()


def show(name):
    return systemctl("show", "--property", name, "--value", "web")


def mainIs(service):
    """
    Wait until the main process is that which the pid file names.
    """
    until(lambda: show("MainPID") == str(service.pid), "the main process to be the new one")


def main(directory):
    service = Service(directory)
    unit = UNIT.format(
        directory=directory,
        port=PORT,
        mark=service.mark,
        twistd=TWISTD,
        tableflip=Path(TWISTD).with_name("tableflip"),
        options="--drain-timeout 5 --probation 1",
        app=APPS / "answering.py",
    )
    (Path(directory) / "units" / "web.service").write_text(unit)
    told = {}
    systemctl("daemon-reload")
    told["start"] = systemctl("start", "web")
    service.waitFor("generation 1 serves")
    mainIs(service)
    with Clients(("127.0.0.1", PORT), 4) as clients:
        for number in (2, 3):
            old = service.pid
            service.release(f"name = '{number}'")
            told[f"reload {number}"] = systemctl("reload", "web")
            # It has waited until that was final.
            told[f"replaced by {number}"] = service.pid != old
            until(lambda old=old: not isAlive(old), "the end of the old process")
            mainIs(service)
            clients.waitForMore()
        service.release("raise ValueError('bad release')")
        serving = service.pid
        told["failing reload"] = systemctl("reload", "web").splitlines()[0]
        reason = "ValueError: bad release"
        until(lambda: reason in journal(), journal)
        told["after a failing reload"] = [show("ActiveState"), service.pid == serving]
        clients.waitForMore()
    told["failures"] = clients.failures
    told["generations"] = sorted(clients.generations)
    service.release("name = 'again'")
    os.kill(service.pid, signal.SIGKILL)
    until(lambda: show("NRestarts") == "1" and show("ActiveState") == "active", "a restart")
    until(lambda: ask(("127.0.0.1", PORT)) == ("again", 1), "an answer after the restart")
    told["stop"] = systemctl("stop", "web")
    told["after the stop"] = [show("ActiveState"), show("Result"), service.processes()]
    sys.stdout.write(json.dumps(told))


main(sys.argv[1])
