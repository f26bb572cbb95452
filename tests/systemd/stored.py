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
WatchdogSec={watchdog}
ExecStopPost=/bin/sh -c 'echo $SERVICE_RESULT >> results'
FileDescriptorStoreMax=5
Environment=FDSTORE=5
"""


class Stored(Unit):
    """
    The unit of the documents.
    """

    def __init__(self, directory, watchdog=60):
        self.path = f"{directory}/s.sock"
        values = {"port": PORT, "path": self.path, "watchdog": watchdog}
        super().__init__(directory, UNIT, twistd=TWISTD, app=APPS / "answering.py", **values)


def main(directory):
    unit = Stored(directory)
    path = unit.path
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


if __name__ == "__main__":
    main(sys.argv[1])
