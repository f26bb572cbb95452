"""
Records what C{make demo} shows into docs/demo.svg, in which each line comes when it came.

    make recording                          # or: python docs/recording.py
"""

import io
import re
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
DEMO = HERE.parent / "examples" / "demo.py"
WIDTH = 100
FRAME = " " * 16
"""
How the lines of a traceback begin that nobody reads in a picture.
"""

REST = 6.0
"""
How long the last line is shown before it begins again, in seconds.
"""


def watch():
    """
    @return: each line of the demo, and when it came, in seconds.
    """
    lines = [("$ make demo", 0.0)]
    began = time.monotonic()

    def now():
        return time.monotonic() - began

    command = [sys.executable, str(DEMO)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as demo:  # noqa: S603
        for line in demo.stdout:
            text = line.rstrip().replace(f"{Path(sys.executable).parent}/", "")
            text = re.sub(r"\S+/txtableflip-demo-\w+", "~/demo", text)
            if not text.startswith(FRAME):
                lines.append((text if len(text) <= WIDTH else text[: WIDTH - 3] + "...", now()))
    if demo.returncode:
        sys.exit("the demo failed")
    return lines


def draw(lines):
    """
    @return: the picture, as SVG.
    """
    console = Console(width=WIDTH, record=True, file=io.StringIO())
    for line, _ in lines:
        text = Text(line)
        text.highlight_regex(r"^\$ .*|kill -HUP \d+|tableflip \w+", "bold cyan")
        text.highlight_regex(r"\b0 failures", "bold green")
        text.highlight_regex(r"upgrade failed.*|RuntimeError.*", "red")
        console.print(text)
    svg = console.export_svg(title="make demo", unique_id="demo")
    total = lines[-1][1] + REST
    rules = "".join(appearing(number, came, total) for number, (_, came) in enumerate(lines))
    return svg.replace("</style>", f"{rules}</style>", 1)


def appearing(number, came, total):
    """
    @return: the rules of CSS by which a line is seen from some time on, again and again.
    """
    play = f"animation:demo{number} {total:.1f}s step-end infinite"
    start, percent = ("1", 0) if not came else ("0", 100 * came / total)
    return (
        f'[clip-path$="-line-{number})"]{{{play}}}'
        f"@keyframes demo{number}{{0%{{opacity:{start}}}{percent:.2f}%{{opacity:1}}}}\n"
    )


if __name__ == "__main__":
    (HERE / "demo.svg").write_text(draw(watch()))
