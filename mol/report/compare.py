"""Several leave-one-subject-out runs compared: scores, the settings that differ, and a paired test of every two."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mol.common.differences import flat
from mol.common.errors import SettingsError
from mol.common.extras import require
from mol.common.storage import write_csv, write_text
from mol.loso.latex import latex_table
from mol.loso.measures import ERRORS, MEASURES, PRINTED, SCORES
from mol.loso.results import Video
from mol.loso.saved_run import LosoRun
from mol.loso.scores import COMPOSITE

# Settings that say where a run is kept and how it is logged; of the caches only the content matters.
_ELSEWHERE = frozenset({"run", "resume", "folds", "caches", "log_every", "checkpoint_every", "keep_checkpoints"})


@dataclass(frozen=True)
class PairedTest:
    """Two runs on the videos that both have tested.

    Attributes:
        videos: how many those are.
        both_right, both_wrong: how many of them.
        only_first, only_other: right in one run only.
        p_value: of McNemar's exact test, two-sided; None if the runs agree on every video.
        seeds: whose votes were averaged; empty if the runs have no seed in common and each votes with its own.
    """

    videos: int
    both_right: int
    both_wrong: int
    only_first: int
    only_other: int
    p_value: float | None
    seeds: tuple[int, ...]


class Pair(NamedTuple):
    """Two of the compared runs, by their places, and their test."""

    first: int
    other: int
    test: PairedTest


@dataclass(frozen=True)
class Comparison:
    """Runs of one protocol; the first is what the others are compared with.

    Attributes:
        runs: two or more.
        names: what to call them, each different.
        settings: the settings that differ: name → one value per run.
        tests: one for every two runs, those with the first run first.
    """

    runs: list[LosoRun]
    names: list[str]
    settings: dict[str, list[Any]]
    tests: list[Pair]

    @property
    def groups(self) -> list[str]:
        """What every run has scores for; all sets together only if they are the same sets."""
        same = all(set(run.plan.datasets) == set(self.runs[0].plan.datasets) for run in self.runs)
        shared = [group for group in self.runs[0].groups if all(group in run.groups for run in self.runs)]
        return [group for group in shared if same or group != COMPOSITE]

    def measured(self, names: Sequence[str]) -> list[str]:
        """Those of some scores and errors that at least one run has: networks may estimate different things."""
        return [name for name in names if any(run.measured([name]) for run in self.runs)]


def compare_runs(runs: Sequence[LosoRun]) -> Comparison:
    """Compare runs with the first, and every two by a paired test.

    Raises:
        SettingsError: a run is given twice or has no finished fold, or the protocols or classes differ.
    """
    first = runs[0]
    twice = [name for name, count in Counter(str(run.path.resolve()) for run in runs).items() if count > 1]
    if twice:
        raise SettingsError(f"{twice[0]} is given twice; name each run once")
    for run in runs:
        if not run.results:
            raise SettingsError(f"{run.path} has no finished fold yet; leave it out of the comparison until it has one")
        if (run.plan.protocol, run.plan.classes) != (first.plan.protocol, first.plan.classes):
            raise SettingsError(
                f"{_question(first)} and {_question(run)} answer different questions; compare runs of one protocol"
            )
    if not set.intersection(*(set(run.groups) - {COMPOSITE} for run in runs)):
        raise SettingsError(f"{' and '.join(str(run.path) for run in runs)} share no data set; nothing can be compared")
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.path) for run in runs]
    pairs = [Pair(i, j, paired_test(runs[i], runs[j])) for i, j in combinations(range(len(runs)), 2)]
    return Comparison(list(runs), names, differing_settings(runs), pairs)


def _question(run: LosoRun) -> str:
    return f"{run.path} (protocol {run.plan.protocol}: {', '.join(run.plan.classes)})"


def differing_settings(runs: Sequence[LosoRun]) -> dict[str, list[Any]]:
    """Settings in which the runs are not all alike: dotted name → one value per run, None if it has none."""
    found = [dict(flat(run.settings)) | _contents(run) for run in runs]
    names = dict.fromkeys(name for settings in found for name in settings if name not in _ELSEWHERE)
    values = {name: [settings.get(name) for settings in found] for name in names}
    return {name: each for name, each in values.items() if any(value != each[0] for value in each)}


def _contents(run: LosoRun) -> dict[str, str]:
    """The fingerprint of each cache, by its data sets."""
    return {
        f"content of {', '.join(cache.datasets) or cache.path}": cache.fingerprint[:16] for cache in run.plan.caches
    }


def paired_test(first: LosoRun, other: LosoRun) -> PairedTest:
    """McNemar's exact test on the videos that both runs have tested.

    A video's vote is the mean probability over the seeds that both runs share. With b videos right in the first run
    alone and c in the other alone, b is binomial with n = b + c and p = 1/2 if neither run is better. Videos of one
    person are not independent, which makes the p-value too small.

    Source: Q. McNemar, Note on the sampling error of the difference between correlated proportions, Psychometrika 1947.
    """
    seeds = tuple(sorted(set(first.seeds) & set(other.seeds)))
    common = {_place(video, seeds) for video in first.videos} & {_place(video, seeds) for video in other.videos}
    ours, theirs = (_right_videos(run, seeds, common) for run in (first, other))
    counts = Counter((ours[key], theirs[key]) for key in ours)
    only_first, only_other = counts[True, False], counts[False, True]
    p_value = None
    if only_first + only_other:
        stats = require("scipy.stats", extra="train")
        p_value = float(stats.binomtest(only_first, only_first + only_other).pvalue)
    return PairedTest(len(ours), counts[True, True], counts[False, False], only_first, only_other, p_value, seeds)


def _place(video: Video, seeds: Sequence[int]) -> tuple[Any, ...]:
    """What makes two votes comparable: the video, and the seed where the runs share seeds."""
    return (video.key, video.seed if seeds else None)


def _right_videos(run: LosoRun, seeds: Sequence[int], common: set[tuple[Any, ...]]) -> dict[tuple[str, str, str], bool]:
    """Whether the mean vote of each common video is right."""
    votes: dict[tuple[str, str, str], list[np.ndarray]] = {}
    labels: dict[tuple[str, str, str], int] = {}
    for video in run.videos:
        if _place(video, seeds) in common:
            votes.setdefault(video.key, []).append(video.probabilities)
            labels[video.key] = video.label
    return {key: int(np.mean(found, axis=0).argmax()) == labels[key] for key, found in votes.items()}


def difference(comparison: Comparison, index: int, group: str, name: str) -> float | None:
    """By how much a run scores more than the first one; None for the first itself, or if either has no such score."""
    more = comparison.runs[index].score(group, name).mean - comparison.runs[0].score(group, name).mean
    return None if index == 0 or math.isnan(more) else more


def write_comparison_tables(folder: Path, comparison: Comparison) -> None:
    """Write comparison.csv, settings.csv, paired.csv and comparison.tex."""
    names = comparison.measured((*SCORES, *ERRORS))
    rows = [
        [comparison.names[index], group, *(text for name in names for text in _texts(comparison, index, group, name))]
        for group in comparison.groups
        for index in range(len(comparison.runs))
    ]
    heads = [head for name in names for head in (name, f"{name}_sd", f"{name}_difference")]
    write_csv(folder / "comparison.csv", ["run", "set", *heads], rows)
    settings = [[name, *map(_json, values)] for name, values in comparison.settings.items()]
    write_csv(folder / "settings.csv", ["setting", *comparison.names], settings)
    tests = [[comparison.names[i], comparison.names[j], *_paired_row(test)] for i, j, test in comparison.tests]
    head = ["first", "other", "videos", "both_right", "both_wrong", "only_first", "only_other", "p_value"]
    write_csv(folder / "paired.csv", head, tests)
    write_text(folder / "comparison.tex", "\n".join(_latex(comparison, group) for group in comparison.groups))


def _latex(comparison: Comparison, group: str) -> str:
    names = comparison.measured(PRINTED)
    caption = (
        f"Protocol {comparison.runs[0].plan.protocol}, {group}; differences from {comparison.names[0]} in brackets."
    )
    if doubtful := [name for name, run in zip(comparison.names, comparison.runs, strict=True) if run.reasons]:
        caption += f" Not reportable: {', '.join(doubtful)}."
    rows = [
        [comparison.names[index], *(_latex_cell(comparison, index, group, name) for name in names)]
        for index in range(len(comparison.runs))
    ]
    return latex_table(["Run", *(MEASURES[name].heading for name in names)], rows, caption, f"tab:comparison-{group}")


def _latex_cell(comparison: Comparison, index: int, group: str, name: str) -> str:
    found, more = comparison.runs[index].score(group, name), difference(comparison, index, group, name)
    text = MEASURES[name].spread(found.mean, found.deviation)
    return text if more is None else f"{text} ({MEASURES[name].difference(more)})"


def _texts(comparison: Comparison, index: int, group: str, name: str) -> tuple[str, str, str]:
    """Mean, deviation and difference to the first run as CSV has them."""
    found, more = comparison.runs[index].score(group, name), difference(comparison, index, group, name)
    deviation = "" if found.deviation is None else f"{found.deviation:.6f}"
    mean = f"{found.mean:.6f}" if found.values else ""
    return mean, deviation, "" if more is None else f"{more:+.6f}"


def _paired_row(test: PairedTest) -> list[Any]:
    p_value = "" if test.p_value is None else f"{test.p_value:.6g}"
    return [test.videos, test.both_right, test.both_wrong, test.only_first, test.only_other, p_value]


def _json(value: Any) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False)
