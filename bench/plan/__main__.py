"""The command line of `python -m bench.plan`, and the plan in Markdown."""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from bench import counts, plan
from bench.network import FRAMES
from bench.plan.check import check, check_table
from bench.plan.cluster import Recovery
from bench.plan.cost import Estimate, Settings, estimate
from bench.plan.datasets import DataSet, find_dataset, names
from bench.plan.devices import DATASHEETS, PRECISIONS, Device, find_device
from bench.plan.links import LINKS, Interconnect, find_link
from bench.plan.measured import MAKE_RESULTS, Measured, load_measured
from bench.plan.parallel import fixed_part
from bench.plan.sources import Range, Sources
from bench.plan.spread import failures_table, spread_table
from bench.record import RESULTS
from bench.tables import duration, markdown_table, span
from mol.common.environment import available_cores
from mol.common.errors import MOLError, SettingsError
from mol.training.settings import TrainConfig


def plan_table(arguments: argparse.Namespace, results: Sequence[Measured]) -> str:
    """The whole estimate in Markdown: the run's costs, the time on several devices, and the sources.

    Raises:
        SettingsError: an unknown data set or device, unknown numbers of clips or people, no results to go by.
    """
    sources = Sources()
    dataset = find_dataset(arguments.dataset, arguments.clips, arguments.folds)
    settings = Settings(arguments.batch, arguments.steps, dataset.people, arguments.precision, arguments.variant)
    device = find_device(arguments.device, results)
    cost = estimate(settings, dataset, device, results, sources)
    fixed, fixed_marks = fixed_part(settings, device, cost.step, results, sources)
    _add_remarks(settings, sources)
    joined = Interconnect(
        find_link(arguments.link or device.link), find_link(arguments.network), arguments.devices_per_node
    )
    rows = _cost_rows(cost, device)
    rows.insert(1, ["of it fixed, however many devices share a step", duration(*fixed), fixed_marks])
    parts = [
        _heading(arguments, settings, dataset),
        markdown_table(["", "", "from"], rows),
        spread_table(cost, fixed, settings, arguments.devices, joined, sources),
        *([] if arguments.mtbf is None else [_with_failures(arguments, settings, cost)]),
        "\n".join(f"{number}. {line}" for number, line in enumerate(sources.lines, 1)),
    ]
    return "\n\n".join(parts)


def _with_failures(arguments: argparse.Namespace, settings: Settings, cost: Estimate) -> str:
    recovery = Recovery(arguments.detect, arguments.start, arguments.checkpoint_every * cost.step[1])
    return failures_table(
        cost,
        settings,
        arguments.devices,
        arguments.devices_per_node,
        3600 * arguments.mtbf,
        60 * arguments.repair,
        recovery,
        arguments.repetitions,
    )


def _heading(arguments: argparse.Namespace, settings: Settings, dataset: DataSet) -> str:
    return (
        f"**{arguments.dataset} ({dataset.protocol}), leave one subject out: {settings.folds} folds × {settings.steps} "
        f"steps of {settings.batch} clips, variant {settings.variant}, precision {settings.precision}, on "
        f"{arguments.device}**"
    )


def _cost_rows(cost: Estimate, device: Device) -> list[list[str]]:
    marks = cost.marks
    rate = span((1 / cost.step[1], 1 / cost.step[0]), "steps/s")
    fits = _fits(device, cost.peak[1] + cost.resident[1])
    return [
        ["training step", f"{duration(*cost.step)}; {rate}", marks["step"]],
        ["its peak memory", _gibibytes(cost.peak) + fits, marks["peak"]],
        ["the data set, resident beside it", _gibibytes(cost.resident), marks["resident"]],
        ["one fold", duration(*cost.fold), ""],
        ["evaluation of every held-out clip, all folds together", duration(*cost.evaluation), marks["evaluation"]],
        ["once before: labels (TV-L1, dlib)", span([s / 3600 for s in cost.labels], "core-hours"), marks["labels"]],
    ]


def _gibibytes(values: Range) -> str:
    return span([value / 2**30 for value in values], "GiB")


def _fits(device: Device, needed: float) -> str:
    if device.memory is None:
        return ""
    verdict = "fits" if needed < device.memory else "**does not fit: choose a smaller --batch**"
    return f" of {device.memory / 2**30:.3g} GiB; with the data set it {verdict}"


def _add_remarks(settings: Settings, sources: Sources) -> None:
    sources.add(
        "assumed",
        "one data loader per device adds no time, because the crops are cut on the device",
    )
    sources.add("assumed", "left out: start-up, compilation, checkpoints, evaluation during training")
    if settings.variant != "released":
        p, c = 16 * 16, 128
        position, channel = (counts.ccc(1, c, p, 4, graph, training=False).flops for graph in ("position", "channel"))
        clip = counts.mol_released(1, FRAMES, 0, training=False).flops
        less = 2 * (FRAMES - 1) * (position - channel) / clip
        sources.add(
            "assumed",
            "as long as the released variant, which was counted and measured; the graph between channels saves "
            f"{100 * less:.0f} % of the network's work",
        )


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench.plan", description=(plan.__doc__ or "").splitlines()[0])
    parser.add_argument("--dataset", default="casme2", metavar="NAME", help=f"a set or protocol: {', '.join(names())}")
    parser.add_argument("--protocol", choices=("loso",), default="loso", help="leave one subject out")
    parser.add_argument("--device", default="cpu", help=f'{", ".join(DATASHEETS)}, "cpu" or a folder of results')
    parser.add_argument("--devices", nargs="+", type=_positive, default=[1, 2, 4, 8, 64], help="numbers of devices")
    parser.add_argument("--devices-per-node", type=_positive, default=8, metavar="N", help="devices in one machine")
    parser.add_argument(
        "--link",
        help=f"between the devices of a node: {', '.join(LINKS)}, or GB/s:µs; by default the device's own",
    )
    parser.add_argument("--network", default="100gbe", help="between nodes, likewise")
    failures = parser.add_argument_group("a cluster that fails", "simulated if --mtbf is given")
    failures.add_argument("--mtbf", type=_above_zero, metavar="HOURS", help="mean time between two failures of a node")
    failures.add_argument("--repair", type=_above_zero, default=10.0, metavar="MINUTES", help="until a node is back")
    failures.add_argument("--detect", type=_above_zero, default=30.0, metavar="S", help="until a loss is noticed")
    failures.add_argument("--start", type=_above_zero, default=30.0, metavar="S", help="of an attempt before it trains")
    failures.add_argument(
        "--checkpoint-every",
        type=_positive,
        default=TrainConfig.checkpoint_every,
        metavar="STEPS",
        help="as of mol loso",
    )
    failures.add_argument("--repetitions", type=_positive, default=1000, metavar="N", help="of each simulation")
    parser.add_argument("--variant", choices=("released", "paper"), default="released", help="of the network")
    parser.add_argument("--batch", type=_positive, default=Settings.batch, help="clips per step")
    parser.add_argument("--steps", type=_positive, default=Settings.steps, help="steps per fold")
    parser.add_argument("--folds", type=_positive, help="number of people, if the protocol does not say it")
    parser.add_argument("--clips", type=_positive, help="number of clips, if the protocol does not say it")
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default=Settings.precision, help="bf16 is autocast")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of saved measurements")
    parser.add_argument(
        "--check", nargs="*", type=Path, metavar="FILE", help="compare predictions with measurements, print no plan"
    )
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} must be a positive whole number")
    return int(text)


def _above_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number above zero")
    return value


def main(argv: Sequence[str]) -> int:
    """Print an estimate or, with --check, the errors of predictions; status 1 if one is off by more than 20 %."""
    arguments = _arguments(argv)
    torch.set_num_threads(available_cores())  # a processor's folder of results is named by its threads
    try:
        results = load_measured(arguments.check or sorted(arguments.results.glob("*/*.json")))
        if arguments.check is None:
            print(plan_table(arguments, results))
            return 0
        checks = check(results)
        if not checks:
            raise SettingsError(
                f"nothing to check: that needs a result of bench.loso with at least two batch sizes, or peak memory at "
                f"two batch sizes; {MAKE_RESULTS}"
            )
    except MOLError as error:
        print(error, file=sys.stderr)
        return 2
    print(check_table(checks))
    return 0 if all(one.agrees for one in checks) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
