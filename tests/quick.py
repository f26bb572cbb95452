"""
What is a quick test, and what it must not do; a plugin of pytest (conftest.py).

A test that starts processes has the mark C{process}: by itself if one of its
fixtures starts them, else by hand.  C{make quick} runs all others.
"""

import gc
import os
import sys

import pytest

STARTERS = frozenset(("service", "shedding", "torture", "pytester", "manager", "copy"))
"""
The fixtures that start processes.
"""

STARTS = frozenset(
    (
        *("subprocess.Popen", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty"),
        *("os.exec", "os.system"),
    )
)
"""
What the interpreter tells its audit hooks when a process starts.
"""

EAGER = "EAGER_GC" in os.environ
"""
Whether garbage is collected as often as may be, so that what lives only by the
chance that nobody has collected it yet is gone.
"""


class Quick:
    """
    Marks the tests, and fails each that starts a process and has no mark.

    @ivar running: the test that runs, if it must not start any.
    @ivar started: what it has started all the same.
    """

    def __init__(self):
        self.running = None
        self.started = []
        self._usual = gc.get_threshold()
        sys.addaudithook(self._audit)

    def _audit(self, event, arguments):
        if self.running is not None and event in STARTS:
            self.started.append(event)
            raise AssertionError(f"{self.running} starts a process: mark it ({event})")

    def pytest_collection_modifyitems(self, items):
        for item in items:
            if STARTERS.intersection(getattr(item, "fixturenames", ())):
                item.add_marker("process")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item):
        isQuick = item.get_closest_marker("process") is None
        self.running = item.nodeid if isQuick else None
        self.started = []
        if EAGER and isQuick:
            # Without what is there already, a whole collection takes no time.
            gc.freeze()
            gc.set_threshold(1)
        try:
            return (yield)
        finally:
            self.running = None
            gc.set_threshold(*self._usual)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self):
        result = yield
        # Whoever was to start it may have taken our error for one of its own.
        assert self.started == []
        return result
