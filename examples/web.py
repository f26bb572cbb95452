"""
A web server whose answer tells who has answered: release, generation, process.

    twistd tableflip --app examples/web.py  # then:
    curl http://localhost:8080/
    kill -HUP $(cat twistd.pid)             # change RELEASE before, and look
"""

import os

from twisted.application import strports
from twisted.web.resource import Resource
from twisted.web.server import Site

from txtableflip import currentUpgrader

RELEASE = "1"


class WhoAnswers(Resource):
    isLeaf = True

    def render_GET(self, request):
        generation = currentUpgrader().generation
        request.setHeader("Content-Type", "text/plain")
        return f"release {RELEASE}, generation {generation}, process {os.getpid()}\n".encode()


endpoint = os.environ.get("ENDPOINT", "tcp:8080")
service = strports.service(f"tableflip:{endpoint}", Site(WhoAnswers()))
