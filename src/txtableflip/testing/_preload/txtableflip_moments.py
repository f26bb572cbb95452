"""
Inside a process of the torture test: reports events and injects faults, at the
moments when one process waits for, or tells, the other.

A moment has a name, such as C{old says Commit}: just before that message is
sent, C{old has said Commit} just after, and C{new hears Commit} when it has
arrived and before it is acted on.

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
SAID_BY_OLD = ("Manifest", "Commit", "Confirm", "Withdraw", "Abort", "Redeploy")
SAID_BY_NEW = (
    "Hello",
    "Ready",
    "Refused",
    "Serving",
    "Confirm",
    "Withdraw",
    "Stopping",
    "Redeploy",
)
OFFERS = ("Offer", "Taken")
"""
What is said when it is final, by the old process and by the new one, if connections migrate.
"""
TAKES_BACK = "old takes back"
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


def momentsOfMigration():
    """
    @return: the names of those that there are only if connections migrate.
    """
    offer, taken = OFFERS
    said = [f"old says {offer}", f"old has said {offer}", f"new hears {offer}"]
    answered = [f"new says {taken}", f"new has said {taken}", f"old hears {taken}"]
    return [*said, *answered, TAKES_BACK]


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
    tell(moment, accepts=accepts(), state=stateNow())
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


def stateNow():
    """
    @return: what this process answers to C{tableflip status} at this moment, if it has an
        Upgrader by now.
    """
    module = sys.modules.get("txtableflip.upgrader")
    upgrader = module.currentUpgrader() if module else None
    return upgrader.status()["state"] if upgrader else None


def isListening(reader):
    """
    @return: whether what the reactor reads is a socket that listens for clients, and
        not for those who ask the process itself (txtableflip._control.address).
    """
    sock = getattr(reader, "socket", None)
    if not isinstance(sock, socket.socket) or sock.fileno() < 0:
        return False
    name = sock.getsockname()
    if isinstance(name, bytes) and name.startswith(b"\0txtableflip/"):
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


def hear(event):
    """
    Something has happened, see L{txtableflip._journal}.
    """
    kind = type(event).__name__
    if kind in SPOKEN:
        name = "old" if event.peer == "child" else "new"
        other = (event.peerPid or CHILDREN[-1]) if name == "old" else startedBy()
        at(" ".join(filter(None, [name, SPOKEN[kind], getattr(event, "message", "")])), other)
    elif kind == "Starting":
        at("old starts the new", None)
    elif kind == "Started":
        CHILDREN.append(event.child)
    elif kind == "Returning":
        at(TAKES_BACK, CHILDREN[-1])
    elif kind == "Serving":
        tell("serves", generation=event.generation)
    elif kind in ENDS:
        tell(ENDS[kind], why=getattr(event, "reason", ""))
        if kind == "Final":
            at("old drains", CHILDREN[-1])


CHILDREN = []
SPOKEN = {
    "Saying": "says",
    "Said": "has said",
    "Hearing": "hears",
    "HearingTheEnd": "hears the end",
}
ENDS = {"Failed": "upgrade failed", "Final": "upgrade done"}


def install(*, isChild):
    """
    Listen to the journal of txtableflip, which has been imported.
    """
    from txtableflip import _journal  # noqa: PLC0415 - not before the service does

    _journal.Journal.listeners.append(hear)
    if isChild:
        at(STARTS, startedBy())
