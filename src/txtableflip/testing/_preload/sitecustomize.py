"""
Python imports this when it starts, in every process of a service under torture:
its directory is the first of C{$PYTHONPATH}.  The service itself is unmodified.
"""

import importlib.util
import os
import sys
from importlib.abc import MetaPathFinder

import txtableflip_moments

LAST_IMPORTED = "txtableflip.upgrader"


class Waiting(MetaPathFinder):
    """
    Waits until txtableflip has been imported, if it ever is.  To import it here
    would take the channel away from a process that is about to become the real
    one by execve(2).
    """

    def __init__(self, isChild):
        self.isChild = isChild

    def find_spec(self, name, path, target=None):
        if name != LAST_IMPORTED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def executeAndInstall(module):
            execute(module)
            txtableflip_moments.install(isChild=self.isChild)

        spec.loader.exec_module = executeAndInstall
        return spec


def importTheOther():
    """
    Have the sitecustomize that would have been imported without this one.
    """
    here = os.path.dirname(__file__)
    sys.path[:] = [entry for entry in sys.path if entry != here]
    del sys.modules["sitecustomize"]
    try:
        import sitecustomize  # noqa: F401, PLC0415 - for its effect
    except ModuleNotFoundError:
        sys.modules["sitecustomize"] = sys.modules[__name__] = THIS


THIS = sys.modules[__name__]
sys.meta_path.insert(0, Waiting("TXTABLEFLIP_CHANNEL" in os.environ))
importTheOther()
