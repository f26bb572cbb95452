"""
All benchmarks, one after another, and a report of them with the machine it is of.

    make bench                              # or: python benchmarks/report.py

The report is benchmarks/REPORT.md, and is printed, too.  It is written when all benchmarks
have succeeded: if one fails, the previous report stays as it is.
"""

import os
import platform
import re
import subprocess
import sys
import textwrap
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from measuring import DEADLINE, commandLine, endProperly, versions

HERE = Path(__file__).parent
LONGEST = 1200.0
"""
How many seconds a benchmark may take.
"""

INTRODUCTION = """\
# Benchmarks

Made by `{}`. What counts is the ratios: the times are this machine's.
Each figure is a median, with the least and the most.

"""


class Benchmark(NamedTuple):
    """
    @ivar meaning: what is measured, and how to read it.
    @ivar quick: the options for few rounds.
    """

    title: str
    script: str
    quick: str
    meaning: str


BENCHMARKS = (
    Benchmark(
        "Hand-over against cold start",
        "redeploy.py",
        "--pairs 1",
        "The seconds from SIGHUP to the first answer of the new process, divided by those"
        " from the start of the same application to its first answer: at 1, an upgrade takes"
        " as long as a start.",
    ),
    Benchmark(
        "Answers",
        "answers.py",
        "--rounds 1",
        "The seconds that `tableflip status` and `tableflip upgrade` take from their start to"
        " their end, and what of the latter is not the upgrade itself, which takes as long as"
        " the new process to start: at most 0.3 on an idle machine.",
    ),
    Benchmark(
        "Cost per descriptor",
        "descriptors.py",
        "--rounds 1",
        "How much longer an upgrade takes with hundreds and thousands of inherited"
        " descriptors than with 4: *for each* is what a single one adds.",
    ),
    Benchmark(
        "Start of a child with many descriptors open",
        "spawn.py",
        "--rounds 1 --descriptors 100",
        "For how long the call that starts a child keeps the reactor from all else, with as"
        " many descriptors open as a busy server has, divided by that with few; and how much"
        " longer `reactor.spawnProcess` takes, which lists them all.",
    ),
    Benchmark(
        "Accept gap",
        "gap.py",
        "--upgrades 1",
        "The longest that a connection waited for its answer around the switch, divided by"
        " the longest in as long a window of steady state right before, and by the longest"
        " while the new process was starting: at 1, clients cannot tell; what the last line"
        " says is chance.",
    ),
    Benchmark(
        "Drain of thousands",
        "drain.py",
        "--rounds 1 --connections 100 --http2 20",
        "The longest that a connection waited for its answer while its process drained it and"
        " thousands of others, divided by the longest in as long a window of steady state right"
        " before: at 1, a client cannot tell. And the share of a processor that a process takes"
        " while idle connections of HTTP/2 drain.",
    ),
    Benchmark(
        "Migration",
        "migration.py",
        "--rounds 1 --talking 100 --idle 100",
        "For how long nobody reads a connection, from when the old process leaves its protocol"
        " until another one goes on with it in the new process; and what a whole hand-over"
        " takes, divided by the number of connections.",
    ),
    Benchmark(
        "Throughput, latency and memory against plain tcp:",
        "traffic.py",
        "--rounds 1 --requests 10",
        "What requests at a `tableflip:tcp:` endpoint take, divided by what the same requests"
        " take at a plain `tcp:` endpoint of the same process, and so for the memory of a"
        " connection: at 1, it costs nothing.",
    ),
    Benchmark(
        "One process id",
        "keeper.py",
        "--rounds 1 --seconds 0.5",
        "The memory that `tableflip run` has for itself, how often it runs while nothing"
        " happens, and how long clients wait when what serves is killed, beside a start from"
        " cold: nobody is refused meanwhile.",
    ),
)


def firstMatch(path, pattern):
    """
    @return: the first match of a pattern in a file of /proc, or None: not all machines
        have all lines.
    """
    found = re.search(pattern, Path(path).read_text(), re.MULTILINE)
    return found and found[1]


def describeMachine():
    """
    @return: when and on what this is run, as lines of Markdown.
    """
    model = firstMatch("/proc/cpuinfo", r"^model name\s*: (.*)$") or platform.machine()
    memory = int(firstMatch("/proc/meminfo", r"^MemTotal:\s*(\d+) kB$")) / 2**20
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return "\n".join(
        (
            f"- {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
            f"- {len(os.sched_getaffinity(0))} processors: {model}; {memory:.1f} GiB of memory",
            f"- {platform.system()} {platform.release()}; {versions()}",
            f"- load average before: {load}",
        )
    )


def run(command):
    """
    Run a benchmark, and return what it prints.  It gets its own session, so that a signal
    to stop reaches only us, and it is told once.
    """
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    with process:
        try:
            output, _ = process.communicate(timeout=LONGEST)
        except BaseException:
            process.terminate()
            process.wait(DEADLINE)
            raise
    if process.returncode != 0:
        sys.exit(f"{command[1]} ended with status {process.returncode}:\n{output}")
    return output


def section(benchmark, isQuick):
    """
    Run a benchmark, and return what the report says of it.
    """
    options = benchmark.quick.split() if isQuick else []
    output = run([sys.executable, str(HERE / benchmark.script), *options])
    shown = " ".join(["python", f"benchmarks/{benchmark.script}", *options])
    meaning = textwrap.fill(benchmark.meaning, 96)
    return f"\n## {benchmark.title}\n\n{meaning}\n\n```\n$ {shown}\n{output.rstrip()}\n```"


def main():
    parser = commandLine(__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a round of each, to see that all works"
    )
    parser.add_argument(
        "--report",
        type=Path,
        help="where to write it (default: benchmarks/REPORT.md, with --quick nowhere)",
    )
    options = parser.parse_args()
    path = options.report or (None if options.quick else HERE / "REPORT.md")
    endProperly()
    command = "python benchmarks/report.py --quick" if options.quick else "make bench"
    parts = [INTRODUCTION.format(command) + describeMachine()]
    print(parts[0], flush=True)
    for benchmark in BENCHMARKS:
        parts.append(section(benchmark, options.quick))
        print(parts[-1], flush=True)
    if path is not None:
        path.write_text("\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
