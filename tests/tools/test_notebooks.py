"""The notebooks are the tutorials, and they run."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbclient
import nbformat
import pytest
from tutorials import read_steps

from tools.notebooks import TUTORIALS, content_of, notebook

PAGES = sorted(TUTORIALS.glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_notebook_is_that_of_the_page(page: Path) -> None:
    written = page.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert written == content_of(page), "run `python -m tools.notebooks`"
    nbformat.validate(nbformat.reads(written, as_version=4))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_step_of_a_page_is_a_cell_in_the_same_order(page: Path) -> None:
    cells = ["".join(cell["source"]) for cell in notebook(page)["cells"] if cell["cell_type"] == "code"]
    steps = [
        step.code.strip("\n") if step.kind == "python" else f"!{step.code}"
        for step in read_steps(page)
        if step.code.strip()
    ]
    assert [cell for cell in cells if "os.environ" not in cell] == steps


def test_text_without_code_becomes_text(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\nText.\n\n```text\nprinted\n```\n\nMore.\n", encoding="utf-8")
    cells = notebook(page)["cells"]
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in cells] == [
        ("markdown", "# Title\n\nText."),
        ("markdown", "More."),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_notebook_runs(page: Path, tmp_path: Path) -> None:
    made = nbformat.reads(content_of(page), as_version=4)
    client = nbclient.NotebookClient(made, timeout=900, resources={"metadata": {"path": str(tmp_path)}})
    try:
        client.execute()
    finally:
        shutil.rmtree(tmp_path)
    printed = "".join(
        str(output.get("text", "")) for cell in made.cells if cell.cell_type == "code" for output in cell.outputs
    )
    assert "Traceback" not in printed
    # Every command that the page shows to succeed did.
    failing = sum("error: " in step.output for step in read_steps(page))
    assert printed.count("error: ") == failing
