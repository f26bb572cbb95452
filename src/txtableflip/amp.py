"""
Connections of L{twisted.protocols.amp} that outlive the process.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.protocols.amp import AMP

from txtableflip.interfaces import Snapshot

__all__ = ["MigratingAMP"]


class MigratingAMP(AMP):
    """
    An AMP that can leave its connection when no call is in progress, in either direction.  A
    subclass says that it does, and what it leaves::

        @implementer(IMigratable)
        class Calculator(MigratingAMP):
            def snapshot(self):
                return self.leave()
    """

    _owed = 0
    _waiting: Deferred[None] | None = None

    def leave(self, state: bytes = b"") -> Snapshot | Deferred[None] | None:
        """
        @param state: what the subclass has to leave.
        @return: what C{snapshot()} is to return: C{None} if the connection has become
            another protocol's, and a Deferred if a call is in progress.
        """
        if self.innerProtocol is not None or self._locked:
            return None
        if self._owed or self._outstandingRequests:
            self._waiting = self._waiting or Deferred()
            return self._waiting
        return Snapshot(state, self._unread())

    def _unread(self) -> bytes:
        """
        @return: the bytes received of a box that is not complete.
        """
        strings = [each for pair in (self._currentBox or {}).items() for each in pair]
        if self._currentKey is not None:
            strings.append(self._currentKey)
        whole = b"".join(len(each).to_bytes(2, "big") + each for each in strings)
        return whole + bytes(self.recvd)

    def dispatchCommand(self, box: Any) -> Any:
        """
        See L{twisted.protocols.amp.BoxDispatcher.dispatchCommand}.
        """
        self._owed += 1
        return super().dispatchCommand(box).addBoth(self._answer)

    def _answer(self, result: Any) -> Any:
        self._owed -= 1
        self._settle()
        return result

    def ampBoxReceived(self, box: Any) -> None:
        """
        See L{twisted.protocols.amp.IBoxReceiver.ampBoxReceived}.
        """
        super().ampBoxReceived(box)
        self._settle()

    def _settle(self) -> None:
        waiting = self._waiting
        if waiting is not None and not self._owed and not self._outstandingRequests:
            self._waiting = None
            waiting.callback(None)
