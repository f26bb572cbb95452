"""
A service right under systemd, which stores its sockets; prints what came of it as JSON.

    python stored.py DIRECTORY
"""

import json
import os
import signal
import sys

from units import APPS, PORT, TWISTD, Clients, Unit, ask, refused, until

UNIT = """
[Service]
Type=notify
WorkingDirectory={directory}
Environment="ENDPOINTS=tableflip:tcp:{port}:interface=127.0.0.1 tableflip:unix:{path}"
Environment=RELEASE_FILE={directory}/release.py {mark}
ExecStart={twistd} --nodaemon --pidfile= --logfile=twistd.log tableflip --app {app}
Restart=always
WatchdogSec=60
FileDescriptorStoreMax=5
Environment=FDSTORE=5
"""


def main(directory):
    path = f"{directory}/s.sock"
    values = {"port": PORT, "path": path, "twistd": TWISTD, "app": APPS / "answering.py"}
    unit = Unit(directory, UNIT, **values)
    told = {"start": unit.act("start")}
    unit.untilStatus("generation 1 serves")
    address = ("127.0.0.1", PORT)
    with Clients(address, 4) as tcp:
        with Clients(path, 2) as unix:
            os.kill(unit.mainPid, signal.SIGKILL)
            unit.untilStatus("generation 2 serves")
            until(lambda: 2 in tcp.generations and 2 in unix.generations, "its answers")
        told["killed"] = [unit.show("NRestarts"), len(unix.failures) <= 2]
        told["refused"] = refused(tcp, unix)
        told["restart"] = unit.act("restart")
        unit.untilStatus("generation 3 serves")
        until(lambda: 3 in tcp.generations, "its answers")
        told["path"] = ask(path)
    told["refused at a restart"] = refused(tcp)
    until(lambda: unit.show("NFileDescriptorStore") == "4", "two sockets, counters, list")
    told["stop"] = unit.act("stop")
    told["after the stop"] = [unit.show("ActiveState"), unit.show("Result")]
    told["left"] = [os.path.exists(path), unit.processes()]
    told["start again"] = unit.act("start")
    told["afresh"] = ask(address)
    sys.stdout.write(json.dumps(told))


main(sys.argv[1])
