"""What starting weights give a leave-one-subject-out run of few clips: `python -m bench.pretraining`.

The clips are the synthetic CASME II under MEGC 2019: 145 clips of 24 people in three classes. The starting weights are
made by `mol pretrain` from faces that no subject of this set has (14 of the 40 people of the ORL set). Every fold is
then trained twice with the same seed and steps, from random weights and from these, so that a run stopped at any time
can be compared. After every fold <folder>/<device>/<date>-<commit>-pretraining.json is rewritten; the same command run
again goes on. `python -m bench.pretraining --report FILE` prints a saved file again.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import machine
from bench.record import FORMAT, RESULTS, read, save
from bench.tables import markdown_table
from mol.common.devices import fastest_precision
from mol.common.errors import MOLError, SettingsError
from mol.common.terminal import counting, say
from mol.data.extract import ExtractConfig, extract
from mol.data.pool import Pool
from mol.data.prepare import PrepareConfig, prepare
from mol.loso.folds import choose_folds, plan_folds
from mol.loso.run import loso
from mol.loso.saved_run import read_run
from mol.loso.scores import COMPOSITE
from mol.loso.settings import LosoConfig
from mol.report.compare import paired_test
from mol.synth.faces import ORL_PEOPLE
from mol.synth.layout_plan import LayoutSettings
from mol.synth.layouts import plan_layout, write_layout
from mol.training.pretrain import PretrainConfig, pretrain
from mol.training.settings import LossConfig
from mol.training.starting import read_metadata, read_starting_weights

DATASET, PROTOCOL = "casme2", "megc2019"
SCORES = ("uf1", "uar", "accuracy")
STARTS = {"random": "random weights", "pretrained": "mol pretrain"}
"""Runs to compare, by their folder, with what they are called in the table."""


def make_cache(folder: Path, people: int, clips: int) -> Path:
    """Render, read and extract the data set, or what is left to do of it.

    Args:
        folder: of the benchmark.
        people, clips: as in `LayoutSettings`; 0 for all.
    """
    root, manifest, cache = folder / "data", folder / "manifest", folder / "cache"
    with counting("rendering clips") as count:
        write_layout(DATASET, root, LayoutSettings(people=people, clips=clips), progress=count)
    prepare(PrepareConfig(dataset=DATASET, root=str(root), out=str(manifest)))
    with counting("extracting") as count:
        extract(ExtractConfig(manifest=str(manifest), out=str(cache)), count)
    return cache


def strangers() -> list[str]:
    """People of the ORL set whose faces the data set does not use."""
    used = {clip.person for clip in plan_layout(DATASET).clips}
    return [f"orl-s{person:02d}" for person in range(1, ORL_PEOPLE + 1) if person not in used]


def make_weights(options: argparse.Namespace) -> Path:
    """Train from synthetic clips of people who are not in the data set, or what is left to do of it."""
    everyone = {f"orl-s{person:02d}" for person in range(1, ORL_PEOPLE + 1)}
    config = PretrainConfig(
        network=options.network,
        run=str(options.work / "pretrain"),
        held_out=sorted(everyone - set(strangers())),
        device=options.device,
        precision=options.precision,
        validate_every=0,
        resume=True,
        **({} if options.pretrain_steps is None else {"steps": options.pretrain_steps}),
    )
    if options.few_clips:  # of the people held out
        config = dataclasses.replace(config, synth=dataclasses.replace(config.synth, clips=6, pictures=2), tvl1_pairs=0)
    if not config.weights.exists():
        pretrain(config)
    return config.weights


def settings_of(options: argparse.Namespace, cache: Path, start: str, weights: Path) -> LosoConfig:
    """The leave-one-subject-out run that starts from random or from these weights."""
    return LosoConfig(
        network=options.network,
        caches=[str(cache)],
        protocol=PROTOCOL,
        sets=[DATASET],
        counts="warn" if options.people or options.clips else "require",
        run=str(options.work / start),
        seeds=options.seeds,
        init=str(weights) if start == "pretrained" else None,
        keep_checkpoints=False,
        device=options.device,
        precision=options.precision,
        resume=True,
        **({"loss": LossConfig(w_ldm=0), "flow_pairs": 0} if options.emotion_only else {}),
        **{name: value for name in ("steps", "batch_size") if (value := getattr(options, name)) is not None},
    )


def measure(options: argparse.Namespace) -> Path:
    """Run all folds that are asked for, both ways in turns, and save what is known after each; returns the file."""
    cache = make_cache(options.work, options.people, options.clips)
    weights = make_weights(options)
    configs = {start: settings_of(options, cache, start, weights) for start in STARTS}
    pool = Pool.load([str(cache)], PROTOCOL, configs["random"].counts)
    numbers = dict.fromkeys(fold.number for fold in choose_folds(plan_folds(pool, options.seeds), options.folds))
    path = Path()
    for number in numbers:
        for config in configs.values():
            loso(dataclasses.replace(config, folds=str(number)))
        result = {"format": FORMAT, "machine": machine.describe(), "pretraining": summary(configs, weights)}
        path = save(result, options.folder, "-pretraining")
    return path


def summary(configs: Mapping[str, LosoConfig], weights: Path) -> dict[str, Any]:
    """What both runs have reached, and how they were made, as JSON."""
    runs = {start: read_run(config.run) for start, config in configs.items()}
    test = paired_test(runs["random"], runs["pretrained"])
    known = read_metadata(weights)
    config = configs["random"]
    return {
        "settings": {name: getattr(config, name) for name in ("network", "protocol", "sets", "seeds", "steps")}
        | {"batch_size": config.batch_size, "learning_rate": config.learning_rate, "precision": config.precision}
        | {"flow_pairs": config.flow_pairs, "landmark_weight": config.loss.w_ldm},
        "starting_weights": {
            "fingerprint": read_starting_weights(weights).fingerprint,
            **{name: known[name] for name in ("people", "recipe", "scores")},
        },
        "folds": {"done": len(runs["pretrained"].results), "total": len(runs["pretrained"].plan.folds)},
        "runs": {
            start: {
                "seeds": {seed: groups[COMPOSITE] for seed, groups in run.scores["seeds"].items()},
                "not_reportable": run.reasons,
            }
            for start, run in runs.items()
        },
        "test": dataclasses.asdict(test),
    }


def markdown(result: Mapping[str, Any]) -> str:
    """A saved measurement as a table: mean ± sd over the seeds, and McNemar's test."""
    found = result["pretraining"]
    rows = []
    for start, title in STARTS.items():
        seeds = found["runs"][start]["seeds"].values()
        rows.append([title, *(_spread([scores[name] for scores in seeds]) for name in SCORES)])
    test, folds, settings = found["test"], found["folds"], found["settings"]
    p_value = "equal on every video" if test["p_value"] is None else f"McNemar's exact test: p = {test['p_value']:.3g}"
    return "\n".join(
        [
            markdown_table(["every fold starts from", *(name.upper() for name in SCORES[:2]), "accuracy"], rows),
            "",
            f"{settings['network']} on the synthetic {DATASET} under {PROTOCOL}; {folds['done']} of {folds['total']} "
            f"folds, {settings['steps']} steps of {settings['batch_size']} clips each{_parts(settings)}, "
            f"seeds {settings['seeds']}.",
            f"{test['videos']} videos: right with {STARTS['pretrained']} only {test['only_other']}, with "
            f"{STARTS['random']} only {test['only_first']}; {p_value}.",
        ]
    )


def _parts(settings: Mapping[str, Any]) -> str:
    alone = settings.get("flow_pairs") == 0 and settings.get("landmark_weight") == 0
    return " (the emotion alone)" if alone else ""


def _spread(values: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench.pretraining", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folds", help="people to hold out: names, numbers or ranges as for mol loso; all when empty")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the folds")
    parser.add_argument("--steps", type=int, help="of every fold; the network's own number when empty")
    parser.add_argument("--batch-size", type=int, help="of every fold; the network's own number when empty")
    parser.add_argument("--pretrain-steps", type=int, help="of mol pretrain; the network's own number when empty")
    parser.add_argument("--network", default="mol", help="as for mol train")
    parser.add_argument(
        "--emotion-only", action="store_true", help="folds of mol train the emotion alone, about 17 times as fast"
    )
    parser.add_argument("--people", type=int, default=0, help="only the first people of the set, for a try; 0 for all")
    parser.add_argument("--clips", type=int, default=0, help="at most this many clips, for a try; 0 for all")
    parser.add_argument("--few-clips", action="store_true", help="score the starting weights on few clips, for a try")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", help="32 or bf16-mixed; bfloat16 if the device computes in it when empty")
    parser.add_argument("--work", type=Path, default=Path("pretraining"), help="folder of clips, weights and runs")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where results are saved")
    parser.add_argument("--report", type=Path, metavar="FILE", help="print a saved measurement and stop")
    chosen = parser.parse_args(argv)
    chosen.precision = chosen.precision or fastest_precision(chosen.device)
    return chosen


def _saved(path: Path) -> dict[str, Any]:
    result = read(path)
    if "pretraining" not in result:
        raise SettingsError(f"{path} is not a file of bench.pretraining; print it with: python -m bench.report {path}")
    return result


def main(argv: Sequence[str]) -> int:
    """Measure and report, or report a saved file."""
    options = _arguments(argv)
    try:
        path = options.report or measure(options)
        print(markdown(_saved(path)))
    except MOLError as error:
        print(error, file=sys.stderr)
        return 2
    if not options.report:
        say(f"saved to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
