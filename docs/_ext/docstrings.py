"""How this project's docstrings differ from what Napoleon and autodoc expect."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject


def mark_code(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Make an indented block after a paragraph a literal one, as it reads in the source: formulas and file trees."""
    marked: list[str] = []
    for line in lines:
        before = [earlier for earlier in marked if earlier.strip()][-1:]
        begins = line.startswith("    ") and marked and not marked[-1].strip() and before and before[0][0] not in " -*"
        if begins and not before[0].endswith("::"):
            marked += ["::", ""]
        marked.append(line)
    lines[:] = marked


def split_attributes(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Give each of several attributes with one description a field of its own, as Napoleon does for arguments."""
    split: list[str] = []
    together: list[str] = []  # the fields of names that share the description at hand
    for line in [*lines, ""]:
        if together and not line.startswith(" "):
            split += together
            together = []
        field = re.match(r":ivar (\w+(?:, \w+)+):(.*)", line)
        if field:
            together = [f":ivar {attribute}:{field[2]}" for attribute in field[1].split(", ")]
        elif together:
            together = [f"{start}\n{line}" for start in together]
        else:
            # "T." alone would be the first item of a list with letters.
            split.append(re.sub(r"^(:\w+ \w+: )([A-Z]\.)$", r"\1\\\2", line))
    lines[:] = "\n".join(split).split("\n")


def without_factories(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Put a value into dataclasses' signatures where Python says ``<factory>``, which Sphinx can't read."""
    return signature and signature.replace("<factory>", "..."), returns


def source_of(app: Sphinx, module: str, attribute: str) -> str | None:
    """The module with an object's source: by default its ``__module__``, which for an alias of a type is builtins."""
    return None if module == "molkernels" else module


def dash(app: Sphinx, doctree: nodes.document) -> None:
    """A dash between an argument and its description; smart quotes, which would do it, spoil quoted values."""
    for text in list(doctree.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(" – "))


def setup(app: Sphinx) -> dict[str, bool]:
    for field in PyObject.doc_field_types:
        if field.name == "variable":  # an `Attributes:` section; its names are no references
            field.label, field.rolename = "Attributes", ""
    app.connect("autodoc-process-docstring", mark_code, priority=100)  # before Napoleon
    app.connect("autodoc-process-docstring", split_attributes, priority=900)  # after it
    app.connect("autodoc-process-signature", without_factories)
    app.connect("viewcode-follow-imported", source_of)
    app.connect("doctree-read", dash)
    return {"parallel_read_safe": True}
