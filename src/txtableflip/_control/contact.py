"""
What asks this process, and what watches it: the C{tableflip} command, a service manager,
and a keeper.  They are joined here because a command is answered only when the service
manager knows of the change.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred

from txtableflip._control.commands import Commands
from txtableflip._control.notifications import Notifications
from txtableflip._control.notifier import beSupervised
from txtableflip._control.pipeend import PipeEnd
from txtableflip._control.requests import Request
from txtableflip._control.server import Answer, Control, Session
from txtableflip._generation import Generation
from txtableflip._journal import ProcessLogger
from txtableflip._launch.origin import KEEPER
from txtableflip._steps import Core

_log = ProcessLogger()


class Contact:
    """
    Connects this process to all of them.
    """

    def __init__(self, upgrader: Any, generation: Generation, core: Core, reactor: Any) -> None:
        """
        @param upgrader: does what is asked for.
        """
        self._stop = upgrader.stop
        self._notifications = beSupervised(reactor, generation, core)
        if KEEPER is not None:
            reactor.callWhenRunning(PipeEnd, reactor, KEEPER, self._keeperHasEnded)
        commands = Commands(upgrader, generation, core, reactor)
        answer = _answerWhenHeard(commands.answer, self._notifications)
        self._control = Control(reactor, answer, generation.ownInodes)
        # A daemon has its final process id by then.
        reactor.callWhenRunning(self._control.listen)

    def end(self) -> Deferred[Any]:
        """
        Accept no commands any more.

        @return: a Deferred that fires when callers are answered, after the service manager
            has been notified.
        """
        flushed = self._notifications.flush()
        return flushed.addBoth(lambda ignored: self._control.stop())

    def _keeperHasEnded(self) -> None:
        """
        Stop, as nothing supervises this process any more.  The keeper's supervisor may send
        SIGTERM as well, so none is sent here: a second one would mean at once.
        """
        _log.error("the keeper has exited: stopping once open connections have finished")
        self._stop()


def _answerWhenHeard(answer: Answer, notifications: Notifications) -> Answer:
    """
    @return: like C{answer}, but it answers only when the service manager knows what has
        been done: the caller may ask that one next.
    """

    def wait(result: Any) -> Deferred[Any]:
        return notifications.barrier().addCallback(lambda ignored: result)

    def answerThen(request: Request, session: Session) -> Any:
        if request.command == "status":
            return answer(request, session)
        return maybeDeferred(answer, request, session).addCallback(wait)

    return answerThen
