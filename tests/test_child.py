"""
What a parent makes of what its child says, and of how it ends.
"""

import os
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
from processes import DEADLINE
from reactors import Turns
from twisted.internet.error import ConnectionDone, ProcessDone, ProcessTerminated
from twisted.python.failure import Failure

from txtableflip._handover import childprocess
from txtableflip._handover.child import COMMIT_TIMEOUT, WITHDRAW_TIMEOUT, Child
from txtableflip._handover.ending import STATUS_TIMEOUT, TERM_GRACE
from txtableflip._handover.frames import FrameReader
from txtableflip._handover.manifest import Entry, Identity, Key, News
from txtableflip._handover.messages import (
    Abort,
    Commit,
    Confirm,
    Hello,
    Manifest,
    Ready,
    Redeploy,
    Refused,
    Serving,
    Stopping,
    Withdraw,
    decode,
    encode,
)
from txtableflip._handover.pidfd import Pidfd
from txtableflip._handover.probation import Terms
from txtableflip.errors import (
    ChildExited,
    ChildProtocolError,
    ChildRefused,
    ChildTimedOut,
    HandoverFailed,
    RolledBack,
)

UNWANTED = RolledBack("was not wanted", phase="probation")
MANIFEST = Manifest(2, 60.0, None, ())


class Rules:
    """
    Keeps what the rules of the parent hear, with the errors.
    """

    def __init__(self):
        self.heard = []
        self.errors = []

    def __getattr__(self, name):
        def hear(error=None):
            self.heard.append(name)
            if error is not None:
                self.errors.append(error)

        return hear


class Family:
    """
    A L{Child}, and what stands in the place of its process.

    @ivar signals: the names of those that it was sent.
    """

    def __init__(self, pid):
        self.reactor, self.rules, self.signals = Turns(), Rules(), []
        self.child = Child(self.reactor, self.rules)
        self.theirs = self.child._theirs
        transport = SimpleNamespace(pid=pid, signalProcess=self.signals.append)
        self.child._process.makeConnection(transport)
        self.child.sendManifest(MANIFEST, [])
        self._reader = FrameReader()
        self.listen()

    def say(self, *messages):
        """
        Have the child say something, and the parent hear it.

        @return: what the rules hear by that.
        """
        before = len(self.rules.heard)
        for message in messages:
            self.theirs.sendall(encode(message))
        self.reactor.turn(times=5)
        return self.rules.heard[before:]

    def listen(self):
        """
        Return what the child has been told meanwhile.
        """
        self.theirs.setblocking(False)
        try:
            data, descriptors, _, _ = socket.recv_fds(self.theirs, 65536, 9)
        except BlockingIOError:
            return []
        found = [decode(frame) for frame in self._reader.receive(data, descriptors)]
        for fileno in descriptors:
            os.close(fileno)
        return found

    def close(self):
        """
        Have the channel end.
        """
        self.theirs.close()
        self.reactor.turn(times=2)

    def end(self, status=None, number=None):
        """
        Have the process end, and be reaped.
        """
        kind = ProcessDone(None) if status == 0 else ProcessTerminated(status, number)
        self.child._process.processEnded(Failure(kind))

    def serving(self, *, can=None, terms=None):
        """
        Have it serve, and be watched.
        """
        hello = Hello(os.getpid()) if can is None else Hello(os.getpid(), can=can)
        assert self.say(hello, Ready()) == ["childReady"]
        self.child.commit(9.0)
        assert self.say(Serving()) == ["childServing"]
        self.child.watch(terms or Terms(9.0))
        self.listen()
        return self

    @property
    def error(self):
        """
        Why the upgrade has failed, and what was heard last: it is told once.
        """
        assert self.rules.heard.count("childFailed") == 1
        assert self.rules.heard[-1] == "childFailed"
        return self.rules.errors[-1]


@pytest.fixture
def family(monkeypatch):
    """
    A child that has been sent its manifest; nobody is ever signalled.
    """
    killed = []
    monkeypatch.setattr(childprocess.os, "kill", lambda *arguments: killed.append(arguments))
    made = Family(os.getpid())
    yield made
    made.theirs.close()
    for reader in list(made.reactor.readers):
        made.reactor.removeReader(reader)
        reader.connectionLost(Failure(ConnectionDone()))
    for call in made.reactor.getDelayedCalls():
        call.cancel()
    made.child._process.stderr.close()
    assert killed == []


def test_an_upgrade_that_succeeds(family):
    """
    Each answer is heard, and what is said follows from the rules alone.
    """
    assert family.say(Hello(os.getpid())) == []
    assert family.say(Ready()) == ["childReady"]
    family.child.commit(7.5)
    assert family.listen() == [Commit(7.5)]
    assert family.say(Serving()) == ["childServing"]
    family.child.watch(Terms(7.5))
    family.reactor.turn(7.4)
    assert family.rules.heard == ["childReady", "childServing"]
    family.reactor.turn(0.2)
    family.reactor.turn(times=3)
    assert family.rules.heard[2:] == ["confirm"]
    family.child.confirm()
    assert family.listen() == [Confirm()]
    assert family.child._ending.isFinal
    assert family.reactor.getDelayedCalls() == []


# -- withdrawn


def test_a_child_that_is_withdrawn_and_stands_by_is_dismissed(family):
    """
    It says Ready; the reason is that of the roll-back; Abort comes after that, and the
    parent has no more to do with it, whatever becomes of it.
    """
    family.serving().child.withdraw(UNWANTED)
    assert family.listen() == [Withdraw(UNWANTED.what)]
    assert family.say(Ready()) == ["childReady"]
    error = family.rules.errors[-1]
    assert (type(error), error.what, error.phase) == (
        *(RolledBack, "was not wanted", "probation"),
    )
    family.child.dismiss()
    assert family.listen() == [Abort("was not wanted")]
    assert family.reactor.getDelayedCalls() == []
    assert family.say(Ready(), Stopping(), Refused("x"), Confirm()) == []
    # It was told of that before it has read Abort, and never will do it.
    assert family.say(Redeploy()) == ["redeploy"]
    family.end(number=9)
    family.close()
    assert family.signals == []
    assert "childFailed" not in family.rules.heard


@pytest.mark.parametrize("phase", ["initialise", "commit"])
def test_a_child_that_has_not_served_refuses_and_does_not_stop(family, phase):
    """
    From such a one, Stopping is nonsense, and it is not waited for.
    """
    family.say(Hello(os.getpid()))
    if phase == "commit":
        family.say(Ready())
        family.child.commit(9.0)
    assert family.say(Stopping()) == []
    family.end(number=9)
    family.close()
    family.reactor.turn(0.1, times=100)
    assert type(family.error) is ChildProtocolError


def test_a_child_that_refuses_to_be_withdrawn_has_parked(family):
    """
    Nobody accepts: how it ends is not waited for.
    """
    family.serving().child.withdraw(UNWANTED)
    assert family.say(Refused("the disk is full")) == ["childFailed"]
    assert family.error.what == "was not wanted"
    assert family.signals == []
    assert family.reactor.getDelayedCalls() == []


def test_a_child_that_does_not_stand_by_is_killed(family):
    """
    It has some seconds; the reason stays that of the roll-back.
    """
    family.serving().child.withdraw(UNWANTED)
    family.reactor.turn(WITHDRAW_TIMEOUT - 0.1)
    assert family.signals == []
    family.reactor.turn(0.2)
    family.reactor.turn(times=3)
    assert family.signals == ["KILL"]
    assert family.rules.heard[2:] == []
    family.end(number=signal.SIGKILL)
    assert family.error.what == "was not wanted"


def test_what_a_child_said_before_it_heard_that_it_is_withdrawn_does_not_count(family):
    """
    Serving and wishes that cross Withdraw neither stop the deadline nor decide.
    """
    family.say(Hello(os.getpid()), Ready())
    family.child.commit(9.0)
    family.child.withdraw(UNWANTED)
    assert family.say(Serving(), Confirm(), Withdraw("no")) == ["childServing", "rollback"]
    assert len(family.reactor.getDelayedCalls()) == 1
    assert family.say(Ready()) == ["childReady"]
    assert family.reactor.getDelayedCalls() == []


@pytest.mark.parametrize("answer", [Ready(), Refused("no")])
def test_a_child_is_withdrawn_that_could_not_be_told_to_serve(family, answer):
    """
    The parent could not park: the upgrade has failed, and does not succeed by Ready;
    and a refusal is acted upon at once, as nobody accepts.
    """
    family.say(Hello(os.getpid()), Ready())
    family.child.withdraw(OSError("cannot park"))
    assert family.say(answer) == ["childReady" if answer == Ready() else "childFailed"]
    [error] = family.rules.errors
    assert type(error) is HandoverFailed
    assert error.phase == "commit"
    assert "cannot park" in str(error)


@pytest.mark.parametrize("ends", ["serves", "hangs"])
def test_a_child_that_is_handed_back_has_its_deadline_again(family, ends):
    """
    It is committed a second time: killed if it does not serve then, and let be if it
    does; and final at once, for this process cannot serve.
    """
    family.serving().child.withdraw(UNWANTED)
    family.say(Ready())
    family.child.commit(9.0)
    assert family.listen()[-1] == Commit(9.0)
    if ends == "hangs":
        family.reactor.turn(COMMIT_TIMEOUT)
        family.reactor.turn(times=3)
        assert family.signals == ["KILL"]
    else:
        assert family.say(Serving()) == ["childServing"]
        assert family.reactor.getDelayedCalls() == []
        family.child.watch(Terms(9.0))
        family.reactor.turn(times=9)
        assert family.rules.heard[-1] == "confirm"


# -- on probation


def test_a_child_on_probation_asks_to_be_withdrawn(family):
    """
    That is a reason to roll back, with its words.
    """
    assert family.serving().say(Withdraw("my database is gone")) == ["rollback"]
    assert family.rules.errors[-1].what == "asked to be withdrawn: my database is gone"


def test_a_child_that_asks_to_be_confirmed_moves_the_end_of_its_probation(family):
    """
    It is confirmed when what else has come is heard.
    """
    assert family.serving().say(Confirm()) == ["confirm"]
    family.child.confirm()
    assert family.say(Confirm()) == []
    assert family.reactor.getDelayedCalls() == []


@pytest.mark.parametrize("last", [Stopping(), Refused("broken"), None])
def test_a_child_that_asks_to_be_confirmed_and_is_gone_is_not_confirmed(family, last):
    """
    Whatever it said last, the end of the channel included, is heard first.
    """
    family.serving()
    family.theirs.sendall(encode(Confirm()))
    if last is not None:
        family.theirs.sendall(encode(last))
    family.close()
    family.end(number=9)
    family.reactor.turn(100, times=4)
    assert family.rules.heard[2:] == ["childStopping" if last == Stopping() else "childFailed"]


def test_an_operator_who_confirms_a_child_that_has_ended_does_not_lose_the_service(family):
    """
    Its end is read first; and it is the last good answer that counts.
    """
    family.serving()
    family.theirs.close()
    family.end(number=9)
    family.child.probation.timeIsOver()
    family.reactor.turn(times=9)
    assert type(family.error) is RolledBack
    family.child.probation.timeIsOver()
    family.reactor.turn(times=9)
    assert "confirm" not in family.rules.heard


@pytest.mark.parametrize("ends", ["close", "garbled", "killed", "reaped"])
def test_a_child_whose_end_is_waited_for_is_not_confirmed(family, ends):
    """
    Its time runs out before its status is known: the old process serves again.
    """
    family.serving(terms=Terms(STATUS_TIMEOUT / 2))
    if ends == "close":
        family.close()
    elif ends == "garbled":
        family.say(Manifest(2, 60.0, None, ()))
    elif ends == "killed":
        family.child.kill(UNWANTED)
    else:
        # Something of it holds the channel open.
        family.end(number=9)
    family.reactor.turn(0.1, times=400)
    assert "confirm" not in family.rules.heard
    assert "KILL" in family.signals or ends == "reaped"
    family.end(number=9)
    assert family.error.phase == "probation"


def test_a_timer_that_is_due_does_not_confirm_whose_end_has_not_been_read(family):
    """
    A parent that was asleep past the end of the probation reads first.
    """
    family.serving(terms=Terms(1.0))
    family.theirs.close()
    family.end(number=9)
    family.reactor.turn(100, times=5)
    assert family.error.what == "was killed by SIGKILL"
    assert type(family.error) is RolledBack
    assert "confirm" not in family.rules.heard


def test_the_end_of_a_child_on_probation_is_a_roll_back(family):
    """
    The caller reads how it ended, and that the old process serves again.
    """
    family.serving()
    family.close()
    family.end(status=3)
    assert type(family.error) is RolledBack
    assert "exited with status 3 (phase: probation); the old one serves again" in str(
        family.error
    )
    assert family.reactor.getDelayedCalls() == []


def test_a_child_that_was_told_to_stop_is_believed(family):
    """
    It accepts nothing any more; how it ends is not waited for.
    """
    assert family.serving().say(Stopping()) == ["childStopping"]
    assert family.reactor.getDelayedCalls() == []
    family.end(number=9)
    family.close()
    assert family.rules.heard[-1] == "childStopping"


def test_a_child_that_was_aborted_says_stopping(family):
    """
    The parent hears it although it listens to nothing else any more.  It has sent no
    SIGTERM, which may be the child's second one, and would cut its connections.
    """
    family.serving().child.end(None)
    [abort] = family.listen()
    assert isinstance(abort, Abort)
    assert family.signals == []
    assert family.say(Withdraw("x"), Confirm(), Serving(), Ready()) == []
    assert family.say(Stopping()) == ["childStopping"]
    assert family.reactor.getDelayedCalls() == []


def test_a_child_that_was_aborted_and_says_nothing_is_killed(family):
    """
    It has some seconds.
    """
    family.serving().child.end(None)
    family.reactor.turn(TERM_GRACE)
    family.reactor.turn(times=3)
    assert family.signals == ["KILL"]
    family.end(number=9)
    assert type(family.error) is ChildExited


# -- behind a wrapper


def greeter(family, number=1):
    """
    Start a process that says who it is, or lies, and then waits; and have it heard.
    """
    theirs = family.theirs.fileno()
    greet = (
        f"import os; os.write({theirs}, {encode(Hello(number))})\n"
        f"os.close({theirs}); os.write(1, b'.'); input()"
    )
    real = subprocess.Popen(
        [sys.executable, "-S", "-c", greet],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[theirs],
    )
    assert real.stdout.read(1) == b"."
    family.reactor.turn(times=2)
    return real


@pytest.mark.process
@pytest.mark.skipif(not hasattr(socket, "SO_PASSCRED"), reason="the kernel does not say")
def test_the_kernel_says_who_greets(family):
    """
    A child that greets as another process, as it does in another pid namespace, has
    nobody signalled but itself.
    """
    with subprocess.Popen(
        [sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE
    ) as bystander:
        with greeter(family, bystander.pid) as real:
            family.child.end(None)
            assert real.wait(DEADLINE) == -signal.SIGTERM
        assert bystander.poll() is None
        bystander.communicate(b"\n", DEADLINE)


@pytest.mark.process
def test_a_child_in_a_pid_namespace_is_signalled_and_nobody_else_is(family):
    """
    In a pid namespace of its own the child believes to be process 1, or 2: the one that
    is signalled is the child.
    """
    theirs = family.theirs.fileno()
    code = f"import os; os.write({theirs}, {encode(Hello(1))}); os.write(1, b'.'); input()"
    inside = ["unshare", "--pid", "--fork", sys.executable, "-S", "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(inside, pass_fds=[theirs], **pipes) as outer:
        if outer.stdout.read(1) != b".":
            outer.kill()
            pytest.skip("to make a pid namespace takes root, and unshare(1)")
        family.reactor.turn(times=2)
        # What is process 1 there ignores SIGTERM, and cannot ignore SIGKILL from here.
        family.child.kill(None)
        assert outer.wait(DEADLINE) != 0


def test_a_child_that_may_not_be_signalled_is_refused_when_it_greets(family, monkeypatch):
    """
    It has become another user's: it could not be made to leave when nobody else serves.
    """

    def send(self, number):
        raise PermissionError

    monkeypatch.setattr(Pidfd, "send", send)
    family.say(Hello(os.getpid()), Ready())
    assert family.rules.heard == []
    assert any(isinstance(each, Abort) for each in family.listen())
    family.close()
    family.end(status=0)
    family.reactor.turn(0.1, times=99)
    assert type(family.error) is ChildProtocolError
    assert "may not signal" in str(family.error)


@pytest.mark.process
@pytest.mark.parametrize("isReaped", [False, True])
@pytest.mark.parametrize("isReady", [False, True])
def test_a_child_behind_a_wrapper_does_not_outlive_its_channel(family, isReady, isReaped):
    """
    It may accept still: it is ended before the old process serves again, whatever
    became of what had started it.
    """
    with greeter(family) as real:
        if isReady:
            family.say(Ready())
            family.child.commit(9.0)
            family.say(Serving())
        family.close()
        if isReaped:
            family.end(status=0)
        family.reactor.turn(0.1, times=200)
        assert "TERM" in family.signals
        assert real.wait(DEADLINE) < 0
        if not isReaped:
            family.end(number=signal.SIGTERM)
        family.reactor.turn(0.1, times=400)
        assert type(family.error) is ChildProtocolError


# -- final


def test_a_final_child_that_ends_in_good_order_is_not_taken_for_a_crash(family):
    """
    It says Stopping first: its end is nothing that an operator should hear of.
    """
    family.serving().child.confirm()
    assert family.say(Stopping()) == []
    family.close()
    family.reactor.turn(0.1, times=100)
    assert family.rules.errors == []


@pytest.mark.parametrize(
    "message", [Refused("x"), Withdraw("x"), Confirm(), Ready(), Serving()]
)
def test_what_a_child_says_after_it_is_final_changes_nothing(family, message):
    """
    It crossed Confirm, or is nonsense: nobody is ended for it, and what is asked for
    after that is still heard.
    """
    family.serving().child.confirm()
    assert family.say(message) == []
    assert family.say(Redeploy()) == ["told"]
    assert family.signals == []
    assert family.reactor.getDelayedCalls() == []


def test_the_end_of_a_child_that_is_final_is_told_once(family):
    """
    By its channel, whichever process was started to start it.
    """
    family.serving().child.confirm()
    family.end(status=0)
    assert family.rules.heard[2:] == []
    family.close()
    assert family.error.what == "ended after it had taken over"


# -- the release before


def test_a_child_of_the_release_before_is_final_when_it_serves(family):
    """
    It knows nothing of a probation: neither its length nor its end is waited for, and
    nothing is said that it could not know.
    """
    family.serving(can=())
    family.reactor.turn(times=4)
    assert family.rules.heard[-1] == "confirm"
    family.child.confirm()
    assert family.listen() == []
    family.child.redeploy()
    assert family.listen() == [Redeploy()]


def test_a_child_of_the_release_before_cannot_be_withdrawn_and_is_killed(family):
    """
    Before it serves there is a way back; the kernel parks it.
    """
    family.say(Hello(os.getpid(), can=()), Ready())
    family.child.commit(9.0)
    family.child.withdraw(UNWANTED)
    assert family.signals == ["KILL"]
    family.end(number=9)
    assert family.error.what == "was not wanted"


# -- before it serves


def test_a_child_that_refuses_before_it_is_ready_is_ended_politely(family):
    """
    The old process accepts: the last words of the new one are waited for.
    """
    family.say(Hello(os.getpid()), Refused("no database"))
    assert family.rules.heard == []
    assert family.signals == ["TERM"]
    family.close()
    family.end(status=1)
    assert type(family.error) is ChildRefused
    assert family.error.exitStatus == 1


def test_a_child_that_does_not_serve_is_killed(family):
    """
    Nobody accepts meanwhile.
    """
    family.say(Hello(os.getpid()), Ready())
    family.child.commit(9.0)
    family.reactor.turn(COMMIT_TIMEOUT)
    family.reactor.turn(times=3)
    assert family.signals == ["KILL"]
    family.end(number=9)
    assert type(family.error) is ChildTimedOut


def test_a_child_that_says_what_it_may_not_is_killed(family):
    """
    Each message has its time.
    """
    for message in (Ready(), Hello(os.getpid()), Withdraw("x"), Confirm()):
        made = Family(os.getpid())
        made.say(Hello(os.getpid()), Ready())
        made.child.commit(9.0)
        made.say(message)
        assert made.signals == ["KILL"]
        made.end(number=9)
        assert type(made.error) is ChildProtocolError
        made.close()


# -- what has changed since the manifest


def test_what_came_goes_with_each_commit(family):
    """
    Also with the second, of a child that is handed back; whoever sends a descriptor keeps
    its own.
    """
    entry = Entry(Key("file", "", "x", 0), 0, 0, Identity(1, 2))
    assert family.say(Hello(os.getpid()), Ready()) == ["childReady"]
    with open(os.devnull, "rb") as file:
        for news in (
            News((entry,), [file.fileno()]),
            News((entry, entry), [file.fileno()] * 2),
        ):
            family.child.commit(7.5, news)
            assert family.listen() == [Commit(7.5, news.entries)]
            family.child.withdraw(UNWANTED)
            family.listen()
        os.fstat(file.fileno())
