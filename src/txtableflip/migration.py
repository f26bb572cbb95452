"""
How connections outlive the process that has accepted them: what protocols and their
factories provide.
"""

from txtableflip._migration.moving import ConnectionMigrated
from txtableflip.interfaces import IMigratable, IMigratableFactory, Snapshot

__all__ = ["ConnectionMigrated", "IMigratable", "IMigratableFactory", "Snapshot"]
