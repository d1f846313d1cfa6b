"""``mol spot``: from a film and a network to tables, with and without a truth."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from data_fixtures import dlib_detector, write_frames_folder
from films import write_film, write_timed
from flow_model import LucasKanadeMOL
from long_films import SHORT

from mol.cli import main
from mol.common.errors import DataError, NoFaceError, SettingsError
from mol.network.checkpoint import save_checkpoint
from mol.networks.flow_cnn import FlowCNN
from mol.scoring.spotting import score_video
from mol.spotting.command import NO_NEUTRAL, SpotConfig, spot_video
from mol.spotting.parameters_file import write_parameters
from mol.spotting.spot import SpotParameters
from mol.spotting.truth import read_truth
from mol.synth.long_set import write_long
from mol.vision.video import read_video

CLASSES = ["happiness", "surprise", "disgust", "repression", "sadness", "others", "neutral"]


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """Six seconds with two micro-expressions and two blinks; its truth lies beside it."""
    root = tmp_path_factory.mktemp("film") / "set"
    # Strong, in even light, without noise and with a quiet head, because Lucas and Kanade's flow is coarse.
    quiet = replace(SHORT, noise=0, lighting=0, amplitude=(2.5, 3.0), head_shift=1.0, head_turn=0.3, head_zoom=0.0)
    write_long(root, quiet, workers=1, detector=dlib_detector())
    return root / "videos/p01_take1.mkv"


@pytest.fixture(scope="module")
def frames(film) -> np.ndarray:
    return read_video(film).frames


@pytest.fixture
def weights(tmp_path, monkeypatch) -> Path:
    return write_run(tmp_path / "run", monkeypatch)


def short(frames: np.ndarray, path: Path, count: int = 40, fps: int = 30) -> Path:
    """A lossless film of the first frames."""
    return write_film(path, frames[:count], fps=fps, codec="ffv1", pixels="gray")


def write_run(folder: Path, monkeypatch, classes=tuple(CLASSES)) -> Path:
    monkeypatch.setattr("mol.networks.mol.MOL", LucasKanadeMOL)
    torch.manual_seed(0)
    state = {"classes": list(classes), "mean_shape": [[0.0, 0.0]] * 68, "step": 5, "normalisation": "clip"}
    save_checkpoint(folder / "checkpoints/last", LucasKanadeMOL(len(classes)), None, state)
    return folder


def loose(folder: Path) -> Path:
    """Parameters that don't listen to the emotion, which this network has not learned."""
    folder.mkdir(parents=True, exist_ok=True)
    write_parameters(folder / "loose.json", SpotParameters(micro=4.0, macro=4.0, evidence=0.0))
    return folder / "loose.json"


def config(video: Path, weights: Path, tmp_path: Path, **settings) -> SpotConfig:
    settings = {"page": "truth" in settings, **settings}
    return SpotConfig(str(video), str(weights), str(tmp_path / "out"), device="cpu", **settings)


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_expressions_of_a_synthetic_film_are_found_and_their_table_can_be_a_truth(film, weights, tmp_path):
    truth = str(film.with_suffix(".csv"))
    settings = {"parameters": str(loose(tmp_path)), "truth": truth, "baseline": False}
    spotted = spot_video(config(film, weights, tmp_path, **settings))
    assert list(spotted.scores) == ["network"]
    page = spotted.files["page"].read_text(encoding="utf-8")
    assert "p01_take1.mkv" in page
    assert f"{sum(one.kind == 'micro' for one in spotted.expressions)} micro" in page
    own = read_truth(Path(truth), film, range(180), 30.0)
    assert score_video(own, spotted.expressions).of("micro").f1 == 1.0
    written = rows(spotted.files["expressions"])
    assert [int(row["apex"]) for row in written] == [one.apex for one in spotted.expressions]
    assert float(written[0]["apex_seconds"]) == pytest.approx(spotted.expressions[0].apex / 30, abs=1e-3)
    again = read_truth(spotted.files["expressions"], film, range(180), 30.0)
    assert [(one.kind, one.onset, one.offset) for one in again] == [
        (one.kind, one.onset, one.offset) for one in spotted.expressions
    ]


def test_scores_stand_beside_those_of_the_baseline_and_of_nothing(frames, weights, tmp_path):
    truth = tmp_path / "truth.csv"
    truth.write_text("onset,offset\n10,20\n")
    film = short(frames, tmp_path / "part.mkv", 24)
    spotted = spot_video(config(film, weights, tmp_path, parameters=str(loose(tmp_path)), truth=str(truth), stride=8))
    content = json.loads(spotted.files["spotting"].read_text(encoding="utf-8"))
    assert content["parameters"]["micro"] == 4.0
    assert content["scores"]["nothing"]["micro"] == {
        **dict.fromkeys(("found", "hits", "recognised_hits"), 0),
        **dict.fromkeys(("precision", "recall", "f1", "accuracy", "uf1", "uar", "strs"), 0.0),
        "annotated": 1,
    }
    assert set(content["scores"]) == {"network", "MDMD", "nothing"}
    assert len(content["expressions"]) == len(rows(spotted.files["expressions"]))


def test_the_command_prints_a_table_and_the_files(frames, weights, tmp_path, capsys):
    film, truth = short(frames, tmp_path / "part.mkv"), tmp_path / "truth.csv"
    truth.write_text("onset,offset\n20,30\n")
    typed = f"spot {film} --weights {weights} --out {tmp_path}/out --truth {truth} --device cpu"
    assert main([*typed.split(), "--parameters", str(loose(tmp_path)), "--baseline", "false", "--page", "false"]) == 0
    printed = capsys.readouterr().out
    for part in ("1.3 s: ", "micro", "recall", "STRS", "expressions.csv"):
        assert part in printed


def test_a_network_trained_without_neutral_clips_spots_by_the_flow_alone(frames, tmp_path, monkeypatch):
    weights = write_run(tmp_path / "run", monkeypatch, CLASSES[:3])
    spotted = spot_video(config(short(frames, tmp_path / "part.mkv"), weights, tmp_path))
    assert NO_NEUTRAL in spotted.notes
    assert json.loads(spotted.files["spotting"].read_text())["parameters"]["evidence"] == 0.0


def test_a_network_without_flow_is_refused_before_it_runs(film, tmp_path):
    state = {"network": "flow-cnn", "classes": CLASSES, "mean_shape": None, "step": 5, "normalisation": "clip"}
    save_checkpoint(tmp_path / "run/checkpoints/last", FlowCNN(len(CLASSES)), None, state)
    with pytest.raises(SettingsError, match="estimates none; use a network mol"):
        spot_video(config(film, tmp_path / "run", tmp_path))


def test_a_truth_of_another_video_is_refused_before_the_network_runs(film, weights, tmp_path):
    table = tmp_path / "truth.csv"
    table.write_text("onset,offset\n10,20\n5000,5010\n")
    with pytest.raises(DataError, match=r"truth\.csv, line 3: the interval 5000–5010 lies outside the video"):
        spot_video(config(film, weights, tmp_path, truth=str(table)))
    table.write_text("onset,offset,emotion\n10,20,bliss\n")
    with pytest.raises(DataError, match="the emotion 'bliss' is not one of the network's"):
        spot_video(config(film, weights, tmp_path, truth=str(table)))


def test_parameters_that_are_none_are_refused(film, weights, tmp_path):
    (tmp_path / "wrong.json").write_text('{"micro": "high"}')
    with pytest.raises(DataError, match=r"wrong\.json"):
        spot_video(config(film, weights, tmp_path, parameters=str(tmp_path / "wrong.json")))


# Odd videos


def test_a_video_of_one_still_frame_shows_nothing_and_says_so(frames, weights, tmp_path):
    film = write_film(tmp_path / "still.mkv", np.repeat(frames[:1], 30, axis=0), codec="ffv1", pixels="gray")
    spotted = spot_video(config(film, weights, tmp_path, parameters=str(loose(tmp_path))))
    assert spotted.expressions == []
    assert any("nothing was found" in note for note in spotted.notes)


def test_a_video_without_a_face_is_refused(weights, tmp_path):
    film = write_film(tmp_path / "none.mkv", np.full((20, 96, 96), 90, np.uint8), codec="ffv1", pixels="gray")
    with pytest.raises(NoFaceError):
        spot_video(config(film, weights, tmp_path))


def test_one_frame_a_second_finds_no_micro_expression_and_says_so(frames, weights, tmp_path):
    film = write_film(tmp_path / "slow.mkv", frames[::8], fps=1, codec="ffv1", pixels="gray")
    spotted = spot_video(config(film, weights, tmp_path, parameters=str(loose(tmp_path))))
    assert all(one.kind == "macro" for one in spotted.expressions)
    assert any("at 1 frames per second a micro-expression has 0.5 frames" in note for note in spotted.notes)


def test_a_variable_rate_with_a_gap_is_read_and_the_gap_is_named(frames, weights, tmp_path):
    # A second, two seconds without frames, two seconds in which every third frame was dropped.
    first, second = np.arange(40), np.array([place for place in range(40, 100) if place % 3])
    times = [*(33 * first), *(33 * second + 2000)]
    film = write_timed(tmp_path / "gap.mkv", frames[np.concatenate([first, second])], times)
    spotted = spot_video(config(film, weights, tmp_path, parameters=str(loose(tmp_path))))
    assert any("a gap in time" in note for note in spotted.notes)
    assert all(one.offset < 40 or one.onset >= 40 for one in spotted.expressions)


def test_frames_of_a_folder_are_named_as_its_pictures_are(frames, weights, tmp_path):
    folder = tmp_path / "frames"
    write_frames_folder(frames[:40], folder)
    for path in sorted(folder.iterdir(), reverse=True):
        number = int("".join(filter(str.isdigit, path.stem)))
        path.rename(folder / f"img{number + 500:05d}{path.suffix}")
    settings = {"fps": 30.0, "parameters": str(loose(tmp_path))}
    spotted = spot_video(config(folder, weights, tmp_path, **settings))
    first = min(spotted.numbers)
    assert first >= 500
    assert all(int(row["onset"]) >= first for row in rows(spotted.files["expressions"]))


@pytest.mark.parametrize(
    "wrong", [{"stride": 0}, {"fps": -1.0}, {"on_error": "ignore"}, {"precision": "8"}, {"max_gap": -1}], ids=str
)
def test_settings_that_cannot_work_are_named(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        replace(SpotConfig("film.mp4", "run"), **wrong)
