"""
What people call the release that this process runs: a label that only they interpret.
"""

from __future__ import annotations

import os
from contextlib import suppress

MAX_LENGTH = 100
"""
How long a label may be: each line of the log has it.
"""


def checkRelease(label: str) -> None:
    """
    @raise ValueError: if that cannot be shown in a line.
    """
    if not label or len(label) > MAX_LENGTH or not label.isprintable():
        raise ValueError(
            f"a release is a line of 1 to {MAX_LENGTH} printable characters, not {label!r:.120}"
        )


def readRelease(path: str) -> str:
    """
    @param path: of a file with a label, and nothing else but white space around it.
    @raise ValueError: if it cannot be read, or contains anything else.
    """
    try:
        with open(path, encoding="utf-8") as file:
            label = file.read(2 * MAX_LENGTH).strip()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text: {error}") from error
    checkRelease(label)
    return label


def releaseIn(directory: str) -> str | None:
    """
    @param directory: by a name in which there may be a symbolic link, as in
        C{/srv/myapp/current}.
    @return: the name of what the last such link leads to, if there is one, and it is a
        valid label.
    """
    path = os.path.normpath(directory)
    while not os.path.islink(path):
        if path == os.path.dirname(path):
            return None
        path = os.path.dirname(path)
    label = os.path.basename(os.path.realpath(path))
    with suppress(ValueError):
        checkRelease(label)
        return label
    return None


def releaseHere(directory: str) -> str | None:
    """
    @return: the same, if that is where this process runs.
    """
    with suppress(OSError):
        if os.path.samefile(directory, "."):
            return releaseIn(directory)
    return None
