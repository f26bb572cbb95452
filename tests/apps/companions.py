"""
What applications start while they initialise: a helper, a forked worker, and a thread,
each of which writes to both standard streams without a pause, and then to a file, how
often it could: C{<kind>.<pid of who started it>}.
"""

import os
import subprocess
import threading
import time
from itertools import count
from pathlib import Path

HELPER = """
n=0
while sleep 0.1 && test -d "$1" && {alive}
do echo helper && echo helper >&2 && n=$((n+1)) && echo $n >"$1/.$$" && mv "$1/.$$" "$1/$2"
done
"""


def start(directory, *, faithful=True):
    """
    Start them.

    @param directory: where they write to, as long as that is there.
    @param faithful: whether they end with this process.
    """
    ours = os.getpid()
    alive = f"kill -0 {ours} 2>/dev/null" if faithful else "true"
    script = HELPER.format(alive=alive)
    subprocess.Popen(["sh", "-c", script, "helper", str(directory), f"helper.{ours}"])
    if os.fork() == 0:
        try:
            beat(directory, f"worker.{ours}", lambda: not faithful or os.getppid() == ours)
        finally:
            os._exit(0)
    arguments = (directory, f"thread.{ours}", lambda: True)
    threading.Thread(target=beat, args=arguments, daemon=True).start()


def beat(directory, name, goesOn):
    """
    Write to what the standard streams are now, until it fails.
    """
    streams = [os.dup(1), os.dup(2)]
    path = Path(directory, name)
    for number in count(1):
        if not goesOn() or not path.parent.exists():
            break
        for stream in streams:
            os.write(stream, b"%s\n" % name.encode())
        path.with_name(f".{name}").write_text(str(number))
        path.with_name(f".{name}").rename(path)
        time.sleep(0.1)
