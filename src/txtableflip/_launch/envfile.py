"""
A file with environment variables, as systemd's C{EnvironmentFile=} reads it
(systemd.exec(5)), except that a value cannot continue in the next line.
"""

from __future__ import annotations

import re
import shlex

from txtableflip.errors import EnvironmentFileError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def readEnvironment(path: str) -> dict[str, str]:
    """
    Read a file of which each line is C{NAME=value}, empty, or a comment that
    begins with C{#} or C{;}.  A value may be quoted, as a shell would have it.

    @raise OSError: if the file cannot be read.
    @raise EnvironmentFileError: if a line is something else.
    """
    with open(path, encoding="utf-8", errors="surrogateescape") as lines:
        return parseEnvironment(lines.read(), path)


def parseEnvironment(text: str, path: str) -> dict[str, str]:
    """
    @param path: what to call the text in an error.
    @return: the variables that a text sets.
    @raise EnvironmentFileError: if it has a line that sets none.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith(("#", ";")):
            continue
        name, equals, value = stripped.partition("=")
        if not equals or not _NAME.fullmatch(name.strip()) or "\0" in value:
            raise EnvironmentFileError(f"{path}, line {number}: write NAME=value, not {line!r}")
        try:
            found[name.strip()] = _unquoted(value.strip())
        except ValueError as error:
            raise EnvironmentFileError(f"{path}, line {number}: {error}: {line!r}") from error
    return found


def _unquoted(value: str) -> str:
    """
    @return: the value without the quotes around it.
    @raise ValueError: if they do not end.
    """
    if not value.startswith(("'", '"')):
        return value
    words = shlex.split(value)
    if len(words) != 1:
        raise ValueError("Something follows the quotes")
    return words[0]
