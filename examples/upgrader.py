"""
A web server that its next version replaces, with every step written out.

    python examples/upgrader.py             # then, from another terminal:
    curl http://localhost:8080/
    kill -HUP $(cat upgrader.pid)           # change the greeting first, and ask again
"""

import sys

from twisted.internet.task import react
from twisted.python.log import startLogging
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.static import Data

from txtableflip import Upgrader


async def main(reactor, endpoint="tcp:8080"):
    root = Resource()
    root.putChild(b"", Data(b"Hello\n", "text/plain"))
    upgrader = Upgrader(reactor, pidFile="upgrader.pid")
    upgrader.redeployOn("HUP")
    upgrader.stopOn("TERM")
    await upgrader.endpoint(endpoint).listen(Site(root))
    await upgrader.ready()  # from here on this process serves
    await upgrader.whenExiting()  # its successor does, or it was told to stop
    await upgrader.drain(30)


startLogging(sys.stdout)
react(main, sys.argv[1:])
