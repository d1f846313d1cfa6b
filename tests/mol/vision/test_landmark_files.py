"""Files with landmarks found elsewhere: what is read from CSV and NPZ, and what is refused by name."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from mol.common.errors import MediaError
from mol.vision.landmark_files import read_landmark_table, read_landmarks

NAMES = [f"{axis}_{index}" for axis in "xy" for index in range(68)]


def random_points(length: int) -> np.ndarray:
    return np.random.default_rng(length).uniform(0, 200, (length, 68, 2)).astype(np.float32)


def write_points(path: Path, points: np.ndarray, drop: str | None = None, blank: str = "") -> Path:
    """A row per frame, all x before all y, after a column that nobody asked for; NaN as an empty cell."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["frame", *(blank + name for name in NAMES if name != drop)])
        for number, frame in enumerate(points):
            values = dict(zip(NAMES, frame.T.ravel(), strict=True))
            cells = ["" if np.isnan(value) else str(value) for name, value in values.items() if name != drop]
            writer.writerow([number + 1, *cells])
    return path


@pytest.mark.parametrize("blank", ["", " "], ids=["plain", "blanks before the names"])
def test_landmarks_of_a_video_are_the_same_from_csv_and_npz(tmp_path: Path, blank: str):
    points = random_points(6)
    points[3] = np.nan
    np.savez(tmp_path / "points.npz", landmarks=points)
    from_csv = read_landmarks(write_points(tmp_path / "points.csv", points, blank=blank), 6)
    np.testing.assert_allclose(from_csv, points, rtol=1e-6)
    np.testing.assert_array_equal(read_landmarks(tmp_path / "points.npz", 6), points)


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    points = random_points(6)
    np.savez(folder / "other.npz", points=points)
    np.savez(folder / "pickled.npz", landmarks=np.array([{"x": 1}], dtype=object))
    (folder / "noise.npz").write_bytes(b"\x00" * 40)
    letters = write_points(folder / "letters.csv", points)
    letters.write_text(letters.read_text(encoding="utf-8").replace("\n4,", "\n4,a", 1), encoding="utf-8")
    cut = write_points(folder / "cut.csv", points)
    cut.write_text(cut.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    (folder / "points.txt").write_text("1 2 3", encoding="utf-8")
    np.savez(folder / "short.npz", landmarks=points[:4])
    return {
        "missing": (folder / "nowhere.csv", "does not exist"),
        "column": (
            write_points(folder / "column.csv", points, drop="y_33"),
            "lacks the column y_33; .* are x_0",
        ),
        "array": (folder / "other.npz", r'no array "landmarks" \(found: points\)'),
        "pickle": (folder / "pickled.npz", "cannot be read"),
        "noise": (folder / "noise.npz", "cannot be read"),
        "letters": (letters, "line 5: could not convert"),
        "cut": (cut, "line 7 has too few values"),
        "suffix": (folder / "points.txt", r"\.csv and \.npz"),
        "length": (folder / "short.npz", r"holds \(4, 68, 2\); the video needs \(6, 68, 2\)"),
    }


@pytest.mark.parametrize(
    "kind", ["missing", "column", "array", "pickle", "noise", "letters", "cut", "suffix", "length"]
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, kind: str):
    path, message = bad_files(tmp_path)[kind]
    with pytest.raises(MediaError, match=message) as caught:
        read_landmarks(path, 6)
    assert str(path) in str(caught.value)


def write_table(path: Path, rows: list[tuple[str, str, int, np.ndarray]]) -> Path:
    names = [f"{axis}_{index}" for index in range(68) for axis in "xy"]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["subject", "clip", "frame", *names])
        for subject, clip, number, points in rows:
            writer.writerow([subject, clip, number, *map(str, points.ravel())])
    return path


def test_landmarks_of_clips_are_the_same_from_csv_and_npz(tmp_path: Path):
    points = random_points(5)
    rows = [("s1", "a", 7, points[0]), ("s1", "a", 9, points[1]), ("s1", "b", 7, points[2]), ("006", "a", 1, points[3])]
    arrays = {}
    for subject, clip in (("s1", "a"), ("s1", "b"), ("006", "a")):
        mine = [row for row in rows if row[:2] == (subject, clip)]
        arrays[f"{subject}/{clip}"] = np.stack([row[3] for row in mine])
        arrays[f"{subject}/{clip}/frames"] = np.array([row[2] for row in mine])
    np.savez(tmp_path / "points.npz", **arrays)
    for path in (write_table(tmp_path / "points.csv", rows), tmp_path / "points.npz"):
        table = read_landmark_table(path)
        assert {key: sorted(frames) for key, frames in table.items()} == {
            ("s1", "a"): [7, 9],
            ("s1", "b"): [7],
            ("006", "a"): [1],
        }
        for subject, clip, number, expected in rows:
            np.testing.assert_allclose(table[subject, clip][number], expected, rtol=1e-6)


def test_a_frame_that_is_given_twice_is_refused(tmp_path: Path):
    points = random_points(1)[0]
    path = write_table(tmp_path / "points.csv", [("s1", "a", 7, points), ("s1", "a", 7, points)])
    with pytest.raises(MediaError, match="line 3 repeats frame 7 of s1/a"):
        read_landmark_table(path)
    np.savez(tmp_path / "points.npz", **{"s1/a": np.stack([points] * 2), "s1/a/frames": np.array([7, 7])})
    with pytest.raises(MediaError, match="each frame once"):
        read_landmark_table(tmp_path / "points.npz")


@pytest.mark.parametrize("name", ["points.csv", "points.npz"])
def test_a_pipe_is_refused_before_it_is_read(tmp_path, name):
    os.mkfifo(tmp_path / name)
    for read in (read_landmark_table, lambda path: read_landmarks(path, 8)):
        with pytest.raises(MediaError, match=f"{name} is a pipe; give an ordinary file"):
            read(tmp_path / name)
