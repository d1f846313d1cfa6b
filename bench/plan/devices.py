"""Limits of devices: from NVIDIA's datasheets, or as measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench import machine
from bench.plan.measured import MAKE_RESULTS, Measured
from bench.plan.sources import Range
from bench.tables import span
from mol.common.errors import SettingsError

PRECISIONS = {"32": "float32", "bf16": "bfloat16"}  # by the name of --precision


@dataclass(frozen=True)
class Device:
    """Limits of a device.

    Attributes:
        flops: FLOP/s by precision, on the slowest and the fastest arithmetic that it may run on.
        bandwidth: bytes/s of its memory.
        memory: bytes of its memory; None if unknown.
        source: where the limits are from.
        folder: name of its folder of results.
        measured: whether the limits were measured.
        link: preset of the link between devices of one machine.
    """

    flops: Mapping[str, Range]
    bandwidth: float
    memory: float | None
    source: str
    folder: str
    measured: bool = False
    link: str = "pcie4"

    def limits(self) -> str:
        """Its limits in words, with their source."""
        rates = ", ".join(f"{key}: {span([r / 1e12 for r in pair], 'TFLOP/s')}" for key, pair in self.flops.items())
        return f"{self.source}: {self.bandwidth / 1e9:.4g} GB/s, dense {rates}"


def _datasheet(
    fp32: float, tf32: float, bf16: float, bandwidth: float, memory: int, source: str, name: str, link: str = "pcie4"
) -> Device:
    """A GPU by its dense TFLOP/s, GB/s and GB; float32 runs between IEEE and TF32, torch's default in convolutions."""
    flops = {"32": (fp32 * 1e12, tf32 * 1e12), "bf16": (bf16 * 1e12, bf16 * 1e12)}
    folder = machine.slug(f"NVIDIA {name}")
    return Device(flops, bandwidth * 1e9, memory * 1e9, f"NVIDIA {source}", folder, link=link)


_GA102, _ADA = "Ampere GA102 GPU Architecture whitepaper", "Ada GPU Architecture whitepaper"
DATASHEETS = {
    "h100-sxm": _datasheet(
        67, 494.7, 989.4, 3350, 80, "H100 Tensor Core GPU datasheet (SXM)", "H100 80GB HBM3", "nvlink4"
    ),
    "h100-pcie": _datasheet(51, 378, 756, 2000, 80, "H100 Tensor Core GPU datasheet (PCIe)", "H100 PCIe", "pcie5"),
    "h200": _datasheet(67, 494.7, 989.4, 4800, 141, "H200 Tensor Core GPU datasheet (SXM)", "H200", "nvlink4"),
    "a100-40gb": _datasheet(
        19.5, 156, 312, 1555, 40, "A100 Tensor Core GPU datasheet (SXM4 40 GB)", "A100-SXM4-40GB", "nvlink3"
    ),
    "a100-80gb": _datasheet(
        19.5, 156, 312, 2039, 80, "A100 Tensor Core GPU datasheet (SXM4 80 GB)", "A100-SXM4-80GB", "nvlink3"
    ),
    "l40s": _datasheet(91.6, 183, 362.05, 864, 48, "L40S datasheet", "L40S"),
    "rtx-4090": _datasheet(82.6, 82.6, 165.2, 1008, 24, _ADA, "GeForce RTX 4090"),
    "rtx-3090": _datasheet(35.6, 35.6, 71.2, 936, 24, _GA102, "GeForce RTX 3090"),
}
ALIASES = {"h100": "h100-sxm", "a100": "a100-80gb"}


def find_device(name: str, results: Sequence[Measured]) -> Device:
    """A device of the datasheets, "cpu" for this machine, or a measured one by the name of its folder of results.

    Raises:
        SettingsError: the device is unknown; the message lists what is known.
    """
    name = ALIASES.get(name, name)
    if name in DATASHEETS:
        return DATASHEETS[name]
    folder = machine.slug(machine.processor_name()) if name == "cpu" else name
    for result in results:
        if result.folder == folder and "limits" in result.data:
            limits, rates = result.data["limits"], result.data["limits"]["gemm"]
            flops = {key: (rates[dtype], rates[dtype]) for key, dtype in PRECISIONS.items()}
            source = f"limits in {result.label}"
            return Device(flops, limits["copy"]["bytes_per_second"], None, source, folder, measured=True)
    measured = ", ".join(sorted({result.folder for result in results})) or "none"
    known = ", ".join([*DATASHEETS, *ALIASES])
    raise SettingsError(
        f"device {name!r} ({folder}) has neither results nor a datasheet here. Datasheets: {known}. "
        f"Measured: {measured}. To add results, {MAKE_RESULTS} on it"
    )
