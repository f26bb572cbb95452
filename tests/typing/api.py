"""
All that an application may use, as a typed application uses it.  This is checked
by mypy and by pyright, and never run.

C{assert_type} is an error as soon as something has lost its type.  It is taken
from typing_extensions, of which both know the types without an installation,
because Python 3.10 has none.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver
from typing_extensions import assert_type
from zope.interface import implementer

import txtableflip
from txtableflip import (
    Changes,
    Descriptor,
    Fds,
    IDrainable,
    IDrainableFactory,
    InheritableEndpoint,
    IResumable,
    IUpgrader,
    OpenConnection,
    StopHandler,
    Upgrader,
    UpgradeService,
    Work,
    currentUpgrader,
    drain,
    endpoints,
    errors,
    fds,
    interfaces,
    log,
    service,
    tap,
)
from txtableflip.testing import (
    MISHAPS,
    Deployment,
    Event,
    Exchange,
    FakeUpgrader,
    Fault,
    Http,
    Mishap,
    Question,
    Report,
    Sample,
    Torture,
    TortureError,
    WrongAnswer,
)

# -- a program of its own


class Echo(Protocol):
    def dataReceived(self, data: bytes) -> None:
        assert data


async def main(reactor: Any, description: str = "tcp:8080") -> None:
    upgrader = Upgrader(
        reactor,
        upgradeTimeout=60.0,
        pidFile="echo.pid",
        command=["python", "echo.py"],
        envFile="echo.env",
    )
    upgrader.redeployOn("HUP")
    handler = upgrader.stopOn("TERM")
    assert_type(handler, StopHandler)
    assert_type(handler.wasReceived, bool)
    handler.again()
    endpoint = upgrader.endpoint(description, drainTimeout=5.0)
    assert_type(endpoint, InheritableEndpoint)
    port = await endpoint.listen(Factory.forProtocol(Echo))
    assert_type(port, IListeningPort)
    assert_type(upgrader.whenListening(), Deferred[None])
    assert_type(upgrader.ready(), Deferred[None])
    assert_type(upgrader.whenParentExits(), Deferred[None])
    assert_type(upgrader.whenExiting(), Deferred[None])
    assert_type(upgrader.stop(), Deferred[None])
    with upgrader.busy("a job"):
        assert_type(upgrader.work, list[Work])
        assert_type(upgrader.work[0].what, str)
        assert_type(upgrader.work[0].seconds, int)
    called: Deferred[str] = Deferred()
    assert_type(upgrader.busyUntil("a call", called), Deferred[str])
    assert_type(await upgrader.drain(30), int)
    assert_type(await upgrader.drain(30, stopTimeout=5), int)
    upgrader.refuse(ValueError("no configuration"))
    upgrader.redeploy()


def look(upgrader: Upgrader) -> None:
    assert_type(currentUpgrader(), Upgrader | None)
    assert_type(upgrader.hasParent, bool)
    assert_type(upgrader.generation, int)
    assert_type(upgrader.used, list[str])
    assert_type(upgrader.fds, Fds)
    assert_type(upgrader.changes, Changes)
    for names in (
        upgrader.changes.kept,
        upgrader.changes.bound,
        upgrader.changes.dropped,
        upgrader.changes.changed,
        upgrader.changes.foreign,
    ):
        assert_type(names, list[str])
    assert_type(upgrader.connections, list[OpenConnection])
    for connection in upgrader.connections:
        assert_type(connection.listener, str)
        assert_type(connection.seconds, int)


async def upgrade(upgrader: Upgrader) -> str:
    try:
        await upgrader.upgrade()
    except txtableflip.UpgradeFailed as error:
        assert_type(error.what, str)
        assert_type(error.pid, int | None)
        assert_type(error.exitStatus, int | None)
        assert_type(error.signal, int | None)
        assert_type(error.stderr, str)
        assert_type(error.phase, errors.Phase)
        return error.phase
    except txtableflip.Refusal as error:
        assert_type(error, txtableflip.Refusal)
        return str(error)
    return "done"


REFUSALS: list[type[txtableflip.Refusal]] = [
    txtableflip.AlreadyUpgraded,
    txtableflip.NotReady,
    txtableflip.OnProbation,
    txtableflip.Stopping,
    txtableflip.UpgradeInProgress,
]
FAILURES: list[type[txtableflip.UpgradeFailed]] = [
    txtableflip.ChildExited,
    txtableflip.ChildNotStarted,
    txtableflip.ChildProtocolError,
    txtableflip.ChildRefused,
    txtableflip.ChildTimedOut,
    txtableflip.HandoverFailed,
]
UPGRADE_ERRORS: list[type[txtableflip.UpgradeError]] = [*REFUSALS, *FAILURES]
OTHERS: list[type[txtableflip.TableflipError]] = [
    *UPGRADE_ERRORS,
    txtableflip.Abandoned,
    txtableflip.ChannelError,
    txtableflip.NotInheritable,
    txtableflip.NotSupported,
    txtableflip.ParentTimedOut,
    txtableflip.PidFileError,
    txtableflip.SentAway,
    txtableflip.UpgraderExists,
]
VALUE_ERRORS: list[type[ValueError]] = [
    txtableflip.EnvironmentFileError,
    txtableflip.InvalidEndpoint,
]


# -- what is handed over by name


def handOver(upgrader: Upgrader, sock: socket.socket) -> None:
    found: fds.Fds = upgrader.fds
    found.addFile("cache", 3)
    assert_type(found.file("cache"), Descriptor | None)
    assert_type(found.files(), list[str])
    file: fds.Descriptor | None = found.file("cache")
    if file is not None:
        assert_type(file.fileno(), int)
        assert_type(file.detach(), int)
        file.close()
    found.addListener("raw", sock)
    assert_type(found.listener("raw"), socket.socket | None)
    factory = Factory.forProtocol(Echo)
    port = found.listenWith("seq", lambda: socket.create_server(("", 0)), factory)
    assert_type(port, IListeningPort)


# -- how connections end


@implementer(IDrainable)
class Chat(Protocol):
    def drain(self, seconds: float) -> Deferred[None] | None:
        return None


@implementer(IResumable)
class PatientChat(Chat):
    def resume(self) -> bool:
        return True


@implementer(IDrainableFactory)
class ChatFactory(Factory):
    """
    pyright takes an interface of zope's for a class that a L{Chat} is not, so
    what this returns is typed as its own class.
    """

    protocol = Chat

    def drainable(self, protocol: object) -> Chat | None:
        return protocol if isinstance(protocol, Chat) else None


async def chat(upgrader: Upgrader) -> None:
    await upgrader.endpoint("tcp:8081").listen(ChatFactory())
    same: list[type[object]] = [drain.IDrainable, drain.IDrainableFactory, drain.IResumable]
    same += [drain.OpenConnection, interfaces.IUpgrader, IUpgrader]


# -- as a service


def makeService(upgrader: Upgrader) -> UpgradeService:
    UpgradeService()
    made = service.UpgradeService(upgrader, drainTimeout=10.0, signal="USR2", stopTimeout=5)
    assert_type(made.upgrader, Upgrader)
    assert_type(made.drainTimeout, float)
    assert_type(made.stopTimeout, float)
    assert_type(made.signal, str)
    return made


def asTwistdDoes(reactor: Any) -> None:
    parser = endpoints.TableflipStringParser()
    assert_type(parser.parseStreamServer(reactor, "tcp", "80"), IStreamServerEndpoint)
    assert_type(tap.makeService(tap.Options()), IService)
    assert_type(log.observer(), ILogObserver)


# -- tests


def test_the_cache_is_saved() -> None:
    fake = FakeUpgrader(MemoryReactorClock(), hasParent=True)
    look(fake)
    assert_type(fake.steps, list[str])
    assert_type(fake.signals, list[str])
    assert_type(fake.endpoint("tcp:80"), InheritableEndpoint)
    assert_type(fake.drain(1), Deferred[int])
    fake.parentCommits()
    fake.parentExits()
    fake.childTakesOver()
    fake.childFails(txtableflip.ChildExited("exited", phase="start", pid=7, signal=9))


def test_nobody_notices(torture: Callable[..., Report]) -> None:
    report = torture(["python", "echo.py", "{port}"], Exchange(b"x", "x"), upgrades=3)
    assert_type(report.upgrades, int)


class Ping:
    def request(self, *, isLast: bool) -> bytes:
        return b"ping"

    def readAnswer(self, sock: socket.socket) -> bool:
        raise WrongAnswer("no pong")


def torment(command: list[str]) -> Report:
    questions: list[Question] = [Http("/", expect="ok"), Exchange(b"x", "x"), Ping()]
    tortures = [
        Torture(
            command,
            question,
            upgrades=3,
            clients=2,
            port=8080,
            redeploy=signal.SIGUSR2,
            deployed=print,
        )
        for question in questions
    ]
    try:
        report = tortures[0].run()
    except TortureError as error:
        raise SystemExit(str(error)) from error
    assert_type(report.upgrades, int)
    assert_type(report.failures, list[str])
    assert_type(report.samples, tuple[Sample, ...])
    assert_type(report.deployments, tuple[Deployment, ...])
    assert_type(report.trouble, str)
    assert_type(report.perGeneration(), list[dict[str, Any]])
    assert_type(report.perKind(), list[dict[str, Any]])
    assert_type((report.table(), report.summary(), report.json()), tuple[str, str, str])
    report.picture("torture.png")
    outcome = report.deployments[0].outcome
    assert_type(outcome, Event)
    assert_type((outcome.generation, outcome.pid), tuple[int, int])
    assert_type(report.samples[0].took, float)
    assert_type(MISHAPS, tuple[Mishap, Mishap, Mishap, Mishap])
    assert_type(MISHAPS[0].fault, Fault)
    return report
