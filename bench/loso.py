"""How long one full leave-one-subject-out run takes, from measured training steps: `python -m bench.loso`.

Forward pass, losses, backward pass and AdamW of each contender, in interleaved rounds as in `bench.timing`, with one
set of networks for all batch sizes. After every round <folder>/<device>/<date>-<commit>-loso.json is written whole, so
that an interrupted measurement keeps what it has. `python -m bench.loso --report FILE` prints a saved file again.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench import machine, network
from bench.timing import device_seconds_of, paired_ratio, quantiles, seconds_of
from mol.common.allocator import keep_freed_memory
from mol.common.storage import write_json

RESULTS = Path(__file__).parent / "results"
PROTOCOL = {"folds": 28, "steps": 1000, "batch": 32, "dataset": "samm"}
LEAST_STEPS = 50
MEASURE = {2: 50, 8: 6, 32: 3}
CONTENDERS = (f"{network.PUBLISHED}-float32", "cpu-float32")
NOT_IN_IT = (
    "Not in it: extraction of landmarks and flow, loading of data and crops, evaluation of the held-out clips, "
    "checkpoints, start-up."
)

Durations = Mapping[str, Sequence[float]]  # seconds of every round, by batch size as text


def measure(
    rounds: Mapping[int, int],
    networks: Mapping[str, network.Network],
    device: str,
    after_round: Callable[[dict[str, dict[str, list[float]]]], None],
) -> None:
    """Time training steps of all networks in turn, beginning with another one in every round.

    Args:
        rounds: batch size to number of rounds. One step of each network goes before the first, untimed.
        networks: contenders by key; they keep training from one batch size to the next.
        device: "cpu" (wall clock) or "cuda" (device clock).
        after_round: called with all whole rounds so far, {key: {batch size: seconds}}.
    """
    clock = seconds_of if device == "cpu" else device_seconds_of
    durations: dict[str, dict[str, list[float]]] = {key: {str(size): [] for size in rounds} for key in networks}
    keys = list(networks)
    for size, count in rounds.items():
        batch = network.random_batch(size).to(device)
        for contender in networks.values():
            contender.step(batch)
        for round_ in range(count):
            start = round_ % len(keys)
            order = keys[start:] + keys[:start]
            taken = {key: clock(partial(networks[key].step, batch)) for key in order}
            for key, seconds in taken.items():
                durations[key][str(size)].append(seconds)
            shown = ", ".join(f"{key} {taken[key]:.3g} s" for key in keys)
            print(f"batch {size}, round {round_ + 1} of {count}: {shown}", flush=True)
            after_round(durations)


def fit_line(durations: Durations) -> tuple[float, float] | None:
    """Least squares of  seconds(batch) = a + c·batch  through the medians, each weighted by  steps / median².

    The scatter of a step grows with its length and that of a median shrinks with the root of its steps, so these
    weights make the errors relative ones; without them the largest batch alone would set the line.

    Returns:
        (a, c) in seconds and seconds a clip; None where fewer than two batch sizes were measured.
    """
    points = [(int(size), statistics.median(d), len(d)) for size, d in durations.items() if d]
    if len(points) < 2:
        return None
    weights = [count / median**2 for _, median, count in points]
    total = sum(weights)
    x = sum(w * size for w, (size, _, _) in zip(weights, points, strict=True)) / total
    y = sum(w * median for w, (_, median, _) in zip(weights, points, strict=True)) / total
    spread = sum(w * (size - x) ** 2 for w, (size, _, _) in zip(weights, points, strict=True))
    slope = sum(w * (size - x) * (median - y) for w, (size, median, _) in zip(weights, points, strict=True)) / spread
    return y - slope * x, slope


def fitted_step(batch: int, durations: Durations) -> float | None:
    """Seconds of a step of `batch` clips by the line through all other batch sizes; None where there is no line."""
    line = fit_line({size: d for size, d in durations.items() if int(size) != batch})
    return None if line is None else line[0] + line[1] * batch


def step_seconds(batch: int, durations: Durations) -> tuple[float, bool] | None:
    """Seconds of a step and whether they were measured: the median at this batch, else the fit; None without either."""
    own = durations.get(str(batch))
    if own:
        return statistics.median(own), True
    fitted = fitted_step(batch, durations)
    return None if fitted is None else (fitted, False)


def measured_steps(durations: Mapping[str, Durations]) -> int:
    """Timed steps of the contender that has the fewest."""
    return min(sum(map(len, by_batch.values())) for by_batch in durations.values())


def markdown(result: Mapping[str, Any]) -> str:
    """The run's summary: headline, measured steps, the fit beside them, and what is not in it."""
    about, limits, loso = result["machine"], result["limits"], result["loso"]
    where = (
        f"{about['device']}, torch {about['torch']}, {about['date'][:10]}, commit {about['commit']}; "
        f"copy {limits['copy']['bytes_per_second'] / 1e9:.1f} GB/s, "
        f"GEMM float32 {limits['gemm']['float32'] / 1e9:.0f} GFLOP/s"
    )
    parts = [where, headline(loso), _measured_table(loso["durations"]), _fit_table(loso), NOT_IN_IT]
    return "\n\n".join(parts)


def headline(loso: Mapping[str, Any]) -> str:
    """Hours of the whole protocol for each contender, and their ratios; says so where too little was measured."""
    protocol, durations, draft = loso["protocol"], loso["durations"], loso["draft"]
    steps = measured_steps(durations)
    if steps < LEAST_STEPS and not draft:
        return f"**Unfinished: {steps} steps of each contender; no headline from fewer than {LEAST_STEPS}.**"
    found = {key: step_seconds(protocol["batch"], by_batch) for key, by_batch in durations.items()}
    total = protocol["folds"] * protocol["steps"]
    figures = [
        f"{key} {_hours(total * step[0])} ({'step measured' if step[1] else 'step extrapolated'})"
        for key, step in found.items()
        if step
    ]
    if len(figures) < len(found):
        return f"**No headline: it takes steps at batch {protocol['batch']}, or at two batch sizes at least.**"
    title = (
        f"**{'DRAFT, too few steps to quote: ' if draft else ''}one leave-one-subject-out run of "
        f"{protocol['dataset'].upper()}, {protocol['folds']} folds × {protocol['steps']} steps of {protocol['batch']} "
        f"clips, from {steps} measured steps of each: {'; '.join(figures)}**"
    )
    return f"{title}\n\n{_ratios(protocol['batch'], durations)}".rstrip()


def _ratios(batch: int, durations: Mapping[str, Durations]) -> str:
    """The first contender's time over each other one's, paired round by round where this batch was measured."""
    first, *others = durations
    lines = []
    for key in others:
        if durations[first].get(str(batch)):
            low, median, high = paired_ratio(durations[first][str(batch)], durations[key][str(batch)])
            lines.append(f"{first} takes {median:.2f} ({low:.2f} to {high:.2f}, paired rounds) times as long as {key}.")
            continue
        steps = [step_seconds(batch, durations[name]) for name in (first, key)]
        if steps[0] and steps[1]:
            ratio = steps[0][0] / steps[1][0]
            lines.append(f"{first} takes {ratio:.2f} times as long as {key}, by the fits; paired rounds are below.")
    return "\n".join(lines)


def _measured_table(durations: Mapping[str, Durations]) -> str:
    first = next(iter(durations))
    lines = [
        f"| contender | batch | steps | s, median | 0.2 to 0.8 | {first} / it, paired |",
        "|---|---|---|---|---|---|",
    ]
    for key, by_batch in durations.items():
        for size, seconds in by_batch.items():
            if seconds:
                low, median, high = quantiles(seconds)
                slow, ratio, fast = paired_ratio(durations[first][size], seconds)
                lines.append(
                    f"| {key} | {size} | {len(seconds)} | {median:.3g} | {low:.3g} to {high:.3g} "
                    f"| {ratio:.2f} ({slow:.2f} to {fast:.2f}) |"
                )
    return "\n".join(lines)


def _fit_table(loso: Mapping[str, Any]) -> str:
    """The line through the other batch sizes, held against the measured step of the protocol's batch."""
    batch = loso["protocol"]["batch"]
    lines = [
        f"The same step by a line through the medians of all other batch sizes (weights steps / median²); the whole "
        f"run is that step, measured or fitted, times {loso['protocol']['folds'] * loso['protocol']['steps']}.",
        "",
        f"| contender | batch {batch} measured, s | fitted, s | fit off by |",
        "|---|---|---|---|",
    ]
    for key, by_batch in loso["durations"].items():
        own, fitted = by_batch.get(str(batch)), fitted_step(batch, by_batch)
        median = statistics.median(own) if own else None
        off = f"{100 * (fitted / median - 1):+.1f} %" if median and fitted is not None else ""
        shown = [f"{value:.3g}" if value is not None else "" for value in (median, fitted)]
        lines.append(f"| {key} | {shown[0]} | {shown[1]} | {off} |")
    return "\n".join(lines)


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.3g} hours" if hours < 48 else f"{hours:.0f} hours = {hours / 24:.1f} days"


def run(
    rounds: Mapping[int, int], contenders: Sequence[str], device: str, folder: Path, draft: bool
) -> tuple[Path, dict[str, Any], bool]:
    """Measure and save; the file, what it holds, and whether Ctrl-C ended it early.

    Raises:
        FileExistsError: this day and commit have a finished or interrupted measurement already.
    """
    torch.set_num_threads(machine.usable_cores())
    about = machine.describe(device)
    name = f"{str(about['date'])[:10]}-{about['commit']}-loso{'-draft' if draft else ''}.json"
    path = folder / machine.slug(str(about["device"])) / name
    if path.exists() and not draft:
        raise FileExistsError(f"{path} holds a measurement already: move it away, or choose another --folder")
    result = {"format": 2, "machine": about, "limits": machine.measure_limits(device)}
    loso = {"protocol": PROTOCOL, "draft": draft, "planned": {str(size): n for size, n in rounds.items()}}

    def save(durations: Mapping[str, Durations]) -> None:
        result["loso"] = loso | {"durations": durations}
        write_json(path, result)

    try:
        state = network.random_state()
        networks = {key: network.Network(key, state, device) for key in contenders}
        del state
        measure(rounds, networks, device, save)
    except KeyboardInterrupt:
        return path, result, True
    return path, result, False


def _rounds(text: str) -> tuple[int, int]:
    size, _, steps = text.partition(":")
    if not (size.isdecimal() and steps.isdecimal() and int(size) and int(steps)):
        raise argparse.ArgumentTypeError(f"{text!r} must be BATCH:STEPS, two numbers from 1 on, such as 8:6")
    return int(size), int(steps)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench.loso", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--measure", nargs="+", type=_rounds, default=list(MEASURE.items()), metavar="BATCH:STEPS")
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), metavar="NAME", help="the baseline first")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    parser.add_argument("--draft", action="store_true", help=f"take fewer than {LEAST_STEPS} steps, and say so")
    parser.add_argument("--report", type=Path, metavar="FILE", help="print a saved measurement and stop")
    chosen = parser.parse_args(argv)
    if chosen.report:
        return chosen
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device on this machine: use --device cpu")
    known = network.contender_keys(chosen.device)
    unknown = [key for key in chosen.contenders if key not in known]
    if unknown:
        parser.error(f"no contender {', '.join(unknown)} on {chosen.device}; choose from {', '.join(known)}")
    for what, values in (("batch size", [size for size, _ in chosen.measure]), ("contender", chosen.contenders)):
        if len(set(values)) < len(values):
            parser.error(f"a {what} is given twice: {' '.join(map(str, values))}")
    steps = sum(count for _, count in chosen.measure)
    if steps < LEAST_STEPS and not chosen.draft:
        parser.error(f"{steps} steps of each contender are fewer than {LEAST_STEPS}: measure more, or add --draft")
    return chosen


def main(argv: Sequence[str]) -> int:
    """Measure and report, or report a saved file."""
    chosen = _arguments(argv)
    keep_freed_memory()  # as in the program `mol`, and for every contender alike
    try:
        if chosen.report:
            print(markdown(json.loads(chosen.report.read_text(encoding="utf-8"))))
            return 0
        rounds = dict(chosen.measure)
        path, result, interrupted = run(rounds, chosen.contenders, chosen.device, chosen.folder, chosen.draft)
    except (OSError, json.JSONDecodeError, KeyError) as error:
        what = f"{chosen.report} is no file of bench.loso" if not isinstance(error, OSError) else ""
        print(f"{what or error}", file=sys.stderr)
        return 2
    print(f"\n{markdown(result)}\n\nsaved to {path}" if "loso" in result else "interrupted before the first round")
    return 130 if interrupted else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
