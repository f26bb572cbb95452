"""
What systemd does with socket units: bind sockets, and start a program with them
from descriptor 3 on (sd_listen_fds(3)).

Run as C{python activate.py NAME=ADDRESS... -- COMMAND...}, where an address is a
path or a port on 127.0.0.1.
"""

import os
import socket
import sys

separator = sys.argv.index("--")
names = []
sockets = []
for argument in sys.argv[1:separator]:
    name, _, address = argument.partition("=")
    if address.isdigit():
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", int(address)))
    else:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(address)
    sock.listen(200)
    names.append(name)
    # Out of the way of the descriptors from 3 on.
    sockets.append(os.dup2(sock.fileno(), 50 + len(sockets)))
for number, fileno in enumerate(sockets):
    os.dup2(fileno, 3 + number)
    os.close(fileno)
command = sys.argv[separator + 1 :]
environment = {
    **os.environ,
    "LISTEN_PID": str(os.getpid()),
    "LISTEN_FDS": str(len(names)),
    "LISTEN_FDNAMES": ":".join(names),
}
os.execve(command[0], command, environment)
