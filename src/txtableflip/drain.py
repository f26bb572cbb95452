"""
How connections end when their process exits: what protocols provide, and what
L{Upgrader.connections <txtableflip.Upgrader.connections>} lists.
"""

from txtableflip._draining.connections import OpenConnection
from txtableflip._draining.work import Work
from txtableflip.interfaces import IDrainable, IDrainableFactory, IResumable

__all__ = ["IDrainable", "IDrainableFactory", "IResumable", "OpenConnection", "Work"]
