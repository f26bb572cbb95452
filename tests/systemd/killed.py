"""
A service under tableflip run, which is killed itself, under systemd; prints what came of
it as JSON.

    python killed.py DIRECTORY
"""

import json
import os
import signal
import sys

from kept import ADDRESS, Kept, finish, hold
from units import Clients, ask, refused, until


def kill(unit, generation):
    """
    Kill the keeper while a connection has an answer to come, and wait until this
    generation serves, of another keeper.

    @return: whether that answer has come.
    """
    held, keeper = hold(), unit.mainPid
    os.kill(keeper, signal.SIGKILL)
    until(lambda: unit.show("SubState") != "running" or unit.mainPid != keeper, "its end")
    isFinished = finish(held)
    until(lambda: unit.mainPid not in (0, keeper), "a restart")
    unit.untilStatus(f"generation {generation} serves")
    return isFinished


def withStore(unit):
    """
    Kill the keeper under load, and return what came of that, and who was refused.
    """
    unit.act("start")
    with Clients(ADDRESS, 4) as clients:
        isFinished = kill(unit, 2)
        until(lambda: 2 in clients.generations, "an answer")
    unit.act("stop")
    return [isFinished, refused(clients), unit.processes()]


def withNone(unit):
    """
    Kill the keeper, and return what came of that, and who serves.
    """
    unit.act("start")
    told = [kill(unit, 1), ask(ADDRESS)[1]]
    unit.act("stop")
    return [*told, unit.processes()]


def restart(unit):
    """
    Restart on probation, under load, and return who was refused.
    """
    unit.act("start")
    with Clients(ADDRESS, 4) as clients:
        os.kill(unit.mainPid, signal.SIGHUP)
        unit.waitFor("on probation for 60")
        unit.release("name = 'next'")
        status = unit.act("restart")
        until(lambda: "next" in clients.releases, lambda: f"an answer {clients.failures[-1:]}")
    unit.act("stop")
    return [status, refused(clients)]


def main(directory):
    told = {}
    for mode in ("control-group", "mixed"):
        told[f"{mode}, a store"] = withStore(Kept(directory, mode=mode))
        told[f"{mode}, none"] = withNone(Kept(directory, mode=mode, hasStore=False))
    told["restart"] = restart(Kept(directory, probation=60))
    sys.stdout.write(json.dumps(told))


main(sys.argv[1])
