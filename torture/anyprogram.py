"""
Programs of others that have a command of their own, as PyPI has them, under
C{python -m txtableflip --inherit-all}: none is changed, and none knows of us.

    make torture                            # or: python torture/anyprogram.py

Each is installed into its own virtual environment, which is kept in the system's directory
for temporary files: the first run takes some minutes more.
"""

import argparse
import os
import pickle
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from txtableflip.testing import Exchange, Http, Torture
from txtableflip.testing._service import freePort

HERE = Path(__file__).parent
OPTIONS = ("--inherit-all", "--probation", "0", "--pidfile", "served.pid")
CARBON = """
[cache]
LINE_RECEIVER_INTERFACE = 127.0.0.1
LINE_RECEIVER_PORT = {line}
PICKLE_RECEIVER_INTERFACE = 127.0.0.1
PICKLE_RECEIVER_PORT = {pickle}
CACHE_QUERY_INTERFACE = 127.0.0.1
CACHE_QUERY_PORT = {port}
LOCAL_DATA_DIR = {directory}/whisper
"""
SCHEMAS = "[all]\npattern = .*\nretentions = 60s:1d\n"


def scrapyd(directory, python, port):
    """
    It runs twistd inside, and calls the reactor's methods.
    """
    (directory / "scrapyd.conf").write_text(f"[scrapyd]\nhttp_port = {port}\n")
    question = Http("/daemonstatus.json", expect='"status": "ok"')
    return ["scrapyd"], question


def synapse(directory, python, port):
    """
    It calls the reactor's methods when it has its database, and handles SIGHUP itself.
    """
    configuration = directory / "homeserver.yaml"
    made = (
        *(python, "-m", "synapse.app.homeserver", "--server-name", "localhost"),
        *("--config-path", configuration, "--generate-config", "--report-stats=no"),
    )
    subprocess.run(made, cwd=directory, check=True, stdout=subprocess.DEVNULL)
    text = configuration.read_text()
    configuration.write_text(text.replace("port: 8008", f"port: {port}"))
    question = Http("/_matrix/client/versions", expect="versions")
    return ["synapse_homeserver", "-c", str(configuration)], question


def carbon(directory, python, port):
    """
    It runs twistd inside, and makes sockets itself that the reactor adopts.
    """
    for name in ("conf", "storage/log", "whisper"):
        (directory / name).mkdir(parents=True)
    found = {"port": port, "line": freePort(), "pickle": freePort(), "directory": directory}
    (directory / "conf" / "carbon.conf").write_text(CARBON.format(**found))
    (directory / "conf" / "storage-schemas.conf").write_text(SCHEMAS)
    asked = pickle.dumps({"type": "cache-query", "metric": "a.b"}, protocol=2)
    # The length comes first, and the answer, pickled as well, ends with a full stop.
    question = Exchange(struct.pack(">L", len(asked)) + asked, r"(?s).{4,}datapoints.*\.")
    return ["carbon-cache.py", "--nodaemon", "start"], question


def daphne(directory, python, port):
    """
    It installs the reactor of its choice, and its option for a port names no endpoint.
    """
    shutil.copy(HERE / "hello.py", directory)
    return ["daphne", "-p", str(port), "hello:application"], Http(expect="Hello")


def tahoe(directory, python, port):
    """
    It runs twistd inside, in another directory, and does not start if its own pid file
    names a living process: see L{BEFORE}.
    """
    program = os.path.join(os.path.dirname(python), "tahoe")
    made = ("create-client", "--hide-ip", f"--webport=tcp:{port}:interface=127.0.0.1", "node")
    subprocess.run([program, *made], cwd=directory, check=True, stdout=subprocess.DEVNULL)
    # Otherwise it exits at once if its standard input is not a terminal.
    words = ["tahoe", "run", "--allow-stdin-close", "node"]
    return words, Http("/statistics", expect="Tahoe-LAFS")


BEFORE = {"tahoe": "rm -f node/running.process"}
"""
Commands to run before a program starts, the next version included.
"""


def startedBy(directory, before, ours, words):
    """
    @return: the command line of a script that runs those commands and becomes the program;
        an upgrade starts it, too.
    """
    command = ["sh", "start.sh"]
    line = shlex.join([*ours, "--command", shlex.join(command), "--", *words])
    (directory / "start.sh").write_text(f"{before}\nexec {line}\n")
    return command


PROGRAMS = {
    "scrapyd": (scrapyd, ["scrapyd"]),
    "matrix-synapse": (synapse, ["matrix-synapse"]),
    "carbon-cache": (carbon, ["carbon", "whisper"]),
    "daphne": (daphne, ["daphne"]),
    "tahoe": (tahoe, ["tahoe-lafs"]),
}


def environmentOf(name, packages):
    """
    @return: the Python of a virtual environment with these packages, and with ours.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    root = Path(tempfile.gettempdir()) / f"txtableflip-programs-{os.getuid()}-{version}" / name
    python = root / "bin" / "python"
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    if not (root / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", root], check=True)
        subprocess.run([*pip, *packages], check=True)
        (root / "complete").touch()
    # It may have been made from another checkout.
    subprocess.run([*pip, "--editable", str(HERE.parent)], check=True)
    return str(python)


def torture(name, upgrades):
    """
    @return: whether no client could tell.
    """
    make, packages = PROGRAMS[name]
    python = environmentOf(name, packages)
    with tempfile.TemporaryDirectory(prefix=f"txtableflip-{name}-") as text:
        directory, port = Path(text), freePort()
        words, question = make(directory, python, port)
        ours = [python, "-m", "txtableflip", *OPTIONS]
        started = [*ours, "--", *words]
        if name in BEFORE:
            started = startedBy(directory, BEFORE[name], ours, words)
        command = ["env", "-C", text, f"GRAPHITE_ROOT={text}", *started]
        report = Torture(command, question, upgrades=upgrades, port=port).run()
    print(f"{name:14}  {report.summary()}", flush=True)
    for failure in report.failures[:20]:
        print(f"    {failure}")
    return not report.failures


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--upgrades", type=int, default=5, help="of each (default: 5)")
    parser.add_argument("program", nargs="*", help=", ".join(PROGRAMS))
    options = parser.parse_args()
    # What would end this process must end the service, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    outcomes = [torture(name, options.upgrades) for name in options.program or PROGRAMS]
    sys.exit(0 if all(outcomes) else 1)


if __name__ == "__main__":
    main()
