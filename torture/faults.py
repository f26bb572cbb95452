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
    "old says Confirm",
    "old has said Confirm",
    "old drains",
    "new hears Confirm",
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
Those of an upgrade during which the old process was asked for another, behind C{new
starts}.
"""

AGAIN = ["new says Redeploy", "new has said Redeploy", "old hears Redeploy"]
WISH = ["new says Confirm", "new has said Confirm", "old hears Confirm"]
WITHDRAWAL = [
    "new says Withdraw",
    "new has said Withdraw",
    "old hears Withdraw",
    "old says Withdraw",
    "old has said Withdraw",
    "new hears Withdraw",
]
STOPPING = ["new says Stopping", "new has said Stopping", "old hears Stopping"]
"""
Those of a new process on probation that is asked for another, or wants to be
confirmed, or to be withdrawn, or is told to stop.
"""

MOMENTS = UPGRADE + REFUSAL + ANOTHER + AGAIN + WISH + WITHDRAWAL + STOPPING
KILL, STOP = signal.SIGKILL, signal.SIGSTOP
COLUMNS = [
    (number, victims)
    for number in (KILL, STOP)
    for victims in (("old",), ("new",), ("old", "new"))
]

OLD, NEW, ONE, NOBODY, NOT_THERE = "old", "new", "one of them", "nobody", "-"
PERHAPS = "old or nobody"
MAY_BE = {ONE: (OLD, NEW), PERHAPS: (OLD, NOBODY)}

PROBATION = 2.0
STOPPED_FOR = 10.0
"""
How long a process is stopped, in seconds: longer than every deadline, for these
are shortened for the purpose.
"""

UPGRADE_TIMEOUTS = {KILL: 20.0, STOP: 6.0}
SHORTER = """
from txtableflip._handover import child, ending, parent
child.COMMIT_TIMEOUT = 1
child.WITHDRAW_TIMEOUT = 1
ending.TERM_GRACE = ending.STATUS_TIMEOUT = 0.5
parent.MANIFEST_TIMEOUT = 1.5
parent.CONFIRM_TIMEOUT = 3
"""
"""
Code for that: a process that is killed needs no deadline to be given up, and one
that is only slow is not to be.
"""

TAC = f"""
from twisted.internet import reactor
from txtableflip import Upgrader, UpgradeService
{{deadlines}}
upgrader = Upgrader(reactor, upgradeTimeout={{timeout}}, probation={PROBATION})
upgrading = UpgradeService(upgrader)
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


ON_PROBATION = """
import os
from twisted.internet import reactor
from txtableflip import currentUpgrader
def act(ignored):
    upgrader = currentUpgrader()
    reactor.callLater(0, {})
if not os.path.exists("acted"):
    open("acted", "w").close()
    currentUpgrader().whenServing().addCallback(act)
"""
ACTS = {
    **dict.fromkeys(AGAIN, "upgrader.redeploy"),
    **dict.fromkeys(WISH, "upgrader.confirm"),
    **dict.fromkeys(WITHDRAWAL, "upgrader.rollback, 'not well'"),
    **dict.fromkeys(STOPPING, "upgrader.stop"),
}
"""
What a release does when it is on probation, once.
"""


def expected(moment, number, victims):
    """
    Return who serves in the end: the table under "When something goes wrong" in
    docs/how-it-works.md, as a rule.
    """
    if moment in ACTS or moment in ANOTHER:
        return undecided(moment, number, victims)
    isNew = "new" in victims and moment in ("old starts the new", "old hears the end")
    if isNew or ("old" in victims and moment == "new hears the end"):
        return NOT_THERE
    if moment in REFUSAL:
        return NOBODY if "old" in victims and number == KILL else OLD
    place = UPGRADE.index(moment)
    isTold = place > UPGRADE.index("old says Manifest")
    isCommitted = place > UPGRADE.index("old says Commit")
    hasServed = place > UPGRADE.index("new says Serving")
    isFinal = place >= UPGRADE.index("old says Confirm")
    if number == KILL:
        return {
            ("old",): NEW if isTold else NOBODY,
            ("new",): NOBODY if isFinal else OLD,
            ("old", "new"): NOBODY,
        }[victims]
    if hasServed or moment == "old starts the new":
        return NEW
    return {
        ("old",): NEW if isCommitted else OLD,
        ("new",): OLD,
        ("old", "new"): ONE,
    }[victims]


UNDONE = [*WITHDRAWAL, *WISH, "new says Redeploy"]
"""
When the death of the new process leaves the old one with nothing else to do.
"""


def undecided(moment, number, victims):
    """
    Return who serves in the end when something else is wanted meanwhile.
    """
    if moment in STOPPING:
        # Only the death of who has not said it has the old one serve on.
        isCrash = number == KILL and victims == ("new",) and moment == "new says Stopping"
        return OLD if isCrash else NOBODY
    isParked = moment in ("old has said Withdraw", "new hears Withdraw")
    old, new = {
        # Both know of it, or the one who is left does not, or nothing was decided yet.
        KILL: (NEW, OLD if moment in UNDONE else NEW),
        # Whoever stands by gives up in time; who serves ends an old one that is silent.
        STOP: (
            OLD if isParked else NEW,
            OLD if moment in WITHDRAWAL[1:] else NEW,
        ),
    }[number]
    if moment == "new has said Confirm" and number == KILL:
        # It may have been heard before the end was.
        new = PERHAPS
    isOne = number == STOP and moment in WITHDRAWAL
    both = ONE if isOne else NEW if number == STOP else NOBODY
    return {("old",): old, ("new",): new, ("old", "new"): both}[victims]


def isUnnoticed(moment, number, victims):
    """
    Say whether no client may fail: those of a process that is killed do, if it
    has accepted them.
    """
    if expected(moment, number, victims) == NOBODY:
        return False
    if number == STOP:
        # A new one that should be taken back, and does not answer, is killed.
        return moment not in WITHDRAWAL
    isServing = moment in ACTS or moment in UPGRADE[UPGRADE.index("new has said Serving") :]
    return "old" not in victims and not isServing


def codeOf(moment):
    """
    Return what a release does, for the moment to come.
    """
    if moment in ACTS:
        return ON_PROBATION.format(ACTS[moment])
    if moment in REFUSAL:
        return NEVER_READY if moment == "new hears Abort" else REFUSING
    return ""


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
        self._deploy(codeOf(moment))
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
        if outcome not in MAY_BE.get(wanted, (wanted,)):
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
        (self.directory / "acted").unlink(missing_ok=True)
        self.release.write_text(f"name = 'one'\n{code}")

    def _suffer(self, moment, number, victims):
        """
        Upgrade, with the fault, and wait until somebody serves, or nobody is
        left.
        """
        service, old = self.service, self.service.pid
        begin = self.begin = len(service.events)
        isAnother = moment in ANOTHER + AGAIN and expected(moment, number, victims) == NEW
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
            if others or not hasOutcome or self._answerer() != pid:
                return None
            if pid == old and isAnother:
                # It has still to do what was asked for meanwhile.
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
- *old or nobody*: whether the old process has heard the wish before the end.
- *nobody*: as after any crash; it takes a supervisor, such as systemd with `Restart=always`.
  Both are dead; or the old one died before it had handed over its sockets, or while the new one
  was leaving anyway; or the new one died when it was final that it serves; or it was told to
  stop, which is for both.
- *-*: there is no such process at that moment.
- The rows from *new says Refused* on are upgrades to a release that does not take over; those
  with *Redeploy*, upgrades during which another was asked for; and the last twelve, releases
  that want to be confirmed, to be withdrawn, or to stop while they are on probation.
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
