"""Sphinx configuration of the documentation site; `make docs` builds it into build/docs.

The source directory is the repository itself, so that a link between two Markdown files, or to a file of source code,
means the same here and on a code host. Only the files under `include_patterns` become pages.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]

# Every page, under the heading that it has in the sidebar. tests/docs/test_site.py checks that none is missing.
NAV = {
    "Start": ["docs/install", "docs/quickstart", "docs/demonstration"],
    "Tutorials": ["docs/tutorials/f5c", "docs/tutorials/archives", "docs/tutorials/video"],
    "Guides": [
        "docs/operators",
        "docs/network",
        "docs/live",
        "docs/learning",
        "docs/spotting",
        "docs/export",
        "docs/baselines",
        "docs/datasets",
        "docs/protocols",
        "docs/scale",
        "docs/released-training",
    ],
    "Reference": [
        "docs/reference/commands",
        "docs/reference/molkernels",
        "docs/reference/functional",
        "docs/reference/formulas",
        "docs/reference/mol/index",
    ],
    "Kernels and speed": [
        "docs/performance",
        "docs/gpu-estimates",
        "docs/edge_max",
        "csrc/README",
        "bench/README",
        "docs/triton-report",
    ],
    "Project": ["CONTRIBUTING", "docs/architecture", "docs/publishing", "CHANGELOG"],
}

project = "molkernels"
author = "the molkernels authors"
version = release = import_module("molkernels").__version__
html_title = f"molkernels {version}"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "command_reference",
    "docstrings",
    "source_pages",
    "wings",
]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "docs/**/*.md",
    "docs/**/*.rst",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "bench/README.md",
    "csrc/README.md",
]
# Not even searched for pages: some are large.
exclude_patterns = [".*", "build", "cache", "data", "demo", "demo-long", "dist", "manifests", "reports", "runs"]
exclude_patterns += ["mol", "molkernels", "tests"]

# Docstrings: sections as Google writes them; `name` in single backticks links to what it names, if that is documented.
default_role = "py:obj"
smartquotes = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = [("Shapes", "returns_style")]
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "ignore-module-all": True}
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"
viewcode_line_numbers = True

# Markdown: anchors of headings as code hosts make them.
myst_heading_anchors = 4

html_theme = "furo"
html_static_path = ["_static"]
html_extra_path = ["_root"]
html_css_files = ["site.css"]
html_show_copyright = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "default"
pygments_dark_style = "github-dark"
copybutton_prompt_text = "$ "
copybutton_exclude = ".linenos, .gp, .go"


def prepare_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """Say in MyST's words what a code host would show as text: anchors, and the contents behind the sidebar."""
    source[0] = re.sub(r'^<a id="([\w-]+)"></a>$', r"(\1)=", source[0], flags=re.MULTILINE)
    if docname == root_doc:
        for caption, pages in NAV.items():
            entries = "\n".join(f"/{page}" for page in pages)
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{entries}\n```\n"


def setup(app: Sphinx) -> None:
    app.connect("source-read", prepare_page)
