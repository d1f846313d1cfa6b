"""Tables of an evaluation for the terminal: our scores beside those of the baselines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from mol.common.extras import require
from mol.common.terminal import styled
from mol.networks.registry import title_of
from mol.scoring.action_units import ActionUnitScores
from mol.scoring.calibration import CONFIDENCE_TITLES
from mol.scoring.estimate import FAILURE_THRESHOLD
from mol.scoring.evaluation import Evaluation, FlowScores, LandmarkScores
from mol.scoring.metrics import TITLES


class ScoreRow(NamedTuple):
    """One score beside its baseline.

    Attributes:
        task: "flow", "landmarks", "emotion", "action units" or "confidence".
        score: its name.
        unit: "px", "%" or none.
        higher: whether higher is better.
        ours, baseline: both values, in that unit.
        rival: what the baseline is.
    """

    task: str
    score: str
    unit: str
    higher: bool
    ours: float
    baseline: float
    rival: str

    def shown(self) -> tuple[str, str]:
        """Both values with their unit."""
        digits = 1 if self.unit == "%" else 3
        ours, baseline = (f"{value:.{digits}f} {self.unit}".strip() for value in (self.ours, self.baseline))
        return ours, baseline

    def verdict(self) -> str:
        """Whether ours is "better", "worse" or "equal"; what looks equal is called equal."""
        ours, baseline = self.shown()
        if ours == baseline:
            return "equal"
        return "better" if (self.ours > self.baseline) == self.higher else "worse"


def score_rows(evaluation: Evaluation) -> list[ScoreRow]:
    """All scores, task by task; none for what the network does not estimate."""
    rows = []
    if evaluation.flow is not None:
        rows += _flow_rows(evaluation.flow)
    if evaluation.landmarks is not None:
        rows += _landmark_rows(evaluation.landmarks)
    always = f"always {evaluation.majority_class}"
    for name, title in TITLES.items():
        ours, baseline = getattr(evaluation.recognition, name), getattr(evaluation.majority, name)
        rows.append(ScoreRow("emotion", title, "", True, ours, baseline, always))
    return rows + _unit_rows(evaluation.action_units) + _confidence_rows(evaluation)


def _unit_rows(scores: ActionUnitScores | None) -> list[ScoreRow]:
    """F1 of every action unit that a video shows beside that of always answering so, and the means."""
    if scores is None or scores.f1 is None or scores.always_f1 is None:
        return []
    rows = [
        ScoreRow(
            "action units", f"mean F1 of {len(scores.scored)}", "", True, scores.f1, scores.always_f1, "always shown"
        )
    ]
    for one in scores.scored:
        ours, baseline = cast(float, one.f1), cast(float, one.always_f1)
        name = f"AU {one.unit} ({one.shown} of {one.videos})"
        rows.append(ScoreRow("action units", name, "", True, ours, baseline, "always shown"))
    return rows


def _confidence_rows(evaluation: Evaluation) -> list[ScoreRow]:
    """Scores of the calibrated probabilities beside those without the temperature; none if there is no temperature."""
    calibration = evaluation.calibration
    if calibration is None or calibration.after is None:
        return []
    return [
        ScoreRow(
            "confidence",
            title,
            "",
            False,
            getattr(calibration.after, name),
            getattr(calibration.before, name),
            "not calibrated",
        )
        for name, title in _shown_confidence()
    ]


def _shown_confidence() -> list[tuple[str, str]]:
    return [(name, CONFIDENCE_TITLES[name]) for name in ("ece", "nll", "brier")]


def describe_confidence(evaluation: Evaluation) -> str:
    """What is known of the probabilities of an evaluation, in a line or two."""
    calibration = evaluation.calibration
    if calibration is None:
        return "confidence: not scored; evaluate again"
    scores = calibration.scores
    values = ", ".join(f"{title} {getattr(scores, name):.3f}" for name, title in _shown_confidence())
    exact = f"a network of exact confidence has ECE {scores.ece_by_chance:.3f} on as many videos"
    return f"confidence: {values} ({exact})\n{calibration.temperature.describe()}"


def _flow_rows(flow: FlowScores) -> list[ScoreRow]:
    rows = [ScoreRow("flow", "EPE", "px", False, flow.epe, flow.zero_flow_epe, "zero flow")]
    if flow.tvl1_epe is not None and flow.epe_on_tvl1_pairs is not None:
        name = f"EPE, {flow.tvl1_pairs} pairs"
        rows.append(ScoreRow("flow", name, "px", False, flow.epe_on_tvl1_pairs, flow.tvl1_epe, "TV-L1"))
    return rows


def _landmark_rows(landmarks: LandmarkScores) -> list[ScoreRow]:
    found = (
        ("NME", landmarks.nme, landmarks.mean_shape_nme),
        (f"failures (NME > {FAILURE_THRESHOLD:.0%})", landmarks.failure_rate, landmarks.mean_shape_failure_rate),
    )
    return [
        ScoreRow("landmarks", name, "%", False, 100 * ours, 100 * baseline, "mean shape")
        for name, ours, baseline in found
    ]


def evaluation_table(evaluation: Evaluation) -> Any:
    """A `rich.table.Table` of our scores beside the baselines, with units and which way is better."""
    table = require("rich.table", "train").Table(
        title=f"{len(evaluation.people)} people never trained on: {evaluation.videos} videos, {evaluation.clips} clips",
        caption=evaluation.note or None,
    )
    network = title_of(evaluation.network)
    for name, justify in (
        ("", "left"),
        ("score", "left"),
        ("better", "left"),
        (network, "right"),
        ("baseline", "right"),
    ):
        table.add_column(name, justify=justify)
    table.add_column("baseline is")
    table.add_column(f"{network} is")
    colours = {"better": styled("better", "green"), "worse": styled("worse", "red")}
    last = ""
    for row in score_rows(evaluation):
        if last not in ("", row.task):
            table.add_section()
        task = {"emotion": "emotion, per video"}.get(row.task, row.task) if row.task != last else ""
        verdict = row.verdict()
        better = "higher" if row.higher else "lower"
        table.add_row(task, row.score, better, *row.shown(), row.rival, colours.get(verdict, verdict))
        last = row.task
    return table


def short_table(
    evaluation: Evaluation, rival: Evaluation | None = None, scores: Sequence[str] = ("EPE", "NME", "Accuracy", "UF1")
) -> Any:
    """The main scores beside their baselines, the better one bold, narrow enough for 80 columns.

    Args:
        evaluation: the scores.
        rival: those of another network on the same videos, for a column of its own.
        scores: which rows: the first words of their names.
    """
    table = require("rich.table", extra="train").Table(
        title=f"{len(evaluation.people)} people never seen in training, {evaluation.videos} videos",
        caption=evaluation.note,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("score")
    table.add_column(title_of(evaluation.network), justify="right")
    table.add_column("baseline", justify="right")
    table.add_column("which is")
    others = {row.score: row.shown()[0] for row in score_rows(rival)} if rival is not None else {}
    if rival is not None:
        table.add_column(title_of(rival.network), justify="right")
    for row in score_rows(evaluation):
        if not row.score.startswith(tuple(scores)):
            continue
        ours, baseline = row.shown()
        winner = row.verdict()
        cells = (
            styled(ours, "bold") if winner == "better" else ours,
            styled(baseline, "bold") if winner == "worse" else baseline,
        )
        last = [others.get(row.score, "–")] if rival is not None else []
        table.add_row(f"{row.task}: {row.score} {'↑' if row.higher else '↓'}", *cells, row.rival, *last)
    return table
