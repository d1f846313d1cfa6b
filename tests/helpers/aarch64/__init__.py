"""The CPU library for AArch64, cross-compiled and run under qemu: correctness without such a machine, never speed.

`csrc/build.py` builds the library as it would be shipped; `stand_in.cpp` takes PyTorch's place, for which there is no
build here: tensors, the five operators of torch that csrc/cpu calls, and one process that runs what it is asked to.

Debian has the compiler and the emulator as g++-aarch64-linux-gnu and qemu-user.
"""

from __future__ import annotations

import atexit
import functools
import os
import platform
import shutil
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import emulator
import torch

import molkernels.ops  # noqa: F401  (the schemas)
from molkernels import extension

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
WORK = ROOT / "build" / "aarch64"
COMPILER = "aarch64-linux-gnu-g++"
QEMU = "qemu-aarch64"
SYSTEM = Path("/usr/aarch64-linux-gnu")  # of Debian's cross compiler

# The processors that are emulated: one of Armv8.0, and all that qemu knows.
OLD, NEW = "cortex-a72", "max"
# A call that takes longer hangs: the process is then killed, and the test fails. The longest take some 10 s.
PATIENCE = 300

_DTYPES = {
    torch.uint8: 0,
    torch.int32: 3,
    torch.int64: 4,
    torch.float16: 5,
    torch.float32: 6,
    torch.float64: 7,
    torch.bfloat16: 15,
}
_CODES = {code: dtype for dtype, code in _DTYPES.items()}


def missing() -> str | None:
    """Why it cannot run here; None if it can."""
    if platform.machine() in ("aarch64", "arm64"):
        return "this is an AArch64 machine: its own tests are those of the backend cpu"
    lacking = [name for name in (COMPILER, QEMU) if shutil.which(name) is None]
    if lacking or not SYSTEM.is_dir():
        return f"{' and '.join(lacking) or SYSTEM} not found (Debian: apt install g++-aarch64-linux-gnu qemu-user)"
    return None


@functools.cache
def build() -> Path:
    """Compile what changed; the folder with `_cpu.so` and the program `stand_in`.

    Raises:
        BuildError, CalledProcessError: a compiler failed; its output is printed.
    """
    csrc = emulator.csrc_build()
    flags = f"-std=c++17 -O2 -Wall -rdynamic -DTORCH_TARGET_VERSION={csrc.TORCH_TARGET_VERSION}"
    WORK.mkdir(parents=True, exist_ok=True)
    with emulator.locked(WORK / "lock"):
        plan = csrc.make_plan({**os.environ, "CXX": COMPILER, "MOLKERNELS_CUDA": "0"})
        csrc.build(plan, work=WORK)
        target, source = WORK / "stand_in", HERE / "stand_in.cpp"
        if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
            command = [COMPILER, *flags.split(), "-isystem", plan.headers, source, "-o", target, "-ldl"]
            subprocess.run(command, check=True)
    return WORK


class Machine:
    """One emulated process with the library loaded; `isa` is MOLKERNELS_CPU_ISA there."""

    def __init__(self, processor: str = NEW, isa: str = "") -> None:
        folder = build()
        variables = [f"LD_LIBRARY_PATH={folder}", f"MOLKERNELS_CPU_ISA={isa}"]
        options = [option for variable in variables for option in ("-E", variable)]
        command = [QEMU, "-L", SYSTEM, "-cpu", processor, *options, folder / "stand_in", folder / "_cpu.so"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        atexit.register(self.close)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def isa(self) -> str:
        """The instruction set that the library has chosen there."""
        return extension.INSTRUCTION_SETS[self._call("isa", "I", [])[0]]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """The operator of this name, with the arguments of `torch.ops.molkernels_cpu`."""
        schema = getattr(torch.ops.molkernels_cpu, name).default._schema
        kinds = [str(a.type) for a in schema.arguments]

        def run(*arguments: Any) -> Any:
            packed = [_packed(a, kind) for a, kind in zip(arguments, kinds, strict=True)]
            results = self._call(name, "T" * len(schema.returns), packed)
            return results[0] if len(results) == 1 else tuple(results)

        return run

    def _call(self, name: str, results: str, arguments: list[bytes]) -> list[Any]:
        request = [_text(name), _text(results), struct.pack("<I", len(arguments)), *arguments]
        assert self._process.stdin is not None
        watch = threading.Timer(PATIENCE, self._process.kill)
        watch.start()
        try:
            self._process.stdin.write(b"".join(request))
            self._process.stdin.flush()
            if not self._read("?"):
                raise RuntimeError(self._bytes(self._read("I")).decode())
            return [self._tensor() if kind == "T" else self._read("q") for kind in results]
        finally:
            watch.cancel()

    def _tensor(self) -> torch.Tensor:
        dtype = _CODES[self._read("i")]
        shape = [self._read("q") for _ in range(self._read("I"))]
        content = bytearray(self._bytes(torch.Size(shape).numel() * dtype.itemsize))
        return torch.frombuffer(content, dtype=dtype).view(shape) if content else torch.empty(shape, dtype=dtype)

    def _read(self, kind: str) -> Any:
        (value,) = struct.unpack(f"<{kind}", self._bytes(struct.calcsize(f"<{kind}")))
        return value

    def _bytes(self, count: int) -> bytes:
        assert self._process.stdout is not None
        content = self._process.stdout.read(count)
        if len(content) < count:
            raise RuntimeError(f"the emulated process ended with {self._process.wait()}")
        return content


def _text(text: str) -> bytes:
    return struct.pack("<I", len(text.encode())) + text.encode()


def _packed(value: Any, kind: str) -> bytes:
    """An argument of this kind in a schema, as `get_argument` in stand_in.cpp reads it; tensors with their strides."""
    if value is None:
        return b"N"
    if kind in ("Tensor", "Optional[Tensor]"):
        span = 1 + sum((n - 1) * step for n, step in zip(value.shape, value.stride(), strict=True))
        flat = value.detach().as_strided([span if value.numel() else 0], [1]).contiguous().view(torch.uint8)
        numbers = struct.pack(f"<iI{2 * value.ndim}q", _DTYPES[value.dtype], value.ndim, *value.shape, *value.stride())
        return (b"T" if kind == "Tensor" else b"O") + numbers + flat.numpy().tobytes()
    if kind == "str":
        return b"S" + _text(value)
    letter, code = {"int": (b"I", "<q"), "bool": (b"B", "<q"), "float": (b"D", "<d")}[kind]
    return letter + struct.pack(code, value)


@functools.cache
def machine(processor: str = NEW, isa: str = "") -> Machine:
    """A process that all tests share."""
    return Machine(processor, isa)
