"""Hours and memory of a leave-one-subject-out run before it is started: `python -m bench.plan --dataset casme2`.

Measured figures (bench/results) where the device has some, and else the roofline of its datasheet times a share of it
that is assumed. Every figure names what it comes from: measured, datasheet or assumed. `python -m bench.plan --check`
holds the same predictions against what was measured.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from bench import counts, machine
from bench.hours import fit_line, measured_steps, step_seconds
from bench.network import FRAMES, LOSS_WEIGHTS, random_batch
from bench.record import PUBLISHED, RESULTS
from mol import MOL
from mol.common.environment import available_cores
from mol.network.losses import MOLLoss

OWN = ("cuda", "cpu", "triton", "reference")  # in the order in which `auto` takes them
PRECISIONS = {"32": ("float32", 4), "bf16": ("bfloat16", 2)}  # torch's name, bytes an element
OTHER_SHARE = 0.5  # slow end of the share of the roofline, on a device where none was measured
OVER_SAVED = 4 / 3  # peak over what must be held; a CPU step measured 1.30 at batch 2 and 1.32 at batch 6
AGREES = 0.2
TVL1, LANDMARKS = (0.055, 0.190), (0.032, 0.132)  # core-seconds: a pair of frames; detection and landmarks of a frame
# A cached clip: aligned frames uint8, flow float16, landmarks float32 (mol.data.cache).
CLIP_BYTES = FRAMES * 144**2 + (FRAMES - 1) * 2 * 144**2 * 2 + FRAMES * 68 * 2 * 4
MAKE_RESULTS = "make some with `pytest bench/ --save-results` and `python -m bench.loso`"

Range = tuple[float, float]


class PlanError(ValueError):
    """What was asked for is not known; the message says what is, and what to do."""


@dataclass(frozen=True)
class Dataset:
    """A protocol's labelled clips, its people (None where not known), and sub-clips if every clip took half a second.

    A clip of L frames gives L // 8 sub-clips, each a row of the cache: 12 for half a second at 200 fps, 6 at 100 fps.
    """

    clips: int
    people: int | None
    most_subclips: int
    protocol: str


DATASETS = {
    "casme2": Dataset(145, 24, 145 * 12, "megc2019, CASME II"),
    "samm": Dataset(133, 28, 133 * 12, "megc2019, SAMM"),
    "smic": Dataset(164, 16, 164 * 6, "megc2019, SMIC-HS"),
    "composite": Dataset(442, 68, (145 + 133) * 12 + 164 * 6, "megc2019, all three pooled"),
    "casme2-5": Dataset(246, None, 246 * 12, "others 99, disgust 63, happiness 32, repression 27, surprise 25"),
    "samm-5": Dataset(136, None, 136 * 12, "surprise, happiness, anger, contempt, others"),
}


@dataclass(frozen=True)
class Device:
    """Limits of a device.

    Attributes:
        flops: FLOP/s by precision, slowest and fastest arithmetic that it may run on.
        bandwidth: bytes/s of its memory.
        memory: bytes of its memory; None where not known.
        source: where the limits are from.
        folder: name of its folder of results.
    """

    flops: Mapping[str, Range]
    bandwidth: float
    memory: float | None
    source: str
    folder: str


def _datasheet(fp32: float, tf32: float, bf16: float, bandwidth: float, memory: int, source: str, name: str) -> Device:
    """A GPU by its dense TFLOP/s, GB/s and GB; float32 runs between IEEE and TF32, torch's default in convolutions."""
    flops = {"32": (fp32 * 1e12, tf32 * 1e12), "bf16": (bf16 * 1e12, bf16 * 1e12)}
    return Device(flops, bandwidth * 1e9, memory * 1e9, f"NVIDIA {source}", machine.slug(f"NVIDIA {name}"))


_GA102, _ADA = "Ampere GA102 GPU Architecture whitepaper", "Ada GPU Architecture whitepaper"
DATASHEETS = {
    "h100-sxm": _datasheet(67, 494.7, 989.4, 3350, 80, "H100 Tensor Core GPU datasheet (SXM)", "H100 80GB HBM3"),
    "h100-pcie": _datasheet(51, 378, 756, 2000, 80, "H100 Tensor Core GPU datasheet (PCIe)", "H100 PCIe"),
    "h200": _datasheet(67, 494.7, 989.4, 4800, 141, "H200 Tensor Core GPU datasheet (SXM)", "H200"),
    "a100-40gb": _datasheet(19.5, 156, 312, 1555, 40, "A100 Tensor Core GPU datasheet (SXM4 40 GB)", "A100-SXM4-40GB"),
    "a100-80gb": _datasheet(19.5, 156, 312, 2039, 80, "A100 Tensor Core GPU datasheet (SXM4 80 GB)", "A100-SXM4-80GB"),
    "l40s": _datasheet(91.6, 183, 362.05, 864, 48, "L40S datasheet", "L40S"),
    "rtx-4090": _datasheet(82.6, 82.6, 165.2, 1008, 24, _ADA, "GeForce RTX 4090"),
    "rtx-3090": _datasheet(35.6, 35.6, 71.2, 936, 24, _GA102, "GeForce RTX 3090"),
}
ALIASES = {"h100": "h100-sxm", "a100": "a100-80gb"}


class Sources:
    """Numbered statements of where figures come from; `add` returns the mark to put beside the figure."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, kind: str, text: str) -> str:
        """Note one statement; kind is "measured", "datasheet", "assumed" or "counted"."""
        line = f"{kind}: {text}"
        if line not in self.lines:
            self.lines.append(line)
        return f"[{self.lines.index(line) + 1}]"


@dataclass(frozen=True)
class Result:
    """One saved file of format 2."""

    path: Path
    data: Mapping[str, Any]

    @property
    def folder(self) -> str:
        """The device's folder name."""
        return machine.slug(str(self.data["machine"]["device"]))

    @property
    def label(self) -> str:
        """File and commit, as a source is named."""
        return f"{self.folder}/{self.path.name}, commit {self.data['machine']['commit']}"

    @property
    def on_gpu(self) -> bool:
        """Whether nvidia-smi was asked about the device."""
        return bool({"driver_version", "nvidia-smi"} & self.data["machine"].keys())

    def rows(self, task: str, contender: str, dtype: str) -> dict[int, Mapping[str, Any]]:
        """The timed rows of the network by batch size, with all threads of the machine."""
        threads = self.data["machine"]["threads"]
        return {
            row["sizes"]["batch"]: row
            for row in self.data.get("rows", [])
            if (row["subject"], row["task"], row["contender"], row["dtype"]) == ("mol", task, contender, dtype)
            and row["seconds"] is not None
            and row["sizes"].get("threads", threads) == threads
        }

    def shares(self, contender: str, dtype: str) -> dict[int, float]:
        """The share of the machine's limit that a training step reached, by batch size."""
        shares = {size: row["share_of_limit"] for size, row in self.rows("training step", contender, dtype).items()}
        loso = self.data.get("loso", {"durations": {}})["durations"].get(f"{contender}-{dtype}", {})
        timed = {int(size): statistics.median(seconds) for size, seconds in loso.items() if seconds}
        return shares | {size: self.least_seconds(size, dtype) / seconds for size, seconds in timed.items()}

    def least_seconds(self, batch: int, dtype: str) -> float:
        """Seconds that this machine's limits allow a training step."""
        limits, width = self.data["limits"], dict(PRECISIONS.values())[dtype]
        work = counts.mol_released(batch, FRAMES, held_bytes("released", 1)[0], training=True)
        return max(work.seconds_at(limits["gemm"][dtype], limits["copy"]["bytes_per_second"], width))

    def peaks(self, contender: str, dtype: str) -> dict[str, list[float]]:
        """Peak bytes of a training step by batch size as text."""
        rows = [row for row in self.data.get("memory", []) if (row["contender"], row["dtype"]) == (contender, dtype)]
        return {str(row["batch"]): [float(row["peak_bytes"])] for row in sorted(rows, key=lambda row: row["batch"])}


def load_results(paths: Sequence[Path]) -> list[Result]:
    """Files of format 2, the newest first; drafts and other formats are left out.

    Raises:
        PlanError: a file that cannot be read.
    """
    results = []
    for path in paths:
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise PlanError(f"cannot read {path}: {error}; name a file that bench has saved") from error
        if data.get("format") == 2 and not data.get("loso", {}).get("draft"):
            results.append(Result(path, data))
    return sorted(results, key=lambda result: str(result.data["machine"]["date"]), reverse=True)


def find_device(name: str, results: Sequence[Result]) -> Device:
    """A device of the datasheets, "cpu" for this machine, or one that was measured, by its results folder.

    Raises:
        PlanError: neither; the message lists what is known.
    """
    name = ALIASES.get(name, name)
    if name in DATASHEETS:
        return DATASHEETS[name]
    folder = machine.slug(machine.processor_name()) if name == "cpu" else name
    for result in results:
        if result.folder == folder:
            limits, rates = result.data["limits"], result.data["limits"]["gemm"]
            flops = {key: (rates[dtype], rates[dtype]) for key, (dtype, _) in PRECISIONS.items()}
            return Device(flops, limits["copy"]["bytes_per_second"], None, f"limits in {result.label}", folder)
    measured = ", ".join(sorted({result.folder for result in results})) or "none"
    known = ", ".join([*DATASHEETS, *ALIASES])
    raise PlanError(
        f"device {name!r} ({folder}) has no results and no datasheet here; datasheets: {known}; "
        f"measured: {measured}. To add results, {MAKE_RESULTS} on it"
    )


def training_step(
    device: Device, batch: int, precision: str, parameters: int, results: Sequence[Result], sources: Sources
) -> tuple[Range, str]:
    """Seconds of a training step, fast and slow end, and the marks of their sources."""
    dtype, _ = PRECISIONS[precision]
    for result in (r for r in results if r.folder == device.folder and "loso" in r.data):
        for key in (f"{name}-{dtype}" for name in OWN):
            durations = result.data["loso"]["durations"].get(key, {})
            found = step_seconds(batch, durations)
            if found:
                how = f"steps at batch {batch}" if found[1] else f"a line through batches {', '.join(durations)}"
                count = measured_steps({key: durations})
                return (found[0], found[0]), sources.add("measured", f"{key}, {how}, {count} steps; {result.label}")
    return _roofline(device, batch, precision, parameters, results, sources)


def _roofline(
    device: Device, batch: int, precision: str, parameters: int, results: Sequence[Result], sources: Sources
) -> tuple[Range, str]:
    """Least work at the device's limits, over the share of them that a measured step reached."""
    dtype, width = PRECISIONS[precision]
    reached = nearest_share(device, batch, dtype, results)
    share, here = reached.share, reached.result.folder == device.folder
    work = counts.mol_released(batch, FRAMES, parameters, training=True)
    slow, fast = (max(work.seconds_at(rate, device.bandwidth, width)) for rate in device.flops[precision])
    low = share if here else share * OTHER_SHARE
    marks = [
        sources.add("counted", f"least work of a step: {work.flops / 1e12:.3g} TFLOP, {work.elements:.3g} elements"),
        sources.add("measured" if "limits in" in device.source else "datasheet, not measured", _limits(device)),
        sources.add(
            "measured",
            f"{reached.contender} {reached.dtype} at batch {reached.batch} reaches {100 * share:.0f} % of that "
            f"machine's limit; {reached.result.label}",
        ),
    ]
    if not here or (reached.batch, reached.dtype) != (batch, dtype):
        marks.append(
            sources.add(
                "assumed",
                f"{_range((low, share), 100, '%')} of the limit here as well, which has not been measured; launches "
                "and traffic of the many small maps may well keep a GPU below the slow end",
            )
        )
    if len(set(device.flops[precision])) > 1:
        marks.append(sources.add("assumed", "float32 between IEEE (slow end) and TF32 (fast end) arithmetic"))
    return (fast / share, slow / low), "".join(marks)


@dataclass(frozen=True)
class Reached:
    """A measured share of the roofline, and what reached it."""

    share: float
    contender: str
    dtype: str
    batch: int
    result: Result


def nearest_share(device: Device, batch: int, dtype: str, results: Sequence[Result]) -> Reached:
    """The share of the measurement most like what is planned: its device, then precision, then batch, then the newest.

    Raises:
        PlanError: no training step of the network has been measured.
    """
    reached = [
        Reached(share, contender, kind, size, result)
        for result in results
        for kind in {dtype: 0, "float32": 0}
        for contender in OWN
        for size, share in result.shares(contender, kind).items()
    ]
    if not reached:
        raise PlanError(f"no format-2 results with a training step of the network: {MAKE_RESULTS}")
    return min(
        reached, key=lambda r: (r.result.folder != device.folder, r.dtype != dtype, abs(math.log(r.batch / batch)))
    )


def _limits(device: Device) -> str:
    rates = ", ".join(
        f"{key}: {' to '.join(f'{rate / 1e12:.4g}' for rate in sorted(set(pair)))} TFLOP/s"
        for key, pair in device.flops.items()
    )
    return f"{device.source}: {device.bandwidth / 1e9:.4g} GB/s, dense {rates}"


def forward_clip(
    device: Device, step: Range, batch: int, precision: str, results: Sequence[Result], sources: Sources
) -> tuple[Range, str]:
    """Seconds of the forward pass of one clip: measured, or a third of a step's as the least work is."""
    dtype, _ = PRECISIONS[precision]
    for result in (r for r in results if r.folder == device.folder):
        for contender in OWN:
            rows = result.rows("forward", contender, dtype)
            if rows:
                size = max(rows)
                seconds = rows[size]["seconds"][1] / size
                text = f"forward pass, {contender} {dtype} at batch {size}; {result.label}"
                return (seconds, seconds), sources.add("measured", text)
    mark = sources.add("assumed", "a forward pass takes a third of a step of the same clips, as its products do")
    return (step[0] / 3 / batch, step[1] / 3 / batch), mark


@cache
def held_bytes(variant: str, batch: int) -> tuple[int, int]:
    """Parameters, and bytes that autograd holds between forward and backward pass, counted on the meta device."""
    with torch.device("meta"):
        model = MOL(num_classes=5, variant=variant, dropout=0.0)
        data = random_batch(batch).to("meta")
    parameters = {p.untyped_storage()._cdata for p in model.parameters()}
    held: dict[int, torch.Tensor] = {}  # the tensors too: a freed storage's address may be given again

    def hold(tensor: torch.Tensor) -> torch.Tensor:
        held.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        MOLLoss(*LOSS_WEIGHTS)(model(data.clips), data)
    saved = sum(tensor.untyped_storage().nbytes() for address, tensor in held.items() if address not in parameters)
    return sum(p.numel() for p in model.parameters()), saved


def peak_memory(
    device: Device, batch: int, precision: str, variant: str, results: Sequence[Result], sources: Sources
) -> tuple[Range, str]:
    """Peak bytes of a training step: measured at batch sizes around it, or counted."""
    dtype, _ = PRECISIONS[precision]
    for result in (r for r in results if r.folder == device.folder):
        for contender in OWN:
            peaks = result.peaks(contender, dtype)
            if peaks:
                kind = "torch's allocator" if result.on_gpu else "resident set of the whole process"
                text = f"peak ({kind}) of {contender} {dtype} at batch {' and '.join(peaks)}; {result.label}"
                mark = sources.add("measured", text)
                if len(peaks) == 1 and str(batch) not in peaks:
                    mark += sources.add(
                        "counted",
                        "what a further clip holds for the backward pass, "
                        f"{_clip_bytes() / 2**20:.0f} MiB with workspaces",
                    )
                peak = grown_peak(batch, peaks)
                return (peak, peak), mark
    parameters, saved = held_bytes(variant, batch)
    marks = [
        sources.add(
            "counted",
            f"16 bytes for each of {parameters / 1e6:.1f} million parameters (weight, gradient, two "
            f"moments), and {saved / 2**20:.0f} MiB held for the backward pass",
        ),
        sources.add(
            "assumed",
            "up to a third more for workspaces and gradients of maps, as measured on a CPU; in "
            "bfloat16 as much as in float32; the CUDA context comes on top",
        ),
    ]
    least = 16 * parameters + saved
    return (least, least * OVER_SAVED), "".join(marks)


def grown_peak(batch: int, peaks: Mapping[str, Sequence[float]]) -> float:
    """Peak bytes at a batch size: the measured one, a line through two or more, or from one by what a clip holds."""
    found = step_seconds(batch, peaks)
    if found:
        return found[0]
    ((size, (peak,)),) = peaks.items()
    return peak + (batch - int(size)) * _clip_bytes()


def _clip_bytes() -> float:
    return OVER_SAVED * (held_bytes("released", 2)[1] - held_bytes("released", 1)[1])


def fold_waves(folds: int, devices: int) -> int:
    """Folds that the busiest device runs one after another."""
    return math.ceil(folds / devices)


@dataclass(frozen=True)
class Estimate:
    """Ranges of one run, fast and slow end, in seconds and bytes, with the marks of their sources."""

    step: Range
    peak: Range
    resident: Range
    evaluation: Range
    fold: Range
    labels: Range
    marks: Mapping[str, str]


def estimate(
    arguments: argparse.Namespace,
    dataset: Dataset,
    folds: int,
    device: Device,
    results: Sequence[Result],
    sources: Sources,
) -> Estimate:
    """Everything that a run takes on one device."""
    batch, precision = arguments.batch, arguments.precision
    parameters, _ = held_bytes(arguments.variant, 1)
    step, step_marks = training_step(device, batch, precision, parameters, results, sources)
    forward, forward_marks = forward_clip(device, step, batch, precision, results, sources)
    peak, peak_marks = peak_memory(device, batch, precision, arguments.variant, results, sources)
    rows = (dataset.clips, dataset.most_subclips)
    subclips = sources.add(
        "assumed",
        f"{rows[0]} to {rows[1]} sub-clips, length // 8 of each clip, which takes 8 frames at least and half a second "
        "at most",
    )
    labels = sources.add(
        "assumed",
        "on one core 55 to 190 ms a pair for TV-L1 (7 a sub-clip), 32 to 132 ms a frame for detection and landmarks "
        "(8 a sub-clip; the slow end detects in frames enlarged twice)",
    )
    low, high = (
        (count * ((FRAMES - 1) * pair + FRAMES * face), count * CLIP_BYTES, count * seconds)
        for count, pair, face, seconds in zip(rows, TVL1, LANDMARKS, forward, strict=True)
    )
    return Estimate(
        step=step,
        peak=peak,
        resident=(low[1], high[1]),
        evaluation=(low[2], high[2]),
        fold=(arguments.steps * step[0] + low[2] / folds, arguments.steps * step[1] + high[2] / folds),
        labels=(low[0], high[0]),
        marks={
            "step": step_marks,
            "peak": peak_marks,
            "rows": subclips,
            "evaluation": forward_marks + subclips,
            "labels": labels + subclips,
        },
    )


def plan(arguments: argparse.Namespace, results: Sequence[Result]) -> str:
    """The whole estimate as Markdown.

    Raises:
        PlanError: an unknown data set or device, a data set whose people are not known, no results to go by.
    """
    sources = Sources()
    dataset, folds = find_dataset(arguments.dataset, arguments.folds)
    device = find_device(arguments.device, results)
    e = estimate(arguments, dataset, folds, device, results, sources)
    _remarks(arguments.variant, sources)
    rates = _range((1 / e.step[1], 1 / e.step[0]), 1, "steps/s")
    rows = [
        ("training step", f"{_time(e.step)}; {rates}", e.marks["step"]),
        ("its peak memory", _range(e.peak, 2**-30, "GiB") + _fits(device, e.peak[1] + e.resident[1]), e.marks["peak"]),
        ("data set resident beside it", _range(e.resident, 2**-30, "GiB"), e.marks["rows"]),
        ("one fold", _time(e.fold), ""),
        ("in all folds together, every held-out clip once", _time(e.evaluation), e.marks["evaluation"]),
        ("once before: labels (TV-L1, dlib)", _range(e.labels, 1 / 3600, "core-hours"), e.marks["labels"]),
    ]
    waves = [(devices, fold_waves(folds, devices)) for devices in arguments.devices]
    return "\n".join(
        [
            f"**{arguments.dataset} ({dataset.protocol}): leave one subject out, {folds} folds × {arguments.steps} "
            f"steps of {arguments.batch} clips, variant {arguments.variant}, precision {arguments.precision}, on "
            f"{arguments.device}**",
            "",
            "| | | from |",
            "|---|---|---|",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            "| devices | folds one after another | time |",
            "|---|---|---|",
            *(f"| {n} | {k} | {_time((k * e.fold[0], k * e.fold[1]))} |" for n, k in waves),
            "",
            *(f"{i}. {line}" for i, line in enumerate(sources.lines, 1)),
        ]
    )


def find_dataset(name: str, folds: int | None) -> tuple[Dataset, int]:
    """A data set and its number of folds, which `folds` overrides.

    Raises:
        PlanError: an unknown name, or a number of people that is neither known nor given.
    """
    if name not in DATASETS:
        raise PlanError(f"data set {name!r} is not known; choose from {', '.join(DATASETS)}")
    dataset = DATASETS[name]
    people = folds or dataset.people
    if people is None:
        raise PlanError(
            f"{name}: {dataset.clips} clips ({dataset.protocol}) are known, the number of people is not; "
            "give it with --folds"
        )
    return dataset, people


def _remarks(variant: str, sources: Sources) -> None:
    sources.add(
        "assumed",
        "folds are independent, each on one device; as many data loaders as devices cost nothing, "
        "because crops are cut on the device",
    )
    sources.add("assumed", "left out: start-up, compilation, checkpoints, looks at held-out clips during training")
    if variant != "released":
        p, c = 16 * 16, 128
        position, channel = (counts.ccc(1, c, p, 4, graph, training=False).flops for graph in ("position", "channel"))
        clip = counts.mol_released(1, FRAMES, 0, training=False).flops
        less = 2 * (FRAMES - 1) * (position - channel) / clip
        sources.add(
            "assumed",
            f"as long as the released variant, which was counted and measured; the graph between "
            f"channels has {100 * less:.0f} % less of the network's work",
        )


def _range(values: Sequence[float], scale: float, unit: str) -> str:
    low, high = (f"{value * scale:.3g}" for value in values)
    return f"{low if low == high else f'{low} to {high}'} {unit}".rstrip()


def _time(seconds: Range) -> str:
    unit = next(
        (size, name)
        for size, name in ((3600, "hours"), (60, "minutes"), (1, "s"), (1e-3, "ms"))
        if seconds[1] >= size or name == "ms"
    )
    return _range(seconds, 1 / unit[0], unit[1])


def _fits(device: Device, needed: float) -> str:
    if device.memory is None:
        return ""
    verdict = "fits" if needed < device.memory else "**does not fit: take a smaller --batch**"
    return f" of {device.memory / 2**30:.3g} GiB, with the data set {verdict}"


def check(results: Sequence[Result]) -> list[tuple[str, float, float]]:
    """What was predicted and what was measured of the largest batch: step and peak by lines through the smaller ones,
    and the step from its least work and the share of the limit that the next smaller batch reached.

    Returns:
        (what, predicted, measured) of each prediction that the files allow.
    """
    found = []
    for result in (r for r in results if "loso" in r.data):
        for key, by_batch in result.data["loso"]["durations"].items():
            done = {size: list(d) for size, d in by_batch.items() if d}
            if done:
                found += _check_step(result, key, done)
    for folder in dict.fromkeys(r.folder for r in results if r.data.get("memory")):
        newest = next(r for r in results if r.folder == folder and r.data.get("memory"))
        for contender, dtype in dict.fromkeys((row["contender"], row["dtype"]) for row in newest.data["memory"]):
            found += _check_peak(newest, contender, dtype)
    return found


def _check_step(result: Result, key: str, done: dict[str, list[float]]) -> list[tuple[str, float, float]]:
    largest = max(done, key=int)
    measured = statistics.median(done.pop(largest))
    what = f"{result.label}: {key}, s at batch {largest} from"
    found = []
    line = fit_line(done)
    if line:
        found.append((f"{what} {', '.join(done)}", line[0] + line[1] * int(largest), measured))
    if done:
        contender, dtype = key.rsplit("-", 1)
        nearest = max(map(int, done))
        share = result.shares(contender, dtype)[nearest]
        least = result.least_seconds(int(largest), dtype)
        found.append((f"{what} roofline × share at batch {nearest}", least / share, measured))
    return found


def _check_peak(result: Result, contender: str, dtype: str) -> list[tuple[str, float, float]]:
    peaks = result.peaks(contender, dtype)
    if len(peaks) < 2 or (len(peaks) == 2 and contender == PUBLISHED):
        return []  # what a clip holds is counted for our own form only
    largest = max(peaks, key=int)
    ((measured,), rest) = peaks.pop(largest), ", ".join(peaks)
    what = f"{result.label}: {contender}-{dtype}, peak MiB at batch {largest} from {rest}"
    return [(what, grown_peak(int(largest), peaks) / 2**20, measured / 2**20)]


def check_report(checks: Sequence[tuple[str, float, float]]) -> tuple[str, bool]:
    """The checks as a Markdown table, and whether all are within 20 %."""
    lines = ["| prediction | predicted | measured | off by |", "|---|---|---|---|"]
    lines += [f"| {what} | {p:.4g} | {m:.4g} | {100 * (p / m - 1):+.1f} % |" for what, p, m in checks]
    return "\n".join(lines), all(abs(p / m - 1) <= AGREES for _, p, m in checks)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench.plan", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dataset", default="casme2", help=", ".join(DATASETS))
    parser.add_argument("--protocol", choices=("loso",), default="loso", help="leave one subject out")
    parser.add_argument("--device", default="cpu", help=f'{", ".join(DATASHEETS)}, "cpu" or a folder of results')
    parser.add_argument("--devices", nargs="+", type=_positive, default=[1, 2, 4, 8], help="numbers of devices")
    parser.add_argument("--variant", choices=("released", "paper"), default="released")
    parser.add_argument("--batch", type=_positive, default=32, help="clips a step")
    parser.add_argument("--steps", type=_positive, default=1000, help="steps a fold")
    parser.add_argument("--folds", type=_positive, help="people, where the protocol's number is not known")
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="32")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of saved measurements")
    parser.add_argument("--check", nargs="*", type=Path, metavar="FILE", help="hold predictions against measurements")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 1 on")
    return int(text)


def main(argv: Sequence[str]) -> int:
    """Print an estimate, or with --check how far predictions are off: status 1 where one is off by more than 20 %."""
    arguments = _arguments(argv)
    torch.set_num_threads(available_cores())  # results folders of processors are named by their threads
    try:
        results = load_results(arguments.check or sorted(arguments.results.glob("*/*.json")))
        if arguments.check is None:
            print(plan(arguments, results))
            return 0
        checks = check(results)
        if not checks:
            raise PlanError(
                f"nothing to check: it takes a loso file with three batch sizes, or memory rows of two; {MAKE_RESULTS}"
            )
    except PlanError as error:
        print(error, file=sys.stderr)
        return 2
    text, agrees = check_report(checks)
    print(text)
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
