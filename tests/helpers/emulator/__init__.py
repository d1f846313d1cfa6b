"""The CUDA kernels on a CPU: csrc/cuda/*.cu compiled by g++ with replacement CUDA headers, one fibre per thread.

It detects wrong indices, missing barriers and waits, reads of uninitialised shared memory, divergent barriers and wrong
fragment layouts. It cannot show speed, register use, or hardware behaviour that the manual does not describe. Results
must be bit-identical under every schedule of blocks, warps and lanes (`schedules`); otherwise the kernel has a race.

Environment, read at each launch:
    MOLKERNELS_EMULATED_SCHEDULE         forward (default), reverse, random:SEED.
    MOLKERNELS_EMULATED_SHARED           bytes of shared memory that a block may request (default: an H100's).
    MOLKERNELS_EMULATED_MULTIPROCESSORS  default 132.
    MOLKERNELS_EMULATED_RESIDENT         blocks of a kernel that a multiprocessor holds at once (default 4).

To find out-of-range accesses, build with sanitisers and preload them into Python:
    LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \\
        MOLKERNELS_EMULATED_SANITIZE=1 pytest -s ...
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
WORK = ROOT / "build" / "emulator"
SCHEDULES = ("forward", "reverse", "random:1", "random:2")

FLAGS = "-std=c++17 -g -fPIC -fvisibility=hidden -fno-strict-aliasing -Wall -Wno-psabi -Wno-unknown-pragmas"
SANITIZE = "-fsanitize=address,alignment,bounds,shift,integer-divide-by-zero -fno-sanitize-recover=all -O1"
TWINS = f"-I{HERE / 'include'} -I{ROOT / 'csrc'} -include launch.cuh -include ptx.cuh"


@functools.cache
def load(*sources: Path) -> None:
    """Build and register the kernels, once: `torch.ops.molkernels_cuda.*` then takes CPU tensors."""
    import torch

    import molkernels.ops  # noqa: F401  (the schemas)

    torch.ops.load_library(build(sources, sanitize=bool(os.environ.get("MOLKERNELS_EMULATED_SANITIZE"))))


def build(sources: Iterable[Path] = (), *, sanitize: bool = False) -> Path:
    """The library of these .cu files, by default all kernels; compiles what changed.

    Raises:
        RuntimeError: the compiler failed; its output is in the message.
    """
    chosen = sorted(Path(s).resolve() for s in sources) or sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    name = hashlib.sha1(" ".join(map(str, chosen)).encode()).hexdigest()[:8]
    folder = WORK / (f"{name}-sanitized" if sanitize else name)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock"):
        (folder / "empty.cpp").touch()
        (folder / "build.ninja").write_text("\n".join(_ninja(chosen, sanitize)) + "\n")
        command = [csrc_build()._ninja_program(), "-C", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"compiling the emulated kernels failed:\n{done.stdout}{done.stderr}")
    return folder / "_emulated.so"


def _ninja(sources: list[Path], sanitize: bool) -> Iterator[str]:
    csrc = csrc_build()
    target = f"-DTORCH_TARGET_VERSION={csrc.TORCH_TARGET_VERSION} -isystem {csrc.torch_headers()}"
    yield f"cxx = {compiler()}"
    yield f"flags = {FLAGS} -march=native {SANITIZE if sanitize else '-O2'} {target}"
    yield "rule cxx"
    yield f"  command = $cxx $flags {TWINS} -MD -MF $out.d -x c++ -c $in -o $out"
    yield "  depfile = $out.d"
    yield "  deps = gcc"
    yield "rule stub"
    yield "  command = $cxx -shared $in -Wl,-soname,libtorch_cpu.so -o $out"
    yield "rule link"
    yield "  command = $cxx -shared $flags $in -L. -Wl,--no-as-needed -ltorch_cpu -o $out"
    yield "build libtorch_cpu.so: stub empty.cpp"
    yield f"build fibres.o: cxx {HERE / 'fibres.cpp'}"
    for source in sources:
        yield f"build {source.stem}.o: cxx {source}"
    objects = " ".join(["fibres.o", *(f"{source.stem}.o" for source in sources)])
    yield f"build _emulated.so: link {objects} | libtorch_cpu.so"


def compiler() -> str | None:
    """g++ or its replacement; None if there is none."""
    return csrc_build()._compiler(os.environ)


@functools.cache
def csrc_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("molkernelscsrc_build", ROOT / "csrc" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time: all workers of pytest-xdist need the library."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def schedule(name: str) -> Iterator[None]:
    """Run launches in this order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOLKERNELS_EMULATED_SCHEDULE", name)
        yield
