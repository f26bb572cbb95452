"""
What tableflip run costs: the memory that it has for itself, how often it runs while
nothing happens, and how long clients wait when what serves is killed.

    python benchmarks/keeper.py

Each round starts the keeper with examples/web.py under twistd tableflip, watches it idle
for a while, and kills what serves, once: from there to the next answer.  Beside it is how
long the same application takes from a cold start to its first answer.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from measuring import DEADLINE, commandLine, endProperly, show, showHead
from redeploy import TWISTD, WEB, measureStart, untilGeneration

from txtableflip.testing._service import freePort

TABLEFLIP = os.path.join(os.path.dirname(sys.executable), "tableflip")


@contextmanager
def keeper(directory, port):
    """
    Run the application below a keeper, and terminate both.
    """
    program = [TWISTD, "--nodaemon", "--pidfile=", "tableflip", "--probation=0", "--app", WEB]
    process = subprocess.Popen(
        [TABLEFLIP, "run", "--", *program],
        cwd=directory,
        env={**os.environ, "ENDPOINT": f"tcp:{port}:interface=127.0.0.1", "PWD": directory},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(DEADLINE)


def sumOf(path, pattern):
    """
    @return: the sum of the numbers that match a pattern in a file of /proc.
    """
    return sum(map(int, re.findall(pattern, Path(path).read_text(), re.MULTILINE)))


def measure(directory, seconds):
    """
    @return: MiB of memory, context switches, and seconds from the kill to an answer.
    """
    port = freePort()
    with keeper(directory, port) as pid:
        _, serving = untilGeneration(1, port)
        # What the start still does after the first answer is over by then.
        time.sleep(1.0)
        switches = sumOf(f"/proc/{pid}/status", r"ctxt_switches:\s+(\d+)")
        time.sleep(seconds)
        switches = sumOf(f"/proc/{pid}/status", r"ctxt_switches:\s+(\d+)") - switches
        memory = sumOf(f"/proc/{pid}/smaps_rollup", r"^Private_\w+:\s+(\d+)") / 1024
        os.kill(serving, signal.SIGKILL)
        gap, _ = untilGeneration(2, port)
    return memory, switches, gap


def main():
    parser = commandLine(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long it is idle")
    options = parser.parse_args()
    endProperly()
    rounds, starts = [], []
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(options.rounds):
            rounds.append(measure(directory, options.seconds))
            starts.append(measureStart(directory))
    memory, switches, gaps = zip(*rounds, strict=True)
    showHead(f"{options.rounds} rounds")
    show("private memory of the keeper", memory, "MiB")
    show(f"its context switches in {options.seconds:g} s", switches)
    show("kill of what serves to the next answer", gaps, "s")
    show("start from cold to first answer", starts, "s")


if __name__ == "__main__":
    main()
