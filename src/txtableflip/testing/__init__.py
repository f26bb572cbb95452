"""
For the tests of applications.

L{FakeUpgrader} is for unit tests: an upgrade without a second process.  L{migrate} has a
connection migrate in them.

L{Torture} is for the whole service: real processes, real clients, upgrades,
releases that are broken, and kills.  It is also a command, C{python -m
txtableflip.testing}, and a pytest fixture, C{torture}, for which a
C{conftest.py} needs::

    pytest_plugins = ["txtableflip.testing.fixtures"]
"""

from txtableflip._migration.moving import Stays
from txtableflip.testing._clients import Exchange, Http, Question, Sample, WrongAnswer
from txtableflip.testing._fake import FakeUpgrader
from txtableflip.testing._migrate import migrate
from txtableflip.testing._report import Deployment, Report
from txtableflip.testing._service import Event, Fault, TortureError
from txtableflip.testing._torture import MISHAPS, Mishap, Torture

__all__ = [
    "MISHAPS",
    "Deployment",
    "Event",
    "Exchange",
    "FakeUpgrader",
    "Fault",
    "Http",
    "Mishap",
    "Question",
    "Report",
    "Sample",
    "Stays",
    "Torture",
    "TortureError",
    "WrongAnswer",
    "migrate",
]
