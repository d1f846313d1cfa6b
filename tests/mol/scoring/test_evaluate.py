"""Evaluation beside its baselines: who is evaluated, how videos vote, what is written, what is refused."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from tiny_cache import CLASSES, write_tiny_cache
from tiny_model import TinyMOL, instead_of_mol
from torch import nn

from mol.common.devices import start_fabric
from mol.common.errors import CheckpointError, ClipError, DataError, SettingsError
from mol.data.cache import Cache
from mol.data.clips import ResidentClips
from mol.network.losses import MOLLoss
from mol.network.model import MOLOutput
from mol.scoring.baselines import tvl1_errors
from mol.scoring.calibration import Temperature, apply_temperature, expected_calibration_error
from mol.scoring.estimate import by_video, estimate
from mol.scoring.evaluate import EvaluateConfig, evaluate
from mol.scoring.evaluation import Evaluation, read_evaluation
from mol.scoring.table import describe_confidence, evaluation_table
from mol.training.settings import TrainConfig
from mol.training.train import train
from mol.vision.tvl1 import tvl1_flow


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return write_tiny_cache(tmp_path_factory.mktemp("evaluate") / "cache", people=4, videos=3, windows=3)


@pytest.fixture(scope="module")
def run(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run that held s4 out, made with the tiny network."""
    with pytest.MonkeyPatch.context() as patch:
        instead_of_mol(patch)
        folder = tmp_path_factory.mktemp("evaluate") / "run"
        train(
            TrainConfig(
                cache=str(cache.path),
                run=str(folder),
                held_out=["s4"],
                steps=3,
                batch_size=4,
                validate_every=0,
                device="cpu",
            )
        )
        yield folder


@pytest.fixture
def config(run: Path, tmp_path: Path) -> EvaluateConfig:
    return EvaluateConfig(weights=str(run), out=str(tmp_path), device="cpu", tvl1_pairs=0, pictures=False, workers=2)


class Knowing(nn.Module):
    """Answers with the truth of each clip it is shown, plus a fixed error; needs no training."""

    def __init__(self, clips: ResidentClips, flow_error: float, landmark_error: float) -> None:
        super().__init__()
        self.batches = [clips.evaluation_batch([i]) for i in range(len(clips))]
        self.flow_error, self.landmark_error = flow_error, landmark_error

    def forward(self, clips: torch.Tensor) -> MOLOutput:
        found = [next(b for b in self.batches if torch.allclose(b.clips[0], clip, atol=1e-3)) for clip in clips]
        flow, landmarks = torch.cat([b.flow for b in found]), torch.cat([b.landmarks for b in found])
        label = torch.cat([b.label for b in found])
        logits = 5.0 * nn.functional.one_hot(label, len(CLASSES))
        shift = torch.tensor([self.flow_error, 0.0]).view(2, 1, 1)
        return MOLOutput(logits, flow + shift, landmarks + torch.tensor([0.0, self.landmark_error]))


def test_errors_of_a_network_whose_errors_are_known(cache: Cache) -> None:
    clips = ResidentClips(cache, range(6))
    found = estimate(Knowing(clips, 0.25, 2.0), clips, MOLLoss(1, 1, 1), clips.mean_shape(), batch_size=4)
    torch.testing.assert_close(found.flow.ours, torch.full((6, 7), 0.25).double())
    lengths = np.hypot(cache.flow[:6, :, 0], cache.flow[:6, :, 1]).mean((2, 3))
    np.testing.assert_allclose(found.flow.baseline, lengths, rtol=1e-3)
    points = cache.landmarks[:6, 1:].astype(np.float64)
    eyes = np.linalg.norm(points[:, :, 36:42].mean(2) - points[:, :, 42:48].mean(2), axis=-1)
    np.testing.assert_allclose(found.landmarks.ours, 2.0 / eyes, rtol=1e-4)
    mean = points.mean((0, 1))
    expected = np.linalg.norm(points - mean, axis=-1).mean(-1) / eyes
    np.testing.assert_allclose(found.landmarks.baseline, expected, rtol=1e-3)
    assert found.probabilities.argmax(1).tolist() == clips.labels.tolist()
    assert found.loss == pytest.approx(0.0134 + 0.25**2 / 2 + (2.0 / eyes).mean(), abs=1e-3)


def test_estimates_do_not_depend_on_the_batch_size(cache: Cache) -> None:
    clips, model = ResidentClips(cache, range(6)), TinyMOL()
    one, four = (estimate(model, clips, MOLLoss(), clips.mean_shape(), size) for size in (1, 4))
    for a, b in zip(one[:-1], four[:-1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert one.loss == pytest.approx(four.loss, rel=1e-4)


def test_a_long_video_counts_no_more_than_a_short_one() -> None:
    """Published error 6: scores counted sub-clips."""
    rows = [{"dataset": "d", "subject": "s", "clip": clip} for clip in ("long", "long", "long", "short")]
    probabilities = np.array([[0.4, 0.6], [0.4, 0.6], [0.9, 0.1], [0.3, 0.7]])
    videos = by_video(rows, np.array([0, 0, 0, 1]), probabilities)
    assert videos.names == [("d", "s", "long"), ("d", "s", "short")]
    assert videos.labels.tolist() == [0, 1]
    np.testing.assert_allclose(videos.probabilities, [[1.7 / 3, 1.3 / 3], [0.3, 0.7]])
    # Two of the three windows of the long video are wrong, and yet both videos are right.
    assert videos.predictions.tolist() == [0, 1]


def test_sub_clips_of_one_video_with_two_labels_are_refused() -> None:
    rows = [{"dataset": "d", "subject": "s", "clip": "c"}] * 2
    with pytest.raises(ClipError, match="sub-clips of d/s/c have labels 0 and 1"):
        by_video(rows, np.array([0, 1]), np.full((2, 2), 0.5))


def test_only_people_never_trained_on_are_evaluated(config: EvaluateConfig, run: Path, cache: Cache) -> None:
    """Published error 4: what is reported must come from people who had no part in the training."""
    result = evaluate(config)
    assert result.people == ["tiny/s4"]
    assert (result.videos, result.clips) == (3, 7)
    assert result.selection == "last"
    assert Path(result.checkpoint) == run / "checkpoints" / "last"
    for people in (["s1"], ["tiny/s4", "s2"]):
        with pytest.raises(SettingsError, match=r"was trained on tiny/s\d; people not trained on: tiny/s4"):
            evaluate(replace(config, people=people))
    with pytest.raises(SettingsError, match="no person 'nobody'"):
        evaluate(replace(config, people=["nobody"]))


def test_another_cache_with_the_same_people_numbers_is_told_apart(config: EvaluateConfig, tmp_path: Path) -> None:
    other = write_tiny_cache(tmp_path / "other", people=2, videos=1, seed=9)
    with pytest.raises(SettingsError, match="trained on everybody in"):
        evaluate(replace(config, cache=str(other.path)))


def test_tables_say_the_same_as_the_result(config: EvaluateConfig, cache: Cache) -> None:
    result = evaluate(config)
    out = Path(config.out or "")
    saved = json.loads((out / "evaluation.json").read_text())
    assert saved["flow"]["epe"] == result.flow.epe
    assert saved["recognition"]["uf1"] == result.recognition.uf1
    assert saved["environment"]["versions"]["torch"] == torch.__version__
    assert "not recognition results" in saved["note"]
    with open(out / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["clip"] for row in rows] == ["v1", "v2", "v3"]
    for row in rows:
        shares = [float(row[f"p_{name}"]) for name in CLASSES]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert row["prediction"] == CLASSES[int(np.argmax(shares))]
    right = [row["label"] == row["prediction"] for row in rows]
    assert result.recognition.accuracy == pytest.approx(np.mean(right))
    with open(out / "confusion.csv", newline="") as file:
        header, *counts = csv.reader(file)
    assert header[1:] == list(CLASSES)
    assert [list(map(int, line[1:])) for line in counts] == result.confusion
    assert sum(map(sum, result.confusion)) == 3
    # Every class has one of the three videos: always naming one class is right once.
    assert result.majority.accuracy == pytest.approx(1 / 3)


def test_baselines_come_from_the_training_people_alone(config: EvaluateConfig, cache: Cache) -> None:
    result = evaluate(config)
    training = [i for i, row in enumerate(cache.rows) if row["subject"] != "s4"]
    held_out = [i for i, row in enumerate(cache.rows) if row["subject"] == "s4"]
    mean = cache.landmarks[training, 1:].astype(np.float64).mean((0, 1))
    points = cache.landmarks[held_out, 1:].astype(np.float64)
    eyes = np.linalg.norm(points[:, :, 36:42].mean(2) - points[:, :, 42:48].mean(2), axis=-1)
    expected = (np.linalg.norm(points - mean, axis=-1).mean(-1) / eyes).mean()
    assert result.landmarks.mean_shape_nme == pytest.approx(expected, rel=1e-3)
    lengths = np.hypot(cache.flow[held_out, :, 0].astype(float), cache.flow[held_out, :, 1].astype(float))
    assert result.flow.zero_flow_epe == pytest.approx(lengths.mean(), rel=1e-3)


def test_tvl1_is_measured_on_the_crops_that_the_network_sees(cache: Cache) -> None:
    clips = ResidentClips(cache, [0, 1])
    frames = cache.frames[1, 2:4, 8:136, 8:136]
    error = tvl1_flow(frames)[0] - cache.flow[1, 2, :, 8:136, 8:136].astype(np.float32)
    found = tvl1_errors(clips, [(0, 0), (1, 2)], workers=2)
    assert found[1] == pytest.approx(np.hypot(*error).mean(), rel=1e-4)
    assert found.max() < 0.2  # the textures move by whole pixels


def test_everything_is_drawn_and_tabled(config: EvaluateConfig) -> None:
    result = evaluate(replace(config, tvl1_pairs=5, pictures=True))
    out = Path(config.out or "")
    for name in ("confusion.png", "gallery.png", "reliability.png"):
        assert (out / "pictures" / name).read_bytes()[:4] == b"\x89PNG"
    assert result.flow.tvl1_pairs == 5
    assert result.flow.tvl1_epe is not None
    assert result.flow.tvl1_epe < 0.2 < (result.flow.epe_on_tvl1_pairs or 0)
    text = table_text(result)
    for part in ("EPE", "px", "zero flow", "TV-L1", "NME", "mean shape", "UF1", "always", "lower", "higher"):
        assert part in text


def test_the_table_calls_better_what_is_better(config: EvaluateConfig) -> None:
    result = evaluate(config)
    flow = replace(result.flow, epe=0.2, zero_flow_epe=0.3)
    landmarks = replace(result.landmarks, nme=0.2, mean_shape_nme=0.1)
    recognition, majority = replace(result.recognition, uf1=0.5), replace(result.majority, uf1=0.2)
    text = table_text(
        replace(result, flow=flow, landmarks=landmarks, recognition=recognition, majority=majority)
    ).splitlines()
    line = {name: next(row for row in text if name in row) for name in ("EPE", "NME ", "UF1")}
    assert "better" in line["EPE"]
    assert "worse" in line["NME "]
    assert "better" in line["UF1"]


def table_text(result: Evaluation) -> str:
    text = io.StringIO()
    Console(file=text, width=140).print(evaluation_table(result))
    return text.getvalue()


# Confidence


FITTED = {"value": 3.0, "note": "", "videos": 24, "clips": 60, "people": 2}


@pytest.fixture
def calibrated(config: EvaluateConfig, run: Path, tmp_path: Path) -> EvaluateConfig:
    """The same network with a temperature in its checkpoint."""
    copy = tmp_path / "calibrated"
    shutil.copytree(run, copy)
    path = copy / "checkpoints" / "last" / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "calibration": FITTED}))
    return replace(config, weights=str(copy), out=str(tmp_path / "out"))


def probabilities_in(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Predictions, labels and probabilities of a table of predictions."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    shares = np.array([[float(row[f"p_{name}"]) for name in CLASSES] for row in rows])
    return [row["prediction"] for row in rows], [row["label"] for row in rows], shares


def test_a_temperature_changes_all_probabilities_and_no_prediction(
    config: EvaluateConfig, calibrated: EvaluateConfig
) -> None:
    plain, result = evaluate(config), evaluate(replace(calibrated, pictures=True))
    said_plain, _, before = probabilities_in(Path(config.out or "") / "predictions.csv")
    out = Path(calibrated.out or "")
    said, labels, after = probabilities_in(out / "predictions.csv")
    assert said == said_plain
    np.testing.assert_allclose(after, apply_temperature(before, 3.0), atol=1e-4)
    assert np.abs(after - before).max() > 0.01
    assert (out / "predictions-uncalibrated.csv").read_text() == (
        Path(config.out or "") / "predictions.csv"
    ).read_text()
    assert (result.recognition, result.confusion) == (plain.recognition, plain.confusion)
    assert plain.calibration is not None
    assert result.calibration is not None
    assert result.calibration.before == plain.calibration.before
    assert result.calibration.after is not None
    truth = [CLASSES.index(name) for name in labels]
    assert result.calibration.after.ece == pytest.approx(expected_calibration_error(after, truth).expected, abs=1e-5)
    assert (out / "pictures" / "reliability.png").read_bytes()[:4] == b"\x89PNG"


def test_scores_of_confidence_are_written_read_and_shown(calibrated: EvaluateConfig) -> None:
    result = evaluate(calibrated)
    assert read_evaluation(Path(calibrated.out or "") / "evaluation.json") == result
    assert result.calibration is not None
    assert result.calibration.temperature == Temperature(**FITTED)
    rows = {line.split("│")[2].strip(): line for line in table_text(result).splitlines() if "not calibrated" in line}
    assert rows.keys() == {"ECE", "NLL", "Brier score"}
    for name, line in rows.items():
        field = {"Brier score": "brier"}.get(name, name.lower())
        for scores in (result.calibration.after, result.calibration.before):
            assert f"{getattr(scores, field):.3f}" in line
    text = describe_confidence(result)
    assert "temperature 3, fitted on 24 videos (60 clips) of 2 people set aside from the training people" in text


def test_without_a_temperature_the_way_to_one_is_shown(config: EvaluateConfig) -> None:
    stale = Path(config.out or "") / "predictions-uncalibrated.csv"
    stale.write_text("of an earlier evaluation")
    result = evaluate(config)
    assert not stale.exists()
    assert result.calibration is not None
    assert result.calibration.after is None
    assert "not calibrated" not in table_text(result)
    text = describe_confidence(result)
    assert f"ECE {result.calibration.before.ece:.3f}" in text
    assert text.endswith("not calibrated: train with --inner-validation 0.2")
    assert read_evaluation(Path(config.out or "") / "evaluation.json") == result


def test_an_evaluation_from_before_calibration_is_read(config: EvaluateConfig) -> None:
    result = evaluate(config)
    path = Path(config.out or "") / "evaluation.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in content.items() if name != "calibration"}))
    assert read_evaluation(path) == replace(result, calibration=None)
    assert describe_confidence(read_evaluation(path)) == "confidence: not scored; evaluate again"
    for damage in ({"temperature": {}}, {**content["calibration"], "before": {}}):
        path.write_text(json.dumps({**content, "calibration": damage}))
        with pytest.raises(DataError, match=r"calibration.*evaluate again"):
            read_evaluation(path)


def test_tvl1_is_no_baseline_where_the_truth_is_tvl1s(config: EvaluateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Cache.open
    extracted = lambda path: replace(real(path), settings=replace(real(path).settings, kind="extracted"))  # noqa: E731
    monkeypatch.setattr(Cache, "open", extracted)
    result = evaluate(replace(config, tvl1_pairs=5))
    assert (result.flow.tvl1_pairs, result.flow.tvl1_epe, result.note) == (0, None, "")


def test_a_cache_of_other_classes_is_refused(config: EvaluateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Cache.open
    reordered = lambda path: replace(  # noqa: E731
        real(path), settings=replace(real(path).settings, classes=CLASSES[::-1])
    )
    monkeypatch.setattr(Cache, "open", reordered)
    with pytest.raises(CheckpointError, match="same classes in the same order"):
        evaluate(config)


def test_no_checkpoint_and_unknown_devices_are_refused(config: EvaluateConfig, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        evaluate(replace(config, weights=str(tmp_path / "nowhere")))
    with pytest.raises(SettingsError, match="precision='64'"):
        evaluate(replace(config, precision="64"))
    with pytest.raises(SettingsError, match="device='gpu'"):
        start_fabric("gpu", "32")
