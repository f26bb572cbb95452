"""
Upgrades, broken releases and kills, while clients ask without a pause.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from txtableflip.testing._clients import Client, Clients, Question
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


@dataclass(frozen=True)
class Mishap:
    """
    An upgrade that fails on purpose: the old process serves on, and no client
    can tell.

    @ivar name: what goes wrong, in words.
    """

    name: str
    fault: Fault


MISHAPS = (
    Mishap("a release that raises", Fault("new starts", error="a broken release")),
    Mishap("killed before ready", Fault("new says Ready", ("new",), signal.SIGKILL)),
    Mishap("killed before it serves", Fault("new hears Commit", ("new",), signal.SIGKILL)),
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
        @param port: where it listens on 127.0.0.1; if nothing is said, where
            nobody does yet.
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
        self._clients = Clients(("127.0.0.1", self._port), question, clients)
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
            self._deployments.append(Deployment("start", self._service.served[0]))
            self._untilItAnswers()
            with self._clients:
                try:
                    self._deployAll()
                except TortureError as error:
                    trouble = str(error)
                    # Clients may wait for what never comes.
                    self._service.stop()
        finally:
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
        Ask once, so that what is no service is told from one that loses answers.
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
        time.sleep(BETWEEN_DEPLOYMENTS)
        if mishap is not None:
            self._service.fail(mishap.fault)
        begun = time.time()
        outcome = self._service.upgrade()
        self._service.forgetFault()
        deployment = Deployment(mishap.name if mishap else "upgrade", outcome, begun)
        self._deployments.append(deployment)
        self._deployed(str(deployment))
