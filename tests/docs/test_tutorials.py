"""The quick start and the tutorials are run from top to bottom, and print what they say."""

import shutil

import pytest
import torch
from places import ROOT
from tutorials import matches, read_steps, run_steps

TUTORIALS = ROOT / "docs" / "tutorials"


@pytest.fixture
def folder(tmp_path):
    """An empty folder that is removed afterwards: checkpoints are large."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def run(name, folder, monkeypatch, until=None):
    monkeypatch.setenv("COLUMNS", "80")
    page = TUTORIALS / name
    with torch.random.fork_rng():
        run_steps(page, read_steps(page, until), folder)


def test_quick_start(folder, monkeypatch):
    run("../quickstart.md", folder, monkeypatch)


def test_f5c_in_your_own_network(folder, monkeypatch):
    run("f5c.md", folder, monkeypatch)


def test_archives_as_far_as_the_check(folder, monkeypatch):
    run("archives.md", folder, monkeypatch, until="## The cache")


@pytest.mark.slow
def test_from_archives_to_a_table(folder, monkeypatch):
    run("archives.md", folder, monkeypatch)


@pytest.mark.slow
def test_read_a_video(folder, monkeypatch):
    run("video.md", folder, monkeypatch)


def test_every_tutorial_has_steps_that_can_be_run():
    pages = sorted(TUTORIALS.glob("*.md"))
    assert [page.stem for page in pages] == ["archives", "f5c", "video"]
    for page in pages:
        steps = read_steps(page)
        assert len(steps) > 5
        assert any(step.output for step in steps)


@pytest.mark.parametrize(
    ("said", "printed", "fits"),
    [
        ("", "", True),
        ("", "something\n", False),
        ("a …\nc\n", "a b  \nc\n", True),
        ("a …\nc\n", "a b\nb\nc\n", False),
        ("a\n…\nc\n", "a\nb\nb\nc\n", True),
        ("a\n…\nc\n", "a\nc\n", True),
        ("a\n…\n", "b\nc\n", False),
        ("(1,) [2]\n", "(1,) [2]\n", True),
    ],
)
def test_outputs_are_compared_line_by_line(said, printed, fits):
    assert matches(said, printed) == fits


def test_a_block_that_cannot_be_compared_is_an_error(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```text\nnobody printed this\n```\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"page.md:4"):
        read_steps(page)
