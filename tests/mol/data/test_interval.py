"""An annotated interval and the frames that exist, and that three commands decide alike about it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from check_sets import DataSet, found

from mol.common.errors import DataError
from mol.data.extract.frames import plan_clip
from mol.data.extract.settings import ExtractionSettings
from mol.data.interval import count_of, existing_interval, frames_between, listed_runs, missing_runs
from mol.data.manifest import Clip, Manifest, read_manifest

FOLDER = Path("f")


@pytest.mark.parametrize(
    ("numbers", "onset", "offset"),
    [
        ([38, 39, 41, 42, 60, 61], 41, 60),  # of two equally near frames the one inside
        ([39, 45, 60], 39, 60),  # nearer, though outside
        ([40, 50, 58, 64], 40, 58),
        ([40, 41, 59, 61], 40, 59),
    ],
)
def test_the_nearest_frame_stands_in_for_either_end(numbers: list[int], onset: int, offset: int) -> None:
    interval = existing_interval(40, None, 60, numbers, FOLDER)
    assert (interval.onset, interval.offset) == (onset, offset)
    assert len(interval.moved) == (onset != 40) + (offset != 60)


def test_an_apex_stays_between_the_ends_that_exist() -> None:
    interval = existing_interval(40, 41, 60, [38, 46, 47, 60], FOLDER)
    assert (interval.onset, interval.apex, interval.offset) == (38, 38, 60)
    assert existing_interval(40, 41, 60, [44, 47, 60], FOLDER, beyond=True).apex == 44


def test_an_interval_without_a_single_frame_is_refused() -> None:
    with pytest.raises(DataError, match="has the frames 1–90, but none from 40 to 60"):
        existing_interval(40, None, 60, [1, 39, 61, 90], FOLDER)


def test_missing_runs_are_those_of_the_difference_of_sets() -> None:
    rng = random.Random(0)
    for _ in range(200):
        numbers = sorted(rng.sample(range(40), rng.randint(1, 30)))
        first, last = sorted(rng.sample(range(-3, 45), 2))
        runs = missing_runs(numbers, first, last)
        expected = sorted(set(range(first, last + 1)) - set(numbers))
        assert [number for low, high in runs for number in range(low, high + 1)] == expected
        assert count_of(runs) == len(expected)


def test_missing_runs_of_a_range_are_those_of_its_numbers() -> None:
    for first, last in ((0, 9), (3, 12), (-2, 4), (20, 30), (4, 6)):
        assert missing_runs(range(2, 10), first, last) == missing_runs(list(range(2, 10)), first, last)
    assert frames_between(range(10**15), 5, 7) == range(5, 8)


def test_numbers_from_names_of_any_length_take_no_more_room_than_the_names() -> None:
    numbers = [1, 2, 20230415123456, 10**30]
    assert missing_runs(numbers, 1, 10**30)[0] == (3, 20230415123455)
    assert listed_runs([(1, 1), (3, 9), *[(number, number) for number in range(20, 40, 2)]], 3) == "1, 3–9, 20, …"


def test_an_interval_of_a_picture_named_by_its_time_is_refused_without_listing_its_frames(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    for number in (*range(12), 20230415123456):
        (folder / f"{number}.png").touch()
    clip = Clip("own", "anna", "a", "f", 0, None, 20230415123456, "joy", source="t.csv line 2")
    job = plan_clip(Manifest("own", tmp_path, [clip]), clip, ExtractionSettings())
    assert "more than 1,000,000; correct it" in job.problem
    assert job.rows(("joy",)) == []


@pytest.mark.parametrize(
    ("lost", "severity"), [((5,), "error"), ((7,), "warning"), ((6, 7, 8), "warning"), ((16,), "error"), ((), None)]
)
def test_check_and_extraction_decide_alike(tmp_path: Path, lost: tuple[int, ...], severity: str | None) -> None:
    data = DataSet(tmp_path / "smic")
    whole = data.add("s1", "s1_ne_01", onset=5, offset=16)
    data.change(whole, onset=max(5, lost[0]) if lost and lost[0] != 16 else 5)
    for number in lost:
        data.picture(whole, number).unlink()
    findings = found(data.manifest(), frames=2)
    assert [finding.severity for finding in findings] == ([severity] if severity else [])
    manifest = read_manifest(Path(data.manifest()))
    job = plan_clip(manifest, manifest.clips[0], ExtractionSettings(short="interpolate"))
    assert bool(job.problem) == (severity == "error")
    assert bool(job.missing) == (severity == "warning")
