"""
Upgrades, broken releases and kills, while clients ask without a pause.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from txtableflip.testing._clients import Client, Clients, Lasting, Question
from txtableflip.testing._report import Deployment, Report
from txtableflip.testing._service import Fault, Service, TortureError, freePort
from txtableflip.upgrader import checkCommand

BETWEEN_DEPLOYMENTS = 0.3
"""
How long a generation serves undisturbed, in seconds.
"""

EVERY = 5
"""
One mishap comes after so many upgrades.
"""

QUEUED = 1.0
"""
How long a connection may have waited for the old process to accept it, in seconds, when
that stopped accepting.
"""


@dataclass(frozen=True)
class Mishap:
    """
    An upgrade that fails on purpose: the old process keeps serving, and no client
    can tell.

    @ivar name: what goes wrong, in words.
    @ivar hasServed: whether the new process has accepted connections by then, whose
        requests are lost with it.
    """

    name: str
    fault: Fault
    hasServed: bool = False


MISHAPS = (
    Mishap("a release that raises", Fault("new starts", error="a broken release")),
    Mishap("killed before ready", Fault("new says Ready", ("new",), signal.SIGKILL)),
    Mishap("killed before it serves", Fault("new hears Commit", ("new",), signal.SIGKILL)),
    Mishap(
        "killed on probation",
        Fault("old hears Serving", ("new",), signal.SIGKILL),
        hasServed=True,
    ),
)
"""
What goes wrong with a new process, in turn.
"""


class Torture:
    """
    A service that is upgraded again and again while clients ask it.
    """

    def __init__(
        self,
        command: Sequence[str],
        question: Question,
        *,
        upgrades: int = 10,
        clients: int = 1,
        port: int | None = None,
        redeploy: int = signal.SIGHUP,
        deployed: Callable[[str], None] = lambda text: None,
    ) -> None:
        """
        @param command: what starts the service: C{{port}} in it is replaced by
            the port.  It may become a daemon, and stays that of the user who
            calls this, with the same directory and environment.
        @param question: how to ask it, and how to tell an answer.
        @param upgrades: how many are to succeed.  After every fifth, one of
            L{MISHAPS} comes.
        @param clients: how many there are of each kind.
        @param port: where it listens on 127.0.0.1; by default a port that is free.
        @param redeploy: the number of the signal for an upgrade.
        @param deployed: is called with a line of text for each upgrade.
        @raise ValueError: if C{upgrades} or C{clients} is not positive, or the
            command is empty, one string, or has something else than strings.
        """
        checkCommand(command)
        if upgrades < 1 or clients < 1:
            raise ValueError("upgrades and clients must be at least 1")
        self._port = port or freePort()
        self._service = Service(
            [word.replace("{port}", str(self._port)) for word in command], redeploy=redeploy
        )
        self._question = question
        self._upgrades = upgrades
        address = ("127.0.0.1", self._port)
        self._clients = Clients(address, question, clients)
        self._lasting = Lasting(address, question, self._clients.samples.append)
        self._deployed = deployed
        self._deployments: list[Deployment] = []

    def run(self) -> Report:
        """
        Start the service, torture it, and end it, whatever happens.

        @raise TortureError: if it cannot be tortured: it does not start, or
            does not answer.
        """
        trouble = ""
        try:
            self._service.start()
            self._deployments.append(Deployment("start", self._service.served[0], alive=1))
            self._untilItAnswers()
            with self._clients:
                try:
                    self._deployAll()
                except TortureError as error:
                    trouble = str(error)
                    # Clients may wait for what never comes.
                    self._service.stop()
        finally:
            self._lasting.close()
            self._service.stop()
            self._service.discard()
        return Report(tuple(self._clients.samples), tuple(self._deployments), trouble)

    def _deployAll(self) -> None:
        for number in range(1, self._upgrades + 1):
            self._deploy(None)
            if number % EVERY == 0:
                self._deploy(MISHAPS[number // EVERY % len(MISHAPS) - 1])
        time.sleep(BETWEEN_DEPLOYMENTS)

    def _untilItAnswers(self) -> None:
        """
        Ask once, to tell what is not a service from one that loses answers.
        """
        first: list[str] = []
        client = Client(
            ("127.0.0.1", self._port), self._question, lambda sample: first.append(sample.error)
        )
        client.alone()
        if first[0]:
            raise TortureError(
                f"it serves, but not what is expected at 127.0.0.1:{self._port}: {first[0]}"
            )

    def _deploy(self, mishap: Mishap | None) -> None:
        self._lasting.another()
        time.sleep(BETWEEN_DEPLOYMENTS)
        if mishap is not None:
            self._service.fail(mishap.fault)
        begun, before = time.time(), len(self._service.events)
        outcome = self._service.upgrade()
        self._service.forgetFault()
        alive = len(self._service.processes())
        what, lost = "upgrade", None
        if mishap is not None:
            what = mishap.name
            lost = self._accepted(before) if mishap.hasServed else None
        deployment = Deployment(what, outcome, begun, alive, lost)
        self._deployments.append(deployment)
        self._deployed(str(deployment))

    def _accepted(self, before: int) -> tuple[float, float] | None:
        """
        @return: from when to when connections came that the process which has died may have
            accepted: also those that the old one did not get around to.
        """
        times = {event.what: event.time for event in self._service.events[before:]}
        if "old says Commit" in times and "fault" in times:
            return times["old says Commit"] - QUEUED, times["fault"]
        return None
