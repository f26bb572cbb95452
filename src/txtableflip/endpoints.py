"""
The C{tableflip:} prefix of endpoint strings.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.endpoints import quoteStringArgument, serverFromString
from twisted.internet.interfaces import (
    IStreamServerEndpoint,
    IStreamServerEndpointStringParser,
)
from twisted.plugin import IPlugin
from zope.interface import implementer

from txtableflip._journal import ProcessLogger
from txtableflip._sockets.endpoint import InheritableEndpoint
from txtableflip.errors import InvalidEndpoint, NotSupported
from txtableflip.service import automaticUpgrader

__all__ = ["InheritableEndpoint", "TableflipStringParser", "unparse"]

_log = ProcessLogger()


@implementer(IPlugin, IStreamServerEndpointStringParser)
class TableflipStringParser:
    """
    Makes the listening sockets of any server endpoint inheritable: C{tableflip:tcp:8080}
    listens as C{tcp:8080} does, and the next version of the program listens on the same
    socket.
    """

    prefix = "tableflip"

    # The signature is loose because it takes any inner endpoint's arguments.
    def parseStreamServer(
        self, reactor: Any, *args: Any, **kwargs: Any
    ) -> IStreamServerEndpoint:
        """
        See L{twisted.internet.interfaces.IStreamServerEndpointStringParser}.

        @raise InvalidEndpoint: if there is no endpoint after C{tableflip:}, or
            another C{tableflip:}.
        @raise ValueError: as the parser of the inner endpoint does.
        """
        description = unparse(args, kwargs)
        if not args or not args[0]:
            raise InvalidEndpoint(
                "tableflip: goes before another endpoint, as in tableflip:tcp:8080"
            )
        if args[0] == self.prefix:
            raise InvalidEndpoint("one tableflip: is enough, as in tableflip:tcp:8080")
        try:
            upgrader = automaticUpgrader(reactor)
        except NotSupported as error:
            _log.warn(
                "listening on {description}, which will not be inherited: {error}",
                description=description,
                error=str(error),
            )
            plain: IStreamServerEndpoint = serverFromString(reactor, description)
            return plain
        return upgrader.endpoint(description)


def unparse(args: tuple[str, ...], kwargs: dict[str, str]) -> str:
    """
    Write the arguments of an endpoint as a string again: Twisted unquotes it
    before the parser of its prefix gets it.
    """
    words = [_quote(argument) for argument in args]
    words += [f"{_quote(name)}={_quote(value)}" for name, value in kwargs.items()]
    return ":".join(words)


def _quote(argument: str) -> str:
    # quoteStringArgument does not quote the equals sign, which would turn a positional
    # argument into a keyword.
    quoted: str = quoteStringArgument(argument)
    return quoted.replace("=", "\\=")
