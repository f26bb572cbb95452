"""
A clock that ticks over WebSockets, by autobahn.

    twistd tableflip --drain-timeout 10 --app examples/websocket.py

Nothing here is about upgrades but the word tableflip: in the endpoint.  When a new release
serves, clients get a close frame with code 1001 (going away), each at a moment of its own
in the first half of the drain timeout, so that they do not come back all at once.  A client
that reconnects then finds the new release; in a browser:

    function connect() {
        const socket = new WebSocket("ws://localhost:8080/");
        socket.onmessage = (event) => { document.title = event.data; };
        socket.onclose = () => setTimeout(connect, 100 + 900 * Math.random());
    }
    connect();
"""

import os
import time

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.application import strports
from twisted.internet.task import LoopingCall

RELEASE = "1"


class Clock(WebSocketServerProtocol):
    ticking = None

    def onOpen(self):
        self.ticking = LoopingCall(self.tick)
        self.ticking.start(0.2)

    def tick(self):
        self.sendMessage(f"release {RELEASE}: {time.strftime('%X')}".encode())

    def onClose(self, wasClean, code, reason):
        if self.ticking:
            self.ticking.stop()


factory = WebSocketServerFactory()
factory.protocol = Clock
endpoint = os.environ.get("ENDPOINT", "tcp:8080")
service = strports.service(f"tableflip:{endpoint}", factory)
