"""
Fixtures for pytest: C{pytest_plugins = ["txtableflip.testing.fixtures"]}.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from txtableflip.testing._clients import Question
from txtableflip.testing._report import Report
from txtableflip.testing._torture import Torture


@pytest.fixture
def torture() -> Callable[..., Report]:
    """
    A function that tortures a service, and returns the L{Report}: see
    L{Torture} for its arguments.  The test fails if a client could tell::

        def test_nobody_notices(torture):
            torture(["twistd", "--nodaemon", "--pidfile=", "myapp", "--port",
                     "tableflip:tcp:{port}"], Http("/", "welcome"))
    """

    def run(command: Sequence[str], question: Question, **options: Any) -> Report:
        report = Torture(command, question, **options).run()
        if report.failures:
            pytest.fail(report.table())
        return report

    return run
