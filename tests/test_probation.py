"""
The time in which a child may be rolled back, who asks how it is, and how a process is
known by its descriptor.
"""

import gc
import os
import signal
import subprocess
import sys
from contextlib import suppress
from types import SimpleNamespace

import pytest
import pytest_twisted
from processes import DEADLINE, until
from reactors import Turns
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred, succeed
from twisted.internet.threads import deferToThread

from txtableflip._handover.pidfd import Pidfd
from txtableflip._handover.probation import (
    BAD_ANSWERS,
    CHECK_INTERVAL,
    CHECK_TIMEOUT,
    EXTENSION,
    Probation,
    Terms,
)
from txtableflip._launch.healthcheck import HealthCommand, Unwell
from txtableflip.testing._service import isAlive
from txtableflip.upgrader import _makeTerms

TURNS = 3
"""
So many turns of the reactor pass before a child is confirmed.
"""


class Trial:
    """
    A L{Probation} of ten seconds, and what is decided.

    @ivar answers: what the next health checks give; the last one is given again.
    @ivar asked: how many have been.
    """

    def __init__(self, *answers, seconds=10.0):
        self.clock, self.decided, self.asked = Turns(), [], 0
        self.answers = list(answers)
        rules = SimpleNamespace(
            confirm=lambda: self.decided.append("confirm"),
            rollback=lambda error: self.decided.append(error.what),
        )
        self.probation = Probation(self.clock, rules)
        self.probation.begin(Terms(seconds, self._check if answers else None))

    def _check(self):
        self.asked += 1
        answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        return answer()

    def advance(self, seconds):
        """
        Let time pass, in small steps, and then what takes turns.
        """
        self.clock.pump([0.1] * round(seconds * 10))
        self.clock.turn(times=TURNS)


def good():
    """
    Answer that all is well.
    """
    return succeed("whatever")


def bad():
    """
    Answer that it is not.
    """
    return fail(RuntimeError("no database"))


def raising():
    """
    Have no answer.
    """
    raise RuntimeError("no such function")


def hanging():
    """
    Answer later than anybody waits.
    """
    return Deferred()


def test_without_a_health_check_the_time_alone_confirms():
    """
    Not before it is over, and once.
    """
    trial = Trial()
    trial.advance(9.9)
    assert trial.decided == []
    trial.advance(0.2)
    assert trial.decided == ["confirm"]
    trial.advance(100)
    assert trial.decided == ["confirm"]
    assert trial.clock.getDelayedCalls() == []


def test_no_time_at_all_confirms_when_what_has_come_is_heard():
    """
    Never from within: who asks has to know of it first.
    """
    trial = Trial(seconds=0.0)
    assert trial.decided == []
    trial.clock.turn(times=TURNS)
    assert trial.decided == []
    trial.clock.turn()
    assert trial.decided == ["confirm"]


def test_a_good_answer_each_second_confirms_at_the_end():
    """
    One is asked for at once, and the next a second after the last was given.
    """
    trial = Trial(good)
    assert trial.asked == 1
    trial.advance(CHECK_INTERVAL + 0.1)
    assert trial.asked == 2
    trial.advance(9)
    assert trial.decided == ["confirm"]
    assert 9 <= trial.asked <= 11
    assert trial.clock.getDelayedCalls() == []


@pytest.mark.parametrize("unwell", [bad, raising, hanging])
def test_three_bad_answers_in_a_row_roll_back(unwell):
    """
    It is a bad answer as well if the check raises at once, or hangs.
    """
    trial = Trial(unwell, seconds=100.0)
    most = (BAD_ANSWERS - 1) * CHECK_INTERVAL
    most += BAD_ANSWERS * CHECK_TIMEOUT if unwell is hanging else 0
    trial.advance(most - 0.2)
    assert trial.decided == []
    trial.advance(1)
    reasons = {
        bad: "no database",
        raising: "no such function",
        hanging: "no answer within 5 seconds",
    }
    assert trial.decided == [f"failed its health check: {reasons[unwell]}"]
    assert trial.asked == BAD_ANSWERS
    trial.advance(200)
    assert len(trial.decided) == 1
    assert trial.clock.getDelayedCalls() == []


def test_a_reason_without_words_is_called_by_its_name():
    """
    The operator is told something.
    """
    trial = Trial(lambda: fail(KeyError()), seconds=100.0)
    trial.advance(3)
    assert trial.decided == ["failed its health check: KeyError()"]


def test_a_good_answer_between_bad_ones_begins_again():
    """
    Only so many in a row count.
    """
    trial = Trial(*[bad, bad, good] * 4, good, seconds=20.0)
    trial.advance(19.5)
    assert trial.decided == []
    trial.advance(1)
    assert trial.decided == ["confirm"]


def test_when_the_time_is_over_a_bad_last_answer_is_waited_out():
    """
    The next good one confirms, at once.
    """
    trial = Trial(*[good] * 8, bad, bad, good, seconds=8.5)
    trial.advance(9.5)
    assert trial.asked == 10
    assert trial.decided == []
    trial.advance(1)
    assert trial.decided == ["confirm"]
    assert trial.clock.getDelayedCalls() == []


def test_a_late_good_answer_confirms():
    """
    A first check that is answered when the time is over, and not before.
    """
    waiting = Deferred()
    trial = Trial(lambda: waiting, seconds=2.0)
    trial.advance(4)
    assert trial.decided == []
    waiting.callback(None)
    trial.advance(0.1)
    assert trial.decided == ["confirm"]
    assert trial.clock.getDelayedCalls() == []


def test_the_wait_for_a_good_answer_has_an_end():
    """
    A check that hangs, and will not be cancelled either: half a minute behind the
    end of the time it is rolled back.
    """

    async def stubborn():
        while True:
            with suppress(CancelledError):
                await Deferred()

    trial = Trial(lambda: Deferred.fromCoroutine(stubborn()), seconds=1.0)
    trial.advance(1 + EXTENSION - 0.3)
    assert trial.decided == []
    trial.advance(1)
    assert trial.decided == ["failed its health check: has not been answered"]
    assert trial.clock.getDelayedCalls() == []


def test_an_early_end_needs_a_good_last_answer():
    """
    Whoever wants it sooner: a bad last answer is waited out; none yet as well.
    """
    for answer in (bad, hanging):
        trial = Trial(answer, good)
        trial.probation.timeIsOver()
        trial.clock.turn(times=2 * TURNS)
        assert trial.decided == []
        trial.advance(7)
        assert trial.decided == ["confirm"]
    trial = Trial(good)
    trial.probation.timeIsOver()
    trial.probation.timeIsOver()
    trial.clock.turn(times=2 * TURNS)
    trial.probation.timeIsOver()
    trial.advance(100)
    assert trial.decided == ["confirm"]
    assert trial.asked == 1


@pytest.mark.parametrize("when", [0, 0.5, 2, 10, 12])
@pytest.mark.parametrize("answer", [None, good, bad, hanging])
def test_who_decides_otherwise_stops_everything(when, answer):
    """
    Nothing is asked or decided any more, what is asked is cancelled, and no delayed
    call is left.
    """
    asked = []

    def keep():
        asked.append(answer())
        asked[-1].addErrback(lambda failure: failure.trap(CancelledError, RuntimeError))
        return asked[-1]

    trial = Trial(*[] if answer is None else [keep])
    trial.advance(when)
    before = list(trial.decided), trial.asked
    trial.probation.stop()
    trial.probation.stop()
    assert trial.clock.getDelayedCalls() == []
    trial.probation.timeIsOver()
    trial.advance(100)
    assert (trial.decided, trial.asked) == before
    assert all(each.called for each in asked)


def test_it_may_be_stopped_when_the_time_is_over_and_nothing_is_decided_yet():
    """
    Then something has come that was read first.
    """
    trial = Trial()
    trial.clock.turn(10)
    trial.clock.turn()
    assert trial.clock.getDelayedCalls()
    trial.probation.stop()
    trial.advance(1)
    assert trial.decided == []
    assert trial.clock.getDelayedCalls() == []


# -- a command that asks


class Spawning:
    """
    The reactor, and which processes it has started.
    """

    def __init__(self):
        self.pids = []

    def spawnProcess(self, *arguments, **more):
        process = reactor.spawnProcess(*arguments, **more)
        self.pids.append(process.pid)
        return process

    def __getattr__(self, name):
        return getattr(reactor, name)


def python(program):
    """
    Return the health check that is a program in Python, and the reactor that runs it.
    """
    spawning = Spawning()
    return HealthCommand(spawning, [sys.executable, "-c", program]), spawning


async def unwell(command):
    """
    Return in which words a health check says that all is not well.
    """
    with pytest.raises(Unwell) as info:
        await maybeDeferred(command.ask).addTimeout(DEADLINE, reactor)
    return str(info.value)


@pytest.mark.process
@pytest_twisted.ensureDeferred
async def test_a_command_that_exits_with_status_0_says_that_all_is_well():
    """
    Whatever it prints; it has no input, and may be asked again.
    """
    command, spawning = python("import sys; assert sys.stdin.read() == ''; print('bad')")
    for _ in range(2):
        assert await command.ask().addTimeout(DEADLINE, reactor) is None
    assert len(set(spawning.pids)) == 2


@pytest.mark.process
@pytest_twisted.ensureDeferred
async def test_a_command_that_exits_otherwise_says_why_by_what_it_prints():
    """
    The status or the signal, and what it has printed, however soon it has exited.
    """
    both = "import sys; print('no'); sys.stdout.flush(); sys.exit('database')"
    for _ in range(5):
        assert (await unwell(python(both)[0])).split() == ["status", "1:", "no", "database"]
    assert await unwell(python("raise SystemExit(77)")[0]) == "status 77"
    killed = "import os; os.kill(os.getpid(), 9)"
    assert await unwell(python(killed)[0]) == "signal 9"


@pytest.mark.process
@pytest_twisted.ensureDeferred
async def test_of_a_command_that_prints_megabytes_the_end_is_told():
    """
    Nothing else of it is kept, and what is no text is told all the same.
    """
    program = (
        "import os\n"
        "for _ in range(300): os.write(1, b'x' * 65536)\n"
        "os.write(1, b'\\xff the end\\n')\n"
        "raise SystemExit(3)"
    )
    said = await unwell(python(program)[0])
    assert said.startswith("status 3: xxx")
    assert said.endswith("x\ufffd the end")
    assert len(said) < 600


@pytest.mark.process
@pytest_twisted.ensureDeferred
async def test_a_command_that_hangs_is_killed_when_nobody_waits_any_more():
    """
    It may be cancelled before it has begun, or after it has ended, and often.
    """
    command, spawning = python("import time; time.sleep(999)")
    asked = command.ask()
    asked.cancel()
    asked.cancel()
    with pytest.raises(CancelledError):
        await asked
    [pid] = spawning.pids
    await deferToThread(until, lambda: not isAlive(pid), "its end")
    command, spawning = python("")
    asked = command.ask()
    assert await asked is None
    asked.cancel()


@pytest.mark.process
@pytest_twisted.ensureDeferred
async def test_a_command_that_leaves_something_behind_has_answered(tmp_path):
    """
    What holds its output open is not waited for.
    """
    left = tmp_path / "left"
    program = (
        "import subprocess, sys\n"
        "left = subprocess.Popen(['sleep', '999'])\n"
        f"open({str(left)!r}, 'w').write(str(left.pid))\n"
        "sys.exit(int(sys.argv[1]))"
    )
    for status in (0, 5):
        command = HealthCommand(Spawning(), [sys.executable, "-c", program, str(status)])
        try:
            if status:
                assert await unwell(command) == "status 5"
            else:
                assert await command.ask().addTimeout(DEADLINE, reactor) is None
            assert isAlive(int(left.read_text()))
        finally:
            os.kill(int(left.read_text()), signal.SIGKILL)


@pytest.mark.parametrize("what", ["nothing", "a file", "a directory"])
def test_what_cannot_be_executed_is_refused_at_once(tmp_path, what):
    """
    Not only when a child is on probation.
    """
    path = tmp_path / "check"
    if what == "a directory":
        path.mkdir()
    elif what == "a file":
        path.write_text("#!/bin/sh\n")
    with pytest.raises(ValueError, match="check is not a program"):
        HealthCommand(reactor, [str(path)])


@pytest.mark.process
@pytest_twisted.ensureDeferred
async def test_a_command_that_is_gone_by_the_time_is_a_bad_answer(tmp_path):
    """
    Or has become what cannot be executed.
    """
    path = tmp_path / "check"
    path.write_text("#!/bin/sh\nexit 0\n")
    path.chmod(0o755)
    command = HealthCommand(reactor, [str(path)])
    assert await command.ask().addTimeout(DEADLINE, reactor) is None
    path.write_text("no program")
    path.chmod(0o755)
    assert await unwell(command)
    path.unlink()
    assert await unwell(command)


# -- a process by its descriptor


@pytest.mark.process
def test_a_process_is_known_to_have_ended_when_it_is_a_zombie():
    """
    And when it has been reaped; while it runs, it is known not to have.
    """
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        found = Pidfd(process.pid)
        assert found.hasEnded is False
        found.kill()
        until(lambda: found.hasEnded, "its end")
        # Of a zombie, there is still a descriptor to be had.
        late = Pidfd(process.pid)
        assert late.hasEnded is True
        assert process.wait(DEADLINE) == -signal.SIGKILL
        assert found.hasEnded is late.hasEnded is True
        with pytest.raises(ProcessLookupError):
            found.kill()
        # Its number may be given again: that would be another one.
        assert Pidfd(process.pid).hasEnded is None


@pytest.mark.parametrize("pid", [0, -1, -77, 2**22 + 1, 2**31 - 1, 2**40, 2**70])
def test_of_no_process_nothing_is_known(pid):
    """
    Whatever number a peer names, nobody is signalled, and it is no error to ask.
    """
    found = Pidfd(pid)
    assert found.pid == pid
    assert found.hasEnded is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        found.kill()


def test_where_there_are_no_pidfds_nothing_is_known(monkeypatch):
    """
    Nor is it an error.
    """
    monkeypatch.delattr(os, "pidfd_open")
    assert Pidfd(os.getpid()).hasEnded is None


def test_the_descriptor_is_closed_with_its_object():
    """
    And no process that is started has it.
    """
    found = Pidfd(os.getpid())
    fileno = found._fileno
    assert found.hasEnded is False
    assert not os.get_inheritable(fileno)
    del found
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fileno)


# -- what an application may ask for


@pytest.mark.parametrize("seconds", [-1, -0.001, float("inf"), float("nan")])
def test_a_probation_is_a_number_of_seconds(seconds):
    """
    Not a negative one, and one that has an end.
    """
    with pytest.raises(ValueError, match="probation must be a number of seconds"):
        _makeTerms(reactor, seconds, None)


@pytest.mark.parametrize(
    "check", [[], "curl localhost", [1], ["curl", None], ["/no/such/program"]]
)
def test_a_health_check_is_a_function_or_a_program_with_its_arguments(check):
    """
    Anything else is an error at once, and not when a child is on probation.
    """
    with pytest.raises(ValueError, match=r"must be a list of strings|is not a program"):
        _makeTerms(reactor, 1, check)


def test_the_terms_are_what_was_asked_for():
    """
    No probation is one of 0 seconds.
    """
    assert _makeTerms(reactor, 0, None) == Terms(0.0, None)
    assert _makeTerms(reactor, 2.5, good) == Terms(2.5, good)
    assert _makeTerms(reactor, 2.5, [sys.executable]).check is not None
