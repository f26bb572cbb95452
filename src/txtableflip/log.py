"""
The log of a twistd process, which its next version writes to as well.

The name L{observer} is in the command lines of successors (C{--logger=}), and so
it is part of what one release says to another: it stays for ever.
"""

from txtableflip._launch.logfile import observer

__all__ = ["observer"]
