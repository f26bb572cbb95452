"""
What listens through us behaves as what Twisted listens with: Twisted's own tests say so.

    make conformance                        # or: python conformance/compare.py

Runs them on plain reactors and on inheriting ones (suite.py), and ends with status 1 if
anything differs but what is listed here with its reason.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
LONGEST = 1800.0
"""
How many seconds a run may take.
"""

LEAST = 1000
"""
How many tests there are at least, so that it is noticed if none is found.
"""

_STOPPED = "it looks at the path of a port that it has stopped, where others may listen by then"
DIFFERS = {
    "test_listenFailure": "it breaks what makes sockets for Twisted's UNIX ports, not ours",
    "test_mode": _STOPPED,
    "test_listenMode": _STOPPED,
}
"""
Which tests may differ, and why.
"""


def run(how, directory):
    """
    Run the suite, and return what became of each test.
    """
    path = Path(directory) / how
    subprocess.run(
        [sys.executable, str(HERE / "suite.py"), how, str(path)], check=True, timeout=LONGEST
    )
    return json.loads(path.read_text())


def isListed(test):
    return test.rpartition(".")[2] in DIFFERS and ".test_unix.UNIX" in test


def main():
    with tempfile.TemporaryDirectory() as directory:
        plain, inheriting = (run(how, directory) for how in ("plain", "inheriting"))
    succeeded = sum(outcome == "success" for outcome in plain.values())
    if succeeded < LEAST:
        sys.exit(f"only {succeeded} of {len(plain)} tests succeed on plain reactors")
    differ = [
        test
        for test in sorted(plain.keys() | inheriting.keys())
        if plain.get(test) != inheriting.get(test)
    ]
    for test in differ:
        if not isListed(test):
            print(f"{test}\non a plain reactor: {plain.get(test)}")
            print(f"on an inheriting one: {inheriting.get(test)}\n")
    for name, reason in DIFFERS.items():
        print(f"{name} differs: {reason}")
    others = sum(not isListed(test) for test in differ)
    print(f"{succeeded} tests succeed on plain reactors; {others} differ on inheriting ones")
    sys.exit(others > 0)


if __name__ == "__main__":
    main()
