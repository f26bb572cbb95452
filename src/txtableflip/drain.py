"""
How connections end when their process leaves: what protocols provide, and what
L{Upgrader.connections <txtableflip.Upgrader.connections>} lists.
"""

from txtableflip._draining.connections import OpenConnection
from txtableflip.interfaces import IDrainable, IDrainableFactory

__all__ = ["IDrainable", "IDrainableFactory", "OpenConnection"]
