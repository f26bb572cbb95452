"""
What the README and the documents say is what there is.
"""

import ast
import re
from pathlib import Path

import pytest
import states

import txtableflip
from txtableflip import service, upgrader
from txtableflip._draining import drain
from txtableflip._handover import child, ending, parent

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
OPERATING = (ROOT / "docs" / "operating.md").read_text()


def test_the_program_in_the_readme_is_the_example():
    """
    The program in the README is examples/upgrader.py without its docstring.
    """
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    example = (ROOT / "examples" / "upgrader.py").read_text()
    assert example.rpartition('"""\n\n')[2] == program


def test_the_readme_is_short_and_begins_with_what_to_type():
    """
    The README has at most 190 lines, and the first command is among the first
    25.
    """
    lines = README.splitlines()
    assert len(lines) <= 190
    assert any(line.startswith("```") for line in lines[:25])


@pytest.mark.parametrize("name", ["README.md", *DOCUMENTS])
def test_links_lead_somewhere(name):
    """
    Links to other files of the project name files that there are, and headings
    that are in them.
    """
    path = ROOT / name
    for link in re.findall(r"\]\((?!https?:)([^)]*)\)", path.read_text()):
        target, _, heading = link.partition("#")
        found = path.parent / target if target else path
        assert found.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
            assert heading in map(anchor, headings), link


def anchor(heading):
    """
    Return what a forge, and MyST, make of a heading: there is no punctuation in it.
    """
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", [n for n in DOCUMENTS if n != "docs/quickstart.md"])
def test_the_code_in_the_documents_runs(name):
    """
    Each piece of Python in the documents can be run as it stands; that of the
    quick start is a service.
    """
    for code in re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL):
        exec(code, {})


@pytest.mark.parametrize("name", ["README.md", "docs/security.md"])
def test_the_tests_that_a_document_names_are_in_the_files_that_it_names(name):
    """
    Each row of the table of what is inherited, and of that of the attacks, names
    a test that there is.
    """
    text = (ROOT / name).read_text()
    named = re.findall(r"\[(test_\w+)\]\((?:\.\./)?(tests/\w+\.py)\)", text)
    assert len(named) > 12
    for test, path in named:
        assert f"def {test}(" in (ROOT / path).read_text(), test


def test_the_comparison_in_the_readme_is_what_was_measured():
    """
    Each row of its table has the figures of one of docs/comparison.md, and none is left out.
    """
    measured = (ROOT / "docs" / "comparison.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| ([\d,]+) \| (\d+) \| (\d+) \|", measured, re.MULTILINE)
    claims = re.findall(
        r"^\| [^|]+ \| ([\d,]+) of ([\d,]*\d)[^|]* \| (\d+) \|", README, re.MULTILINE
    )
    claimed = [(asked, refused.replace(",", ""), cut) for refused, asked, cut in claims]
    assert len(rows) > 5
    assert sorted(claimed) == sorted(rows)


def test_the_states_are_drawn_as_they_are():
    """
    The diagram in docs/how-it-works.md is that of the code.
    """
    assert states.diagram() in states.DOCUMENT.read_text()


def messages():
    """
    Return every text in the source, with what is filled in replaced by dots.
    """
    found = []
    for path in Path(txtableflip.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        docstrings = {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        for node in set(ast.walk(tree)) - docstrings:
            if isinstance(node, ast.JoinedStr):
                parts = [getattr(part, "value", None) for part in node.values]
                found.append("".join(p if isinstance(p, str) else "…" for p in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"\{[\w.]*\}", "…", node.value))
    return found


def test_the_messages_in_the_documents_are_those_of_the_code():
    """
    Each message that docs/operating.md explains is in the code, word for word.
    """
    tables = OPERATING.partition("## The log")[2].partition("\n## ")[0]
    explained = re.findall(r"^\| `([^`]*)` \|", tables, re.MULTILINE)
    assert len(explained) > 20
    known = messages()
    for message in explained:
        text = re.sub(r"\((inherited|new) socket\)", "(… socket)", message)
        parts = [re.escape(part) for part in text.split("…")]
        pattern = re.compile(".*".join(parts), re.DOTALL)
        assert any(pattern.search(one) for one in known), message


def test_the_deadlines_in_the_documents_are_those_of_the_code():
    """
    The table of deadlines has the numbers that are in the code.
    """
    text = (ROOT / "docs" / "how-it-works.md").read_text()
    rows = dict(re.findall(r"^\| (.*?) \| (.*? \|.*?) \|$", text, re.MULTILINE))
    for row, seconds in {
        "the socket list, in the new process": parent.MANIFEST_TIMEOUT,
        "*Ready*": upgrader.UPGRADE_TIMEOUT,
        "the end of a new process that got SIGTERM": ending.TERM_GRACE,
        "*Serving*, after *Commit*": child.COMMIT_TIMEOUT,
        "the exit status of a new process that has closed the channel": ending.STATUS_TIMEOUT,
        "the connections of the old process": service.DRAIN_TIMEOUT,
        "the end of a process that drains": service.STOP_TIMEOUT,
    }.items():
        assert f"{seconds:g} s" in rows[row], row
    assert (
        f"aborted after {drain.LAST_BYTES_TIMEOUT:g} s"
        in rows["the connections of the old process"]
    )
