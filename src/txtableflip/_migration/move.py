"""
One move: connections that are offered together, and change hands together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from twisted.internet.defer import Deferred

from txtableflip._handover.frames import MAX_FRAME
from txtableflip._handover.manifest import Key
from txtableflip._handover.messages import Offer, Offered, Taken
from txtableflip._migration.lane import Lane
from txtableflip._migration.moving import Moving
from txtableflip._observers import Deadline, OneShot
from txtableflip.errors import ChannelError

AT_ONCE = 250
"""
How many connections are in flight at most: the kernel takes 253 descriptors with one
message, and from a process no more than it may have open.
"""

LONGEST = MAX_FRAME // 2
"""
How many bytes go with one message, and so with one connection, at most.
"""

ANSWER_TIMEOUT = 5.0
"""
How long a child may take to answer one message, in seconds: meanwhile no process serves
these clients.
"""

_numbers = count(1)

Say = Callable[[Offer, Sequence[int]], object]
"""
Sends an Offer, with descriptors.
"""


@dataclass(eq=False)
class Parcel:
    """
    A connection on offer.

    @ivar listener: which one has accepted it.
    @ivar port: that of this process, for when it is returned.
    @ivar why: why it was returned, if it was.
    """

    listener: Key
    port: Any
    moving: Moving
    why: str = ""

    def __post_init__(self) -> None:
        self.inode = os.fstat(self.moving.sock.fileno()).st_ino
        snapshot = self.moving.snapshot
        self.parts = (snapshot.state, snapshot.unread, self.moving.unsent)
        self.size = sum(map(len, self.parts))

    def describe(self) -> Offered:
        """
        @return: what the child is told of it.
        """
        return Offered(self.inode, self.listener, *map(len, self.parts))


class Move:
    """
    One move, made when it begins.

    @ivar taken: what is the child's, when it is over.
    @ivar returned: what is still this process's; what the child has refused is here at once.
    """

    def __init__(self, reactor: Any, say: Say, parcels: Sequence[Parcel]) -> None:
        self.taken: list[Parcel] = []
        self.returned: list[Parcel] = []
        self._say = say
        self._number = next(_numbers)
        self._held: list[Parcel] = []
        self._offered: list[Parcel] = []
        self._left = list(_divide([each for each in parcels if self._isShort(each)]))
        self._isRevoked = False
        self._deadline = Deadline(reactor)
        self._lane = Lane(reactor, self._answered, self._revoke)
        self._isOver = OneShot()

    def begin(self) -> Deferred[None]:
        """
        Offer them.

        @return: a Deferred that fires when it is known which process has each of them.
        """
        self._lane.startReading()
        if self._left:
            self._offer([self._lane.theirs.fileno()])
            self._lane.theirs.close()
        else:
            self._end()
        return self._isOver.wait()

    def _isShort(self, parcel: Parcel) -> bool:
        if parcel.size <= LONGEST:
            return True
        parcel.why = f"its {parcel.size} bytes are more than the {LONGEST} that can migrate"
        self.returned.append(parcel)
        return False

    def _offer(self, descriptors: list[int]) -> None:
        self._offered = self._left.pop(0)
        lane = os.fstat(self._lane.theirs.fileno()).st_ino if descriptors else 0
        offer = Offer(
            self._number,
            lane,
            tuple(each.describe() for each in self._offered),
            isLast=not self._left,
            body=b"".join(part for each in self._offered for part in each.parts),
        )
        late = f"the new process has not answered in {ANSWER_TIMEOUT:g} s"
        self._deadline.after(ANSWER_TIMEOUT, self._revoke, late)
        sockets = [each.moving.sock.fileno() for each in self._offered]
        try:
            self._say(offer, [*descriptors, *sockets])
        except ChannelError as error:
            self._revoke(f"they cannot be offered: {error}")

    def _answered(self, taken: Taken) -> None:
        refused = {each.inode: each.reason for each in taken.refused}
        for each in self._offered:
            each.why = refused.get(each.inode, "")
            (self.returned if each.inode in refused else self._held).append(each)
        self._offered = []
        if not self._left:
            self.taken, self._held = self._held, []
            self._end()
        elif not self._isRevoked:
            self._offer([])

    def _revoke(self, why: str) -> None:
        self._isRevoked = True
        self._lane.revoke()
        if self._isOver.outcome is None:
            rest = [
                *self._held,
                *self._offered,
                *(each for some in self._left for each in some),
            ]
            for each in rest:
                each.why = why
            self.returned += rest
            self._end()

    def _end(self) -> None:
        self._deadline.stop()
        self._lane.close()
        self._isOver.fire()


def _divide(parcels: Sequence[Parcel]) -> Iterator[list[Parcel]]:
    """
    @return: them in groups, each of as many as go with one message.
    """
    some: list[Parcel] = []
    size = 0
    for each in parcels:
        if some and (len(some) == AT_ONCE or size + each.size > LONGEST):
            yield some
            some, size = [], 0
        some.append(each)
        size += each.size
    if some:
        yield some
