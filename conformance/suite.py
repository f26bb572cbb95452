"""
Twisted's own tests of its ports, on plain reactors or on inheriting ones.

    python conformance/suite.py plain|inheriting RESULTS

Writes to the file RESULTS, as JSON, what became of each test by its name.
"""

import io
import json
import sys
from pathlib import Path

from twisted.internet.test.reactormixins import ReactorBuilder
from twisted.trial.reporter import Reporter
from twisted.trial.runner import TestLoader, TrialRunner
from twisted.trial.unittest import SynchronousTestCase

from txtableflip._draining.connections import Connections
from txtableflip._sockets.inventory import Inventory
from txtableflip._sockets.ports import Ports
from txtableflip._sockets.reactor import InheritingReactor

WAYS_TO_LISTEN = (
    "listenTCP",
    "listenSSL",
    "listenUNIX",
    "listenUDP",
    "listenMulticast",
    "listenUNIXDatagram",
    "adoptStreamPort",
    "adoptDatagramPort",
)
MODULES = ("test_tcp", "test_unix", "test_udp", "test_tls", "test_socket")


def inheritEverywhere():
    """
    From now on, all that listens on a reactor which a test makes is inheritable.
    """
    make = ReactorBuilder.buildReactor

    def buildReactor(self):
        reactor = make(self)
        ports = Ports(reactor, Inventory(), Connections(), accepting=True)
        inheriting = InheritingReactor(reactor, ports)
        for name in WAYS_TO_LISTEN:
            setattr(reactor, name, getattr(inheriting, name))
        return reactor

    ReactorBuilder.buildReactor = buildReactor


class Results(Reporter):
    """
    Keeps what became of each test.
    """

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.outcomes = {}

    def addSuccess(self, test):
        super().addSuccess(test)
        self.outcomes.setdefault(test.id(), "success")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.outcomes.setdefault(test.id(), "skipped")

    def addExpectedFailure(self, test, error, todo=None):
        super().addExpectedFailure(test, error, todo)
        self.outcomes.setdefault(test.id(), "expected failure")

    def addFailure(self, test, fail):
        super().addFailure(test, fail)
        self._wentWrong(test, fail)

    def addError(self, test, error):
        super().addError(test, error)
        self._wentWrong(test, error)

    def _wentWrong(self, test, error):
        lines = self._formatFailureTraceback(self._getFailure(error)).splitlines()
        self.outcomes[test.id()] = "\n".join(lines[-12:])


def main():
    how, path = sys.argv[1:]
    if how == "inheriting":
        inheritEverywhere()
    SynchronousTestCase.timeout = 60
    loader = TestLoader()
    names = [f"twisted.internet.test.{module}" for module in MODULES]
    runner = TrialRunner(Results, stream=io.StringIO(), workingDirectory=f"{path}.trial")
    outcomes = runner.run(loader.loadByNames(names)).outcomes
    Path(path).write_text(json.dumps(outcomes, indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
