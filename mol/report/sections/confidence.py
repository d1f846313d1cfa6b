"""Confidence: how far the probabilities of a run can be read as frequencies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mol.common.storage import write_csv
from mol.loso.measures import MEASURES
from mol.loso.results import Video
from mol.loso.saved_run import LosoRun, Spread
from mol.pictures.markup import Markup, element, table
from mol.report.charts import inline_svg, svg_text
from mol.report.context import Report
from mol.report.html import Section, section
from mol.report.numbers import cell, column_head, group_name
from mol.scoring.calibration import CONFIDENCE_TITLES, Confidence, confidence_scores
from mol.scoring.reliability import draw_reliability

_GLOSSARY = (
    "Confidence is the probability of the predicted class of a video. The expected calibration error (ECE) is the mean "
    "distance from it to the share of right answers, in 15 bins; “ECE by chance” is what a network of exact confidence "
    "would have on as many videos. NLL and the Brier score judge all probabilities. Lower is better for all of them."
)
Read = Callable[[Video], np.ndarray]


def confidence(report: Report) -> Section | None:
    """Scores and a reliability diagram; writes calibration.csv, reliability.csv, pictures/reliability.png and .svg."""
    run = report.run
    if not run.results:
        return None
    kinds: dict[str, Read] = {"not calibrated": lambda video: video.means}
    if any(result.temperature.value is not None for result in run.results):
        kinds = {"calibrated": lambda video: video.probabilities, **kinds}
    rows = [(group, kind, _scores(run, group, read)) for group in run.groups for kind, read in kinds.items()]
    _write_scores(report, rows)
    pooled = {kind: _pooled(run.of(run.groups[0]), read) for kind, read in kinds.items()}
    _write_bins(report, pooled)
    named = {_legend(kind, scores["ece"]): pooled[kind] for group, kind, scores in rows if group == run.groups[0]}
    head = ["Set", "Probabilities", "Videos", *map(column_head, CONFIDENCE_TITLES)]
    cells = [
        [
            group_name(group),
            kind,
            len({video.key for video in run.of(group)}),
            *(cell(scores[name], name) for name in CONFIDENCE_TITLES),
        ]
        for group, kind, scores in rows
    ]
    return section(
        "Confidence",
        _GLOSSARY,
        element("p", _temperatures(run)),
        table(head, cells, "Confidence of the videos, pooled over folds"),
        _figure(report, named),
    )


def _legend(kind: str, ece: Spread) -> str:
    return f"{kind}: ECE {MEASURES['ece'].spread(ece.mean, ece.deviation)}"


def _scores(run: LosoRun, group: str, read: Read) -> dict[str, Spread]:
    """The scores of a group under each seed."""
    videos = {seed: [video for video in run.of(group) if video.seed == seed] for seed in run.seeds}
    found = [_pooled(votes, read) for votes in videos.values() if votes]
    return {name: Spread(tuple(getattr(one, name) for one in found)) for name in CONFIDENCE_TITLES}


def _pooled(videos: Sequence[Video], read: Read) -> Confidence:
    return confidence_scores(np.stack([read(video) for video in videos]), [video.label for video in videos])


def _temperatures(run: LosoRun) -> str:
    """How many folds have a temperature, which ones they are, and why the others have none."""
    values = [value for result in run.results if (value := result.temperature.value) is not None]
    reasons = Counter(result.temperature.note for result in run.results if result.temperature.value is None)
    missing = "; ".join(f"{note} ({count} fold{'s' if count > 1 else ''})" for note, count in reasons.items())
    if not values:
        return f"Not calibrated: {'; '.join(reasons)}. The probabilities are as the softmax gives them."
    videos = [result.temperature.videos for result in run.results if result.temperature.value is not None]
    text = (
        f"{len(values)} of {len(run.results)} folds have a temperature: median {np.median(values):.2f}, "
        f"{min(values):.2f} to {max(values):.2f}. Each was fitted on {_range(videos)} videos of people set aside from "
        "the fold’s training people; the person tested had no part in it."
    )
    return f"{text} The others are as the softmax gives them: {missing}." if missing else text


def _range(counts: Sequence[int]) -> str:
    return f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else f"{counts[0]}"


def _write_scores(report: Report, rows: Sequence[tuple[str, str, dict[str, Spread]]]) -> None:
    header = ["set", "probabilities", *(head for name in CONFIDENCE_TITLES for head in (name, f"{name}_sd"))]
    body = [[group, kind, *(text for one in scores.values() for text in _texts(one))] for group, kind, scores in rows]
    write_csv(report.folder / "calibration.csv", header, body)


def _texts(spread: Spread) -> tuple[str, str]:
    return f"{spread.mean:.6f}", "" if spread.deviation is None else f"{spread.deviation:.6f}"


def _write_bins(report: Report, pooled: Mapping[str, Confidence]) -> None:
    """One row per bin of the diagram that has videos."""
    names = ("low", "high", "videos", "confidence", "accuracy", "accuracy_low", "accuracy_high")
    rows: list[list[Any]] = []
    for kind, scores in pooled.items():
        for one in scores.bins:
            values = (getattr(one, name) for name in names)
            rows.append([kind, *(value if isinstance(value, int) else f"{value:.6f}" for value in values)])
    write_csv(report.folder / "reliability.csv", ["probabilities", *names], rows)


def _figure(report: Report, scores: Mapping[str, Confidence]) -> Markup:
    """The diagram of all videos.

    Args:
        report: where to write it.
        scores: by the name in the legend.
    """
    run = report.run
    videos = len({video.key for video in run.of(run.groups[0])})
    seeds = f", votes of {len(run.seeds)} seeds together" if len(run.seeds) > 1 else ""
    title, subtitle = f"{run.plan.protocol}: reliability", f"{videos} videos{seeds}; vertical lines: 95 % intervals"
    paths = [report.pictures / f"reliability{suffix}" for suffix in (".png", ".svg")]
    for path in paths:
        with svg_text():
            draw_reliability(path, scores, title, subtitle)
    label = f"Reliability diagram, accuracy over confidence; {'; '.join(scores)}"
    return element("figure", inline_svg(paths[1], label, "reliability-"), class_="reliability")
