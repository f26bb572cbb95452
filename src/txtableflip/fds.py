"""
What an application hands over by name: L{Upgrader.fds
<txtableflip.Upgrader.fds>} is one of L{Fds}.
"""

from txtableflip._sockets.inventory import Changes, Descriptor
from txtableflip._sockets.named import Fds

__all__ = ["Changes", "Descriptor", "Fds"]
