"""
Three of the examples, and a program of others that knows nothing of txtableflip,
under torture.

    make torture                            # or: python torture/programs.py

The fourth is daphne from PyPI, serving ASGI: its command line takes endpoint strings.
Pictures and JSON go to the directory that is named by --results.
"""

import argparse
import os
import shutil
import signal
import sys
from pathlib import Path

from txtableflip.testing import Exchange, Http, Torture

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
BIN = os.path.dirname(sys.executable)
LISTEN = "tcp:{port}:interface=127.0.0.1"
TWISTD = [shutil.which("twistd", path=BIN) or "twistd", "--nodaemon", "--pidfile="]
PROGRAMS = {
    "web.py": (
        [
            "env",
            f"ENDPOINT={LISTEN}",
            *TWISTD,
            "tableflip",
            "--probation",
            "0",
            "--app",
            str(EXAMPLES / "web.py"),
        ],
        Http(expect="release 1, generation"),
    ),
    "echo.tac": (
        ["env", f"ENDPOINT={LISTEN}", *TWISTD, "-y", str(EXAMPLES / "echo.tac")],
        Exchange(b"here I am\n", "here I am\n"),
    ),
    "upgrader.py": (
        ["env", "-C", "{directory}", sys.executable, str(EXAMPLES / "upgrader.py"), LISTEN],
        Http(expect="Hello"),
    ),
    "daphne": (
        [
            *("env", "-C", str(HERE), os.path.join(BIN, "daphne")),
            *("-e", f"tableflip:{LISTEN}", "hello:application"),
        ],
        Http(expect="Hello"),
    ),
}


def torture(name, upgrades, results):
    """
    @return: whether no client could tell.
    """
    command, question = PROGRAMS[name]
    (results / name).mkdir(parents=True, exist_ok=True)
    words = [word.replace("{directory}", str(results / name)) for word in command]
    report = Torture(words, question, upgrades=upgrades).run()
    (results / f"{name}.json").write_text(report.json())
    report.picture(str(results / f"{name}.png"))
    print(f"{name:12}  {report.summary()}", flush=True)
    for failure in report.failures[:20]:
        print(f"    {failure}")
    return not report.failures


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--upgrades", type=int, default=50, help="of each (default: 50)")
    parser.add_argument("--results", type=Path, default=Path("torture-results"))
    parser.add_argument("program", nargs="*", help=", ".join(PROGRAMS))
    options = parser.parse_args()
    # What would end this process must end the service, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    results = options.results.resolve()
    names = options.program or list(PROGRAMS)
    outcomes = [torture(name, options.upgrades, results) for name in names]
    print(f"more in {results}")
    sys.exit(0 if all(outcomes) else 1)


if __name__ == "__main__":
    main()
