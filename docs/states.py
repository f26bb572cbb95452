"""
Draws the states of a process, from the code, into docs/how-it-works.md.

    python docs/states.py
"""

import re
from collections import defaultdict
from pathlib import Path

from txtableflip import _lifecycle

DOCUMENT = Path(__file__).parent / "how-it-works.md"
BLOCK = re.compile(r"```mermaid\n.*?```\n", re.DOTALL)


def diagram():
    """
    @return: the diagram, in the language that GitHub draws (mermaid): what
        changes the state, and nothing of what does not.
    """
    labels = defaultdict(list)
    for before, what, after, _ in _lifecycle.machine.__automat_automaton__.allTransitions():
        if before.name != after.name:
            labels[before.name, after.name].append(what)
    lines = ["[*] --> Initialising: first generation"]
    lines.append("[*] --> InitialisingBesideParent: started in an upgrade")
    order = list(_lifecycle.STATES)
    for (before, after), inputs in sorted(
        labels.items(), key=lambda item: [order.index(name) for name in item[0]]
    ):
        lines.append(f"{before} --> {after}: {', '.join(sorted(inputs))}")
    drawn = "\n".join(f"    {line}" for line in lines)
    return f"```mermaid\nstateDiagram-v2\n{drawn}\n```\n"


if __name__ == "__main__":
    DOCUMENT.write_text(BLOCK.sub(diagram(), DOCUMENT.read_text()))
