"""
What an application's unit tests can do with a L{FakeUpgrader}.
"""

import inspect
import threading

import pytest
from twisted.internet.defer import fail
from twisted.internet.interfaces import IReactorProcess
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import Logger, eventAsText, formatEvent
from twisted.python.failure import Failure
from zope.interface import directlyProvides
from zope.interface.verify import verifyClass, verifyObject

import txtableflip
from txtableflip import (
    AlreadyUpgraded,
    ChildExited,
    ChildTimedOut,
    NotInheritable,
    NotOnProbation,
    NotReady,
    OnProbation,
    RolledBack,
    Stopping,
    UpgradeInProgress,
    Upgrader,
    UpgradeService,
)
from txtableflip.interfaces import IUpgrader
from txtableflip.service import REMINDER_AFTER
from txtableflip.testing import FakeUpgrader


@pytest.fixture
def fake():
    """
    A first generation that has not said ready.
    """
    return FakeUpgrader(MemoryReactorClock())


@pytest.fixture
def child():
    """
    A second generation that has not said ready.
    """
    return FakeUpgrader(MemoryReactorClock(), hasParent=True)


def outcomeOf(deferred):
    """
    Return what a Deferred has fired with, an exception if it has failed, or
    C{"pending"}.
    """
    outcomes = []
    deferred.addBoth(outcomes.append)
    if not outcomes:
        return "pending"
    return outcomes[0].value if isinstance(outcomes[0], Failure) else outcomes[0]


def refusalOf(fake):
    """
    Return the class of the error with which an upgrade is refused.
    """
    before = len(fake.steps)
    refusal = type(outcomeOf(fake.upgrade()))
    assert fake.steps[before:] == []
    return refusal


def test_the_fake_and_the_real_one_provide_the_same_interface(fake):
    """
    Both classes implement IUpgrader, and the fake provides its attributes too.
    """
    assert verifyClass(IUpgrader, Upgrader)
    assert verifyClass(IUpgrader, FakeUpgrader)
    assert verifyObject(IUpgrader, fake)


def test_the_real_one_provides_its_interface(monkeypatch):
    """
    An object of the real class has the attributes of IUpgrader, too.
    """
    monkeypatch.setattr("txtableflip.upgrader.Upgrader._current", None)
    reactor = MemoryReactorClock()
    directlyProvides(reactor, IReactorProcess)
    assert verifyObject(IUpgrader, Upgrader(reactor))


def test_the_fake_has_the_signatures_of_the_real_one():
    """
    Each public method of the real Upgrader can be called in the same way on
    the fake, and does not reach for what only a real process has.
    """
    for name, method in inspect.getmembers(Upgrader, inspect.isfunction):
        if not name.startswith("_"):
            fakes = getattr(FakeUpgrader, name)
            assert inspect.signature(fakes) == inspect.signature(method), name
    fake = FakeUpgrader(MemoryReactorClock())
    assert fake.used == []
    assert outcomeOf(fake.drain(1.0)) == 0


def test_a_first_generation_is_ready_at_once(fake):
    """
    Without a parent, ready fires at once, as whenParentExits does.
    """
    assert (fake.hasParent, fake.generation) == (False, 1)
    assert outcomeOf(fake.ready()) is None
    assert outcomeOf(fake.whenParentExits()) is None


def test_a_child_is_ready_when_its_parent_commits(child):
    """
    With a parent, ready fires when that commits, whenFinal when it confirms, until
    which an upgrade is refused, and whenParentExits when it has ended.
    """
    assert (child.hasParent, child.generation) == (True, 2)
    ready, final, exits = child.ready(), child.whenFinal(), child.whenParentExits()
    assert not ready.called
    child.parentCommits()
    assert outcomeOf(ready) is None
    assert outcomeOf(child.whenServing()) is None
    assert refusalOf(child) is OnProbation
    assert not final.called
    child.parentConfirms()
    assert outcomeOf(final) is None
    assert not exits.called
    child.parentExits()
    assert outcomeOf(exits) is None
    child.upgrade()
    assert child.steps[-1] == "startChild"


def test_a_child_whose_parent_dies_is_ready(child):
    """
    With a parent that ends before it has answered, ready fires.
    """
    ready = child.ready()
    child.parentExits()
    assert outcomeOf(ready) is None


def test_an_upgrade_succeeds(fake):
    """
    When the child takes over, upgrade fires, then whenExiting, and another
    upgrade is refused.
    """
    fake.ready()
    exiting, upgrade = fake.whenExiting(), fake.upgrade()
    assert not upgrade.called
    fake.childTakesOver()
    assert outcomeOf(upgrade) is None
    assert outcomeOf(exiting) is None
    assert refusalOf(fake) is AlreadyUpgraded


def test_an_upgrade_is_taken_back(fake):
    """
    On probation, the upgrade may be rolled back: it fails with the reason, and this
    process serves again when the child stands by.
    """
    fake.ready()
    with pytest.raises(NotOnProbation, match="no process here is on probation"):
        fake.rollback("too early")
    upgrade = fake.upgrade()
    fake.childServes()
    assert not upgrade.called
    fake.rollback("the shop is empty")
    assert fake.steps[-1] == "withdrawChild"
    with pytest.raises(NotOnProbation, match="being rolled back already"):
        fake.rollback("twice")
    fake.childStandsBy()
    error = outcomeOf(upgrade)
    assert isinstance(error, RolledBack)
    assert "the shop is empty" in str(error)
    assert fake.steps[-1] == "dismissChild"
    assert outcomeOf(fake.whenExiting()) == "pending"


def test_a_child_is_taken_back(child):
    """
    A process on probation asks to be withdrawn, stands by when its parent says so,
    and may be called again.
    """
    ready, final = child.ready(), child.whenFinal()
    child.parentCommits()
    child.withdraw("I am not well")
    assert child.steps[-1] == "askToBeWithdrawn"
    child.parentWithdraws()
    assert child.steps[-2:] == ["park", "sayReady"]
    assert outcomeOf(ready) is None
    assert outcomeOf(final) == "pending"
    child.parentExits()
    assert outcomeOf(final) is None


def test_who_asks_the_wrong_process_is_told_what_the_right_one_does(fake, child):
    """
    The old process rolls back, the new one withdraws, and neither when it is final.
    """
    fake.ready()
    fake.upgrade()
    for ask in (fake.confirm, lambda: fake.withdraw("unwell")):
        with pytest.raises(NotOnProbation, match="does not serve yet"):
            ask()
    fake.childServes()
    with pytest.raises(NotOnProbation, match=r"old process: rollback\(\)"):
        fake.withdraw("unwell")
    fake.confirm()
    for ask in (fake.confirm, lambda: fake.rollback("unwell")):
        with pytest.raises(NotOnProbation, match="too late"):
            ask()
    child.ready()
    child.parentCommits()
    with pytest.raises(NotOnProbation, match=r"new process: withdraw\(\)"):
        child.rollback("unwell")
    child.parentConfirms()
    with pytest.raises(NotOnProbation, match="no process here is on probation"):
        child.withdraw("unwell")


def test_an_upgrade_fails(fake):
    """
    When the child fails, upgrade fails with the error, the process keeps serving,
    and another upgrade may be tried.
    """
    fake.ready()
    upgrade = fake.upgrade()
    error = ChildTimedOut("was too slow", phase="initialise")
    fake.childFails(error)
    assert outcomeOf(upgrade) is error
    assert outcomeOf(fake.whenExiting()) == "pending"
    again = fake.upgrade()
    fake.childFails()
    assert isinstance(outcomeOf(again), ChildExited)


def test_refusals_are_the_real_ones(fake):
    """
    Upgrades are refused as the real rules have it.
    """
    assert refusalOf(fake) is NotReady
    fake.ready()
    running = fake.upgrade()
    assert refusalOf(fake) is UpgradeInProgress
    stopped = fake.stop()
    assert isinstance(outcomeOf(running), Stopping)
    assert refusalOf(fake) is Stopping
    assert not stopped.called
    fake.childFails()
    assert outcomeOf(stopped) is None
    assert outcomeOf(fake.whenExiting()) is None


def test_a_redeploy_waits_for_ready(fake):
    """
    A redeploy that comes too early starts the child as soon as that may be.
    """
    fake.redeployOn("USR2")
    assert fake.signals == ["USR2"]
    fake.redeploy()
    assert "startChild" not in fake.steps
    fake.ready()
    assert fake.steps[-1] == "startChild"


def test_a_signal_of_no_name_is_refused(fake):
    """
    The fake refuses the signals that the real one refuses.
    """
    for name in ("NONE", "KILL"):
        with pytest.raises(ValueError, match="use HUP, USR2"):
            fake.redeployOn(name)
    assert fake.signals == []


def test_a_process_can_refuse_to_be_ready(child):
    """
    After refuse, ready fails with the reason, and the process is to leave.
    """
    error = RuntimeError("no database")
    child.refuse(error)
    assert "sayRefused" in child.steps
    assert outcomeOf(child.ready()) is error
    assert outcomeOf(child.whenExiting()) is None


def test_endpoints_listen_on_the_given_reactor(fake):
    """
    What the fake's endpoints listen on is in the memory reactor, and
    whenListening waits for it.
    """
    factory = Factory()
    endpoint = fake.endpoint("tcp:8080:interface=127.0.0.1")
    listening = fake.whenListening()
    assert not listening.called
    port = outcomeOf(endpoint.listen(factory))
    assert outcomeOf(listening) is None
    assert [server[:2] for server in fake.reactor.tcpServers] == [(8080, factory)]
    assert fake.reactor.tcpServers[0][3] == "127.0.0.1"
    assert port.getHost().port == 8080


def test_an_endpoint_that_is_not_inheritable_fails_as_with_the_real_one(fake, monkeypatch):
    """
    An endpoint that does not listen through its reactor fails as in earnest.
    """

    class Deaf:
        def listen(self, factory):
            return self

        def loseConnection(self):
            pass

    deaf = Deaf()
    monkeypatch.setattr("txtableflip._sockets.endpoint.serverFromString", lambda *a: deaf)
    error = outcomeOf(fake.endpoint("deaf:").listen(Factory()))
    assert isinstance(error, NotInheritable)
    assert outcomeOf(fake.whenListening()) is error


def test_a_bad_description_is_refused(fake):
    """
    An endpoint of no type is refused at once.
    """
    with pytest.raises(ValueError, match="nosuch"):
        fake.endpoint("nosuch:1")


def test_a_test_out_of_turn_is_told_so(fake, child):
    """
    Having the other process do what it could not do now is an error of the
    test.
    """
    for act in (fake.childTakesOver, fake.childFails, fake.parentCommits):
        with pytest.raises(RuntimeError, match="nobody waits"):
            act()
    with pytest.raises(RuntimeError, match="nobody waits"):
        child.parentCommits()


def test_an_upgrade_service_runs_on_the_fake():
    """
    UpgradeService says ready on the fake when its endpoints listen, and stops
    the reactor after the upgrade.
    """
    reactor = MemoryReactorClock()
    fake = FakeUpgrader(reactor, hasParent=True)
    service = UpgradeService(fake)
    endpoint = fake.endpoint("tcp:8080")
    service.startService()
    reactor.run()
    reactor.advance(0)
    assert "sayReady" not in fake.steps
    endpoint.listen(Factory())
    assert fake.steps[-1] == "sayReady"
    fake.parentCommits()
    fake.parentExits()
    reactor.hasStopped = False
    fake.redeploy()
    fake.childTakesOver()
    assert reactor.hasStopped


def test_a_service_whose_drain_fails_says_so_and_ends(monkeypatch):
    """
    Whatever it is that makes the drain fail, UpgradeService logs it and stops
    the reactor.
    """
    reactor = MemoryReactorClock()
    fake = FakeUpgrader(reactor)
    monkeypatch.setattr(fake, "drain", lambda *timeouts: fail(ValueError("no drain")))
    heard = []
    monkeypatch.setattr(
        UpgradeService, "_log", Logger(observer=lambda event: heard.append(eventAsText(event)))
    )
    UpgradeService(fake).startService()
    reactor.run()
    reactor.advance(0)
    reactor.hasStopped = False
    fake.redeploy()
    fake.childTakesOver()
    assert reactor.hasStopped
    assert "draining failed" in heard[-1]
    assert "ValueError: no drain" in heard[-1]


@pytest.mark.parametrize("isReplaced", [True, False])
def test_the_fake_leaves_the_process_alone(fake, isReplaced):
    """
    Any number of fakes may be made: none is the process's own Upgrader, and when its
    service has ended, nothing is left that would end this process.
    """
    assert FakeUpgrader(fake.reactor) is not fake
    assert txtableflip.currentUpgrader() is None
    threads = threading.enumerate()
    UpgradeService(fake).startService()
    fake.reactor.run()
    fake.reactor.advance(0)
    if isReplaced:
        fake.redeploy()
        fake.childTakesOver()
    else:
        fake.stop()
    assert fake.reactor.hasStopped
    assert threading.enumerate() == threads


def test_an_endpoint_that_never_listens_is_named(monkeypatch):
    """
    A service that waits for an endpoint which nobody tells to listen says so
    after a while; one that listens in time is not mentioned.
    """
    reactor = MemoryReactorClock()
    fake = FakeUpgrader(reactor)
    UpgradeService(fake).startService()
    forgotten = fake.endpoint("tcp:8080")
    fake.endpoint("tcp:8081").listen(Factory())
    heard = []
    monkeypatch.setattr(
        UpgradeService, "_log", Logger(observer=lambda event: heard.append(formatEvent(event)))
    )
    reactor.run()
    reactor.advance(0)
    reactor.advance(REMINDER_AFTER - 1)
    assert heard == []
    reactor.advance(1)
    assert heard == [f"not ready after 10 s: waiting for {forgotten!r} to listen"]
