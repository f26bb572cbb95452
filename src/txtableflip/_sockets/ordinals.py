"""
Numbers for things that otherwise have the same name.
"""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heappop, heappush


class Ordinals:
    """
    The numbers in use under each name, and the lowest that is free, found without a scan of
    all others.
    """

    def __init__(self) -> None:
        self._names: dict[Hashable, _Numbers] = {}

    def lowest(self, name: Hashable) -> int:
        """
        @return: the lowest number that is free under a name.
        """
        return self._names[name].lowest() if name in self._names else 0

    def take(self, name: Hashable, number: int) -> None:
        """
        A number is used now.
        """
        self._names.setdefault(name, _Numbers()).take(number)

    def release(self, name: Hashable, number: int) -> None:
        """
        A number that was used is free again.
        """
        numbers = self._names[name]
        numbers.release(number)
        if not numbers.used:
            del self._names[name]


class _Numbers:
    """
    Those of one name.

    @ivar used: those in use.
    """

    def __init__(self) -> None:
        self.used: set[int] = set()
        # All numbers below the end are in use, or in the heap, or both.
        self._end = 0
        self._heap: list[int] = []

    def lowest(self) -> int:
        while self._heap and self._heap[0] in self.used:
            heappop(self._heap)
        return self._heap[0] if self._heap else self._end

    def take(self, number: int) -> None:
        if number == self.lowest() and self._heap:
            heappop(self._heap)
        for skipped in range(self._end, number):
            heappush(self._heap, skipped)
        self._end = max(self._end, number + 1)
        self.used.add(number)

    def release(self, number: int) -> None:
        self.used.remove(number)
        heappush(self._heap, number)
