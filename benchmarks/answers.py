"""
How long the tableflip command takes, beside the upgrade that it asks for.

    python benchmarks/answers.py

The application is examples/web.py under twistd tableflip, without a probation. The
upgrade itself is what the process reports: from its start until it is final.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import DEADLINE, commandLine, endProperly, show, showHead, waitForEnd
from redeploy import WEB, untilGeneration

from txtableflip.testing._service import freePort

BINARIES = Path(sys.executable).parent


def timed(*command, **options):
    """
    @return: the seconds that a command takes, and what it prints.
    """
    start = time.perf_counter()
    done = subprocess.run(
        list(map(str, command)),
        **options,
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{command} ended with status {done.returncode}:\n{done.stderr.decode()}")
    return seconds, done.stdout


def measure(rounds, directory):
    """
    @return: the seconds of each round: of Python alone, of a status, of an upgrade, and
        what of that is not the upgrade itself.
    """
    port = freePort()
    environment = {**os.environ, "ENDPOINT": f"tcp:{port}:interface=127.0.0.1"}
    options = {"cwd": directory, "env": environment}
    tableflip = BINARIES / "tableflip"
    twistd = (BINARIES / "twistd", "tableflip", "--probation", "0", "--app", WEB)
    timed(*twistd, **options)
    untilGeneration(1, port)
    found = []
    try:
        for _ in range(rounds):
            old = int((directory / "twistd.pid").read_text())
            python, _ = timed(sys.executable, "-c", "pass", **options)
            asked, _ = timed(tableflip, "status", **options)
            upgraded, _ = timed(tableflip, "upgrade", **options)
            waitForEnd(old)
            _, said = timed(tableflip, "status", "--json", **options)
            last = json.loads(said)["generations"][-1]["lastUpgrade"]
            found.append((python, asked, upgraded, upgraded - last["ended"] + last["began"]))
    finally:
        timed(tableflip, "stop", **options)
    return zip(*found, strict=True)


def main():
    parser = commandLine(__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        python, asked, upgraded, besides = measure(options.rounds, Path(directory))
    showHead(f"{options.rounds} rounds")
    show("python -c pass", python, "s", 3)
    show("tableflip status", asked, "s", 3)
    show("tableflip upgrade", upgraded, "s", 3)
    show("tableflip upgrade, less the upgrade itself", besides, "s", 3)


if __name__ == "__main__":
    endProperly()
    main()
