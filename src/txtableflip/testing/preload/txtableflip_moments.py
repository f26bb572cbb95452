"""
Inside a process under torture: it tells what happens, and has happen what it is
told to, at the moments when one process waits for, or tells, the other.

A moment has a name, such as C{old says Commit}: just before that message is
sent, C{old has said Commit} just after, and C{new hears Commit} when it has
arrived and before anything is done about it.

In the directory C{$TXTABLEFLIP_TORTURE}, C{events} gets a line of JSON for each
moment; C{fault} is the next thing to go wrong, once: at which moment, and
C{signal} for which of the two, or an error to be raised.
"""

import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress

DIRECTORY = "TXTABLEFLIP_TORTURE"
SAID_BY_OLD = ("Manifest", "Commit", "Abort", "Redeploy")
SAID_BY_NEW = ("Hello", "Ready", "Refused", "Serving")
STARTS = "new starts"
PATIENCE = 5.0
"""
How long a signal may take to arrive at the other process, in seconds.
"""


def moments():
    """
    @return: the names of all moments.
    """
    names = [STARTS, "old starts the new", "old drains"]
    for one, other, messages in (("old", "new", SAID_BY_OLD), ("new", "old", SAID_BY_NEW)):
        for message in messages:
            names += [f"{one} says {message}", f"{one} has said {message}"]
            names.append(f"{other} hears {message}")
        names.append(f"{one} hears the end")
    return names


def tell(what, **more):
    """
    Add a line to the events.
    """
    event = {"what": what, "pid": os.getpid(), "time": time.time(), **more}
    line = json.dumps(event).encode() + b"\n"
    path = os.path.join(os.environ[DIRECTORY], "events")
    events = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(events, line)
    finally:
        os.close(events)


def at(moment, other):
    """
    This process has come to a moment.

    @param other: the process id of the other one, if there is one.
    """
    tell(moment, accepts=accepts())
    path = os.path.join(os.environ[DIRECTORY], "fault")
    try:
        with open(path, encoding="utf-8") as file:
            fault = json.load(file)
    except FileNotFoundError:
        return
    one = moment.split()[0]
    pids = {one: os.getpid(), "new" if one == "old" else "old": other}
    victims = [pids[name] for name in fault.get("victims", ())]
    if fault["moment"] == moment.replace(" says ", " has said ") != moment:
        # Nobody is to do anything about it before the fault.
        strike([pid for pid in victims if pid == other], signal.SIGSTOP)
    if fault["moment"] != moment:
        return
    os.unlink(path)
    tell("fault", moment=moment, victims=[pid for pid in victims if pid])
    if "error" in fault:
        raise RuntimeError(fault["error"])
    strike(victims, fault["signal"])


def accepts():
    """
    @return: whether the reactor waits for connections at a listening socket.
    """
    reactor = sys.modules.get("twisted.internet.reactor")
    return any(map(isListening, reactor.getReaders())) if reactor else False


def isListening(reader):
    """
    @return: whether what the reactor reads is a socket that listens.
    """
    sock = getattr(reader, "socket", None)
    if not isinstance(sock, socket.socket) or sock.fileno() < 0:
        return False
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def strike(pids, number):
    """
    Send a signal, to the other process first, and go on when it has arrived.
    """
    own = os.getpid()
    for pid in sorted(filter(None, pids), key=lambda pid: pid == own):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        wanted = "TtZX" if number == signal.SIGSTOP else "ZX"
        end = time.monotonic() + PATIENCE
        while pid != own and stateOf(pid) not in wanted and time.monotonic() < end:
            time.sleep(0.001)


def stateOf(pid):
    """
    @return: the state of a process as a letter of proc(5).
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


STARTED_BY = os.getppid()


def startedBy():
    """
    @return: the process that started this one; who has lost it has another, of
        whom we want nothing.
    """
    return STARTED_BY if os.getppid() == STARTED_BY else None


def sidesOf(listener):
    """
    @param listener: who hears what comes over a channel.
    @return: what this process is, and the process id of the other one.
    """
    if type(listener).__name__ == "Child":
        return "old", listener.pid
    return "new", startedBy()


# -- what replaces the functions of the same name: each gets the original first


def send(original, self, message, *descriptors):
    if not self._open:
        return
    name, other = sidesOf(self._receiver)
    at(f"{name} says {type(message).__name__}", other)
    original(self, message, *descriptors)
    at(f"{name} has said {type(message).__name__}", other)


def messageReceived(original, self, message):
    name, other = sidesOf(self)
    at(f"{name} hears {type(message).__name__}", other)
    original(self, message)


def channelLost(original, self):
    name, other = sidesOf(self)
    at(f"{name} hears the end", other)
    original(self)


def receiveManifest(original, *arguments):
    found = original(*arguments)
    at("new hears Manifest", startedBy())
    return found


def startChild(original, self):
    at("old starts the new", None)
    original(self)


def takeOver(original, self):
    original(self)
    tell("serves", generation=self.generation)


def drain(original, self, timeout):
    if self.isReplaced:
        at("old drains", self._child.pid)
    return original(self, timeout)


def end(original, self, error):
    tell("upgrade failed" if error else "upgrade done", why=str(error or ""))
    original(self, error)


def install(*, isChild):
    """
    Put the moments into the code of txtableflip, which has been imported.
    """
    # Not before the service does.
    from txtableflip import _generation, _lifecycle  # noqa: PLC0415
    from txtableflip._handover import channel, child, parent  # noqa: PLC0415

    wrap(channel.Channel, send)
    for listener in (child.Child, parent.Parent):
        wrap(listener, messageReceived)
        wrap(listener, channelLost)
    wrap(parent, receiveManifest)
    for step in (startChild, takeOver, drain):
        wrap(_generation.Generation, step)
    wrap(_lifecycle.Core, end)
    if isChild:
        at(STARTS, startedBy())


def wrap(where, replacement):
    """
    Have a function of the same name called with what it replaces.
    """
    original = getattr(where, replacement.__name__)

    def wrapped(*arguments, **more):
        return replacement(original, *arguments, **more)

    setattr(where, replacement.__name__, wrapped)
