"""
What a process can be asked, and how: a JSON object in one line, answered by any number of
events and one result, each of them an object in a line, too.

Of the standard library only, as L{address <txtableflip._control.address>}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from txtableflip.errors import InvalidRequest

MAX_LINE = 1 << 16
"""
How long a request may be, in bytes.
"""

FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    "status": {},
    "upgrade": {
        "dryRun": (bool,),
        "expect": (str,),
        "drainTimeout": (int, float),
        "detach": (bool,),
    },
    "rollback": {"reason": (str,)},
    "confirm": {},
    "stop": {},
}
"""
For each command the fields that it may have, and their types.
"""


@dataclass(frozen=True)
class Request:
    """
    What a client asks of a process.

    @ivar command: a key of L{FIELDS}.
    @ivar options: the command's own fields, as many as were given.
    """

    command: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """
        @return: the line.
        """
        return encode({"command": self.command, **self.options})


def encode(answer: Mapping[str, Any]) -> bytes:
    """
    @return: an object, in a line.
    """
    return json.dumps(answer, ensure_ascii=True).encode("ascii") + b"\n"


def decode(line: bytes) -> Request:
    """
    @param line: without its end.
    @raise InvalidRequest: if that is not a request; it says what would be one.
    """
    try:
        asked = json.loads(line)
    except (ValueError, RecursionError):
        raise InvalidRequest("a request is a JSON object in one line") from None
    if not isinstance(asked, dict):
        raise InvalidRequest("a request is a JSON object in one line")
    command = asked.pop("command", None)
    fields = FIELDS.get(command) if isinstance(command, str) else None
    if fields is None:
        raise InvalidRequest(f"the command is one of {', '.join(FIELDS)}, not {command!r:.60}")
    for name, value in asked.items():
        _check(command, fields, name, value)
    return Request(command, asked)


def _check(
    command: str, fields: Mapping[str, tuple[type, ...]], name: str, value: object
) -> None:
    """
    @raise InvalidRequest: if a command has no such field, or not of that type.
    """
    if name not in fields:
        known = ", ".join(fields) or "none"
        raise InvalidRequest(f"{name!r:.60} is not a field of {command}: it has {known}")
    # A bool is an int, too.
    if type(value) not in fields[name]:
        expected = " or ".join(each.__name__ for each in fields[name])
        raise InvalidRequest(f"{name} of {command} is of type {expected}, not {value!r:.60}")
