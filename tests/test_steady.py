"""
Time that does not depend on the wall clock.
"""

import time

import pytest
from twisted.internet.base import ReactorBase
from twisted.internet.testing import MemoryReactorClock

from txtableflip._observers import Deadline, SteadyClock


class Wall(ReactorBase):
    """
    A reactor whose wall clock can be set, and whose real time is the test's.
    """

    def __init__(self, monkeypatch):
        self.now, self.offset = 100.0, 0.0
        super().__init__()
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def installWaker(self):
        pass

    def seconds(self):
        return self.now + self.offset

    def step(self, seconds):
        self.offset += seconds

    def advance(self, seconds):
        for _ in range(100):
            self.now += seconds / 100
            for _ in range(5):
                self.runUntilCurrent()


@pytest.fixture
def wall(monkeypatch):
    return Wall(monkeypatch)


def test_a_step_forward_makes_nothing_come_early(wall):
    """
    When the wall clock is set forward by an hour, in the middle or again and again, what is
    to be done in ten seconds is done in ten seconds.
    """
    done = []
    Deadline(wall).after(10, done.append, "deadline")
    SteadyClock(wall).callLater(10, done.append, "call")
    for _ in range(9):
        wall.step(3600)
        wall.advance(1)
    assert done == []
    wall.advance(1.5)
    assert sorted(done) == ["call", "deadline"]


def test_what_was_cancelled_does_not_come(wall):
    """
    Also when it has been put off because of a step.
    """
    done = []
    call = SteadyClock(wall).callLater(10, done.append, "call")
    wall.step(3600)
    wall.advance(1)
    assert call.active()
    call.cancel()
    assert not call.active()
    wall.advance(20)
    assert done == []
    assert wall.getDelayedCalls() == []


def test_the_time_of_a_reactor_that_is_not_real_is_its_own():
    """
    A test's clock is what the test says.
    """
    clock, done = MemoryReactorClock(), []
    SteadyClock(clock).callLater(10, done.append, "call")
    clock.advance(9.9)
    assert done == []
    clock.advance(0.2)
    assert done == ["call"]
