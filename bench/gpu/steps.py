"""The steps in the order of their worth: what is lost if time runs out is the least."""

import os
import shutil
import sys

from bench.gpu.run import Step
from bench.machine import ROOT

# Every file with tests marked `gpu`; the others may import packages that a machine for measuring does not have.
FILES = (
    "tests/molkernels/test_ops.py",
    "tests/molkernels/test_properties.py",
    "tests/molkernels/test_gpu.py",
    "tests/molkernels/test_known_answers.py",
    "tests/mol/training/test_training_curves.py",
    "tests/mol/training/test_step_gpu.py",
)
# Every kernel on small shapes, forward and backward: what takes minutes under a sanitizer.
SANITIZED = "on-gpu and (agree_with_float64 or knn or f5c_inference or any_strides)"
PROCESSES = 12
ALWAYS = ("facts", "library")  # also with --only: parts are joined by what the first says, and need the second


def steps(pretend: bool, build: bool) -> list[Step]:
    """All steps.

    Args:
        pretend: on the CPU, with small shapes.
        build: compile the CUDA library if none that is here fits; False for ``--no-build``.
    """
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    check = [sanitizer or "", "--tool", "memcheck", "--error-exitcode", "9"]
    if pretend:
        check = [sys.executable, "-m", "bench.gpu.pretend", *check[1:]]
    missing = None if pretend or sanitizer else "compute-sanitizer was not found; it is part of the CUDA toolkit"
    library = [*_module("libraries"), *([] if build else ["--no-build"])]
    # torch caches freed blocks; without the cache each out-of-bounds access crosses the edge of an allocation.
    plain = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # whatever else is installed there
    uncached = {**plain, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    alone = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}  # each process would else start one for every core
    many = 2 if pretend else min(PROCESSES, os.cpu_count() or 1)
    few = 1 if pretend else 4
    in_cuda = _tests(pretend, "not triton", "knn_agrees")
    in_memcheck = _tests(pretend, f"{SANITIZED} and cuda-on-gpu", "knn_agrees")
    in_triton = _tests(pretend, "triton", "any_strides")
    return [
        Step("facts", 40, _module("facts")),
        Step("library", 180, library, patience=170),
        Step("smoke", 45, _module("smoke"), many),
        Step("cuda-tests", 110, in_cuda, many, environment=plain),
        Step("compile-triton", 40, _module("timing", "compile-triton"), 1 if pretend else many),
        Step("timings", 100, _module("timing", "eager")),
        Step("compile", 50, _module("timing", "compile"), 1 if pretend else many, environment=alone),
        Step("compiled-timings", 50, _module("timing", "compiled")),
        Step("memcheck", 75, in_memcheck, few, 70, check, missing, environment=uncached),
        Step("triton-tests", 90, in_triton, 1 if pretend else many, environment=plain),
        Step("training", 90, _module("training")),
        Step("autotuned-timings", 300, _module("timing", "autotuned"), patience=200, on_request=True),
        Step("compiled-training", 300, _module("training", "--compile"), patience=200, on_request=True),
    ]


def chosen(all_steps: list[Step], only: list[str]) -> list[Step]:
    """The steps to run.

    Raises:
        ValueError: there is no step of a given name.
    """
    unknown = [name for name in only if name not in {step.name for step in all_steps}]
    if unknown:
        raise ValueError(f"no step is named {unknown[0]!r}; there are {', '.join(step.name for step in all_steps)}")
    if not only:
        return [step for step in all_steps if not step.on_request]
    return [step for step in all_steps if step.name in (*ALWAYS, *only)]


def _module(name: str, *arguments: str) -> list[str]:
    return ["-m", f"bench.gpu.{name}", *arguments]


def _tests(pretend: bool, selection: str, on_cpu: str) -> list[str]:
    """The arguments of pytest: the tests of `selection` on the GPU, or a few of them on the CPU."""
    options = ["-m", "pytest", "-p", "bench.gpu.plugin", "-p", "no:cacheprovider", "-q", "--tb=short",
               "--continue-on-collection-errors"]  # fmt: skip
    if pretend:
        return [*options, "-k", f"{on_cpu} and (cpu or reference) and not emulated", FILES[0]]
    return [*options, "-m", "gpu", "-k", selection, *(str(ROOT / file) for file in FILES)]
