"""
A program for the tests that has a command line of its own and knows nothing of
txtableflip: C{anyprogram.py WAY PORT}.  It answers as C{answering.py} does, but for the
generation, of which it does not know; and ends with status 7, as it would alone.
"""

import argparse
import os
import sys
from pathlib import Path

from twisted.application import internet, service
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineOnlyReceiver

WAYS = ("plain", "reactor", "late", "twistd", "daemon")
RELEASE = {"name": "1"}
exec(Path(os.environ["RELEASE_FILE"]).read_text(), RELEASE)


class Answering(LineOnlyReceiver):
    delimiter = b"\n"

    def lineReceived(self, line):
        self.transport.write(f"{line.decode()} {RELEASE['name']} 0 {os.getpid()} .\n".encode())
        self.transport.loseConnection()


def makeFactory():
    factory = Factory.forProtocol(Answering)
    factory.noisy = False
    return factory


def serve(port, way):
    if way == "reactor":
        from twisted.internet import asyncioreactor  # noqa: PLC0415

        asyncioreactor.install()
    from twisted.internet import reactor  # noqa: PLC0415

    if way == "reactor":
        assert type(reactor) is asyncioreactor.AsyncioSelectorReactor

    def listen():
        reactor.listenTCP(port, makeFactory(), interface="127.0.0.1")

    if way == "late":
        reactor.callLater(1.0, listen)
    else:
        listen()
    reactor.run()


class Node:
    """
    What is in the place of a plugin.
    """

    tapname = "node"

    def __init__(self, port):
        self._port = port

    def makeService(self, options):
        made = service.MultiService()
        internet.TCPServer(self._port, makeFactory(), interface="127.0.0.1").setServiceParent(
            made
        )
        return made


def runTwistd(port, *words):
    from twisted.python import usage  # noqa: PLC0415
    from twisted.scripts import twistd  # noqa: PLC0415

    class NodeOptions(twistd.ServerOptions):
        subCommands = (("node", None, usage.Options, "the node"),)

    config = NodeOptions()
    config.parseOptions([*words, "node"])
    config.loadedPlugins = {"node": Node(port)}
    twistd.runApp(config)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("port", type=int)
    options = parser.parse_args()
    if options.way == "twistd":
        runTwistd(options.port, "--nodaemon")
    elif options.way == "daemon":
        # Chosen while it parses its options, when there is no application yet.
        runTwistd(options.port, "--reactor=poll", "--pidfile=twistd.pid")
    else:
        serve(options.port, options.way)
    return 7


if __name__ == "__main__":
    sys.exit(main())
