"""A new data set is one file in ``mol/data/sets``: added to a copy of the package, it is there for every command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_parts import generated_part
from places import ROOT
from sheet_files import touch_frames

from mol.data.manifest import key, read_manifest

ADDED = ROOT / "tests/helpers/lab_set.py"
SHEET = "Who,Clip,From,To,Emotion\nlab1,a,2,9,glad\nlab2,b,1,10,anger\n"


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Iterator[Path]:
    """A folder with a copy of `mol` to which one file was added."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT / "mol", folder / "mol", ignore=shutil.ignore_patterns("__pycache__"))
    before = {path.relative_to(folder) for path in folder.rglob("*.py")}
    shutil.copy(ADDED, folder / "mol/data/sets/lab.py")
    yield folder
    after = {path.relative_to(folder) for path in folder.rglob("*.py")}
    assert after - before == {Path("mol/data/sets/lab.py")}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The made-up data set as it would be unpacked."""
    for name in ("lab1/a", "lab2/b"):
        touch_frames(tmp_path / "Lab/videos" / name, range(1, 11))
    (tmp_path / "Lab/lab_sheet.csv").write_text(SHEET, encoding="utf-8")
    return tmp_path / "Lab"


def python(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in which `mol` is the copy."""
    environment = {**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{ROOT}"}
    return subprocess.run([sys.executable, *arguments], cwd=package, env=environment, capture_output=True, text=True)


def test_it_is_prepared(package, root, tmp_path):
    run = python(package, "-m", "mol", "prepare", "--dataset", "lab", "--root", str(root), "--out", str(tmp_path / "m"))
    assert run.returncode == 0, run.stderr
    manifest = read_manifest(tmp_path / "m")
    assert [(key(clip), clip.emotion, clip.fps) for clip in manifest.clips] == [
        ("lab/lab1/a", "joy", 60.0),
        ("lab/lab2/b", "anger", 60.0),
    ]


def test_it_is_listed_in_the_help(package):
    assert "\n  lab       Videos of a laboratory\n" in python(package, "-m", "mol", "prepare", "--help").stdout


def test_it_gets_a_row_and_a_section_of_the_page(package, tmp_path):
    page = shutil.copy(ROOT / "docs/datasets.md", tmp_path / "datasets.md")
    run = python(package, "-m", "mol.data.sets", str(page))
    assert run.returncode == 0, run.stderr
    text = generated_part(page.read_text(encoding="utf-8"), "sets")
    assert "| [`lab`](#lab) | Videos of a laboratory | `lab1` | 60 | 2 | `as-labelled` |" in text
    assert "**Counts** 2 clips, 2 subjects: joy 1, anger 1." in text


def test_its_subjects_are_checked_and_its_folder_is_recognised(package, root):
    code = (
        "from mol.data.manifest import Clip; from mol.data.protocol import apply, as_labelled\n"
        "clips = [Clip('lab', 'sub01', 'a', 'a', 1, None, 9, 'joy')]\n"
        "apply(as_labelled(clips), clips)"
    )
    assert "lab has no subject 'sub01' (its subjects have names like lab1)" in python(package, "-c", code).stderr
    run = python(package, "-m", "mol", "prepare", "--dataset", "casme2", "--root", str(root))
    assert "It looks like another data set: --dataset lab." in run.stderr


def test_a_second_file_with_the_same_name_is_refused_with_both(package):
    again = package / "mol/data/sets/lab_copy.py"
    shutil.copy(ADDED, again)
    try:
        run = python(package, "-m", "mol", "prepare", "--help")
    finally:
        again.unlink()
    assert "mol.data.sets.lab and mol.data.sets.lab_copy both define the data set 'lab'" in run.stderr
