"""
Who asks this process, and who watches it: the C{tableflip} command, a service manager, and
a keeper.  They are joined here, for whoever has asked is answered when a service manager
knows.
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
    All of them, from now on.
    """

    def __init__(self, upgrader: Any, generation: Generation, core: Core, reactor: Any) -> None:
        """
        @param upgrader: is told what is asked for.
        """
        self._stop = upgrader.stop
        self._notifications = beSupervised(reactor, generation, core)
        if KEEPER is not None:
            reactor.callWhenRunning(PipeEnd, reactor, KEEPER, self._keeperHasEnded)
        commands = Commands(upgrader, generation, core, reactor)
        answer = _answerWhenHeard(commands.answer, self._notifications)
        self._control = Control(reactor, answer, generation.ownInodes)
        # A daemon has its last process id by then.
        reactor.callWhenRunning(self._control.listen)

    def end(self) -> Deferred[Any]:
        """
        Answer nobody any more.

        @return: a Deferred that fires when who has asked is told, and the service manager
            before.
        """
        flushed = self._notifications.flush()
        return flushed.addBoth(lambda ignored: self._control.stop())

    def _keeperHasEnded(self) -> None:
        """
        Nobody would know of this process any more.  Its supervisor may send SIGTERM as well,
        and twice would mean at once.
        """
        _log.error("the keeper has exited: stopping once open connections have finished")
        self._stop()


def _answerWhenHeard(answer: Answer, notifications: Notifications) -> Answer:
    """
    @return: what answers as C{answer} does, but that what has been done is known to the
        service manager then: whoever has asked may ask that one next.
    """

    def wait(result: Any) -> Deferred[Any]:
        return notifications.barrier().addCallback(lambda ignored: result)

    def answerThen(request: Request, session: Session) -> Any:
        if request.command == "status":
            return answer(request, session)
        return maybeDeferred(answer, request, session).addCallback(wait)

    return answerThen
