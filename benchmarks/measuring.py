"""
What the benchmarks have in common: no benchmark itself.
"""

import argparse
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.metadata import version

from txtableflip.testing._service import isAlive

DEADLINE = 60.0


def commandLine(text):
    """
    @param text: the docstring of a benchmark, whose first sentence describes it.

    @return: a parser of the benchmark's options.
    """
    return argparse.ArgumentParser(description=text.split("\n\n")[0].strip())


def endProperly():
    """
    From now on SIGTERM does what Ctrl-C does: everything that was started is terminated,
    too.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def allowDescriptors():
    """
    Allow this process, and all that it starts, more open files than usual.
    """
    highest = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(highest, 20_000), highest))


def waitForEnd(pid):
    """
    Wait until a process has exited.
    """
    end = time.monotonic() + DEADLINE
    while isAlive(pid):
        if time.monotonic() > end:
            sys.exit(f"process {pid} did not end within {DEADLINE:g} s")
        time.sleep(0.005)


@contextmanager
def server(code, *arguments):
    """
    Run a service that prints the number of its port, and terminate all of its processes.

    @return: its first process, and the port.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process, int(process.stdout.readline())
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def versions():
    ours = ", ".join(f"{name} {version(name)}" for name in ("txtableflip", "twisted"))
    return f"Python {platform.python_version()}, {ours}"


def showHead(count, subject=""):
    """
    Print what was used, and the titles of the columns that L{show} prints.
    """
    print(f"{count}; {versions()}")
    print(f"{subject:55}  median     (least to most)")


def show(what, values, unit="", digits=2):
    middle, least, most = (
        f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values))
    )
    print(f"{what:55}{middle:>8} {unit:2}  ({least} to {most})")
