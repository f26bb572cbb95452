"""
Command lines, as twistd reads them.
"""

import getopt

from twisted.scripts._twistd_unix import ServerOptions

FOREGROUND = ["--nodaemon", "--pidfile=", "--originalname"]
"""
What a successor's command line gets, so that it does not become a daemon.
"""

OPTIONS = ServerOptions()


def parse(arguments):
    """
    Parse arguments as twistd does, without carrying anything out.
    """
    return getopt.getopt(list(arguments), OPTIONS.shortOpt, OPTIONS.longOpt)


def atOnce(arguments):
    """
    Have the upgrades of a command line be final as soon as the new process serves,
    if that is its to say, and it says nothing of it.
    """
    words = list(arguments)
    if "tableflip" in words and "--probation" not in words:
        words.insert(words.index("tableflip") + 1, "--probation=0")
    return words
