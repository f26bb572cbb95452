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
