"""Registers, spills, shared memory and tensor-core use of every Triton kernel, read from the compiled code.

    python -m molkernels.triton.report                      every kernel, dtype and size, for every architecture
    python -m molkernels.triton.report --arch sm_90 --op fcc
    python -m molkernels.triton.report --tuned              the tile sizes that were measured on this machine

Compiles ahead of time and needs no GPU. Exits with 1 if a kernel spills registers, needs more shared memory than the
architecture has, or does not use tensor cores although its products could.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from molkernels.precision import tf32
from molkernels.triton import cost_volume, edge_max, f5c, fcc, interpreted, knn, tuning
from molkernels.triton.launch import Launch, recording

# The limit of shared memory per program, in bytes. The kernels keep to the first on every NVIDIA chip, so that they
# also run on consumer chips (sm_86, sm_89, sm_120).
SHARED_LIMIT = {"sm": 99 << 10, "gfx942": 64 << 10}

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}

# The precision of products: the dtype of the maps, and whether torch allows TF32.
PRECISIONS = {
    "float32": (torch.float32, False),
    "tf32": (torch.float32, True),
    "bfloat16": (torch.bfloat16, False),
    "float16": (torch.float16, False),
}
SIZES = (16, 8, 32)
BATCH, CHANNELS, NEIGHBOURS, GROUPS = 14, 128, 4, 7


@dataclass(frozen=True)
class Row:
    """The resource usage of one compiled kernel."""

    kernel: str
    architecture: str
    precision: str
    size: str
    warps: int
    registers: int
    spills: int  # bytes of local memory (NVIDIA) or spilled registers (AMD)
    shared: int
    matrix_instructions: int
    problem: str


def maps(dtype: torch.dtype, size: int, channels: int = CHANNELS) -> Tensor:
    return torch.empty(BATCH, channels, size, size, dtype=dtype, device="meta")


def _empty(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def _fcc(dtype: torch.dtype, size: int) -> None:
    x = maps(dtype, size)
    statistics = [_empty(GROUPS, CHANNELS, dtype=torch.float32)] * 2
    shapes = ((CHANNELS,),) * 2 + ((CHANNELS, size),) * 4 + ((CHANNELS,),) * 2
    parameters = [_empty(*shape, dtype=dtype) for shape in shapes]
    train: list[Any] = [x, *parameters, GROUPS, 1e-5, True]
    fcc.fcc_train(*train)
    backward: list[Any] = [x, x, *statistics, *parameters, 1e-5, True, True]
    fcc.fcc_backward(*backward)


def _knn(dtype: torch.dtype, size: int) -> None:
    nodes = maps(dtype, size).flatten(2)
    knn.knn(nodes, NEIGHBOURS)
    knn.knn(nodes.mT, NEIGHBOURS)


def _edge_max(dtype: torch.dtype, size: int) -> None:
    for channels in (CHANNELS, 2 * edge_max.MOST_CHANNELS_ON_CHIP):
        x = maps(dtype, size, channels).flatten(2)
        p = x.shape[2]
        weight, bias = _empty(p, p, dtype=dtype), _empty(p, dtype=dtype)
        for graph, nodes in (("channel", channels), ("position", p)):
            idx = _empty(BATCH, nodes, NEIGHBOURS, dtype=torch.int32)
            y, winner = edge_max.edge_max(x, idx, weight, bias, weight, bias, graph)
            edge_max.edge_max_backward(y, x, idx, weight, weight, y, winner, graph)


def _mix(dtype: torch.dtype, size: int) -> None:
    x = maps(dtype, size).flatten(2)
    f5c.mix(x, _empty(CHANNELS, CHANNELS, dtype=dtype), _empty(CHANNELS, dtype=dtype), x)


def _cost_volume(dtype: torch.dtype, size: int) -> None:
    a = maps(dtype, size, 2 * CHANNELS)
    out = cost_volume.cost_volume(a, a, 10, 10, 2, 0.1)
    cost_volume.cost_volume_backward(out, a, a, out, 10, 10, 2, 0.1)


OPERATORS: dict[str, Callable[[torch.dtype, int], None]] = {
    "fcc": _fcc,
    "knn": _knn,
    "edge_max": _edge_max,
    "f5c": _mix,
    "cost_volume": _cost_volume,
}


def launches(op: str, architecture: str, precision: str, size: int) -> list[Launch]:
    """The launches of `op` on maps of size × size, each kernel and set of constants once."""
    dtype, allowed = PRECISIONS[precision]
    with tf32(allowed), recording(architecture) as recorded:
        OPERATORS[op](dtype, size)
    return list({_compile_key(launch): launch for launch in recorded}.values())


def rows(op: str, architecture: str, precision: str, size: int) -> list[Row]:
    """Compile the launches of `op` and read their figures."""
    return [
        _row(launch, architecture, precision, f"{size}×{size}")
        for launch in launches(op, architecture, precision, size)
    ]


def _compile_key(launch: Launch) -> tuple[Any, ...]:
    return (launch.name, tuple(launch.constants.items()), tuple(map(_type, launch.arguments)))


def _row(launch: Launch, architecture: str, precision: str, size: str) -> Row:
    target = TARGETS[architecture]
    compiled = triton.compile(source(launch), target=target, options=launch.options)
    read = _nvidia_usage if target.backend == "cuda" else _amd_usage
    registers, spills, matrix_instructions = read(compiled)
    shared = int(compiled.metadata.shared)
    problems = []
    if spills:
        problems.append("spills")
    if shared > SHARED_LIMIT.get(architecture, SHARED_LIMIT["sm"]):
        problems.append("too much shared memory")
    if not matrix_instructions and expects_matrix_instructions(launch, precision):
        problems.append("no tensor cores")
    warps = launch.options["num_warps"]
    return Row(
        launch.name, architecture, precision, size, warps, registers, spills, shared, matrix_instructions,
        ", ".join(problems),
    )  # fmt: skip


def expects_matrix_instructions(launch: Launch, precision: str) -> bool:
    """Whether the kernel has products that tensor cores can compute: all except float32 at full precision."""
    return "PRECISION" in launch.constants and (
        precision in ("bfloat16", "float16") or launch.constants["PRECISION"] != "ieee"
    )


def source(launch: Launch) -> ASTSource:
    """The kernel as Triton specialises it for these arguments: multiples of 16 known as such, a 1 constant."""
    names = launch.kernel.arg_names
    signature: dict[str, str] = {}
    constants: dict[str, Any] = dict(launch.constants)
    attributes = {}
    for position, (name, value) in enumerate(zip(names, launch.arguments, strict=False)):
        signature[name] = _type(value)
        if signature[name] == "constexpr":
            constants[name] = value
        elif isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0):
            attributes[(position,)] = [["tt.divisibility", 16]]
    signature.update(dict.fromkeys(launch.constants, "constexpr"))
    return ASTSource(launch.kernel, {name: signature[name] for name in names}, constants, attributes)


_TYPES = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.uint8: "*u8",
}


def _type(value: Any) -> str:
    if isinstance(value, Tensor):
        return _TYPES[value.dtype]
    if isinstance(value, float):
        return "fp32"
    if value is None or value == 1:
        return "constexpr"
    return "i32" if abs(value) < 2**31 else "i64"


def _nvidia_usage(compiled: Any) -> tuple[int, int, int]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(compiled.asm["cubin"])
        text = subprocess.run(
            [_cuobjdump(), "-res-usage", str(path)], capture_output=True, text=True, check=True
        ).stdout
    registers, stack, local = (int(_found(f"{what}:(\\d+)", text)) for what in ("REG", "STACK", "LOCAL"))
    return (
        registers,
        stack + local,
        len(re.findall(r"\b(?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)", compiled.asm["ptx"])),
    )


def _amd_usage(compiled: Any) -> tuple[int, int, int]:
    text = compiled.asm["amdgcn"]
    spills = int(_found(r"\.vgpr_spill_count:\s*(\d+)", text))
    return int(_found(r"\.vgpr_count:\s*(\d+)", text)), spills, len(re.findall(r"\bv_s?mfmac?_|\bv_wmma_", text))


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"no {pattern!r} in the compiler's output: {text[:500]}")
    return match[1]


@functools.cache
def _cuobjdump() -> str:
    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return str(path) if path.exists() else "cuobjdump"


# --------------------------------------------------------------------------------------------------------------
# The table


def table(ops: list[str], architectures: list[str], precisions: list[str], sizes: list[int], jobs: int) -> list[Row]:
    """The rows of every combination, compiled by `jobs` processes."""
    work = [(op, a, p, s) for op in ops for s in sizes for a in architectures for p in precisions]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        return [row for part in pool.map(rows, *zip(*work, strict=True)) for row in part]


def markdown(found: list[Row]) -> str:
    """The rows as a Markdown table."""
    names = [field.name.replace("_", " ") for field in fields(Row)]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(str(getattr(row, field.name)) for field in fields(Row)) + " |" for row in found]
    return "\n".join(lines)


def tuned() -> str:
    """The measurements on this machine, as a Markdown table."""
    lines = [
        f"Tile sizes measured on this machine ({tuning.file()}):",
        "",
        "| kernel and shape | config | ms |",
        "|---|---|---|",
    ]
    for entry, line in sorted(tuning.measured().items()):
        config = tuning.Config(**line["config"])
        tiles = ", ".join(f"{name} {size}" for name, size in config.tiles.items())
        lines.append(f"| {entry} | {tiles}, {config.num_warps} warps | {line['milliseconds']:.4f} |")
    return (
        "\n".join(lines) if tuning.measured() else "Nothing was measured on this machine (set MOLKERNELS_AUTOTUNE=1)."
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns 1 if a kernel has a problem."""
    parser = argparse.ArgumentParser(prog="python -m molkernels.triton.report", description=__doc__.split("\n")[0])
    parser.add_argument("--op", nargs="+", choices=OPERATORS, default=list(OPERATORS))
    parser.add_argument("--arch", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--size", nargs="+", type=int, choices=SIZES, default=list(SIZES), help="of the square maps")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tuned", action="store_true", help="print the tile sizes measured on this machine instead")
    options = parser.parse_args(arguments)
    if options.tuned:
        print(tuned())
        return 0
    if interpreted():
        parser.error("TRITON_INTERPRET is set: the interpreter compiles nothing; unset it")
    found = table(options.op, options.arch, options.precision, options.size, options.jobs)
    print(
        f"Triton {triton.__version__}, compiled ahead of time, {BATCH} maps of {CHANNELS} channels "
        f"(cost volume {2 * CHANNELS}), k = {NEIGHBOURS}. Registers per thread; spills in bytes of local memory "
        "(NVIDIA) or registers (AMD); shared memory in bytes.\n"
    )
    print(markdown(found))
    problems = [row for row in found if row.problem]
    print(f"\n{len(found)} kernels, {len(problems)} with a problem.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
