"""
What tableflip run may have to deal with: a program that says and does, by sd_notify(3),
what a test wants.  It runs the file that its first argument names; that of a service which
is as it should be is C{serve()}.

Whoever connects sends a line of Python, and is answered by its value.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path

PORT = int(os.environ["PORT"])
LISTENER, LIST = "txtableflip-listener", "txtableflip-list-{}"
heard = []


def hear(number, frame):
    heard.append(signal.Signals(number).name)


def say(*lines, fds=(), to=None):
    """
    Tell the keeper.
    """
    address = to or os.environ["NOTIFY_SOCKET"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect("\0" + address[1:] if address[0] == "@" else address)
        data = [line if isinstance(line, bytes) else line.encode() for line in lines]
        socket.send_fds(sock, [b"\n".join(data)], fds)


def wait():
    """
    Wait until the keeper has done everything that it was told.
    """
    reading, writing = os.pipe()
    say("BARRIER=1", fds=[writing])
    os.close(writing)
    assert os.read(reading, 1) == b""
    os.close(reading)


def _stored():
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    names = os.environ["LISTEN_FDNAMES"].split(":")
    assert len(names) == int(os.environ["LISTEN_FDS"])
    return dict(zip(names, range(3, 3 + len(names)), strict=True))


# A daemon is not the process that was started.
_STORED = _stored()


def stored():
    """
    Return what the keeper has given back.
    """
    return _STORED


def listener():
    """
    Return the listening socket, from the store or anew.
    """
    if LISTENER in stored():
        return socket.socket(fileno=stored()[LISTENER])
    return socket.create_server(("127.0.0.1", PORT), backlog=100)


def listing(*names):
    """
    Return the descriptor of a list of these.
    """
    fd = os.memfd_create("list")
    os.write(fd, " ".join(names).encode() + b"\nwhatever")
    return fd


def deposit(sock):
    """
    Have the keeper keep a listening socket.
    """
    fd = listing(LISTENER)
    say("FDSTORE=1", f"FDNAME={LISTENER}", fds=[sock.fileno()])
    say("FDSTORE=1", f"FDNAME={LIST.format(os.getpid())}", fds=[fd])
    os.close(fd)
    for name in stored():
        if name.startswith(LIST.format("")):
            say("FDSTOREREMOVE=1", f"FDNAME={name}")


def fork(code):
    """
    Run code in a child that has our listener, and return its process id.
    """
    pid = os.fork()
    if pid == 0:
        exec(code, globals())
        os._exit(0)
    return pid


def isKeeperThere():
    """
    Say whether the pipe has not come to its end.
    """
    os.set_blocking(int(os.environ["TXTABLEFLIP_KEEPER"]), False)
    try:
        return os.read(int(os.environ["TXTABLEFLIP_KEEPER"]), 1) != b""
    except BlockingIOError:
        return True


def serve(sock=None, *lines):
    """
    Be a service that is as it should be.
    """
    sock = sock or listener()
    say(f"MAINPID={os.getpid()}")
    deposit(sock)
    say("READY=1", *lines)
    answer(sock)


def answer(sock):
    """
    Do what is wanted, until somebody wants an exit.
    """
    while True:
        connection, _ = sock.accept()
        with connection, connection.makefile("rw") as stream:
            code = stream.readline()
            try:
                value = eval(code, globals())
            except SyntaxError:
                value = exec(code, globals())
            stream.write(json.dumps(value))
            stream.flush()
            # A child that was forked may have it, too.
            connection.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    exec(Path(sys.argv[1]).read_text())
