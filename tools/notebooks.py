"""The tutorials as notebooks, made from their Markdown pages.

    python -m tools.notebooks       # writes docs/tutorials/*.ipynb

Text becomes text, a block of Python becomes a cell, and every command of a console block becomes a cell that runs it in
the shell. Links stay as they are, since the notebooks lie beside the pages. What the page says that a cell prints is
left out: a notebook shows what it prints itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.architecture import ROOT

TUTORIALS = ROOT / "docs" / "tutorials"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```\n?", re.MULTILINE | re.DOTALL)
_TESTED = re.compile(r"^A test runs the code of this page .*?\n\n", re.MULTILINE | re.DOTALL)
# Commands run on the `mol` of the notebook's own Python, also where its environment is not activated.
_PATH = """\
# Needs molkernels with the extras "mol" and "demo" in this kernel's Python.
import os
import sys
from pathlib import Path

os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
"""


def notebook(page: Path) -> dict[str, Any]:
    """A page as the content of an ``.ipynb`` file, format 4.5, without outputs."""
    parts = [(kind, text) for kind, text in _parts(page.read_text(encoding="utf-8")) if text.strip()]
    cells = [_cell(kind, text, number) for number, (kind, text) in enumerate(parts)]
    language = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    about = {"kernelspec": kernel, "language_info": language}
    return {"cells": cells, "metadata": about, "nbformat": 4, "nbformat_minor": 5}


def _parts(text: str) -> Iterator[tuple[str, str]]:
    """("markdown" or "code", content) of each cell."""
    text = _TESTED.sub("", text)
    place, set_up = 0, "```console" in text
    for match in _BLOCK.finditer(text):
        yield "markdown", text[place : match.start()]
        place = match.end()
        kind, content = match.groups()
        if set_up and kind in ("python", "console"):
            yield "code", _PATH
            set_up = False
        if kind == "python":
            yield "code", content
        elif kind == "console":
            yield from (("code", f"!{command}") for command in re.findall(r"^\$ (.*)$", content, re.MULTILINE))
    yield "markdown", text[place:]


def _cell(kind: str, text: str, number: int) -> dict[str, Any]:
    cell: dict[str, Any] = {
        "cell_type": kind,
        "id": f"cell-{number:03d}",
        "metadata": {},
        "source": text.strip("\n").splitlines(keepends=True),
    }
    return cell | {"execution_count": None, "outputs": []} if kind == "code" else cell


def content_of(page: Path) -> str:
    """The text of the ``.ipynb`` file of a page."""
    return json.dumps(notebook(page), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write all notebooks beside their pages."""
    for page in sorted(TUTORIALS.glob("*.md")):
        target = page.with_suffix(".ipynb")
        target.write_text(content_of(page), encoding="utf-8")
        print(f"wrote {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
