"""Run the tests that compute as other processors would: with older instructions, with one thread and with two.

    python tests/processors.py [NAME=VALUE ...] [pytest options]

By default every setting below; with NAME=VALUE only the settings that contain it (`OMP_NUM_THREADS=1`). PyTorch, its
libraries and the compiled kernels round differently with each instruction set and number of threads, and no test may
depend on that. Prints one line for each setting, and the end of pytest's output where tests fail; exits with 1 then.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from molkernels import extension

ROOT = Path(__file__).resolve().parent.parent
# The tests whose results come from PyTorch or the compiled kernels. The others read and draw data with NumPy and
# OpenCV, which these settings do not reach, or start the same computations from the command line.
TESTS = (
    "tests/molkernels",
    "tests/csrc/emulator",
    "tests/bench/test_baselines.py",
    "tests/docs/test_readme.py",
    "tests/mol/data/test_clips.py",
    "tests/mol/data/test_pool.py",
    "tests/mol/loso",
    "tests/mol/network",
    "tests/mol/prediction",
    "tests/mol/scoring",
    "tests/mol/test_earlier_versions.py",
    "tests/mol/training",
)
# Triton's interpreter computes in NumPy and takes half of the time.
CHOICE = ("-m", "not slow and not gpu", "-k", "not triton")
# ATEN_CPU_CAPABILITY is PyTorch's own code, ONEDNN_MAX_CPU_ISA its convolutions, MKL_CBWR its matrix products.
INSTRUCTIONS = (
    ("ATEN_CPU_CAPABILITY", "default"),
    ("ATEN_CPU_CAPABILITY", "avx2"),
    ("ONEDNN_MAX_CPU_ISA", "AVX2"),
    ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE"),
    ("MKL_CBWR", "COMPATIBLE"),
    *(("MOLKERNELS_CPU_ISA", name) for name in extension.INSTRUCTION_SETS),
)
THREADS = (1, 2)
TAIL = 6000


def settings(wanted: list[str]) -> Iterator[dict[str, str]]:
    """Environment variables of each run, those that contain all of `wanted`."""
    for name, value in INSTRUCTIONS:
        for threads in THREADS:
            setting = {name: value, "OMP_NUM_THREADS": str(threads)}
            if {f"{n}={v}" for n, v in setting.items()}.issuperset(wanted):
                yield setting


def refusal(setting: dict[str, str]) -> str | None:
    """Why the compiled kernels cannot run with this setting; None if they can."""
    if "MOLKERNELS_CPU_ISA" not in setting:
        return None
    code = (
        "import molkernels.extension as e; print(e.missing('cpu') or '')\n"
        "try: e.missing('cpu') or e.instruction_set()\nexcept RuntimeError as error: print(error)"
    )
    return run(["-c", code], setting).stdout.strip() or None


def run(command: list[str], setting: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run Python in the repository, with these environment variables."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"} | setting,  # threads that spin hinder each other
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def main(arguments: list[str]) -> int:
    """Run every setting that is asked for; the number of settings that failed, at most 1."""
    wanted = [a for a in arguments if "=" in a and not a.startswith("-")]
    chosen = list(settings(wanted))
    if not chosen:
        sys.exit(f"no setting contains {' and '.join(wanted)}; this file lists them")
    options = [a for a in arguments if a not in wanted]
    failed = 0
    for setting in chosen:
        words = " ".join(f"{name}={value}" for name, value in setting.items())
        if reason := refusal(setting):
            print(f"{words:56s} skipped: {reason}", flush=True)
            continue
        workers = max(1, (os.cpu_count() or 1) // int(setting["OMP_NUM_THREADS"]))
        spread = ["-n", str(workers), "--dist", "worksteal"] if workers > 1 else []
        begin = time.monotonic()
        done = run(["-m", "pytest", "-q", "-p", "no:cacheprovider", *CHOICE, *spread, *TESTS, *options], setting)
        seconds = time.monotonic() - begin
        summary = done.stdout.strip().splitlines()[-1:] or ["no output"]
        passed = done.returncode == 0
        print(f"{words:56s} {'passed' if passed else 'FAILED'} {seconds:5.0f} s   {summary[0]}", flush=True)
        if not passed:
            print(done.stdout[-TAIL:], flush=True)
            failed += 1
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
