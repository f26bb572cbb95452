"""
Reactors whose time is the test's.
"""

import select

from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure


def hasCome(reader):
    """
    Whether there is something to read, of a descriptor of any number: select(2) takes
    none above 1,023.
    """
    looked = select.poll()
    looked.register(reader, select.POLLIN)
    return looked.poll(0) != []


class Turns(MemoryReactorClock):
    """
    A reactor with real descriptors and no time of its own: in each turn come
    first the timers that are due, then what can be read, as in Twisted's.
    """

    def callLater(self, delay, *call, **more):
        # What is asked for in a turn is for the next one.
        return super().callLater(delay or 0.001, *call, **more)

    def turn(self, seconds=0.001, times=1):
        for _ in range(times):
            self.advance(seconds)
            for reader in list(self.readers):
                # Another one may have removed it, and closed what it reads.
                if reader in self.readers and hasCome(reader):
                    why = reader.doRead()
                    if why is not None:
                        self.removeReader(reader)
                        reader.connectionLost(Failure(why))
