"""Measure training steps for the hours of a whole leave-one-subject-out run: `python -m bench.loso`.

A step is forward pass, losses, backward pass and AdamW of each contender. The contenders take turns in every round, as
in `bench.timing`, and keep the same networks for all batch sizes. After every round
<folder>/<device>/<date>-<commit>-loso.json is rewritten, so an interrupted measurement keeps its complete rounds.
`python -m bench.loso --report FILE` prints a saved file again.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench import machine, network
from bench.hours import LEAST_STEPS, Durations, markdown
from bench.record import FORMAT, PUBLISHED, RESULTS, path_of, read, save
from bench.timing import device_seconds_of, seconds_of
from mol.common.allocator import keep_freed_memory
from mol.common.environment import available_cores
from mol.common.errors import MOLError, SettingsError

PROTOCOL = {"folds": 28, "steps": 1000, "batch": 32, "dataset": "samm"}
MEASURE = {2: 50, 8: 6, 32: 3}
CONTENDERS = (f"{PUBLISHED}-float32", "cpu-float32")


def measure(
    rounds: Mapping[int, int],
    networks: Mapping[str, network.Network],
    device: str,
    after_round: Callable[[dict[str, dict[str, list[float]]]], None],
) -> None:
    """Time training steps of all networks in turns, each round starting with another one.

    Args:
        rounds: batch size to number of rounds. Before the first round of a batch size, each network does one untimed
            step.
        networks: contenders by key; they keep training from one batch size to the next.
        device: "cpu" (wall clock) or "cuda" (device clock).
        after_round: called with all complete rounds so far, {key: {batch size: seconds}}.
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


def run(
    rounds: Mapping[int, int], contenders: Sequence[str], device: str, folder: Path, draft: bool
) -> tuple[Path, dict[str, Any], bool]:
    """Measure and save.

    Returns:
        The file, its content, and whether Ctrl-C ended the measurement early.
    Raises:
        SettingsError: there is already a measurement of this day and commit.
    """
    torch.set_num_threads(available_cores())
    result = {"format": FORMAT, "machine": machine.describe(device), "limits": machine.measure_limits(device)}
    suffix = "-loso-draft" if draft else "-loso"
    path = path_of(result, folder, suffix)
    if path.exists() and not draft:
        raise SettingsError(f"{path} already holds a measurement: move it away, or choose another --folder")
    loso = {"protocol": PROTOCOL, "draft": draft, "planned": {str(size): n for size, n in rounds.items()}}

    def keep(durations: Mapping[str, Durations]) -> None:
        result["loso"] = loso | {"durations": durations}
        save(result, folder, suffix)

    try:
        state = network.random_state()
        networks = {key: network.Network(key, state, device) for key in contenders}
        del state
        measure(rounds, networks, device, keep)
    except KeyboardInterrupt:
        return path, result, True
    return path, result, False


def _rounds(text: str) -> tuple[int, int]:
    size, _, steps = text.partition(":")
    if not (size.isdecimal() and steps.isdecimal() and int(size) and int(steps)):
        raise argparse.ArgumentTypeError(f"{text!r} must be BATCH:STEPS, two positive numbers, such as 8:6")
    return int(size), int(steps)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench.loso", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--measure", nargs="+", type=_rounds, default=list(MEASURE.items()), metavar="BATCH:STEPS",
        help="batch sizes and how many steps of each contender to time at each",
    )  # fmt: skip
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), metavar="NAME", help="the baseline first")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to measure")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where results are saved")
    parser.add_argument("--draft", action="store_true", help=f"allow fewer than {LEAST_STEPS} steps; marked as a draft")
    parser.add_argument("--report", type=Path, metavar="FILE", help="print a saved measurement and stop")
    chosen = parser.parse_args(argv)
    if chosen.report:
        return chosen
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch finds no CUDA device on this machine: use --device cpu")
    known = network.contender_keys(chosen.device)
    unknown = [key for key in chosen.contenders if key not in known]
    if unknown:
        parser.error(f"no contender {', '.join(unknown)} on {chosen.device}; choose from {', '.join(known)}")
    for what, values in (("batch size", [size for size, _ in chosen.measure]), ("contender", chosen.contenders)):
        if len(set(values)) < len(values):
            parser.error(f"a {what} is given twice: {' '.join(map(str, values))}")
    steps = sum(count for _, count in chosen.measure)
    if steps < LEAST_STEPS and not chosen.draft:
        parser.error(f"{steps} steps per contender are fewer than {LEAST_STEPS}: measure more, or add --draft")
    return chosen


def _saved(path: Path) -> dict[str, Any]:
    result = read(path)
    if "loso" not in result:
        raise SettingsError(f"{path} is not a file of bench.loso; print it with: python -m bench.report {path}")
    return result


def main(argv: Sequence[str]) -> int:
    """Measure and report, or report a saved file."""
    chosen = _arguments(argv)
    keep_freed_memory()  # as the program `mol` does, for every contender alike
    try:
        if chosen.report:
            print(markdown(_saved(chosen.report)))
            return 0
        rounds = dict(chosen.measure)
        path, result, interrupted = run(rounds, chosen.contenders, chosen.device, chosen.folder, chosen.draft)
    except MOLError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"\n{markdown(result)}\n\nsaved to {path}" if "loso" in result else "interrupted before the first round")
    return 130 if interrupted else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
