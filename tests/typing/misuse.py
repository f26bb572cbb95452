"""
Wrong uses, each of which mypy and pyright must find: an ignored error that there is
not is an error to both.  This is never run.
"""

from __future__ import annotations

import socket

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from zope.interface import implementer

from txtableflip import ChildExited, IDrainable, Upgrader, UpgradeService, currentUpgrader
from txtableflip.testing import Exchange, FakeUpgrader, Http, Report, Torture


def construct(reactor: object, upgrader: Upgrader) -> None:
    Upgrader()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Upgrader(reactor, "60")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Upgrader(reactor, pidFile=7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Upgrader(reactor, command=7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Upgrader(reactor, timeout=60)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    UpgradeService(reactor)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    UpgradeService(upgrader, signal=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    FakeUpgrader(reactor, hasParent="no")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def use(upgrader: Upgrader) -> None:
    str(upgrader.hasparent)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    str(currentUpgrader().generation)  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
    await upgrader.endpoint(8080).listen(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    upgrader.endpoint("tcp:80", drainTimeout="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    upgrader.redeployOn(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    upgrader.refuse("no configuration")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await upgrader.drain("30")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await upgrader.drain()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    str(upgrader.used + 1)  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]
    str(upgrader.changes.lost)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    str(upgrader.connections[0].host)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def handOver(upgrader: Upgrader, sock: socket.socket) -> None:
    upgrader.fds.addFile("cache", sock)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    upgrader.fds.addListener("raw", 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    upgrader.fds.file("cache").close()  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
    upgrader.fds.listener("raw").accept()  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
    upgrader.fds.listenWith("seq", len, None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@implementer(IDrainable)
class TooMany(Protocol):
    def drain(self, seconds: float, more: int) -> Deferred[None] | None:  # type: ignore[override]
        return None


class NotAQuestion:
    def request(self) -> bytes:
        return b""


def torment(report: Report) -> None:
    ChildExited("exited")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ChildExited("exited", phase="end")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Torture(["x"], NotAQuestion())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Torture(["x"], Http("/"), upgrades="many")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Http(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Exchange("x", "x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    report.upgrades = 3  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
