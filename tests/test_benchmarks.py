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


@pytest.mark.parametrize(
    ("script", "options", "figures"),
    [
        ("redeploy.py", ["--pairs", "1"], 3),
        ("descriptors.py", ["--rounds", "1"], 7),
        ("gap.py", ["--upgrades", "1"], 7),
        ("drain.py", ["--rounds", "1", "--connections", "100"], 3),
        ("traffic.py", ["--rounds", "1", "--requests", "10"], 7),
    ],
)
def test_benchmark(service, script, options, figures):
    """
    Each benchmark prints its figures, each with its spread.
    """
    done = service.run(sys.executable, str(BENCHMARKS / script), *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(FIGURE.findall(done.stdout)) == figures, done.stdout
    assert service.processes() == []


def test_report(service):
    """
    report.py prints what it writes: the machine, and a section for each
    benchmark with its command and its figures.
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
    assert commands == ["redeploy.py", "descriptors.py", "gap.py", "drain.py", "traffic.py"]
    assert all(FIGURE.search(each) for each in sections)
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
