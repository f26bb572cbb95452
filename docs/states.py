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
        changes the state, and nothing of what does not, or ends it at once.
    """
    labels = defaultdict(list)
    for before, rows in _lifecycle.TABLE.items():
        for what, (after, _) in rows.items():
            if after != before and (after != "Stopped" or before == "EndingChild"):
                labels[before, after].append(what)
    lines = ["[*] --> Initialising: first generation"]
    lines.append("[*] --> InitialisingBesideParent: started in an upgrade")
    for (before, after), inputs in labels.items():
        lines.append(f"{before} --> {after}: {', '.join(inputs)}")
    drawn = "\n".join(f"    {line}" for line in lines)
    return f"```mermaid\nstateDiagram-v2\n{drawn}\n```\n"


if __name__ == "__main__":
    DOCUMENT.write_text(BLOCK.sub(diagram(), DOCUMENT.read_text()))
