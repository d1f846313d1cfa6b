"""How well `mol spot` finds expressions in synthetic long videos of people never seen: `python -m bench.spotting`.

    python -m bench.spotting runs/spot-0 runs/spot-1 --validation manifests/long-val --test manifests/long-test

Parameters are chosen once, on the videos of `--validation` with the first network; `--test` is scored with them for
every network. What a network says of a video is kept under `--out`, so that an interrupted run goes on. The commands
before this one are in docs/spotting.md.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.tables import markdown_table
from mol.common.devices import fastest_precision
from mol.common.names import path_part
from mol.common.storage import write_json
from mol.loso.spot_fold import LongVideo, Watched, annotated_kinds, choose, found_in, recordings_of, watch_recording
from mol.networks.trained import load_model
from mol.prediction.watch import WatchSettings
from mol.scoring.expression import MACRO, MICRO
from mol.scoring.spotting import OVERALL, pool_videos, score_video
from mol.spotting.command import NOTHING

_SCORES = ("precision", "recall", "f1", "uf1", "strs")


def watch_all(videos: Sequence[LongVideo], run: str, out: Path, stride: int | None) -> list[Watched]:
    """What a network and the baseline say of some videos."""
    trained = load_model(run, torch.device("cpu"))
    settings = WatchSettings(people="largest", stride=stride, precision=fastest_precision("cpu"))
    folder = out / path_part(run)
    return [watch_recording(video, folder / f"{path_part(video.name)}.npz", trained, settings) for video in videos]


def measure(runs: Sequence[str], validation: Path, test: Path, out: Path, stride: int | None) -> dict[str, Any]:
    """Scores of every network and of the baseline on the videos of `test`, with what was chosen on `validation`."""
    known, unseen = recordings_of(validation), recordings_of(test)
    if both := {video.person for video in known} & {video.person for video in unseen}:
        raise SystemExit(f"{', '.join(sorted(both))} are in both sets; choose and score on different people")
    classes = load_model(runs[0], torch.device("cpu")).classes
    parameters, share, chosen = choose(watch_all(known, runs[0], out, stride), annotated_kinds(known), classes)
    scores: dict[str, list[Any]] = {}
    for run in runs:
        watched = watch_all(unseen, run, out, stride)
        found = [{**found_in(one, parameters, share), NOTHING: []} for one in watched]
        for way in found[0]:
            pairs = zip(watched, found, strict=True)
            pooled = pool_videos(score_video(one.truth, some[way]) for one, some in pairs)
            scores.setdefault(way, []).append(pooled.describe())
    return {"parameters": asdict(parameters), "share": share, "chosen": chosen, "scores": scores}


def table(scores: dict[str, list[Any]]) -> str:
    """Mean ± sample standard deviation over the networks."""
    rows = []
    for way, several in scores.items():
        for kind in (MICRO, MACRO, OVERALL):
            values = [[one[kind][name] for one in several] for name in _SCORES]
            named = "both" if kind == OVERALL else kind
            rows.append([way, named, str(several[0][kind]["annotated"]), *map(_spread, values)])
    head = ["spotted by", "kind", "annotated", "precision", "recall", "F1", "UF1 of the hits", "STRS"]
    return markdown_table(head, rows)


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.fmean(values):.3f}"
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{mean} ± {deviation:.3f}" if deviation else mean


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.spotting", description=__doc__)
    parser.add_argument("runs", nargs="+", help="run folders of mol train, one per seed")
    parser.add_argument("--validation", type=Path, required=True, help="manifest on which parameters are chosen")
    parser.add_argument("--test", type=Path, required=True, help="manifest that is scored")
    parser.add_argument("--out", type=Path, default=Path("build/spotting"), help="folder of what the networks say")
    parser.add_argument("--stride", type=int, default=6, help="frames between the starts of two windows")
    given = parser.parse_args()
    result = measure(given.runs, given.validation, given.test, given.out, given.stride)
    write_json(given.out / "spotting.json", result)
    print(f"parameters: {result['parameters']}, p = {result['share']}; on the validation videos {result['chosen']}\n")
    print(table(result["scores"]))


if __name__ == "__main__":
    main()
