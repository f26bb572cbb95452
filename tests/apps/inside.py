"""
Programs for the tests that have a command line of their own and run twistd inside:
C{python inside.py WAY OPTIONS-OF-TWISTD...}.

The ways are those of C{tahoe run}, of C{carbon-cache.py} and of C{buildbot start}.  It
answers as C{answering.py} does, and keeps a pid file by itself.
"""

import runpy
import sys
from pathlib import Path

from twisted.application import service
from twisted.python import usage
from twisted.scripts import twistd

from txtableflip import Upgrader, UpgradeService

ANSWERING = str(Path(__file__).parent / "answering.py")


class Node:
    """
    What tahoe puts in the place of a plugin.
    """

    tapname = "node"

    def makeService(self, options):
        return makeService()


class NodeOptions(twistd.ServerOptions):
    subCommands = (("node", None, usage.Options, "the node"),)


def makeService():
    from twisted.internet import reactor  # noqa: PLC0415 - twistd chooses it

    made = service.MultiService()
    UpgradeService(Upgrader(reactor, pidFile="twistd.pid")).setServiceParent(made)
    answering = runpy.run_path(ANSWERING)["application"]
    service.IService(answering).setServiceParent(made)
    return made


def likeTahoe(words):
    config = NodeOptions()
    config.parseOptions([*words, "node"])
    config.loadedPlugins = {"node": Node()}
    twistd.runApp(config)


def likeCarbon(words):
    config = twistd.ServerOptions()
    config.parseOptions([*words, "--python", __file__])
    twistd.runApp(config)


def likeBuildbot(words):
    sys.argv = ["twistd", *words, f"--python={__file__}"]
    twistd.run()


if __name__ == "__main__":
    ways = {"tahoe": likeTahoe, "carbon": likeCarbon, "buildbot": likeBuildbot}
    ways[sys.argv[1]](sys.argv[2:])
else:
    # Run by twistd.
    application = service.Application("inside")
    makeService().setServiceParent(application)
