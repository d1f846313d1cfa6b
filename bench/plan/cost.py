"""The cost model: seconds and bytes of a training step, and of the whole run made of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from bench.hours import Durations, measured_steps, step_seconds
from bench.machine import BYTES_PER_ELEMENT
from bench.network import FRAMES
from bench.plan.counted import OVER_SAVED, clip_bytes, held_bytes, training_work
from bench.plan.datasets import DataSet
from bench.plan.devices import PRECISIONS, Device
from bench.plan.measured import BACKENDS, Measured, nearest_share
from bench.plan.sources import Range, Sources
from bench.tables import digits, span
from mol.data.cache import row_bytes

OTHER_SHARE = 0.5  # a device without measurements reaches at least this part of another device's share of the roofline
TVL1 = (0.055, 0.190)  # core-seconds for a pair of frames
LANDMARKS = (0.032, 0.132)  # core-seconds for detection and landmarks in a frame


@dataclass(frozen=True)
class Settings:
    """The runs to plan on one device.

    Attributes:
        batch: clips per step.
        steps: steps per fold.
        folds: people who are held out in turn.
        precision: a key of `PRECISIONS`.
        variant: "released" or "paper".
    """

    batch: int = 32
    steps: int = 1000
    folds: int = 1
    precision: str = "32"
    variant: str = "released"

    @property
    def dtype(self) -> str:
        """torch's name of the precision."""
        return PRECISIONS[self.precision]


@dataclass(frozen=True)
class Estimate:
    """Ranges of one run, fast and slow end, in seconds and bytes, with the marks of their sources by field."""

    step: Range
    peak: Range
    resident: Range
    evaluation: Range
    fold: Range
    labels: Range
    marks: Mapping[str, str]


def estimate(
    settings: Settings, dataset: DataSet, device: Device, results: Sequence[Measured], sources: Sources
) -> Estimate:
    """The cost of a run on one device.

    Raises:
        SettingsError: no training step of the network has been measured anywhere.
    """
    step, step_marks = training_step(settings, device, results, sources)
    forward, forward_marks = forward_clip(settings, device, step, results, sources)
    peak, peak_marks = peak_memory(settings, device, results, sources)
    rows = (dataset.clips, dataset.most_subclips)
    subclips = sources.add(
        "assumed", f"{rows[0]} to {rows[1]} sub-clips: length // 8 of each clip, which lasts 8 frames to half a second"
    )
    labels = sources.add(
        "assumed",
        "on one core, 55 to 190 ms per pair for TV-L1 (7 per sub-clip) and 32 to 132 ms per frame for detection and "
        "landmarks (8 per sub-clip; the slow end detects in frames enlarged twice)",
    )
    low, high = (
        (count * ((FRAMES - 1) * pair + FRAMES * face), count * row_bytes(FRAMES), count * seconds)
        for count, pair, face, seconds in zip(rows, TVL1, LANDMARKS, forward, strict=True)
    )
    training = [settings.steps * seconds for seconds in step]
    return Estimate(
        step=step,
        peak=peak,
        resident=(low[1], high[1]),
        evaluation=(low[2], high[2]),
        fold=(training[0] + low[2] / settings.folds, training[1] + high[2] / settings.folds),
        labels=(low[0], high[0]),
        marks={
            "step": step_marks,
            "peak": peak_marks,
            "resident": subclips,
            "evaluation": forward_marks + subclips,
            "labels": labels + subclips,
        },
    )


# Time


def training_step(
    settings: Settings, device: Device, results: Sequence[Measured], sources: Sources
) -> tuple[Range, str]:
    """Seconds of a training step, fast and slow end, and the marks of their sources."""
    batch, measured = settings.batch, measured_durations(settings, device, results)
    if measured is None:
        return _roofline(settings, device, results, sources)
    result, key, durations = measured
    seconds, own = cast(tuple[float, bool], step_seconds(batch, durations))
    how = f"steps at batch {batch}" if own else f"a line through batches {', '.join(durations)}"
    count = measured_steps({key: durations})
    return (seconds, seconds), sources.add("measured", f"{key}, {how}, {count} steps; {result.label}")


def measured_durations(
    settings: Settings, device: Device, results: Sequence[Measured]
) -> tuple[Measured, str, Durations] | None:
    """The device's newest measured steps that give one of this batch size: the result, the contender, the seconds."""
    for result in (r for r in results if r.folder == device.folder):
        for key in (f"{name}-{settings.dtype}" for name in BACKENDS):
            durations = result.durations.get(key, {})
            if step_seconds(settings.batch, durations):
                return result, key, durations
    return None


def _roofline(settings: Settings, device: Device, results: Sequence[Measured], sources: Sources) -> tuple[Range, str]:
    """The least work at the device's limits, over the share of them that a measured step reached."""
    batch, dtype = settings.batch, settings.dtype
    reached = nearest_share(device.folder, batch, dtype, results)
    share, same_device = reached.share, reached.result.folder == device.folder
    work = training_work(batch, settings.variant)
    width = BYTES_PER_ELEMENT[dtype]
    slow, fast = (max(work.seconds_at(rate, device.bandwidth, width)) for rate in device.flops[settings.precision])
    low = share if same_device else share * OTHER_SHARE
    marks = [
        sources.add("counted", f"least work of a step: {work.flops / 1e12:.3g} TFLOP, {work.elements:.3g} elements"),
        sources.add("measured" if device.measured else "datasheet, not measured", device.limits()),
        sources.add(
            "measured",
            f"{reached.contender} {reached.dtype} at batch {reached.batch} reaches {100 * share:.0f} % of that "
            f"machine's limit; {reached.result.label}",
        ),
    ]
    if not same_device or (reached.batch, reached.dtype) != (batch, dtype):
        marks.append(
            sources.add(
                "assumed",
                f"{span((100 * low, 100 * share), '%')} of the limit here, which has not been measured; kernel "
                "launches and the traffic of many small maps may keep a GPU below the slow end",
            )
        )
    if len(set(device.flops[settings.precision])) > 1:
        marks.append(sources.add("assumed", "float32 between IEEE (slow end) and TF32 (fast end) arithmetic"))
    return (fast / share, slow / low), "".join(marks)


def forward_clip(
    settings: Settings, device: Device, step: Range, results: Sequence[Measured], sources: Sources
) -> tuple[Range, str]:
    """Seconds of a clip's forward pass: measured, or a third of a training step, as for the least work."""
    found = _newest(device, results, lambda result, name: result.rows("forward", name, settings.dtype))
    if found is None:
        mark = sources.add("assumed", "a forward pass takes a third of a training step, as its products do")
        return (step[0] / 3 / settings.batch, step[1] / 3 / settings.batch), mark
    result, contender, rows = found
    size = max(rows)
    seconds = rows[size]["seconds"][1] / size
    text = f"forward pass, {contender} {settings.dtype} at batch {size}; {result.label}"
    return (seconds, seconds), sources.add("measured", text)


def _newest(
    device: Device, results: Sequence[Measured], find: Callable[[Measured, str], dict[Any, Any]]
) -> tuple[Measured, str, dict[Any, Any]] | None:
    """The newest result of the device, and its first backend, for which `find(result, backend)` has entries."""
    for result in (r for r in results if r.folder == device.folder):
        for contender in BACKENDS:
            found = find(result, contender)
            if found:
                return result, contender, found
    return None


# Memory


def peak_memory(settings: Settings, device: Device, results: Sequence[Measured], sources: Sources) -> tuple[Range, str]:
    """Peak bytes of a training step: measured at batch sizes around it, or counted."""
    batch, dtype = settings.batch, settings.dtype
    found = _newest(device, results, lambda result, name: result.peaks(name, dtype))
    if found is None:
        return _counted_memory(settings, sources)
    result, contender, peaks = found
    kind = "torch's allocator" if result.on_gpu else "resident set of the whole process"
    text = f"peak ({kind}) of {contender} {dtype} at batch {' and '.join(peaks)}; {result.label}"
    mark = sources.add("measured", text)
    if len(peaks) == 1 and str(batch) not in peaks:
        text = f"what each further clip holds for the backward pass, {digits(clip_bytes() / 2**20)} MiB with workspaces"
        mark += sources.add("counted", text)
    peak = grown_peak(batch, peaks)
    return (peak, peak), mark


def _counted_memory(settings: Settings, sources: Sources) -> tuple[Range, str]:
    parameters, saved = held_bytes(settings.variant, settings.batch)
    marks = [
        sources.add(
            "counted",
            f"16 bytes for each of {parameters / 1e6:.1f} million parameters (weight, gradient, two moments), and "
            f"{saved / 2**20:.0f} MiB held for the backward pass",
        ),
        sources.add(
            "assumed",
            "up to a third more for workspaces and gradients of maps, as measured on a CPU; as much in bfloat16 as in "
            "float32; not including the CUDA context",
        ),
    ]
    least = 16 * parameters + saved
    return (least, least * OVER_SAVED), "".join(marks)


def grown_peak(batch: int, peaks: Mapping[str, Sequence[float]]) -> float:
    """Peak bytes at a batch size: the measured peak, a line through two or more, or one plus `clip_bytes` per clip."""
    found = step_seconds(batch, peaks)
    if found:
        return found[0]
    ((size, (peak,)),) = peaks.items()
    return peak + (batch - int(size)) * clip_bytes()
