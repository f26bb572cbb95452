"""
Releases that are bad, each in its way.
"""

LATER = """
from twisted.internet import reactor
from txtableflip import currentUpgrader
reactor.callWhenRunning(lambda: {})
"""
OTHER = "import os\nos.environ['ENDPOINTS'] += ' {}'"
BAD = {
    "import": ("import nothing_of_that_name", "No module named", "initialise"),
    "value": ("raise ValueError('a bad value')", "ValueError: a bad value", "initialise"),
    "usage": (
        "from twisted.python.usage import UsageError\nraise UsageError('no such thing')",
        "no such thing",
        "initialise",
    ),
    "exit": ("raise SystemExit(0)", "exited with status 0", "initialise"),
    "hang": ("import time; time.sleep(600)", "was not ready after", "initialise"),
    "refuse": (
        LATER.format("currentUpgrader().refuse(ValueError('not today'))"),
        "refused to take over: not today",
        "initialise",
    ),
    "listen": (OTHER.format("tableflip:tcp:{taken}"), "in use", "initialise"),
    "killed": ("import os; os.kill(os.getpid(), 9)", "SIGKILL", "initialise"),
    "key": (
        OTHER.format("tableflip:ssl:0:privateKey=release.py"),
        "SSL",
        "initialise",
    ),
    "environment": ("name = '2'", "env, line 1: write NAME=value", "start"),
}
"""
What a bad release does, what is said of it, and how far it comes.
"""
