"""
What an operator does to a unit, beside a systemd of our own (C{enter.sh}).
"""

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from broken import BAD, OTHER
from processes import APPS, DEADLINE, TWISTD, Clients, Service, ask, until

__all__ = [
    "APPS",
    "BAD",
    "DEADLINE",
    "OTHER",
    "PORT",
    "TWISTD",
    "Clients",
    "Unit",
    "ask",
    "journal",
    "refused",
    "until",
]

PORT = 8080  # nobody else is in this network


class Unit(Service):
    """
    A service that systemd runs, as the unit C{web}.
    """

    def __init__(self, directory, text, **values):
        super().__init__(directory)
        text = text.format(directory=directory, mark=self.mark, **values)
        (self.directory / "units" / "web.service").write_text(text)
        self.systemctl("daemon-reload")

    def systemctl(self, *words):
        """
        Run systemctl, and return its exit status and what it has printed.
        """
        done = subprocess.run(
            ["systemctl", "--user", *words], capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout.strip() or done.stderr.strip()

    def act(self, verb):
        """
        Do something to the unit, and return the exit status of systemctl.
        """
        return self.systemctl(verb, "web")[0]

    def show(self, name):
        """
        Return a property of the unit.
        """
        return self.systemctl("show", "--property", name, "--value", "web")[1]

    @property
    def mainPid(self):
        """
        The main process, or 0.
        """
        return int(self.show("MainPID"))

    def untilStatus(self, text):
        """
        Wait until the service says this of itself.
        """
        until(
            lambda: self.show("StatusText") == text,
            lambda: f"{text}, and not {self.show('StatusText')}\n{self.log[-3000:]}",
        )


def refused(*clients):
    """
    Return what clients met that was no connection which a process had accepted that was
    killed then.
    """
    failures = [each for some in clients for each in some.failures]
    return [each for each in failures if "Refused" in each or "NotFound" in each]


def journal():
    """
    Return what the journal has of the unit, and of systemd.
    """
    command = ["journalctl", "--output=cat", "--no-pager", "--directory=/run/log/journal"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
