"""The machine that a result was measured on, and its limits, measured in the same run."""

import platform
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import torch

from bench.timing import quantiles, time_interleaved
from mol.common.environment import processor, versions

ROOT = Path(__file__).resolve().parent.parent
DTYPES = ("float32", "bfloat16")  # what is measured
TF32 = "tf32"  # float32 tensors whose products may be computed in TF32: a precision of its own
BYTES_PER_ELEMENT = {"float32": 4, "bfloat16": 2, TF32: 4}
COPY_ELEMENTS = 32 * 2**20  # 128 MiB of float32: far beyond any cache
GEMM_SIDE, GPU_GEMM_SIDE = 2048, 8192
GAUGE_ELEMENTS, GAUGE_SIDE = 16 * 2**20, 1024
# Flags of /proc/cpuinfo that tell generations of processors apart; those of AVX2 and NEON go without saying.
_BEYOND_COMMON = {"AVX-512": "avx512f", "SVE": "sve", "bfloat16": "avx512_bf16|amx_bf16|bf16", "AMX": "amx_tile"}
_AARCH64 = ("aarch64", "arm64")


def describe(device: str = "cpu") -> dict[str, object]:
    """Device, versions, date and commit of this run, as JSON values."""
    found = versions()
    return {
        "device": processor_name() if device == "cpu" else torch.cuda.get_device_name(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": found["python"],
        "torch": found["torch"],
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        **({} if device == "cpu" else {"capability": _gpu_capability(), **gpu_state()}),
    }


def class_of(about: Mapping[str, object]) -> str:
    """The machine class of `describe`'s answer: what two results must share for their times to be comparable.

    The device, which for a processor has its instruction sets and threads in its name, and what PyTorch uses of it.
    """
    used = about.get("capability") or about.get("cpu_capability")  # of a GPU, or of a processor
    return f"{about['device']}{f' [{used}]' if used else ''}"


def _gpu_capability() -> str:
    return ".".join(map(str, torch.cuda.get_device_capability()))


def gpu_state() -> dict[str, str]:
    """Driver, clocks and power limit of the first CUDA device, as nvidia-smi reports them."""
    fields = ("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.limit")
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        return {"nvidia-smi": f"no answer: {error}"}
    return dict(zip(fields, (value.strip() for value in done.stdout.split(",")), strict=True))


def processor_name() -> str:
    """Model, instruction sets and threads in use: "AMD EPYC (AVX-512, bfloat16), 2 threads".

    Cloud providers give several generations of a processor the same model name; the instruction sets tell them apart.
    """
    cpuinfo = Path("/proc/cpuinfo")
    sets = ", ".join(instruction_sets(cpuinfo.read_text() if cpuinfo.exists() else "", platform.machine()))
    return f"{processor()}{f' ({sets})' if sets else ''}, {torch.get_num_threads()} threads"


def instruction_sets(cpuinfo: str, architecture: str) -> list[str]:
    """AArch64 by name, and what a processor has beyond AVX2 or NEON, by the flags in its /proc/cpuinfo."""
    found = [what for what, flags in _BEYOND_COMMON.items() if re.search(rf"\b({flags})\b", cpuinfo)]
    return ["AArch64", *found] if architecture in _AARCH64 else found


def fewer_threads(threads: int) -> list[int]:
    """The numbers of threads that a sweep adds below `threads`: powers of two."""
    return [2**power for power in range(threads.bit_length()) if 2**power < threads]


def slug(text: str) -> str:
    """A name that is safe in a path: lower case, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def commit() -> str:
    """The short hash of the checkout's commit, followed by "-dirty" if tracked files differ from it."""
    hash_ = _git("rev-parse", "--short", "HEAD")
    if not hash_:
        return "uncommitted"
    return f"{hash_}-dirty" if _git("status", "--porcelain", "--untracked-files=no") else hash_


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def computes_in_bfloat16(device: str) -> bool:
    """Whether torch's own products in bfloat16 use bfloat16 instructions.

    Otherwise they are emulated value by value, hundreds of times more slowly than float32, and not worth measuring.
    """
    if device == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return torch.cuda.is_bf16_supported(including_emulation=False)


def torch_dtypes(device: str) -> tuple[str, ...]:
    """The dtypes in which PyTorch's own operators are measured: bfloat16 only where it is not emulated."""
    return DTYPES if computes_in_bfloat16(device) else DTYPES[:1]


class Moment(NamedTuple):
    """What the machine could do in one round."""

    flops_per_second: float
    bytes_per_second: float


class Gauge:
    """A float32 product and a copy that are timed in every round together with the contenders.

    A machine's limits change by the minute with its clock and its other tenants.
    """

    def __init__(self, device: str) -> None:
        self.side = GAUGE_SIDE if device == "cpu" else GPU_GEMM_SIDE
        matrix = torch.randn(self.side, self.side, device=device)
        self.source, target = torch.randn(GAUGE_ELEMENTS, device=device), torch.empty(GAUGE_ELEMENTS, device=device)
        self.runs: dict[str, Callable[[], object]] = {
            "gauge-gemm": lambda: torch.mm(matrix, matrix),
            "gauge-copy": lambda: target.copy_(self.source),
        }
        for run in self.runs.values():
            run()

    def take(self, times: dict[str, list[float]]) -> list[Moment]:
        """Remove the gauge's own times from `times`; returns the limits round by round."""
        rounds = zip(times.pop("gauge-gemm"), times.pop("gauge-copy"), strict=True)
        return [Moment(2 * self.side**3 / gemm, 2 * self.source.nbytes / copy) for gemm, copy in rounds]


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Let the products of float32 tensors, convolutions too, be computed in TF32 if `precision` is that, else not."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == TF32 else "highest")
    torch.backends.cudnn.allow_tf32 = precision == TF32
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def measure_limits(device: str = "cpu", budget: float = 5.0) -> dict[str, dict[str, float]]:
    """The most that the hardware can do, measured with `torch.copy_` and `torch.mm`.

    Returns:
        {"copy": {"bytes_per_second": bytes/s}, "gemm": {"float32": FLOP/s, "bfloat16": FLOP/s}}, on a GPU also "tf32";
        a copy of n bytes
        counts as 2 n (one read, one write). The limit is the 0.2 quantile of the times. If bfloat16 is emulated, its
        limit is that of float32, which kernels convert to.
    """
    source, target = torch.randn(COPY_ELEMENTS, device=device), torch.empty(COPY_ELEMENTS, device=device)
    side = GEMM_SIDE if device == "cpu" else GPU_GEMM_SIDE
    a = {name: torch.randn(side, side, device=device).to(getattr(torch, name)) for name in torch_dtypes(device)}
    runs = {name: lambda matrix=matrix: torch.mm(matrix, matrix) for name, matrix in a.items()}
    runs["copy"] = lambda: target.copy_(source)
    if device == "cuda":
        runs[TF32] = lambda: _tf32_product(a["float32"])
    times = time_interleaved(runs, budget, device=device)
    fast = {name: quantiles(seconds)[0] for name, seconds in times.items()}
    moved = 2 * source.nbytes
    return {
        "copy": {"bytes_per_second": moved / fast["copy"]},
        "gemm": {
            name: 2 * side**3 / fast.get(name, fast["float32"]) for name in (*DTYPES, *([TF32] if TF32 in runs else []))
        },
    }


def _tf32_product(a: torch.Tensor) -> torch.Tensor:
    with products(TF32):
        return torch.mm(a, a)
