"""The quick start and the tutorials are run from top to bottom, and print what they say."""

import shutil
import subprocess
import sys

import pytest
from places import HELPERS, ROOT, environment
from tutorials import matches, read_steps

TUTORIALS = ROOT / "docs" / "tutorials"


@pytest.fixture
def folder(tmp_path):
    """An empty folder that is removed afterwards: checkpoints are large."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def run(name, folder, *until):
    """A process of its own: other tests register backends and set Triton's interpreter."""
    variables = environment(COLUMNS="80")
    variables.pop("TRITON_INTERPRET", None)
    command = [sys.executable, HELPERS / "tutorials.py", TUTORIALS / name, *until]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_quick_start(folder):
    run("../quickstart.md", folder)


@pytest.mark.slow
def test_f5c_in_your_own_network(folder):
    run("f5c.md", folder)


def test_archives_as_far_as_the_check(folder):
    run("archives.md", folder, "## The cache")


@pytest.mark.slow
def test_from_archives_to_a_table(folder):
    run("archives.md", folder)


@pytest.mark.slow
def test_read_a_video(folder):
    run("video.md", folder)


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
