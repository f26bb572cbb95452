"""
The benchmarks run, end with status 0, and leave nothing behind.  What they
measure is not looked at here: it is the machine's affair.
"""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import DEADLINE, until

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
FIGURE = re.compile(r"^.+ -?\d+\.\d+ .* \(-?\d+\.\d+ to -?\d+\.\d+\)$", re.MULTILINE)


FIGURES = {
    "redeploy.py": 3,
    "answers.py": 4,
    "descriptors.py": 7,
    "spawn.py": 5,
    "gap.py": 7,
    "drain.py": 4,
    "migration.py": 4,
    "traffic.py": 7,
    "keeper.py": 4,
}
"""
How many each benchmark prints.
"""


@pytest.mark.slow
def test_report(service):
    """
    report.py prints what it writes: the machine, and a section for each
    benchmark with its command and its figures, each with its spread.
    """
    path = service.directory / "REPORT.md"
    command = (sys.executable, str(BENCHMARKS / "report.py"), "--quick", "--report", str(path))
    done = service.run(*command, timeout=5 * DEADLINE)
    assert done.returncode == 0, done.stdout + done.stderr
    text = path.read_text()
    assert done.stdout == text
    head, *sections = text.split("\n## ")
    for pattern in ("^- .* UTC$", "processors: .* of memory$", "twisted", "load average"):
        assert re.search(pattern, head, re.MULTILINE), pattern
    commands = re.findall(r"^\$ python benchmarks/(\S+)", text, re.MULTILINE)
    assert commands == [*FIGURES]
    assert [len(FIGURE.findall(each)) for each in sections] == [*FIGURES.values()]
    assert service.processes() == []


def test_report_that_fails_says_so(service):
    """
    If a benchmark fails, so does the report, and the report before is kept.
    """
    copy = shutil.copytree(BENCHMARKS, service.directory / "benchmarks")
    (copy / "redeploy.py").write_text("1 / 0\n")
    (copy / "REPORT.md").write_text("the report before\n")
    done = service.run(sys.executable, "benchmarks/report.py")
    assert done.returncode != 0
    assert "ZeroDivisionError" in done.stderr
    assert "redeploy.py ended with status 1" in done.stderr
    assert (copy / "REPORT.md").read_text() == "the report before\n"
    assert service.processes() == []


def hasService(service):
    """
    Say whether a benchmark has started twistd: as twistd it is there only when
    the start is over for the benchmark, which knows then what it is to end.
    """
    commands = (Path(f"/proc/{pid}/cmdline") for pid in service.processes())
    return any(b"twistd" in path.read_bytes() for path in commands)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_report_that_is_stopped_leaves_nothing_behind(service, signum):
    """
    Control-C and SIGTERM end the report, its benchmark, and the benchmark's
    services.
    """
    report = service.start(
        *(sys.executable, str(BENCHMARKS / "report.py"), "--quick"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: hasService(service), "a service of a benchmark")
    report.send_signal(signum)
    assert report.wait(DEADLINE) != 0
    assert service.processes() == []
