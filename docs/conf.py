"""
How Sphinx builds the documentation; C{make docs} runs it.

The pages are Markdown that can be read on a forge.  So links that lead out of this
directory, to tests and examples, are relative there, and lead to the forge here.
"""

import re
import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import external

ROOT = Path(__file__).parent.parent
ABOUT = metadata.metadata("txtableflip")
URLS = dict(each.split(", ") for each in ABOUT.get_all("Project-URL"))
FORGE = f"{URLS['Source']}/blob/main/"

project = "txtableflip"
author = copyright = ABOUT["Author"]  # noqa: A001 - Sphinx calls it so
version = release = ABOUT["Version"]

extensions = [
    "myst_parser",
    "pydoctor.sphinx_ext.build_apidocs",
    "sphinx.ext.intersphinx",  # pydoctor needs it
    "sphinxcontrib.mermaid",
]
exclude_patterns = ["_build"]
nitpicky = True
myst_heading_anchors = 3
myst_fence_as_directive = ["mermaid"]
suppress_warnings = ["myst.header"]  # a page may begin below the first level

html_theme = "furo"
html_title = f"txtableflip {release}"
html_theme_options = {
    "source_repository": URLS["Source"],
    "source_branch": "main",
    "source_directory": "docs/",
}

PACKAGE = ROOT / "src" / "txtableflip"
INVENTORY = ROOT / "docs" / "_build" / "external.inv"
INVENTORY.parent.mkdir(exist_ok=True)
external.write(PACKAGE, INVENTORY)

pydoctor_args = [
    "--project-name=txtableflip",
    f"--project-version={release}",
    f"--project-url={URLS['Homepage']}",
    f"--project-base-dir={ROOT}",
    f"--html-viewsource-base={FORGE.rstrip('/')}",
    "--docformat=epytext",
    "--theme=readthedocs",
    "--privacy=HIDDEN:txtableflip.testing._preload",
    f"--intersphinx-file={INVENTORY}",
    "--html-output={outdir}/api",
    str(PACKAGE),
]
pydoctor_url_path = "/en/{rtd_version}/api/"


def leadOut(app, page, source):
    """
    Have links to files outside of this directory lead to the forge.
    """
    source[0] = re.sub(r"\]\(\.\./", f"]({FORGE}", source[0])


def setup(app):
    """
    See Sphinx.
    """
    app.connect("source-read", leadOut)
