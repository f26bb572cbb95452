"""
The table of faults (torture/faults.py, docs/faults.md): here each moment with one fault;
with all of them, which takes minutes, in C{make torture}.
"""

import importlib
from pathlib import Path
from typing import get_args

import faults
import pytest
from faults import COLUMNS, KILL, MOMENTS, complaintsOf, document, expected, reasons, tryColumns

from txtableflip._handover import messages as wire
from txtableflip.testing import _service
from txtableflip.testing._service import PATIENCE

DOCUMENT = Path(__file__).parent.parent / "docs" / "faults.md"


def momentsInTheCode(monkeypatch):
    """
    Return the module that runs inside the processes.
    """
    monkeypatch.syspath_prepend(str(_service.PRELOAD))
    return importlib.import_module("txtableflip_moments")


def test_every_moment_has_a_row_and_every_message_its_moments(monkeypatch):
    """
    The table has a row for each moment at which one process waits for, or
    tells, the other: before and after each message, and at each arrival.
    """
    code = momentsInTheCode(monkeypatch)
    messages = {message.__name__ for message in get_args(wire.Message)}
    assert messages == {*code.SAID_BY_OLD, *code.SAID_BY_NEW, *code.OFFERS}
    assert len(set(MOMENTS)) == len(MOMENTS)
    assert set(MOMENTS) == set(code.moments())


def asExpected(moment, number, victims):
    """
    Return a cell as the rules have it: what may differ is not in the document.
    """
    told = reasons(moment, number, victims)
    return faults.Cell(expected(moment, number, victims), [], told.pop() if told else "")


def test_the_document_is_what_is_expected():
    """
    docs/faults.md, which is written from results, has the cells that the rule
    has.
    """
    found = {
        column: {moment: asExpected(moment, *column) for moment in MOMENTS}
        for column in COLUMNS
    }
    assert DOCUMENT.read_text() == document(found)


@pytest.mark.process
def test_whoever_is_killed_at_whichever_moment_it_is_known_who_serves():
    """
    Each moment, under load: one process is killed, or the other, or both, in turn. One
    of them serves in the end if one is left that can, the pid file names it,
    and it can be upgraded; no client fails whose connection was not with the
    one that was killed; and never do two accept.
    """
    killing = [column for column in COLUMNS if column[0] == KILL]
    moments = {column: MOMENTS[first :: len(killing)] for first, column in enumerate(killing)}
    found = tryColumns(moments)
    assert complaintsOf(found) == []
    assert {column: [*cells] for column, cells in found.items()} == moments


MUTATIONS = {
    "nobody commits": (
        "Generation.commitChild = lambda self: None",
        "new hears Commit",
        "waited",
    ),
    "nobody parks": (
        "Generation.park = lambda self: None",
        "old drains",
        "two processes accept",
    ),
    "nobody rolls back": (
        """
original = Generation.accept
Generation.accept = lambda self: None if self.child.pid else original(self)
""",
        "new has said Ready",
        "waited",
    ),
}


@pytest.mark.process
@pytest.mark.parametrize("name", MUTATIONS)
def test_the_table_fails_without(name):
    """
    Without the commit, without the parking, or without the un-parking, there
    are cells in which something is wrong.
    """
    code, moment, complaint = MUTATIONS[name]
    mutation = f"from txtableflip._generation import Generation\n{code}\n"
    cell = {(KILL, ("new",)): [moment]}
    assert complaintsOf(tryColumns(cell)) == []
    # Only where it shows by nothing else do we wait in vain.
    patience = 6 if complaint == "waited" else PATIENCE
    found = tryColumns(cell, mutation=mutation, patience=patience)
    assert any(complaint in one for one in complaintsOf(found)), complaintsOf(found)


def test_a_status_that_is_not_so_is_found():
    """
    Whether a process says that it serves, and does not, or the other way round.
    """

    def event(state, accepts):
        return _service.Event("old drains", 7, 0.0, accepts=accepts, state=state)

    states = ("Serving", "Upgrading", "OnProbation", "Watching", "Replaced", None)
    assert faults.falseStates([event(state, state in states[:3]) for state in states]) == []
    for state in states[:-1]:
        assert len(faults.falseStates([event(state, state not in states[:3])])) == 1


def test_what_accepts_together_is_found():
    """
    The table itself can tell that two processes accept, also when one of them
    is killed then.
    """

    def event(what, pid, accepts=None, victims=()):
        return _service.Event(what, pid, 0.0, accepts=accepts, victims=victims)

    one = event("old has said Commit", 1, accepts=True)
    assert faults.acceptingTogether([one, event("fault", 1, victims=(1,))]) == []
    both = [one, event("new says Serving", 2, accepts=True)]
    assert faults.acceptingTogether(both) == [
        "two processes accept when new says Serving: [1, 2]"
    ]
