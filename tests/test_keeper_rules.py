"""
The rules of C{tableflip run} (L{txtableflip.keeper}), without processes.
"""

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from txtableflip import keeper
from txtableflip.keeper import (
    POLICIES,
    TABLE,
    Descriptor,
    Family,
    Generation,
    Releases,
    Restarts,
    Rules,
    Starts,
    Stops,
    Store,
    Timers,
)

INPUTS = sorted({what for rows in TABLE.values() for what in rows})


# -- the table


def test_the_table_is_closed():
    """
    Each state can be reached, and left but for the last; each step is one of the keeper's.
    """
    reached = {state for rows in TABLE.values() for state, _ in rows.values()}
    assert reached | {"Pausing"} == set(TABLE)
    steps = {step for rows in TABLE.values() for _, step in rows.values()} - {None}
    for step in steps:
        assert [step in vars(room) for room in (Starts, Stops)].count(True) == 1
    for state, rows in TABLE.items():
        assert state == "Ended" or any(after != state for after, _ in rows.values())


@pytest.mark.parametrize("state", TABLE)
def test_nobody_is_left_waiting(state):
    """
    Wherever a stop comes, what follows leads to the end; and whatever may be a main
    process's end has a row where there is one.
    """
    assert TABLE[state]["stop"][0] in ("Stopping", "Ended")
    if state in ("Starting", "Serving"):
        assert {"left", "crashed", "finished", "failed"} <= set(TABLE[state])
    if state == "Awaiting":
        assert {"crashed", "finished", "failed"} <= set(TABLE[state])
    if state == "Stopping":
        assert {"left", "finished"} <= set(TABLE[state])


@given(st.lists(st.sampled_from(INPUTS)))
def test_the_end_is_the_end(inputs):
    """
    Nothing is started once it has been told to stop, or has ended; and nothing but a
    pause is followed by a start.
    """
    rules, before = Rules("always"), None
    for what in inputs:
        before = rules.state
        step = rules.hear(what)
        if before in ("Stopping", "Ended"):
            assert rules.state in ("Stopping", "Ended")
        if step == "start":
            assert before == "Pausing"


@given(
    st.sampled_from(sorted(TABLE)),
    st.sampled_from(POLICIES),
    st.one_of(st.none(), st.integers(-64, 255)),
    st.tuples(*[st.booleans()] * 4),
)
def test_what_the_end_of_main_means(state, policy, status, facts):
    """
    Whoever may become main is always waited for, nobody is started beside it, and a crash
    of what has served is followed by a start unless nobody wants that.
    """
    wasReady, hasHeir, hasLeft, served = facts
    rules = Rules(policy)
    rules.state, rules.hasServed = state, served or wasReady
    last = Generation(1)
    last.status, last.isReady = status, wasReady
    meaning = rules.meaningOf(last, hasHeir=hasHeir, hasLeft=hasLeft)
    if hasHeir:
        assert meaning == "left"
    if meaning == "crashed":
        assert not hasHeir
        assert policy != "no"
        assert rules.hasServed
    if meaning == "finished" and state != "Stopping":
        assert (status, wasReady) == (0, True)
    isCrash = wasReady and status != 0 and not hasHeir and state != "Stopping"
    if isCrash and policy != "no":
        assert meaning == "crashed"
    if state == "Stopping" and not hasHeir:
        assert meaning == "finished"


# -- when to start again


def test_one_that_has_served_is_replaced_at_once_and_others_later_and_later():
    """
    Five within a minute, and then no more; a minute later there may be others.
    """
    restarts = Restarts()
    assert restarts.next(0.0, hadServed=True) == 0.0
    assert [restarts.next(1.0, hadServed=False) for _ in range(5)] == [
        *(0.1, 0.2, 0.4, 0.8),
        None,
    ]
    assert restarts.next(60.5, hadServed=True) == 0.0
    assert restarts.count == 6
    # Also if that goes on for days.
    assert {restarts.next(61.0 * n, hadServed=False) for n in range(9, 2000)} == {
        *(0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0),
    }


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans())))
def test_there_are_never_more_than_five_in_a_minute(ends):
    """
    Whatever comes.
    """
    restarts, now, started = Restarts(), 0.0, []
    for seconds, hadServed in ends:
        now += seconds
        delay = restarts.next(now, hadServed=hadServed)
        if delay is not None:
            assert 0 <= delay <= Restarts.LONGEST
            started.append(now)
        assert sum(now - each < Restarts.WITHIN for each in started) <= Restarts.LIMIT


# -- which release


def test_only_a_release_that_has_just_taken_over_is_gone_back_from():
    """
    Not one a minute later, nor twice, nor without being told to, nor to where one is.
    """
    releases = Releases(mayGoBack=True)
    releases.serves("/one", 0.0, byUpgrade=False)
    assert not releases.crashed(1.0)
    releases.serves("/two", 100.0, byUpgrade=True)
    assert not releases.crashed(161.0)
    releases.serves("/three", 200.0, byUpgrade=True)
    assert releases.crashed(259.0)
    assert releases.pinned == "/two"
    releases.serves("/two", 260.0, byUpgrade=False)
    assert not releases.crashed(261.0)
    assert releases.pinned == "/two"
    releases.serves("/four", 270.0, byUpgrade=True)
    assert releases.pinned is None
    # It has been rolled back.
    releases.serves("/two", 275.0, byUpgrade=True)
    assert not releases.crashed(276.0)
    careful = Releases(mayGoBack=False)
    careful.serves("/one", 0.0, byUpgrade=False)
    careful.serves("/two", 0.0, byUpgrade=True)
    assert not careful.crashed(1.0)
    assert careful.pinned is None


# -- who is who

PIDS = st.integers(1, 5)
EVENTS = st.lists(st.tuples(st.sampled_from(["becomes", "ended", "announced"]), PIDS))


@given(EVENTS)
def test_nobody_is_two(events):
    """
    Whatever happens, who is main is not older, nor its own successor; and who may roll back
    is one of the older.
    """
    family = Family()
    for what, pid in events:
        who = family.find(pid) or Generation(pid)
        if what == "announced" and family.find(pid) is None:
            family.successor = who
        elif what == "becomes" and who is not family.main:
            family.becomesMain(who)
            assert family.main is who
            assert not family.isServed
        elif what == "ended":
            family.forget(who)
            assert family.find(pid) is None
        assert family.main not in family.older
        assert family.main is None or family.main != family.successor
        assert family.before is None or family.before in family.older
        pids = [each.pid for each in family.everybody()]
        assert len(pids) == len(set(pids))


def test_a_stranger_is_heard_only_while_nobody_serves():
    """
    And only if it descends from us; who is known always is.
    """
    family, first, second = Family(), Generation(1), Generation(2)
    family.becomesMain(first)
    assert family.mayNominateItself(None, isOurs=True)
    assert not family.mayNominateItself(None, isOurs=False)
    first.isReady = True
    assert not family.mayNominateItself(None, isOurs=True)
    first.hasEnded = True
    assert family.mayNominateItself(None, isOurs=True)
    assert not family.mayNominateItself(None, isOurs=False)
    family.successor = second
    first.hasEnded = False
    assert family.mayNominateItself(second, isOurs=True)
    family.becomesMain(second)
    assert family.mayNominateItself(first, isOurs=True)
    assert (family.main, family.before, family.older) == (second, first, [first])


def test_what_becomes_main_in_an_upgrade_is_known():
    """
    It follows one that has served, or is the one before that takes back; what has been
    started, and the daemon that it has become, are none.
    """
    family, launcher, daemon, new = (Family(), *map(Generation, (1, 2, 3)))
    for who in (launcher, daemon):
        family.becomesMain(who)
        assert not who.isUpgrade
    family.forget(launcher)
    daemon.isReady = True
    for who in (new, daemon):
        family.becomesMain(who)
        assert who.isUpgrade


# -- the store, and what is above


def test_what_is_stored_is_closed_once():
    """
    By name: the same one again is the same.
    """
    store = Store(2)
    first, again, other, more = os.pipe() + os.pipe()
    assert store.add("one", Descriptor(first))
    assert store.add("one", Descriptor(again))
    assert store.add("two", Descriptor(other))
    assert not store.add("three", Descriptor(more))
    assert list(store.items()) == [("one", first), ("two", other)]
    for fd in (again, more):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    store.remove("two", "never there")
    assert list(store) == ["one"]
    store.end()
    for fd in (first, other):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    assert len(store) == 0


def test_what_an_application_has_stored_needs_no_list():
    """
    It knows nothing of lists; what generations have stored needs one.
    """
    store = Store(9)
    reading, writing = os.pipe()
    store.add("the-application-s", Descriptor(reading))
    assert store.isComplete()
    store.add("txtableflip-listener", Descriptor(writing))
    assert not store.isComplete()
    fd = os.memfd_create("list")
    os.write(fd, b"txtableflip-listener\n{}")
    store.add("txtableflip-list-1", Descriptor(fd))
    assert store.isComplete()


def test_a_manager_that_reads_nothing_costs_no_more_than_it_may(tmp_path, monkeypatch):
    """
    What does not fit any more is dropped, and said; and what fits arrives in order.
    """
    said = []
    monkeypatch.setattr(keeper, "log", said.append)
    monkeypatch.setattr(keeper, "_MAX_WAITING", 50)
    path = str(tmp_path / "above")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        upward = keeper.Upward(path)
        for number in range(1000):
            upward.tell(f"STATUS={number}", descriptors=[0])
        assert said == ["cannot notify the service manager: it does not read"]
        assert upward.filenos() != []
        sock.setblocking(False)
        heard = []
        while upward.filenos() or not heard:
            data, fds, _, _ = socket.recv_fds(sock, 100, 9)
            for fd in fds:
                os.close(fd)
            heard.append(data)
            upward.flush()
        assert heard == [f"STATUS={number}".encode() for number in range(len(heard))]


def test_timers_are_of_one_name_each(monkeypatch):
    """
    And what was cancelled by another one does not fire.
    """
    now = [0.0]
    monkeypatch.setattr(keeper.time, "monotonic", lambda: now[0])
    timers, fired = Timers(), []
    assert timers.left() is None
    timers.after(1.0, "a", lambda: (fired.append("a"), timers.cancel("b")))
    timers.after(1.0, "b", lambda: fired.append("b"))
    timers.after(9.0, "c", lambda: fired.append("old"))
    timers.after(1e300, "c", lambda: fired.append("c"))
    now[0] = 2.0
    timers.fire()
    assert fired == ["a"]
    assert timers.left() < 2**31
