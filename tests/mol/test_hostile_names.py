"""A data set from a stranger, whose names of sets, people, clips and classes are anything, through every command."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hostile import NAMES
from tiny_cache import moving_clip

from mol.cli import main
from mol.common.storage import read_csv
from mol.data.cache import CacheSettings, CacheWriter
from mol.data.manifest import Clip, Manifest, read_manifest, write_manifest

pytestmark = pytest.mark.filterwarnings("ignore:Glyph .* missing:UserWarning")

CLASSES = (NAMES[0], NAMES[2], NAMES[8])
PEOPLE = 7


def write_cache(path: Path, classes: tuple[str, ...], offset: int) -> None:
    """A few people with a clip of each class."""
    names = [NAMES[(offset + place) % len(NAMES)] for place in range(len(NAMES))]
    rows = [
        {
            "dataset": names[-1],
            "subject": names[person],
            "clip": names[(person + label) % len(names)] + str(label),
            "start": 0,
            "interval": 1,
            "label": label,
            "emotion": emotion,
            "action_units": [names[label]],
            "onset": 0,
            "apex": 4,
        }
        for person in range(PEOPLE)
        for label, emotion in enumerate(classes)
    ]
    with CacheWriter(path, CacheSettings(kind="extracted", classes=classes), rows) as writer:
        for row in writer.pending():
            shift = ((1, 0), (0, 1), (-1, 1))[rows[row]["label"] % 3]
            writer.write(row, *moving_clip(np.random.default_rng(row), shift))
        writer.finish()


@pytest.mark.parametrize(
    "offset", [pytest.param(first, marks=[pytest.mark.slow] * bool(first)) for first in range(0, len(NAMES), PEOPLE)]
)
def test_training_evaluation_folds_and_report_write_in_their_folders_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], offset: int
):
    work = tmp_path / "a" / "deep" / "folder"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    write_cache(work / "cache", CLASSES, offset)
    common = "--network apex-difference --steps 2 --batch-size 2 --validate-every 0 --device cpu"
    for command in (
        "check-data cache --workers 1",
        f"train --cache cache --run runs/one --held-out 0.25 {common}",
        "evaluate --weights runs/one --device cpu --tvl1-pairs 0",
        f"loso cache --protocol as-labelled --run runs/all {common}",
        "report runs/all --device cpu --failures 1",
    ):
        assert main(command.split()) in (0, None), capsys.readouterr().err
    assert "\x1b" not in capsys.readouterr().out
    assert {path.name for path in work.iterdir()} == {"cache", "runs"}
    assert {path for path in tmp_path.rglob("*") if work not in path.parents} == {work, *work.parents[:2]}
    assert len(list((work / "runs" / "all" / "folds" / "seed0").iterdir())) == PEOPLE
    (pooled,) = [list(read_csv(work / "runs/all/predictions.csv", ["subject", "label"], ""))]
    assert {row["subject"] for _, row in pooled} == {NAMES[(offset + place) % len(NAMES)] for place in range(PEOPLE)}
    assert {row["label"] for _, row in pooled} == set(CLASSES)


def test_a_manifest_comes_back_whatever_its_names_and_runs_nothing_in_a_spreadsheet(tmp_path: Path):
    clips = [
        Clip(name, name, f"{name} {place}", name, 1, 2, 9, name, name, 100.0, name) for place, name in enumerate(NAMES)
    ]
    write_manifest(tmp_path / "manifest", Manifest("generic", tmp_path, clips))
    assert read_manifest(tmp_path / "manifest").clips == clips
    with open(tmp_path / "manifest" / "clips.csv", encoding="utf-8", newline="") as file:
        cells = {cell for row in csv.reader(file) for cell in row}
    # A number with its sign is one to a spreadsheet as well.
    assert {cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))} == {"+1"}
