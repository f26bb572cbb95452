"""
A server of WebSockets by autobahn, for the tests: it sends back what it gets.
"""

import os

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.application import service, strports


class Echo(WebSocketServerProtocol):
    def onMessage(self, payload, isBinary):
        self.sendMessage(payload, isBinary)


factory = WebSocketServerFactory()
factory.protocol = Echo
application = service.Application("autobahn")
strports.service(os.environ["ENDPOINTS"], factory).setServiceParent(application)
