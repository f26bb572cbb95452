"""
The table of faults: whichever process is killed or stopped, and at whichever
moment of a hand-over, it is known who serves in the end.  Each cell is tried on
real processes, under load.

    python torture/faults.py docs/faults.md  # writes it there

For the moments, see txtableflip_moments.py in txtableflip.testing.
"""

import os
import signal
import socket
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from serving import APPS, TWISTD, Load, endProperly

from txtableflip._control.client import Patience
from txtableflip._control.overview import gather
from txtableflip.testing import TortureError
from txtableflip.testing._service import PATIENCE, Fault, Service, freePort

APP = APPS / "answering.py"

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
Those of an upgrade to a release that refuses to take over, after C{old hears Hello}.
"""

ANOTHER = ["old says Redeploy", "old has said Redeploy", "new hears Redeploy"]
"""
Those of an upgrade during which the old process was asked for another, after C{new
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
Those of a new process on probation that is asked for another, or asks to be confirmed, or
withdrawn, or is told to stop.
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
How long a process is stopped, in seconds: longer than every deadline, because those are
shortened for these tests.
"""

ATTEMPTS = 5
"""
How often to try an upgrade until a moment comes.
"""

UPGRADE_TIMEOUTS = {KILL: 20.0, STOP: 6.0}
SHORTER = """
from txtableflip._handover import child, ending, parent
child.COMMIT_TIMEOUT = 3
child.WITHDRAW_TIMEOUT = 3
ending.TERM_GRACE = ending.STATUS_TIMEOUT = 0.5
parent.MANIFEST_TIMEOUT = 1.5
parent.CONFIRM_TIMEOUT = 3
"""
"""
Code for that: a process that is killed is given up without a deadline, and one that is only
slow must not be given up.
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
Releases that do not take over.  SIGTERM, which comes with every Abort, does not kill them
before they have sent or received the message in question.
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
    **dict.fromkeys(WITHDRAWAL, "upgrader.withdraw, 'not well'"),
    **dict.fromkeys(STOPPING, "upgrader.stop"),
}
"""
What a release does when it is on probation, once.
"""


def expected(moment, number, victims):
    """
    Return which process serves in the end: the table under "When something goes wrong" in
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
Moments at which the death of the new process leaves the old one nothing to do but serve.
"""


def undecided(moment, number, victims):
    """
    Return which process serves in the end when something else was requested meanwhile.
    """
    if moment in STOPPING:
        # The old one serves again only if the new one dies before it has said so.
        isCrash = number == KILL and victims == ("new",) and moment == "new says Stopping"
        return OLD if isCrash else NOBODY
    isParked = moment in ("old has said Withdraw", "new hears Withdraw")
    old, new = {
        # Both know of it, or the surviving one does not, or nothing was decided yet.
        KILL: (NEW, OLD if moment in UNDONE else NEW),
        # One that stands by gives up in time; one that serves kills a silent old one.
        STOP: (
            OLD if isParked else NEW,
            OLD if moment in WITHDRAWAL[1:] else NEW,
        ),
    }[number]
    if moment == "new has said Confirm" and number == KILL:
        # The old one may have read it before it noticed the death.
        new = PERHAPS
    isOne = number == STOP and moment in WITHDRAWAL
    both = ONE if isOne else NEW if number == STOP else NOBODY
    return {("old",): old, ("new",): new, ("old", "new"): both}[victims]


def isUnnoticed(moment, number, victims):
    """
    Return whether no client may fail: those of a process that is killed do, if it has
    accepted them.
    """
    if expected(moment, number, victims) == NOBODY:
        return False
    if number == STOP:
        # A new one that should be rolled back, and does not answer, is killed.
        return moment not in WITHDRAWAL
    isServing = moment in ACTS or moment in UPGRADE[UPGRADE.index("new has said Serving") :]
    return "old" not in victims and not isServing


def codeOf(moment):
    """
    Return the code by which a release makes a moment come.
    """
    if moment in ACTS:
        return ON_PROBATION.format(ACTS[moment])
    if moment in REFUSAL:
        return NEVER_READY if moment == "new hears Abort" else REFUSING
    return ""


EXITED = "exited with status"
KILLED = "was killed by SIGKILL"
LATE = "was not ready after"
HUNG = "was ready, and then did not serve within"
UNANSWERED = "refused to take over: the parent did not answer Ready in time"
REFUSED = "refused to take over: not today"
WITHDRAWN = "asked to be withdrawn: not well"
STOPPED = "this process was told to stop, and terminates its successor"
NOTHING = ""
WORDS = {
    EXITED: "exited",
    KILLED: "killed",
    LATE: "late",
    HUNG: "hung",
    UNANSWERED: "unanswered",
    REFUSED: "refused",
    WITHDRAWN: "withdrawn",
    STOPPED: "stopped",
}
"""
What the operator is told about an upgrade that has failed, by its beginning, or by what
follows C{the new process 4712}; and the table's words for that.
"""


def reasonOf(why):
    """
    Return what the operator is told as one of L{WORDS}, or as it is.
    """
    return next((reason for reason in WORDS if reason in why), why)


def reasons(moment, number, victims):
    """
    Return what the operator may be told about a failed upgrade: nothing if it does not
    fail, or no process is left to tell.
    """
    wanted = expected(moment, number, victims)
    if wanted == NOT_THERE:
        return {NOTHING}
    if number == KILL:
        told = {_ofKilled(moment)} if victims == ("new",) else {NOTHING}
        return told | {NOTHING} if wanted == PERHAPS else told
    old, new = _ofStoppedOld(moment), _ofStoppedNew(moment)
    # Which of their timers fires first decides.
    both = {old, new, NOTHING}
    # Commit follows at once, and may have been sent before the old process is stopped.
    mayBeLate = {UNANSWERED} if moment == "new hears Redeploy" else set()
    return {("old",): {old} | mayBeLate, ("new",): {new}, ("old", "new"): both | mayBeLate}[
        victims
    ]


def _ofKilled(moment):
    if moment in UPGRADE and UPGRADE.index(moment) >= UPGRADE.index("old says Confirm"):
        return NOTHING
    return _ofWish(moment) or KILLED


def _ofWish(moment):
    """
    Return what is told because of what the new process itself has said before, if that was
    received.
    """
    if moment == "new hears Abort":
        return LATE
    said = {
        **dict.fromkeys(REFUSAL[1:], REFUSED),
        **dict.fromkeys(WITHDRAWAL[1:], WITHDRAWN),
        **dict.fromkeys(STOPPING[1:], STOPPED),
    }
    return said.get(moment, NOTHING)


def _ofStoppedOld(moment):
    if moment == "old says Manifest":
        return EXITED
    if moment == "old starts the new":
        return NOTHING
    isAsked = moment in UPGRADE[: UPGRADE.index("old has said Commit")]
    if isAsked or moment in ANOTHER[:2]:
        return UNANSWERED
    if moment in REFUSAL + STOPPING:
        return _ofWish(moment) or (REFUSED if moment in REFUSAL else STOPPED)
    isParked = moment in ("old has said Withdraw", "new hears Withdraw")
    return WITHDRAWN if isParked else NOTHING


def _ofStoppedNew(moment):
    ready, served = (UPGRADE.index(f"new has said {said}") for said in ("Ready", "Serving"))
    if moment == "old starts the new":
        return NOTHING
    if moment in [*UPGRADE[:ready], "new says Refused", *ANOTHER[:2]]:
        return LATE
    if moment in [*UPGRADE[ready:served], "new hears Redeploy"]:
        return HUNG
    return _ofWish(moment)


@dataclass(frozen=True)
class Cell:
    """
    The result of a fault.

    @ivar outcome: which process serves in the end.
    @ivar complaints: what was not as it should be.
    @ivar told: what the operator was told about an upgrade that failed.
    """

    outcome: str
    complaints: list
    told: str


class Trial:
    """
    A service that goes through a column of the table, one moment after the other: each
    begins with an upgrade, which shows that it still can after the one before.

    @ivar number: the signal of all its cells.
    @ivar mutation: code that breaks the service, for a test to see that this is noticed.
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

        @return: what came of it, as a L{Cell}.
        """
        wanted = expected(moment, number, victims)
        if wanted == NOT_THERE:
            return Cell(NOT_THERE, [], "")
        if moment in ANOTHER:
            self.service.stop()
            self.isUp = False
        self._untilUp()
        self._deploy(codeOf(moment))
        with Load(self.port) as load:
            try:
                outcome = self._suffer(moment, number, victims)
            except TortureError:
                # Its clients may wait for an answer that never comes.
                self.service.stop()
                raise
        failed = [sample.error for sample in load.failures]
        complaints = failed if isUnnoticed(moment, number, victims) else []
        if outcome not in MAY_BE.get(wanted, (wanted,)):
            complaints.append(f"{outcome} serves, and not {wanted}")
        told, problems = self._told(moment, number, victims)
        problems += self._complaints(outcome)
        if outcome != NOBODY and moment not in ANOTHER + AGAIN:
            self._untilStatus(outcome, told)
        if moment in ANOTHER + AGAIN:
            # The upgrade that was asked for must not be mistaken for the next cell's.
            self.service.stop()
            self.isUp = False
        return Cell(outcome, complaints + problems, told)

    def _told(self, moment, number, victims):
        """
        Return what the operator was told about the upgrade, if it failed, and what is wrong
        with that.
        """
        # The last process may have exited right after it was looked for.
        self.service.read()
        failures = [
            event.why
            for event in self.service.events[self.begin :]
            if event.what == "upgrade failed"
        ]
        told = reasonOf(failures[0]) if failures else ""
        wanted = reasons(moment, number, victims)
        if told in wanted:
            return told, []
        return told, [f"the operator is told {failures}, and not {wanted}"]

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
        Upgrade, with the fault, and wait until a process serves, or none is left.
        """
        service, old = self.service, self.service.pid
        wanted = expected(moment, number, victims)
        isAnother = moment in ANOTHER + AGAIN and wanted == NEW
        isToStop = moment in STOPPING and wanted == NOBODY
        service.fail(Fault(moment, victims, number))
        self._comeTo(moment)
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
            outcomes = self._said("upgrade failed") + self._said("serves")
            hasOutcome = any(one.pid == pid for one in outcomes)
            if others or not hasOutcome or self._answerer() != pid:
                return None
            if pid == old and isAnother:
                # It has still to do what was asked for meanwhile.
                return None
            if isToStop:
                # It answers the clients that wait in its queue, and exits.
                return None
            return OLD if pid == old else NEW

        outcome = service.until(settled, f"one process, after: {moment}")
        self.isUp = outcome != NOBODY
        return outcome

    def _comeTo(self, moment):
        """
        Upgrade until a moment comes: on a machine that is too busy, the new process may
        not be ready in time.
        """
        for _ in range(ATTEMPTS):
            self.begin = len(self.service.events)
            self.service.redeploy()
            if moment in ANOTHER:
                self.service.until(lambda: self._said("new starts"), "a new process")
                os.kill(self.service.pid, signal.SIGHUP)
            self.service.until(
                lambda: self._said("fault") or self._said("upgrade failed"),
                f"the moment when {moment}",
            )
            if self._said("fault"):
                return
            self._deploy(codeOf(moment))
        raise TortureError(f"no upgrade came to the moment when {moment}")

    def _said(self, what):
        """
        Return the events of one kind since the last upgrade began.
        """
        return [one for one in self.service.events[self.begin :] if one.what == what]

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

    def _untilStatus(self, outcome, told):
        """
        Wait until C{tableflip status} is right about the process that is left.
        """
        (pid,) = self.service.processes()
        ended = ("failed", "rolledBack") if outcome == OLD and told else ("done", None)

        def isSo():
            (only, *others) = gather(pid, Patience.of(self.patience))
            # A process that does not answer yet reports less.
            last = (only.get("lastUpgrade") or {}).get("outcome")
            return not others and only.get("state") == "Serving" and last in ended

        self.service.until(isSo, f"the status that process {pid} serves alone, of {ended}")

    def _complaints(self, outcome):
        """
        Return what is wrong with the process that is left.
        """
        pidFile = self.directory / "twistd.pid"
        events = self.service.events[self.begin :]
        complaints = acceptingTogether(events)[:1] + falseStates(events)[:1]
        if outcome != NOBODY and int(pidFile.read_text()) != self.service.processes()[0]:
            complaints.append(f"the pid file names {pidFile.read_text()}, which does not serve")
        return complaints


SERVING = ("Serving", "Upgrading", "OnProbation")
"""
The states of which C{tableflip status} says that clients are served.
"""


def falseStates(events):
    """
    Return where a process did not do what its status said.
    """
    return [
        f"process {event.pid} is {event.state} and {'' if event.accepts else 'not '}accepting "
        f"when {event.what}"
        for event in events
        if event.state is not None and (event.state in SERVING) != event.accepts
    ]


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


def tryColumn(column, moments, **options):
    """
    Try a column of the table, from top to bottom.

    @return: the result of each moment.
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
                found[moment] = Cell("?", [str(error)], "")
                break
    return found


def tryColumns(columns, **options):
    """
    Try several at the same time, since they mostly wait.

    @param columns: the moments of each.
    """
    with ThreadPoolExecutor(3) as pool:
        tried = pool.map(lambda one: tryColumn(*one, **options), columns.items())
        return dict(zip(columns, tried, strict=True))


def complaintsOf(found):
    """
    Return everything that is wrong, with the cell in which it is.
    """
    return [
        f"{signal.Signals(number).name} for {' and '.join(victims)} when {moment}: {complaint}"
        for (number, victims), column in found.items()
        for moment, cell in column.items()
        for complaint in cell.complaints
    ]


HEADER = """\
# Who serves after a fault

Each row is a moment of a hand-over, in order; each cell says which process serves in the end if
one is killed (SIGKILL), or stopped (SIGSTOP) for longer than every timeout and then continued,
at that moment. Each was tested with real processes under load: this file is written by `python
torture/faults.py docs/faults.md`.

*X says M*: just before X sends the message M; *has said*: just after; *hears*: it has arrived,
but has not been acted on.

| when | old killed | new killed | both killed | old stopped | new stopped | both stopped \
| the operator is told |
|---|---|---|---|---|---|---|---|
"""
FOOTER = """
- *old*: the upgrade has failed, and the log says so; the old process keeps serving. *new*: the
  upgrade has succeeded. *one of them*: it depends on which of their timers fires first. In each
  of these cells the pid file names the process that serves, it can be upgraded, and at no
  moment have two processes accepted connections. No client failed, unless the old one was
  killed: then those whose connections it had accepted did.
- *the operator is told*: why the upgrade failed, as the old process logs it, for each fault
  after which it does:
{words}
- *old or nobody*: it depends on whether the old process has received the message in time.
- *nobody*: as after any crash; it takes a supervisor, such as systemd with `Restart=always`.
  Both are dead; or the old one died before it had handed over its sockets, or while the new one
  was exiting anyway; or the new one died after the switch was final; or it was told to stop,
  which stops both.
- *-*: there is no such process at that moment.
- The rows from *new says Refused* on are upgrades to a release that does not take over; those
  with *Redeploy*, upgrades during which another was requested; and the last twelve, releases
  that ask to be confirmed, to be withdrawn, or to stop while they are on probation.
"""


def document(found):
    """
    Return the table, for people.
    """
    rows = []
    for moment in MOMENTS:
        cells = []
        for column in COLUMNS:
            wanted = expected(moment, *column)
            cells.append(wanted if wanted in MAY_BE else found[column][moment].outcome)
        told = toldIn(moment, {column: found[column][moment].told for column in COLUMNS})
        rows.append(f"| {moment} | {' | '.join(cells)} | {told} |\n")
    words = (f"  - *{word}*: `{reason} …`" for reason, word in WORDS.items())
    return HEADER + "".join(rows) + FOOTER.format(words=";\n".join(words) + ".")


def toldIn(moment, row):
    """
    Return what the operator is told in a row, except what depends on chance.
    """
    names = {KILL: "killed", STOP: "stopped"}
    told = [
        f"{victims[0]} {names[number]}: *{WORDS[reason]}*"
        for (number, victims), reason in row.items()
        if reason and len(reasons(moment, number, victims)) == 1
    ]
    return "; ".join(told)


def main():
    endProperly()
    found = tryColumns(dict.fromkeys(COLUMNS, MOMENTS))
    complaints = complaintsOf(found)
    if complaints:
        sys.exit("\n".join(complaints))
    text = document(found)
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text)
    print(f"{len(MOMENTS)} moments, {len(COLUMNS)} faults at each: all as they should be")


if __name__ == "__main__":
    main()
