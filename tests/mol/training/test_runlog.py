"""The log of a run: terms that were not estimated, and a training whose losses are no longer finite."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from mol.common.errors import SettingsError
from mol.network.losses import LossTerms
from mol.networks.interface import EmotionTerms
from mol.networks.registry import find_network
from mol.training.runlog import RunLog, read_log

NAN = math.nan


@pytest.fixture
def screen() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def log(tmp_path: Path, screen: io.StringIO) -> Iterator[RunLog]:
    """Of ten steps of the network mol."""
    with RunLog(tmp_path, find_network("mol"), 10, 0, 2, Console(file=screen, width=200)) as opened:
        yield opened


def terms(total: float, emotion: float, flow: float | None = None, landmarks: float | None = None) -> LossTerms:
    return LossTerms(
        *(torch.tensor(value) for value in (total, emotion)),
        *(None if value is None else torch.tensor(value) for value in (flow, landmarks)),
    )


def add(log: RunLog, losses: LossTerms | EmotionTerms, gradient: float = 1.0) -> None:
    log.add(losses, torch.tensor(gradient))


def row(folder: Path) -> dict[str, str]:
    with open(folder / "log.csv", newline="") as file:
        (found,) = csv.DictReader(file)
    return found


# Terms that were not estimated


def test_a_term_that_was_not_estimated_has_an_empty_cell_and_a_dash(
    log: RunLog, tmp_path: Path, screen: io.StringIO
) -> None:
    add(log, terms(2.0, 1.5, landmarks=0.25))
    log.write_training(1, 1e-3)
    found = row(tmp_path)
    assert [found[name] for name in ("loss", "loss_emotion", "loss_flow", "loss_landmarks")] == ["2", "1.5", "", "0.25"]
    assert "loss 2.000 (emotion 1.5000, flow –, landmarks 0.2500)" in screen.getvalue()
    assert "nan" not in screen.getvalue()
    assert read_log(tmp_path / "log.csv").keys() == {name for name in found if found[name]} - {"step", "split"}


def test_a_term_that_was_not_estimated_has_no_curve(log: RunLog, tmp_path: Path) -> None:
    add(log, terms(2.0, 2.0))
    log.write_training(1, 1e-3)
    log.__exit__()
    curves = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Tags()["scalars"]
    assert "loss_emotion/train" in curves
    assert [name for name in curves if name.startswith(("loss_flow", "loss_landmarks"))] == []


def test_a_mean_is_over_the_steps_that_estimated_the_term(log: RunLog, tmp_path: Path) -> None:
    add(log, terms(4.0, 1.0, flow=3.0))
    add(log, terms(2.0, 2.0))
    add(log, terms(9.0, 3.0, flow=6.0))
    log.write_training(3, 1e-3)
    found = row(tmp_path)
    assert [found[name] for name in ("loss", "loss_emotion", "loss_flow", "loss_landmarks")] == ["5", "2", "4.5", ""]


def test_an_interval_forgets_what_the_one_before_estimated(log: RunLog, tmp_path: Path) -> None:
    add(log, terms(4.0, 1.0, flow=3.0))
    log.write_training(1, 1e-3)
    add(log, terms(2.0, 2.0))
    log.write_training(2, 1e-3)
    with open(tmp_path / "log.csv", newline="") as file:
        assert [found["loss_flow"] for found in csv.DictReader(file)] == ["3", ""]


# Losses that are not finite


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (terms(NAN, NAN, 1.0, 1.0), "the emotion loss is not finite"),
        (terms(NAN, 1.0, NAN, 1.0), "the flow loss is not finite"),
        (terms(math.inf, 1.0, 1.0, math.inf), "the landmarks loss is not finite"),
        (terms(NAN, 1.0, NAN, NAN), "the flow loss and the landmarks loss are not finite"),
        (terms(NAN, NAN), "the emotion loss is not finite"),
        (terms(math.inf, 3e38, 3e38, 1.0), "the loss is not finite"),
    ],
)
@pytest.mark.parametrize("at", [1, 4])
def test_the_loss_that_was_not_finite_first_is_blamed_with_its_step(
    log: RunLog, bad: LossTerms, words: str, at: int
) -> None:
    """A step later the weights are not finite, and neither is any other loss."""
    for _ in range(at - 1):
        add(log, terms(3.0, 1.0, 1.0, 1.0))
    add(log, bad, gradient=NAN)
    for _ in range(5 - at):
        add(log, terms(NAN, NAN, NAN, NAN), gradient=NAN)
    with pytest.raises(SettingsError, match=rf"training diverged in step {at}: {words}; the last.*lower learning_rate"):
        log.write_training(5, 1e-3)


def test_steps_are_counted_from_the_start_of_the_run(log: RunLog) -> None:
    for step in (1, 2):
        add(log, terms(3.0, 1.0, 1.0, 1.0))
        log.write_training(step, 1e-3)
    add(log, terms(3.0, 1.0, 1.0, 1.0))
    add(log, terms(NAN, 1.0, NAN, 1.0), gradient=NAN)
    with pytest.raises(SettingsError, match="training diverged in step 4: the flow loss"):
        log.write_training(4, 1e-3)


def test_a_gradient_that_is_not_finite_is_blamed_where_the_losses_are(log: RunLog) -> None:
    add(log, terms(3.0, 1.0, 1.0, 1.0))
    add(log, terms(3.0, 1.0, 1.0, 1.0), gradient=math.inf)
    add(log, terms(NAN, NAN, NAN, NAN), gradient=NAN)
    with pytest.raises(SettingsError, match="training diverged in step 2: the gradient is not finite"):
        log.write_training(3, 1e-3)


def test_a_watched_loss_that_is_not_finite_stops_nothing(log: RunLog, tmp_path: Path) -> None:
    """It weighs nothing: neither the total nor the gradient knows of it."""
    add(log, terms(3.0, 1.0, math.inf, 1.0))
    log.write_training(1, 1e-3)
    assert row(tmp_path)["loss_flow"] == "inf"
    add(log, terms(NAN, NAN, math.inf, 1.0), gradient=NAN)
    with pytest.raises(SettingsError, match="in step 2: the emotion loss"):
        log.write_training(2, 1e-3)


def test_a_network_with_one_loss_is_told_of_that_one(tmp_path: Path) -> None:
    nothing: Tensor = torch.tensor(NAN)
    with RunLog(tmp_path, find_network("flow-cnn"), 10, 0, 2, Console(file=io.StringIO())) as log:
        add(log, EmotionTerms(nothing, nothing), gradient=NAN)
        with pytest.raises(SettingsError, match="in step 1: the emotion loss is not finite"):
            log.write_training(1, 1e-3)
