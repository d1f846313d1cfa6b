"""``.. wing:: mol.data``: the reference of a package, each of its modules under a heading of its own.

Modules are found when the site is built, so that a module that is added, renamed or split needs no change here.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Wing(SphinxDirective):
    """Document a package and what is inside it, in alphabetical order.

    Options:
        without: packages inside it that have pages of their own; ``*`` for all.
        show-inheritance: as of ``automodule``.
    """

    required_arguments = 1
    option_spec = {"without": directives.unchanged, "show-inheritance": directives.flag}  # noqa: RUF012 - as docutils does

    def run(self) -> list[nodes.Node]:
        package = importlib.import_module(self.arguments[0])
        inheritance = ["   :show-inheritance:"] if "show-inheritance" in self.options else []
        lines = [f".. automodule:: {package.__name__}", "   :no-members:", ""]
        for module in modules_of(package, self.options.get("without", "").split()):
            lines += [module, "-" * len(module), "", f".. automodule:: {module}", *inheritance, ""]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def modules_of(package: ModuleType, without: list[str]) -> Iterator[str]:
    """The public modules of a package, a package inside it before its own modules."""
    for _, name, is_package in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if name.rpartition(".")[2].startswith("_") or (is_package and ("*" in without or name in without)):
            continue
        yield name
        if is_package:
            yield from modules_of(importlib.import_module(name), without)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("wing", Wing)
    return {"parallel_read_safe": True}
