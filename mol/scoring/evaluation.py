"""The scores of one evaluation, each beside its baseline, and the file evaluation.json that holds them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from mol.common.environment import describe_environment
from mol.common.storage import write_json
from mol.common.typed import read_json
from mol.networks.registry import DEFAULT
from mol.scoring.action_units import ActionUnitScores
from mol.scoring.calibration import Confidence, Temperature
from mol.scoring.metrics import RecognitionScores


@dataclass(frozen=True)
class FlowScores:
    """Mean end-point errors in pixels; lower is better.

    Attributes:
        epe: ours, over all pairs.
        zero_flow_epe: of predicting no motion, over all pairs.
        tvl1_pairs: number of pairs on which TV-L1 was run; 0 if it was left out.
        tvl1_epe: TV-L1's, over those pairs; None if it was left out.
        epe_on_tvl1_pairs: ours, over the same pairs; None if it was left out.
    """

    epe: float
    zero_flow_epe: float
    tvl1_pairs: int = 0
    tvl1_epe: float | None = None
    epe_on_tvl1_pairs: float | None = None


@dataclass(frozen=True)
class LandmarkScores:
    """Errors of the 68 points, as fractions; lower is better.

    Attributes:
        nme: mean distance in inter-ocular distances.
        failure_rate: share of frames with an NME over 0.1.
        mean_shape_nme, mean_shape_failure_rate: the same of the training clips' mean shape.
    """

    nme: float
    failure_rate: float
    mean_shape_nme: float
    mean_shape_failure_rate: float


@dataclass(frozen=True)
class Calibration:
    """How far the probabilities of videos can be read as frequencies.

    Attributes:
        temperature: of the checkpoint, or why it has none.
        before: scores of the probabilities as the softmax gives them.
        after: scores at the temperature; None without one.
    """

    temperature: Temperature
    before: Confidence
    after: Confidence | None

    @property
    def scores(self) -> Confidence:
        """Scores of the probabilities that are reported."""
        return self.after or self.before


@dataclass(frozen=True)
class Evaluation:
    """What evaluation.json holds.

    Attributes:
        checkpoint: folder that was evaluated.
        step: optimisation steps that it had.
        selection: how the checkpoint was chosen.
        normalisation: of the clips.
        kind: of the cache, "synthetic" or "extracted".
        note: what to keep in mind with these numbers; may be empty.
        people: who was evaluated; none of them was trained on.
        videos, clips: number of them.
        classes: in the order of labels.
        flow, landmarks: errors and those of the baselines; None for what the network does not estimate.
        recognition: per video, by the mean probability over its sub-clips.
        majority: the same of always answering `majority_class`, the most frequent of the training videos.
        confusion: numbers of videos, rows true and columns predicted.
        calibration: of the videos' probabilities; None in files of earlier versions.
        network: name of the kind of network.
        starting_weights: file name and fingerprint of the weights that its training started from; None without.
        action_units: of a network that tells some; else None.
    """

    checkpoint: str
    step: int
    selection: str
    normalisation: str
    kind: str
    note: str
    people: list[str]
    videos: int
    clips: int
    classes: list[str]
    flow: FlowScores | None
    landmarks: LandmarkScores | None
    recognition: RecognitionScores
    majority_class: str
    majority: RecognitionScores
    confusion: list[list[int]]
    calibration: Calibration | None = None
    network: str = DEFAULT
    starting_weights: dict[str, str] | None = None
    action_units: ActionUnitScores | None = None


def describe_weights(file: str, fingerprint: str) -> str:
    """Starting weights in notes and tables: ``mol.safetensors (fingerprint 1a2b3c4d5e6f7a8b)``."""
    return f"{file} (fingerprint {fingerprint[:16]})"


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write an evaluation as JSON, with the environment in which it was made."""
    content = dataclasses.asdict(evaluation)
    if evaluation.action_units is None:
        del content["action_units"]
    write_json(path, {**content, "environment": describe_environment()})


def read_evaluation(path: Path) -> Evaluation:
    """Read what `write_evaluation` wrote.

    Raises:
        DataError: the file is missing or damaged.
    """
    return read_json(path, Evaluation, "delete it and evaluate again")
