"""
How a process that exits ends the connections which it still has.

Each protocol is told once, through L{IDrainable <txtableflip.IDrainable>}, and then
has until its deadline to finish what is in progress.  What is known of HTTP and WebSocket is in
the modules beside this one; a connection of any other protocol stays open until it closes
or its deadline passes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater

from txtableflip._draining.connections import AcceptedConnections, Connections
from txtableflip._draining.goodbyes import Goodbyes
from txtableflip._journal import DrainCancelled, Drained, Draining, Journal, ProcessLogger
from txtableflip._observers import OneShot, SteadyClock
from txtableflip.interfaces import Reactor

LAST_BYTES_TIMEOUT = 0.5
"""
How long a connection that is closed at its deadline has to send what is still buffered, in
seconds.  After that it is aborted.
"""

TICK = 0.2
"""
How often the open connections are looked at, in seconds, if there are few: a
protocol may have become another one, with a deadline of its own.
"""

AT_ONCE = 100
"""
How many connections are looked at in one turn of the reactor.
"""

REST = 100
"""
How long the pause after a look at all connections is, as a multiple of the time that it
took: so looking takes a hundredth of the processor's time, and the rest is for what is in
progress.
"""

LONGEST_REST = 2.0
"""
The longest such pause, in seconds: the first look takes long, as all are told in it.
"""

PROGRESS = 5.0
"""
How often the log says what is left, in seconds.
"""

_log = ProcessLogger()


@dataclass
class Outcome:
    """
    What has become of the connections that were open.

    @ivar finished: how many closed by themselves.
    @ivar told: how many had a protocol that could be told.
    @ivar cut: how many were closed at their deadline.
    """

    finished: int = 0
    told: int = 0
    cut: int = 0


class _TimeLeft:
    """
    How long there is, in seconds.

    @ivar isForAll: whether no listener has a time of its own.
    """

    def __init__(self, clock: SteadyClock, timeout: float, *, isForAll: bool) -> None:
        self._clock = clock
        self.timeout = timeout
        self.isForAll = isForAll
        self._begin = clock.seconds()
        self._final: float | None = None

    def conclude(self, timeout: float) -> None:
        """
        The switch is final: connections that might have migrated have their time from now
        on.
        """
        self.timeout = timeout
        self._final = self._clock.seconds()

    def ofAll(self) -> float:
        """
        @return: how long there is for whatever has no time of its own.
        """
        return self._left(self.timeout)

    def of(self, accepted: AcceptedConnections) -> float:
        """
        @return: how long the connections of a listener still have.
        """
        own = None if self.isForAll else accepted.drainTimeout
        timeout = self.timeout if own is None else own
        if not accepted.migrates:
            return self._left(timeout)
        return timeout if self._final is None else self._left(timeout, self._final)

    def _left(self, timeout: float, since: float | None = None) -> float:
        return (self._begin if since is None else since) + timeout - self._clock.seconds()


class _Progress:
    """
    What the log says from time to time.
    """

    def __init__(self, clock: SteadyClock, connections: Connections, time: _TimeLeft) -> None:
        self._clock = clock
        self._connections = connections
        self._time = time
        self._next = clock.seconds() + PROGRESS

    def tell(self) -> None:
        """
        Log what is left, if it is time for that.
        """
        now = self._clock.seconds()
        if now < self._next:
            return
        self._next = now + PROGRESS
        self.tellTasks()
        for accepted in self._connections.listeners:
            oldest, age = accepted.oldest()
            _log.info(
                "draining: {count} connections left on {listener}, the oldest of "
                "{age} s from {peer}; they have {left:.0f} s",
                count=len(accepted),
                listener=accepted.name,
                age=age,
                peer=str(oldest.getPeer()),
                left=max(0.0, self._time.of(accepted)),
            )

    def tellTasks(self) -> None:
        """
        Log what is not finished besides connections.
        """
        if len(self._connections.tasks):
            _log.info(
                "draining: not finished yet: {tasks}; {left:.0f} s left",
                tasks=self._connections.tasks.names(),
                left=max(0.0, self._time.ofAll()),
            )


class Drain:
    """
    One drain of all connections: made when it begins.
    """

    def __init__(
        self,
        reactor: Reactor,
        connections: Connections,
        timeout: float,
        journal: Journal,
        isReplaced: bool,
        *,
        isForAll: bool = False,
    ) -> None:
        """
        @param timeout: how long the connections have, in seconds, but for those
            of a listener with a time of its own, unless this C{isForAll}.
        @param journal: is told of the beginning and the end.
        @param isReplaced: whether a child serves, for the journal.
        """
        self._reactor: Any = reactor
        self._clock: Any = SteadyClock(reactor)
        self._connections = connections
        self._tasks = connections.tasks
        self._journal = journal
        self._isReplaced = isReplaced
        self._time = _TimeLeft(self._clock, timeout, isForAll=isForAll)
        self._progress = _Progress(self._clock, connections, self._time)
        self._goodbyes = Goodbyes(connections)
        self._late: set[Any] = set()
        self._initial = len(connections)
        # Some may have migrated before any were told to finish.
        self._gone = connections.migrated
        self._outcome = Outcome()
        self._isCancelled = False
        self._mayEnd = OneShot()
        self._isOver = OneShot()

    def conclude(self, timeout: float) -> Deferred[Outcome]:
        """
        This process exits: no task begins any more.

        @param timeout: how long all have, in seconds from the beginning.
        @return: a Deferred that fires when no connection is left, and no task, or the tasks
            have had their time; never, if the drain is L{cancel}led.
        """
        self._time.conclude(timeout)
        self._mayEnd.fire()
        return self._isOver.wait().addCallback(lambda ignored: self._outcome)

    def describe(self) -> dict[str, Any]:
        """
        @return: what is left, and how long it has, for display.
        """
        listeners = list(self._connections.listeners)
        oldest = max(
            (each for accepted in listeners for each in accepted.describe()),
            key=lambda each: each.seconds,
            default=None,
        )
        return {
            "seconds": self._time.timeout,
            "left": max(0.0, *(self._time.of(each) for each in listeners), self._time.ofAll()),
            "connections": len(self._connections),
            "oldest": oldest and {**oldest._asdict(), "peer": str(oldest.peer)},
            "work": [task.what for task in self._tasks.describe()],
        }

    def run(self) -> None:
        """
        Begin.
        """
        running: Any = self._run()
        running.addErrback(lambda failure: self._isOver.error(failure.value))

    @inlineCallbacks
    def _run(self) -> Any:
        self._connections.areClosing = True
        self._journal.tell(
            Draining,
            connections=self._initial,
            seconds=self._time.timeout,
            isReplaced=self._isReplaced,
        )
        self._progress.tellTasks()
        yield self._untilFinished()
        # An abort takes effect in the next turn of the reactor.
        yield deferLater(self._reactor, 0, lambda: None)
        if not self._isCancelled:
            late = len(self._late)
            migrated = self._connections.migrated - self._gone
            finished = self._initial - late - migrated
            self._outcome = Outcome(finished, len(self._goodbyes), late)
            self._journal.tell(Drained, **asdict(self._outcome))
            yield self._mayEnd.wait()
            # What has begun when that was final.
            self._progress.tellTasks()
            yield self._untilFinished()
            if len(self._tasks):
                names = self._tasks.names()
                _log.warn("not finished at the drain deadline: {tasks}", tasks=names)
            self._isOver.fire()

    @inlineCallbacks
    def _untilFinished(self) -> Any:
        while not self._isCancelled and (len(self._connections) or self._isAtWork()):
            began = self._clock.seconds()
            self._tellTasksToFinish()
            for accepted in list(self._connections.listeners):
                yield self._attend(accepted)
            self._progress.tell()
            yield self._wait(self._clock.seconds() - began)

    def cancel(self) -> None:
        """
        This process continues to serve, and its connections continue, except those whose
        clients have been told goodbye, or that were late.
        """
        self._isCancelled = True
        connections = self._connections
        connections.areClosing = False
        self._goodbyes.takeBack()
        for transport in self._late:
            if transport.connected:
                connections.leaving.add(transport)
                self._clock.callLater(LAST_BYTES_TIMEOUT, transport.abortConnection)
        counts = {"told": len(connections.leaving), "cut": len(self._late)}
        self._journal.tell(DrainCancelled, connections=len(connections), **counts)
        self._mayEnd.fire()

    def _tellTasksToFinish(self) -> None:
        left = self._time.ofAll()
        for task in self._tasks:
            if left > 0:
                self._goodbyes.say(task, left)

    def _isAtWork(self) -> bool:
        """
        @return: whether there is something to finish besides connections, and time.
        """
        return len(self._tasks) > 0 and self._time.ofAll() > 0

    @inlineCallbacks
    def _attend(self, accepted: AcceptedConnections) -> Any:
        """
        Do with each connection of one listener what it is time for, a few in each turn of
        the reactor: otherwise other work would wait for thousands of them.
        """
        for number, transport in enumerate(accepted, 1):
            left = self._time.of(accepted)
            if self._isCancelled:
                return
            if not transport.connected:
                continue
            if left > 0:
                if accepted.mayDrain(transport):
                    self._goodbyes.say(transport, left)
            elif transport not in self._late:
                self._late.add(transport)
                self._goodbyes.close(transport)
            elif left <= -LAST_BYTES_TIMEOUT:
                transport.abortConnection()
            if number % AT_ONCE == 0:
                yield deferLater(self._reactor, 0, lambda: None)

    def _wait(self, looked: float) -> Deferred[None]:
        """
        @param looked: how long it took to look at all, in seconds.
        @return: a Deferred that fires when all are closed, or it is time to look
            again.
        """
        times = [
            time
            for accepted in self._connections.listeners
            for time in (self._time.of(accepted), self._time.of(accepted) + LAST_BYTES_TIMEOUT)
            if time > 0
        ]
        if len(self._connections):
            waiter = self._connections.whenAllClosed()
        else:
            times.append(max(0.0, self._time.ofAll()))
            waiter = self._tasks.whenAllFinished()
        waiter.addTimeout(
            min([max(TICK, looked * REST), LONGEST_REST, *times]),
            self._clock,
            onTimeoutCancel=lambda result, after: None,
        )
        return waiter
