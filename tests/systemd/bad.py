"""
Bad releases of a service under tableflip run, under systemd; prints what came of each as
JSON.

    python bad.py DIRECTORY
"""

import json
import os
import socket
import sys
from pathlib import Path

from kept import ADDRESS, Kept
from units import BAD, OTHER, Clients, ask, journal, until

NOBODY = 65534
UNREADABLE = OTHER.format("tableflip:ssl:0:privateKey=key.pem")
KINDS = {**BAD, "key": (UNREADABLE, "Permission denied", "initialise")}
"""
The key is there, and belongs to another user.
"""

ORDINARY = "CapabilityBoundingSet=~CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH"
"""
What makes root a user like any other, as far as files are concerned.
"""

STATES = ("ActiveState", "SubState", "Result", "ReloadResult")


def reload(unit, kind, taken):
    """
    Deploy a bad release, and return what the operator sees, and who serves.
    """
    code, reason, phase = KINDS[kind]
    unit.release(code.format(taken=taken))
    variables = Path(unit.directory) / "env"
    variables.write_text("nonsense\n" if kind == "environment" else "A=b\n")
    keeper, before = unit.mainPid, len(journal())
    status = unit.act("reload")
    until(lambda: reason in journal()[before:], journal)
    text = unit.show("StatusText")
    isTold = text.startswith("upgrade failed: ") and reason in text
    isWhere = f"(phase: {phase}); the old one keeps serving" in text
    states = [unit.show(name) for name in STATES]
    return [
        status,
        states,
        isTold and isWhere,
        unit.mainPid == keeper,
        list(ask(ADDRESS)),
        text,
    ]


def main(directory):
    key = Path(directory) / "key.pem"
    key.write_text("secret")
    key.chmod(0o600)
    os.chown(key, NOBODY, NOBODY)
    (Path(directory) / "env").write_text("A=b\n")
    more = {"options": "--env-file env", "more": ORDINARY}
    unit = Kept(directory, **more)
    told = {"start": unit.act("start")}
    with socket.create_server(("0.0.0.0", 0)) as sock, Clients(ADDRESS, 2) as clients:
        taken = sock.getsockname()[1]
        for kind in KINDS.keys() - {"hang"}:
            told[kind] = reload(unit, kind, taken)
        clients.waitForMore()
        unit.release("name = 'good'")
        (Path(directory) / "env").write_text("A=b\n")
        told["good"] = [unit.act("reload"), unit.show("StatusText"), unit.show("ReloadResult")]
        until(lambda: "good" in clients.releases, "an answer of the good one")
    told["failures"] = clients.failures
    unit.act("stop")
    unit.release("name = '1'")
    more["options"] += " --upgrade-timeout 3"
    unit = Kept(directory, **more)
    unit.act("start")
    told["hang"] = reload(unit, "hang", 0)
    sys.stdout.write(json.dumps(told))


main(sys.argv[1])
