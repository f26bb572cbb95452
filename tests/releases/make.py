"""
Freeze the package as it is now, to be upgraded from and to in tests::

    python tests/releases/make.py

writes C{tests/releases/wire-1.zip}, where 1 is the newest version of the wire that
it speaks.  The same source makes the same bytes.
"""

import zipfile
from pathlib import Path

from txtableflip._handover.messages import SPEAKS

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent.parent / "src"


def make():
    """
    Write the file.
    """
    target = HERE / f"wire-{SPEAKS.newest}.zip"
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted((SOURCE / "txtableflip").rglob("*.py")):
            entry = zipfile.ZipInfo(path.relative_to(SOURCE).as_posix(), (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes())


if __name__ == "__main__":
    make()
