"""The table of frames, as CSV and as Parquet."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from films import write_timed
from tiny_predictions import FACE, tiny_weights

from mol.common.errors import MissingExtraError
from mol.prediction.predict import PredictConfig, Prediction, predict
from mol.prediction.regions import REGIONS

TIMES = [*range(0, 30 * 40, 40), *range(2000, 2000 + 30 * 80, 80)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[PredictConfig, Prediction, dict[str, Path]]:
    """A film of varying rate with a gap, whose landmarks are given but for one frame and a stretch at the end."""
    folder = tmp_path_factory.mktemp("tables")
    with pytest.MonkeyPatch.context() as patch:
        weights = tiny_weights(folder, patch)
        frames = np.random.default_rng(0).integers(0, 255, (60, 96, 128), dtype=np.uint8)
        path = write_timed(folder / "talk.mp4", frames, TIMES, last=80)
        landmarks = np.stack([np.add(FACE, (index / 4, 0)) for index in range(60)]).astype(np.float32)
        landmarks[9], landmarks[52:] = np.nan, np.nan
        np.savez(folder / "points.npz", landmarks=landmarks)
        config = PredictConfig(
            str(path),
            str(weights),
            str(folder / "out"),
            interval=3,
            landmarks=str(folder / "points.npz"),
            on_error="skip",
            overlay=False,
            page=False,
            save_arrays=True,
        )
        prediction, files = predict(config)
    return config, prediction, files


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_frame_has_a_row_at_its_own_time(written):
    _, _, files = written
    rows = rows_of(files["frames"])
    assert [int(row["frame"]) for row in rows] == list(range(60))
    np.testing.assert_allclose([float(row["timestamp"]) for row in rows], np.array(TIMES) / 1000, atol=1e-3)
    assert {row["face_id"] for row in rows} == {"0"}
    assert list(rows[0])[:7] == ["frame", "face_id", "timestamp", "success", "landmarks", "x_0", "x_1"]
    assert f"flow_{REGIONS[0]}_x" in rows[0]
    assert [name for name in rows[0] if name.startswith("p_")] == ["p_=up", "p_down"]


def test_landmarks_are_the_detectors_and_interpolated_where_no_window_looks(written):
    _, prediction, files = written
    rows = rows_of(files["frames"])
    used = set(prediction.person.frames.tolist())
    assert {0, 3, 6, 9} <= used
    assert [rows[number]["landmarks"] for number in (0, 6, 1, 9)] == ["found", "found", "interpolated", "interpolated"]
    for number in (0, 1, 6, 9, 20):
        assert float(rows[number]["x_30"]) == pytest.approx(FACE[30, 0] + number / 4, abs=0.02)
        assert float(rows[number]["y_57"]) == pytest.approx(FACE[57, 1], abs=0.02)
    # Between frames 29 and 30 pass 840 ms: landmarks of the frames around are weighted by time.
    assert [row["success"] for row in rows[53:]] == ["0"] * 7
    assert {rows[59][name] for name in ("landmarks", "x_0", "y_67")} == {""}


def test_flow_and_probabilities_are_those_of_the_nearest_window(written):
    _, prediction, files = written
    rows = rows_of(files["frames"])
    document = json.loads(files["predictions"].read_text(encoding="utf-8"))
    with np.load(files["arrays"]) as arrays:
        samples = arrays["frames"]
    for number in (0, 10, 25, 31, 45):
        which = int(prediction.nearest[number])
        window = document["windows"][which]
        assert window["start"] <= number <= window["frames"][-1]
        assert float(rows[number]["p_=up"]) == pytest.approx(window["probabilities"]["=up"], abs=1e-4)
        pair = max(index for index in range(7) if index == 0 or samples[which][index] <= number)
        for axis, name in enumerate("xy"):
            flow = prediction.trace.flow[which, pair, REGIONS.index("nose"), axis]
            assert float(rows[number][f"flow_nose_{name}"]) == pytest.approx(float(flow), abs=1e-4)
    unread = np.flatnonzero(prediction.nearest < 0)
    assert len(unread)
    assert {rows[number]["p_down"] for number in unread} == {""}


def test_parquet_holds_the_same(written, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    config, _, files = written
    weights = tiny_weights(tmp_path, monkeypatch)
    other = replace(config, weights=str(weights), out=str(tmp_path / "out"), format="parquet", save_arrays=False)
    _, found = predict(other)
    assert found["frames"].name == "frames.parquet"
    table = parquet.read_table(found["frames"]).to_pydict()
    rows = rows_of(files["frames"])
    assert list(table) == list(rows[0])
    for name, values in table.items():
        for row, value in zip(rows, values, strict=True):
            if row[name] == "":
                assert value in (None, "")
            elif name == "landmarks":
                assert value == row[name]
            else:
                assert value == pytest.approx(float(row[name]), abs=0.006)


def test_parquet_without_its_package_is_refused_before_anything_is_read(written, tmp_path, monkeypatch):
    config, _, _ = written
    weights = tiny_weights(tmp_path, monkeypatch)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"\[tables\]"):
        predict(replace(config, weights=str(weights), out=str(tmp_path / "out"), format="parquet"))
    assert not (tmp_path / "out").exists()
