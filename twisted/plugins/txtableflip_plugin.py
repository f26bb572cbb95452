"""
Announce txtableflip to Twisted: an endpoint prefix and a twistd command.
"""

from twisted.application.service import ServiceMaker

from txtableflip.endpoints import TableflipStringParser

tableflipEndpoint = TableflipStringParser()

tableflipCommand = ServiceMaker(
    "tableflip",
    "txtableflip.tap",
    "Run an application that its next version replaces without an outage.",
    "tableflip",
)
