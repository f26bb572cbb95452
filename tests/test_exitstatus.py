"""
The exit status of a process that could not do what it was started for.
"""

import subprocess
import sys

import pytest
from processes import DEADLINE

FAILING = """
import atexit, logging, sys
atexit.register(print, "before")
from txtableflip._launch import exitstatus
atexit.register(print, "behind")
logging.basicConfig()
logging.warning("logged")
if sys.argv[2] == "fail":
    exitstatus.fail()
    exitstatus.fail()
sys.stdout.write("written\\n")
exec(sys.argv[1])
"""


@pytest.mark.process
@pytest.mark.parametrize(
    "ends", ["", "sys.exit()", "sys.exit(0)", "sys.exit(4)", "sys.stdout.close()"]
)
def test_a_process_that_has_failed_exits_with_status_1_however_it_ends(ends):
    """
    All that it has written is there.
    """
    done = subprocess.run(
        [sys.executable, "-c", FAILING, ends, "fail"],
        capture_output=True,
        timeout=DEADLINE,
        check=False,
        text=True,
    )
    assert done.returncode == 1
    assert "logged" in done.stderr
    if "close" not in ends:
        assert done.stdout == "written\nbehind\n"


@pytest.mark.process
@pytest.mark.parametrize(("ends", "status"), [("", 0), ("sys.exit(4)", 4)])
def test_a_process_that_has_not_failed_exits_as_it_does(ends, status):
    """
    To have the module is not to fail.
    """
    command = [sys.executable, "-c", FAILING, ends, ""]
    done = subprocess.run(
        command, capture_output=True, timeout=DEADLINE, check=False, text=True
    )
    assert done.returncode == status
    assert done.stdout == "written\nbehind\nbefore\n"
