"""
The table of faults: whichever process is killed or stopped, and at whichever
moment of a hand-over, it is known who serves in the end.  Each cell is tried on
real processes, under load.

    python torture/faults.py docs/faults.md  # writes it there

For the moments, see txtableflip_moments.py in txtableflip.testing.
"""

import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from txtableflip.testing import Exchange, TortureError
from txtableflip.testing._clients import Client
from txtableflip.testing._service import PATIENCE, Fault, Service, freePort

APP = Path(__file__).parent.parent / "tests" / "apps" / "answering.py"
TWISTD = shutil.which("twistd", path=os.path.dirname(sys.executable))

UPGRADE = [
    "old starts the new",
    "old says Manifest",
    "old has said Manifest",
    "new starts",
    "new hears Manifest",
    "new says Hello",
    "new has said Hello",
    "old hears Hello",
    "new says Ready",
    "new has said Ready",
    "old hears Ready",
    "old says Commit",
    "old has said Commit",
    "new hears Commit",
    "new says Serving",
    "new has said Serving",
    "old hears Serving",
    "old drains",
    "new hears the end",
]
"""
The moments of an upgrade, in order.
"""

REFUSAL = [
    "new says Refused",
    "new has said Refused",
    "old hears Refused",
    "old says Abort",
    "old has said Abort",
    "new hears Abort",
    "old hears the end",
]
"""
Those of an upgrade to a release that refuses to take over, behind C{old hears Hello}.
"""

ANOTHER = ["old says Redeploy", "old has said Redeploy", "new hears Redeploy"]
"""
Those of an upgrade during which another was asked for, behind C{old hears
Serving}.
"""

MOMENTS = UPGRADE + REFUSAL + ANOTHER
KILL, STOP = signal.SIGKILL, signal.SIGSTOP
COLUMNS = [
    (number, victims)
    for number in (KILL, STOP)
    for victims in (("old",), ("new",), ("old", "new"))
]

OLD, NEW, ONE, NOBODY, NOT_THERE = "old", "new", "one of them", "nobody", "-"

STOPPED_FOR = 10.0
"""
How long a process is stopped, in seconds: longer than every deadline, for these
are shortened for the purpose.
"""

UPGRADE_TIMEOUTS = {KILL: 20.0, STOP: 6.0}
SHORTER = """
from txtableflip._handover import child, ending, parent
child.COMMIT_TIMEOUT = 1
ending.TERM_GRACE = ending.STATUS_TIMEOUT = 0.5
parent.MANIFEST_TIMEOUT = 1.5
"""
"""
Code for that: a process that is killed needs no deadline to be given up, and one
that is only slow is not to be.
"""

TAC = f"""
from twisted.internet import reactor
from txtableflip import Upgrader, UpgradeService
{{deadlines}}
upgrading = UpgradeService(Upgrader(reactor, upgradeTimeout={{timeout}}))
exec(open({str(APP)!r}).read())
upgrading.setServiceParent(application)
"""
"""
The service.
"""


UNIMPRESSED = (
    "import signal\nfrom txtableflip import currentUpgrader\n"
    "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
)
REFUSING = UNIMPRESSED + "currentUpgrader().refuse(RuntimeError('not today'))\n"
NEVER_READY = UNIMPRESSED + "never = currentUpgrader().endpoint('tcp:0')\n"
"""
Releases that do not take over.  SIGTERM, which comes with every Abort, does not
end them before they have heard, or said, what they are to.
"""


def expected(moment, number, victims):
    """
    Return who serves in the end: the table under "When something goes wrong" in
    docs/how-it-works.md, as a rule.
    """
    if "old" in victims and moment == "new hears the end":
        return NOT_THERE
    if "new" in victims and moment in ("old starts the new", "old hears the end"):
        return NOT_THERE
    if moment in REFUSAL:
        return NOBODY if "old" in victims and number == KILL else OLD
    place = UPGRADE.index(moment) if moment in UPGRADE else UPGRADE.index("old drains")
    isTold = place > UPGRADE.index("old says Manifest")
    isCommitted = place > UPGRADE.index("old says Commit")
    hasServed = place > UPGRADE.index("new says Serving")
    if number == KILL:
        return {
            ("old",): NEW if isTold else NOBODY,
            ("new",): NOBODY if hasServed else OLD,
            ("old", "new"): NOBODY,
        }[victims]
    if hasServed or moment == "old starts the new":
        return NEW
    return {
        ("old",): NEW if isCommitted else OLD,
        ("new",): OLD,
        ("old", "new"): ONE,
    }[victims]


def isUnnoticed(moment, number, victims):
    """
    Say whether no client may fail: those of a process that is killed do, if it
    has accepted them.
    """
    if expected(moment, number, victims) == NOBODY:
        return False
    return number == STOP or "old" not in victims


class Trial:
    """
    A service that goes through a column of the table, one moment after the
    other: each begins with an upgrade, which shows that the one before has left
    it able to.

    @ivar number: the signal of all its cells.
    @ivar mutation: code with which the service is spoilt, for a test to see
        that this is noticed.
    @ivar patience: how long to wait for an outcome, in seconds.
    """

    def __init__(self, directory, number, mutation="", patience=PATIENCE):
        self.directory = Path(directory)
        tac = TAC.format(
            deadlines=SHORTER if number == STOP else "", timeout=UPGRADE_TIMEOUTS[number]
        )
        self.port = freePort()
        self.release = self.directory / "release.py"
        (self.directory / "app.tac").write_text(tac + mutation)
        self.service = Service(
            [
                *("env", "-C", str(directory), f"RELEASE_FILE={self.release}"),
                f"ENDPOINTS=tableflip:tcp:{self.port}:interface=127.0.0.1",
                *(TWISTD, "--nodaemon", "--pidfile=twistd.pid", "-y", "app.tac"),
            ],
        )
        self.patience = patience
        self.isUp = False
        self.begin = 0

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.service.stop()
        self.service.discard()

    def run(self, moment, number, victims):
        """
        Try one cell.

        @return: who serves in the end, and what failed that should not have.
        """
        wanted = expected(moment, number, victims)
        if wanted == NOT_THERE:
            return NOT_THERE, []
        if moment in ANOTHER:
            self.service.stop()
            self.isUp = False
        self._untilUp()
        self._deploy(
            NEVER_READY
            if moment == "new hears Abort"
            else REFUSING
            if moment in REFUSAL
            else ""
        )
        samples = []
        with _Load(self.port, samples):
            try:
                outcome = self._suffer(moment, number, victims)
            except TortureError:
                # Its clients may wait for what never comes.
                self.service.stop()
                raise
        failed = [sample.error for sample in samples if sample.error]
        complaints = failed if isUnnoticed(moment, number, victims) else []
        if outcome not in ((OLD, NEW) if wanted == ONE else (wanted,)):
            complaints.append(f"{outcome} serves, and not {wanted}")
        return outcome, complaints + self._complaints(outcome)

    def _untilUp(self):
        if not self.isUp:
            self._deploy("")
            # It may name a zombie, which is a running server to twistd.
            (self.directory / "twistd.pid").unlink(missing_ok=True)
            self.service.patience = PATIENCE
            self.service.start()
            self.service.patience = self.patience
            self.isUp = True

    def _deploy(self, code):
        self.release.write_text(f"name = 'one'\n{code}")

    def _suffer(self, moment, number, victims):
        """
        Upgrade, with the fault, and wait until somebody serves, or nobody is
        left.
        """
        service, old = self.service, self.service.pid
        begin = self.begin = len(service.events)
        service.fail(Fault(moment, victims, number))
        service.redeploy()

        def told(what):
            return [one for one in service.events[begin:] if one.what == what]

        if moment in ANOTHER:
            service.until(lambda: told("new starts"), "a new process")
            os.kill(old, signal.SIGHUP)
        service.until(lambda: told("fault"), f"the moment when {moment}")
        if number == STOP:
            time.sleep(STOPPED_FOR)
            for pid in service.processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

        def settled():
            alive = service.processes()
            if not alive:
                return NOBODY
            (pid, *others) = alive
            outcomes = told("upgrade failed") + told("serves")
            hasOutcome = any(one.pid == pid for one in outcomes)
            isUpgrading = told("new hears Redeploy") and len(told("serves")) == 1
            if others or not hasOutcome or isUpgrading or self._answerer() != pid:
                return None
            return OLD if pid == old else NEW

        outcome = service.until(settled, f"one process, after: {moment}")
        self.isUp = outcome != NOBODY
        return outcome

    def _answerer(self):
        """
        Return the process that answers, if one does.
        """
        address = ("127.0.0.1", self.port)
        try:
            with socket.create_connection(address, 5) as sock, sock.makefile() as stream:
                sock.sendall(b"x\n")
                return int(stream.readline().split()[3])
        except (OSError, IndexError):
            return None

    def _complaints(self, outcome):
        """
        Return what is wrong with what is left.
        """
        pidFile = self.directory / "twistd.pid"
        complaints = acceptingTogether(self.service.events[self.begin :])[:1]
        if outcome != NOBODY and int(pidFile.read_text()) != self.service.processes()[0]:
            complaints.append(f"the pid file names {pidFile.read_text()}, which does not serve")
        return complaints


def acceptingTogether(events):
    """
    Return where two processes accepted connections at the same time.
    """
    accepting, found = set(), []
    for event in events:
        if event.accepts:
            accepting.add(event.pid)
        elif event.accepts is not None:
            accepting.discard(event.pid)
        accepting.difference_update(event.victims)
        if len(accepting) > 1:
            found.append(f"two processes accept when {event.what}: {sorted(accepting)}")
    return found


class _Load:
    """
    Two clients that ask without a pause.
    """

    def __init__(self, port, samples):
        question = Exchange(b"x\n", r"x one \d+ \d+ \.\n")
        self._isOver = threading.Event()
        clients = [Client(("127.0.0.1", port), question, samples.append) for _ in range(2)]
        self._threads = [threading.Thread(target=self._run, args=(one,)) for one in clients]

    def __enter__(self):
        for thread in self._threads:
            thread.start()

    def __exit__(self, *exception):
        self._isOver.set()
        for thread in self._threads:
            thread.join()

    def _run(self, client):
        while not self._isOver.wait(0.01):
            client.alone()


def tryColumn(column, moments=MOMENTS, **options):
    """
    Try a column of the table, from top to bottom.

    @return: by moment, who serves in the end, and what is wrong.
    """
    number, victims = column
    found = {}
    with (
        tempfile.TemporaryDirectory() as directory,
        Trial(directory, number, **options) as trial,
    ):
        for moment in moments:
            try:
                found[moment] = trial.run(moment, number, victims)
            except TortureError as error:
                found[moment] = "?", [str(error)]
                break
    return found


def tryColumns(columns, **options):
    """
    Try several at the same time, since they mostly wait.
    """
    with ThreadPoolExecutor(3) as pool:
        return dict(
            zip(columns, pool.map(lambda one: tryColumn(one, **options), columns), strict=True)
        )


def complaintsOf(found):
    """
    Return everything that is wrong, with the cell in which it is.
    """
    return [
        f"{signal.Signals(number).name} for {' and '.join(victims)} when {moment}: {complaint}"
        for (number, victims), column in found.items()
        for moment, (_, complaints) in column.items()
        for complaint in complaints
    ]


HEADER = """\
# Who serves after a fault

Each row is a moment of a hand-over, in order; each cell says who serves in the end if a process
is killed (SIGKILL), or stopped (SIGSTOP) for longer than every deadline and then continued, at
that moment. Each was tried on real processes under load: `python torture/faults.py
docs/faults.md` has written this file.

*X says M*: just before X sends the message M; *has said*: just after; *hears*: it has arrived,
and nothing has been done about it.

| when | old killed | new killed | both killed | old stopped | new stopped | both stopped |
|---|---|---|---|---|---|---|
"""
FOOTER = """
- *old*: the upgrade has failed, and the log says so; the old process serves on. *new*: the
  upgrade has succeeded. *one of them*: which one depends on which of their timers fires first.
  In each of these cells the pid file names the process that serves, it can be upgraded, and
  at no moment have two processes accepted connections. No client has failed, unless the old one
  was killed: then those whose connections it had accepted have.
- *nobody*: as after any crash; it takes a supervisor, such as systemd with `Restart=always`.
  Both are dead; or the old one died before it had handed over its sockets, or while the new one
  was leaving anyway; or the new one died when it served already, and the old one had given its
  role away.
- *-*: there is no such process at that moment.
- The rows from *new says Refused* on are upgrades to a release that does not take over; the
  last three, upgrades during which another was asked for.
"""


def document(found):
    """
    Return the table, for people.
    """
    rows = []
    for moment in MOMENTS:
        cells = []
        for column in COLUMNS:
            isEither = expected(moment, *column) == ONE
            cells.append(ONE if isEither else found[column][moment][0])
        rows.append(f"| {moment} | {' | '.join(cells)} |\n")
    return HEADER + "".join(rows) + FOOTER


def main():
    found = tryColumns(COLUMNS)
    complaints = complaintsOf(found)
    if complaints:
        sys.exit("\n".join(complaints))
    text = document(found)
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text)
    print(f"{len(MOMENTS)} moments, {len(COLUMNS)} faults at each: all as they should be")


if __name__ == "__main__":
    main()
