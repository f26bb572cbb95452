"""
What a service manager does with its store: starts a program with what is there, from
descriptor 3 on (sd_listen_fds(3)).

Run as C{python passed.py NAME=NUMBER... -- COMMAND...}, with descriptors of ours by
their numbers.
"""

import fcntl
import os
import sys

separator = sys.argv.index("--")
passed = [argument.partition("=") for argument in sys.argv[1:separator]]
# Out of the way of the descriptors from 3 on.
moved = [fcntl.fcntl(int(number), fcntl.F_DUPFD_CLOEXEC, 500) for _, _, number in passed]
for _, _, number in passed:
    os.close(int(number))
for number, fileno in enumerate(moved, 3):
    os.dup2(fileno, number)
if passed:
    os.environ["LISTEN_PID"] = str(os.getpid())
    os.environ["LISTEN_FDS"] = str(len(passed))
    os.environ["LISTEN_FDNAMES"] = ":".join(name for name, _, _ in passed)
command = sys.argv[separator + 1 :]
os.execv(command[0], command)
