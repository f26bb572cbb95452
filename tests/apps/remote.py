"""
A script for the tests that uses an L{Upgrader} by hand, and does what it is
told: each process listens on C{control.N}, where N is its generation, evaluates
each line of Python that comes there, and answers with the outcome in JSON.

It says ready and leaves only when it is told to.  C{$RELEASE_FILE} is run
before there is an Upgrader, and may set its C{options}.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.basic import LineOnlyReceiver

from txtableflip import Upgrader

NAMES = {
    "Upgrader": Upgrader,
    "factory": Factory.forProtocol(Protocol),
    "options": {},
    "os": os,
    "reactor": reactor,
    "subprocess": subprocess,
    "sys": sys,
}
exec(Path(os.environ["RELEASE_FILE"]).read_text(), NAMES)


class Control(LineOnlyReceiver):
    delimiter = b"\n"

    def lineReceived(self, line):
        maybeDeferred(eval, line.decode(), NAMES).addCallbacks(self.succeeded, self.failed)

    def succeeded(self, result):
        told = result if isinstance(result, (bool, int, str, list)) else None
        self.answer({"result": told})

    def failed(self, failure):
        error = failure.value
        more = ("pid", "phase", "exitStatus", "signal", "stderr")
        self.answer(
            {
                "error": type(error).__name__,
                "message": str(error),
                **{name: getattr(error, name) for name in more if hasattr(error, name)},
            }
        )

    def answer(self, outcome):
        self.transport.write(json.dumps(outcome).encode() + b"\n")


upgrader = NAMES["upgrader"] = Upgrader(reactor, **NAMES["options"])
control = Factory.forProtocol(Control)
control.noisy = False
path = Path(f"control.{upgrader.generation}")
path.unlink(missing_ok=True)
reactor.listenUNIX(str(path), control)
reactor.run(installSignalHandlers=os.environ.get("SIGNAL_HANDLERS") != "no")
