"""
What the reactor waits for when it stops: C{stopService} of the application's
services, and its shutdown triggers.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from inspect import iscoroutine
from typing import Any, TypeVar

from twisted.application.service import IServiceCollection
from twisted.internet.defer import Deferred

from txtableflip.interfaces import Reactor

T = TypeVar("T")


class _Watched:
    """
    Wraps a function, and knows whether a call of it has finished.

    @ivar parts: the wrapped functions that it calls, as far as they are known.
    """

    def __init__(self, call: Callable[..., Any]) -> None:
        self.parts: list[_Watched] = []
        self._call = call
        self._isRunning = False

    def __eq__(self, other: object) -> bool:
        # Code that added a trigger may remove it by the original function.
        return other is self or self._call == other

    def __hash__(self) -> int:
        return hash(self._call)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self._isRunning = True
        try:
            result = self._call(*arguments, **named)
        except BaseException:
            self._isRunning = False
            raise
        if iscoroutine(result):
            result = Deferred.fromCoroutine(result)
        if isinstance(result, Deferred):
            return result.addBoth(self._finished)
        return self._finished(result)

    def _finished(self, result: T) -> T:
        self._isRunning = False
        return result

    def unfinished(self) -> list[str]:
        """
        @return: which parts of it still run, in words: the innermost.
        """
        if not self._isRunning:
            return []
        return [name for part in self.parts for name in part.unfinished()] or [str(self)]

    def __str__(self) -> str:
        call: Any = self._call
        name = getattr(call, "__qualname__", str(call))
        if hasattr(call, "__self__"):
            # The class of the object says more than the one that defines the method.
            name = f"{type(call.__self__).__qualname__}.{call.__name__}"
        code = getattr(call, "__code__", None)
        return f"{name} ({code.co_filename}:{code.co_firstlineno})" if code else name


class Shutdown:
    """
    The shutdown of a reactor.
    """

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._triggers: list[_Watched] = []

    def watch(self) -> None:
        """
        Watch everything that will be called at shutdown.
        """
        # A _ThreePhaseEvent, which does not say what it waits for.
        event = getattr(self._reactor, "_eventTriggers", {}).get("shutdown")
        if event is None:
            return
        event.before[:] = [(_watch(call), *arguments) for call, *arguments in event.before]
        self._triggers += [call for call, *_ in event.before if call not in self._triggers]

    def unfinished(self) -> list[str]:
        """
        @return: what the reactor waits for, in words.
        """
        return [name for trigger in self._triggers for name in trigger.unfinished()]


def _watch(call: Callable[..., Any]) -> _Watched:
    """
    @param call: if this stops a service that is made of others, those are watched, too.
    """
    if isinstance(call, _Watched):
        return call
    watched = _Watched(call)
    service = getattr(call, "__self__", None)
    if IServiceCollection.providedBy(service) and call.__name__ == "stopService":
        watched.parts = [_watchService(part) for part in service]
    return watched


def _watchService(service: Any) -> _Watched:
    watched = _watch(service.stopService)
    with suppress(AttributeError):
        service.stopService = watched
    return watched
