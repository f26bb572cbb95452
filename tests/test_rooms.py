"""
Which part of the package may use which.
"""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import txtableflip

PACKAGE = Path(txtableflip.__file__).parent
WORDS = {"errors", "interfaces", "_observers", "_journal", "_kernel", "_libraries"}
PRIVATE = {
    "_generation",
    "_counters",
    "_older",
    "_relatives",
    "_lifecycle",
    "_steps",
    "_handover",
    "_sockets",
    "_draining",
    "_migration",
    "_launch",
    *WORDS,
}

USES = {
    "errors": set(),
    "interfaces": set(),
    "_observers": {"interfaces"},
    "_journal": set(),
    "_kernel": set(),
    "_libraries": {"_journal"},
    "_steps": WORDS,
    "_lifecycle": WORDS | {"_steps"},
    "_draining": WORDS,
    "_migration": WORDS | {"_draining.connections", "_handover"},
    "_launch": WORDS,
    "_handover": WORDS | {"_lifecycle"},
    "_sockets": WORDS | {"_draining", "_handover.manifest"},
    "_counters": WORDS | {"_handover.forks", "_handover.manifest", "_sockets.inventory"},
    "_older": WORDS | {"_handover.manifest", "_sockets.inventory"},
    "_relatives": WORDS | {"_lifecycle", "_steps", "_handover", "_launch"},
    "_generation": PRIVATE,
    "_control": PRIVATE,
    # The command's, which is not to wait for Twisted.
    "_control.address": {"errors", "_kernel"},
    "_control.requests": {"errors"},
    "_control.client": {"errors", "_kernel"},
    "_control.verdict": {"errors"},
    "_control.overview": {"errors"},
    "_control.metrics": set(),
    "_control.report": {"errors"},
    "command": {"errors", "_control"},
    # Runs where there is nothing of the package.
    "keeper": set(),
}
"""
What each private room or module may import of the others: the words that all of
them share, what lies below, and nothing that lies above or beside.  A public
module may import everything.
"""


def importsOf(path):
    """
    Return which modules of the package a module imports, anywhere in it, by their
    names in the package.
    """
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(n if isModule(n) else node.module for n in names)
    return {name.removeprefix("txtableflip.") for name in found if "txtableflip." in name}


def isModule(name):
    """
    Return whether a name is that of a module of the package.
    """
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


GRAPH = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): importsOf(path)
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py" and "testing" not in path.parts
}


def mayUse(module, used):
    """
    Return whether the rules above let one module import another.
    """
    room = module.partition(".")[0]
    rules = USES.get(module, USES.get(room))
    if rules is None or used.partition(".")[0] == room:
        return True
    return bool({used, used.partition(".")[0]} & rules)


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_a_module_uses_what_lies_below_it(module):
    """
    A module imports from its own room and from those below, so that it can be
    read without knowing the ones above.
    """
    assert [used for used in sorted(GRAPH[module]) if not mayUse(module, used)] == []


def test_no_two_modules_need_each_other():
    """
    The imports have an order from bottom to top, in which all can be read.
    """
    order = list(TopologicalSorter(GRAPH).static_order())
    assert set(GRAPH) <= set(order)


def test_every_private_module_is_in_a_room():
    """
    Nobody adds a private module for which no rule says what it may use.
    """
    rooms = {name.partition(".")[0] for name in GRAPH}
    assert {name for name in rooms - {"__main__"} if name.startswith("_")} <= set(USES)
