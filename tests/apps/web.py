"""
A web site for the tests: answers each request as C{answering.py} answers a line.
"""

import os

from twisted.application import service, strports
from twisted.web.resource import Resource
from twisted.web.server import Site

from txtableflip import currentUpgrader


class Answering(Resource):
    isLeaf = True

    def render_GET(self, request):
        question = request.postpath[0].decode()
        return f"{question} web {currentUpgrader().generation} {os.getpid()} .\n".encode()


application = service.Application("web")
strports.service(os.environ["ENDPOINTS"], Site(Answering())).setServiceParent(application)
