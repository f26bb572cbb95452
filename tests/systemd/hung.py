"""
A service whose reactor hangs, under systemd with WatchdogSec=: right under it, and under
tableflip run; prints what came of it as JSON.

    python hung.py DIRECTORY
"""

import json
import os
import socket
import sys
from pathlib import Path

from kept import ADDRESS, Kept, serving
from stored import Stored
from units import DEADLINE, Clients, journal, refused, until

from txtableflip.testing._service import isAlive

WATCHDOG = 10
HANGING = """
import time
name = '1'
def heard(line):
    if line == "hang":
        time.sleep(600)
"""


def hang(unit):
    """
    Have who serves hang under load, and return what came of it when another one serves.
    """
    unit.release(HANGING)
    unit.act("start")
    unit.untilStatus("generation 1 serves")
    main, hung = unit.mainPid, serving(unit)
    with Clients(ADDRESS, 4) as clients:
        with socket.create_connection(ADDRESS, DEADLINE) as sock:
            sock.sendall(b"hang\n")
            until(lambda: 2 in clients.generations, lambda: f"an answer:\n{unit.log[-3000:]}")
        unit.untilStatus("generation 2 serves")
    states = [unit.show(name) for name in ("ActiveState", "SubState", "Result", "NRestarts")]
    told = [states, unit.mainPid == main, isAlive(hung), refused(clients)]
    told.append(f"process {hung} hangs: killing it" in journal())
    unit.act("stop")
    return told


def main(directory):
    told = {"kept": hang(Kept(directory, more=f"WatchdogSec={WATCHDOG}"))}
    os.unlink(f"{directory}/twistd.log")
    # What is said from now on is of this one.
    told["alone"] = hang(Stored(directory, watchdog=WATCHDOG))
    told["results"] = Path(directory, "results").read_text().split()
    sys.stdout.write(json.dumps(told))


main(sys.argv[1])
