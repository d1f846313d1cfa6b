"""Scores of spotting of a leave-one-subject-out run, pooled over the videos of all folds that are done.

spotting.json      scores by seed and way of spotting, and their means
expressions.csv    every annotated and every found expression
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mol.common.storage import write_csv, write_json
from mol.common.typed import read_json
from mol.loso.folds import Fold
from mol.loso.plan import Plan
from mol.loso.spot_fold import SPOTTING
from mol.scoring.expression import Expression
from mol.scoring.spotting import SpottingScores, pool_videos, score_video
from mol.spotting.command import NETWORK, NOTHING
from mol.spotting.results import score_table

EXPRESSIONS = "expressions.csv"
_REMEDY = "delete the fold's folder and run mol loso with --resume, which runs this fold again"
_SCORES = ("precision", "recall", "f1", "accuracy", "uf1", "uar", "strs")


@dataclass(frozen=True)
class SpottedVideo:
    """One video in a fold's spotting.json."""

    video: str
    path: str
    problem: str
    annotated: list[Expression]
    found: dict[str, list[Expression]]


@dataclass(frozen=True)
class SpottedFold:
    """Content of a fold's spotting.json."""

    parameters: dict[str, float]
    chosen_on: dict[str, Any]
    share: float
    kinds: list[str]
    videos: list[SpottedVideo] = field(default_factory=list)


def read_spotted(run: Path, fold: Fold) -> SpottedFold | None:
    """What a fold spotted; None if the run is not one of the task spot.

    Raises:
        DataError: the file is damaged.
    """
    path = run / fold.folder / SPOTTING
    return read_json(path, SpottedFold, _REMEDY) if path.is_file() else None


def pool_spotting(run: Path, plan: Plan, folds: Sequence[Fold]) -> dict[str, Any] | None:
    """Scores of the folds that are done: the content of spotting.json; None if none of them has spotted.

    Args:
        run: the run folder.
        plan: of the run.
        folds: that are done.
    Raises:
        DataError: a fold's file is damaged.
    """
    spotted = [(fold, found) for fold in folds if (found := read_spotted(run, fold)) is not None]
    if not spotted:
        return None
    seeds = {}
    for seed in sorted({fold.seed for fold, _ in spotted}):
        videos = [video for fold, found in spotted if fold.seed == seed for video in found.videos]
        ways = list(dict.fromkeys(way for video in videos for way in video.found)) or [NETWORK]
        seeds[str(seed)] = {way: _pooled(videos, way).describe() for way in (*ways, NOTHING)}
    return {
        "rule": "an interval counts at an intersection over union of 0.5; counts are pooled over all videos",
        "kinds": sorted({kind for _, found in spotted for kind in found.kinds}, reverse=True),
        "folds": {"done": len(spotted), "total": len(plan.folds)},
        "videos": len({(fold.person, video.path) for fold, found in spotted for video in found.videos}),
        "without_videos": sorted({fold.person for fold, found in spotted if not found.videos}),
        "problems": {
            f"{fold.person}/{video.video}": video.problem
            for fold, found in spotted
            for video in found.videos
            if video.problem
        },
        "seeds": seeds,
        "mean": _over_seeds(list(seeds.values())),
    }


def _pooled(videos: Sequence[SpottedVideo], way: str) -> SpottingScores:
    return pool_videos(score_video(video.annotated, video.found.get(way, [])) for video in videos)


def _over_seeds(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Way → kind → score → mean and sample standard deviation (None for one seed)."""
    ways = seeds[0]
    return {
        way: {
            kind: {name: _spread([seed[way][kind][name] for seed in seeds]) for name in _SCORES} for kind in ways[way]
        }
        for way in ways
    }


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else None}


def write_spotting(run: Path, plan: Plan, folds: Sequence[Fold]) -> dict[str, Any] | None:
    """Write spotting.json and expressions.csv of a run, if it is one of the task spot.

    Returns:
        The content of spotting.json; None otherwise.
    """
    scores = pool_spotting(run, plan, folds)
    if scores is not None:
        rows = [row for fold in folds if (found := read_spotted(run, fold)) is not None for row in _rows(fold, found)]
        write_csv(run / EXPRESSIONS, _HEAD, rows)
        write_json(run / SPOTTING, scores)
    return scores


def spotting_lines(run: Path) -> list[Any]:
    """A table of the pooled scores for the terminal, and what to keep in mind with them."""
    scores = read_json(run / SPOTTING, dict[str, Any], "run mol loso with --resume, which writes it again")
    lines: list[Any] = []
    for seed, ways in scores["seeds"].items():
        lines += [f"spotting, seed {seed}, pooled over {scores['videos']} videos", score_table(ways)]
    lines += [f"nothing could be found in {name}: {problem}" for name, problem in scores["problems"].items()]
    if scores["without_videos"]:
        lines.append(f"without long videos: {', '.join(scores['without_videos'])}")
    return lines


_HEAD = ("seed", "dataset", "subject", "video", "by", "kind", "emotion", "onset", "apex", "offset", "confidence")


def _rows(fold: Fold, spotted: SpottedFold) -> list[list[Any]]:
    rows = []
    for video in spotted.videos:
        for by, expressions in {"annotated": video.annotated, **video.found}.items():
            for one in expressions:
                what = [one.kind, one.emotion or "", one.onset, one.apex, one.offset, one.confidence]
                rows.append([fold.seed, fold.dataset, fold.subject, video.video, by, *what])
    return rows
