"""
Writes the manual pages and the completions for shells into share/, from the options.

    make share                              # or: python docs/share.py

The wheel installs them where man(1), bash and zsh look.  Options of Twisted's kind, which
C{twistd tableflip} and C{python -m txtableflip} have, are described to argparse first;
twistd completes them itself (C{_twistd} of zsh).
"""

import argparse
import re
from pathlib import Path

import shtab
from argparse_manpage.manpage import Manpage

from txtableflip import __version__, command, run, tap

SHARE = Path(__file__).parent.parent / "share"
MAN = "man/man1"
AUTHORS = ["The txtableflip developers"]


def described(options, name, usage):
    """
    @return: a parser of argparse's with options of Twisted's.
    """
    parser = argparse.ArgumentParser(name, usage, options.longdesc, add_help=False)
    for option in options.longOpt:
        word = option.rstrip("=")
        short = [
            f"-{s}" for s, long in options.synonyms.items() if long == word and len(s) == 1
        ]
        default = options.defaults.get(word)
        words = " ".join(options.docs[word].split())
        if option.endswith("="):
            value = "" if default is None else f" [{default}]"
            metavar = "S" if isinstance(default, float) else word.rpartition("-")[2].upper()
            parser.add_argument(*short, f"--{word}", help=words + value, metavar=metavar)
        else:
            parser.add_argument(*short, f"--{word}", help=words, action="store_true")
    return parser


def manual(parser, name, does):
    """
    @return: a manual page.
    """
    about = {"authors": AUTHORS, "project_name": "txtableflip", "version": __version__}
    about["manual_title"] = "txtableflip"
    page = str(Manpage(parser, about, format="single-commands-section"))
    title = f'.TH {name.upper()} "1" "" "txtableflip {__version__}"'
    page = re.sub(r"(?m)^\.TH .*$", title, page, count=1)
    return page.replace(f".SH NAME\n{parser.prog}", f".SH NAME\n{name} \\- {does}", 1)


def pages():
    """
    @return: the text of each file, by its name in share/.
    """
    asking = command._parser([])  # noqa: SLF001 - what it understands
    twistd = described(
        tap.Options(), "twistd tableflip", f"twistd tableflip {tap.Options.synopsis}"
    )
    any_ = run.Options.synopsis.removeprefix("Usage: ")
    program = described(run.Options(), "python -m txtableflip", any_)
    return {
        f"{MAN}/tableflip.1": manual(
            asking, "tableflip", "upgrade a running Twisted service, and tell how it went"
        ),
        f"{MAN}/twistd-tableflip.1": manual(
            twistd, "twistd-tableflip", "run an application that can be upgraded"
        ),
        f"{MAN}/txtableflip.1": manual(
            program, "txtableflip", "run any Twisted program so that it can be upgraded"
        ),
        "bash-completion/completions/tableflip": shtab.complete(asking, "bash"),
        "zsh/site-functions/_tableflip": shtab.complete(asking, "zsh"),
    }


def main():
    for name, text in pages().items():
        path = SHARE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
