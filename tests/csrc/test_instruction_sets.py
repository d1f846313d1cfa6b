"""The CPU kernels on every instruction set: the same source, so the same tests, once per set available here."""

import os
import platform
import shutil
import subprocess
import sys

import pytest
from places import ROOT

import molkernels as mk
from molkernels import extension

sys.path.insert(0, str(ROOT / "csrc"))

import build

pytestmark = pytest.mark.skipif("cpu" not in mk.available_backends("cpu"), reason="the CPU library was not built")


def chosen(isa, **variables):
    """The instruction set in use when `isa` is requested, or the library's error message."""
    code = (
        "import molkernels.extension as e; e.missing('cpu')\n"
        "try: print(e.instruction_set())\nexcept RuntimeError as error: print(error)"
    )
    environment = os.environ | {"MOLKERNELS_CPU_ISA": isa} | variables
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def run_properties(**environment):
    """tests/molkernels/test_properties.py on the CPU backend, in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/molkernels/test_properties.py",
        "-k",
        "[cpu]",
    ]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "4 passed" in done.stdout


@pytest.mark.parametrize(
    "isa", [pytest.param(isa, marks=[pytest.mark.slow] * (isa != "portable")) for isa in extension.INSTRUCTION_SETS]
)
def test_properties_hold_on_every_instruction_set_of_this_machine(isa):
    answer = chosen(isa)
    if "which this processor does not have" in answer:
        pytest.skip(answer)
    assert answer == isa
    if isa != extension.instruction_set():  # that one is tested by test_properties.py itself
        run_properties(MOLKERNELS_CPU_ISA=isa)


def test_an_unknown_instruction_set_is_refused_by_name():
    assert (
        "MOLKERNELS_CPU_ISA is 'sse9'; allowed are portable, avx2, avx512, avx512_bf16, amx, neon and neon_bf16"
        in chosen("sse9")
    )


def test_without_permission_for_amx_another_set_is_taken(tmp_path):
    """Linux refuses the tiles to a process by an error of arch_prctl; here the C library's `syscall` is replaced."""
    if chosen("amx") != "amx":
        pytest.skip(chosen("amx"))
    (tmp_path / "refuse.c").write_text("long syscall(long number, ...) { (void)number; return -1; }\n")
    refuse = tmp_path / "refuse.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", refuse, tmp_path / "refuse.c"], check=True)
    answer = chosen("amx", LD_PRELOAD=str(refuse))
    assert answer == "MOLKERNELS_CPU_ISA is 'amx', which this processor does not have or the system does not permit"
    assert chosen("", LD_PRELOAD=str(refuse)).startswith("avx512")


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="not an x86-64 processor")
def test_vectors_of_64_bytes_are_right_where_the_processor_has_none(tmp_path, monkeypatch):
    """The source of the AVX-512 kernels compiled to pairs of AVX2 registers: the same except for the instructions."""
    if "which this processor does not have" in chosen("avx2"):
        pytest.skip("this processor has no AVX2")
    monkeypatch.setitem(build.VECTOR_BYTES, "avx2", 64)
    plan = build.make_plan({**os.environ, "MOLKERNELS_CUDA": "0"})
    build.build(plan, work=tmp_path)
    build.write_record(plan, tmp_path)
    run_properties(MOLKERNELS_CPU_ISA="avx2", MOLKERNELS_LIBRARIES=str(tmp_path))


@pytest.fixture(scope="module")
def built_by_clang(tmp_path_factory):
    """The folder of a CPU library that clang has built."""
    if shutil.which("clang++") is None:
        pytest.skip("clang++ is not installed")
    folder = tmp_path_factory.mktemp("clang")
    plan = build.make_plan({**os.environ, "CXX": "clang++", "MOLKERNELS_CUDA": "0"})
    build.build(plan, work=folder)
    build.write_record(plan, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["", "portable"])
def test_properties_hold_in_a_library_that_clang_has_built(built_by_clang, isa):
    run_properties(MOLKERNELS_CPU_ISA=isa, MOLKERNELS_LIBRARIES=str(built_by_clang))
