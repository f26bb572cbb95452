"""
Where names of other packages are documented: what L{conf} gives to pydoctor.

pydoctor would fetch the lists of names of Twisted's and Python's documentation, and
builds are not to need the network.  So the list is made from what is installed, of those
names alone that our docstrings link to or our modules import.  What is not there is not
in it, and pydoctor warns of the link.
"""

import ast
import importlib
import inspect
import re
import sys
import zlib
from contextlib import suppress

from zope.interface import Interface

TWISTED = "https://docs.twisted.org/en/stable/api"
ZOPE = "https://zopeinterface.readthedocs.io/en/latest/api/declarations.html"
PYTHON = "https://docs.python.org/3/library"
LINK = re.compile(r"L\{(?:[^{}<]*<)?([\w.]+)>?\}")


def mentioned(package):
    """
    @return: the full names that modules of a package link to or import, and that are of
        others.
    """
    for path in package.rglob("*.py"):
        text = path.read_text()
        imported = {
            alias.asname or alias.name: f"{node.module}.{alias.name}"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        yield from imported.values()
        for link in LINK.findall(text):
            first, dot, rest = link.partition(".")
            yield imported.get(first, first) + dot + rest


def find(name):
    """
    @return: the module in which something is, its name in there, and what it is.
    @raise LookupError: if there is no such thing.
    """
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        with suppress(ImportError):
            found = module = importlib.import_module(".".join(parts[:length]))
            break
    else:
        raise LookupError(name)
    for part in parts[length:]:
        isInterface = isinstance(found, type(Interface))
        found = found.get(part) if isInterface else getattr(found, part, None)
        if found is None:
            raise LookupError(name)
    return module.__name__, ".".join(parts[length:]), found


def page(name):
    """
    @return: the address of what documents something, or nothing if it is elsewhere.
    """
    module, rest, found = find(name)
    root = module.partition(".")[0]
    if root in sys.stdlib_module_names:
        return f"{PYTHON}/{module}.html#{name if rest else f'module-{module}'}"
    if root == "zope":
        return ZOPE
    if root != "twisted":
        return None
    if inspect.ismodule(found) or inspect.isclass(found) or isinstance(found, type(Interface)):
        return f"{TWISTED}/{name}.html"
    parent, _, last = name.rpartition(".")
    return f"{TWISTED}/{parent}.html#{last}"


def write(package, path):
    """
    Write an inventory, in the format of Sphinx, of what a package mentions.
    """
    lines = []
    for name in sorted(set(mentioned(package))):
        if "." in name or name in sys.stdlib_module_names:
            with suppress(LookupError):
                if where := page(name):
                    lines.append(f"{name} py:obj 1 {where} -\n")
    head = "# Sphinx inventory version 2\n# Project: others\n# Version: \n"
    head += "# The remainder of this file is compressed using zlib.\n"
    path.write_bytes(head.encode() + zlib.compress("".join(lines).encode()))
