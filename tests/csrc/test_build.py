"""The build: plans and rejected settings, the symbols that the binaries import, and the code of the kernels."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import setuptools
from places import ROOT

import molkernels as mk
from molkernels import extension

sys.path.insert(0, str(ROOT / "csrc"))

import build

BUILT = sorted(extension.record()["built"])
SUPPORTED = ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0")


def environment(**more):
    return {"PATH": os.environ["PATH"], **more}


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ("", ["8.0", "8.6", "8.9", "9.0", "10.0", "12.0+PTX"]),
        ("9.0", ["9.0"]),
        ("8.0;9.0+PTX", ["8.0", "9.0+PTX"]),
        ("8.0 8.6,9.0", ["8.0", "8.6", "9.0"]),
    ],
)
def test_architectures_follow_torchs_variable(asked, chosen):
    assert build.architectures(asked, SUPPORTED) == chosen


@pytest.mark.parametrize("asked", ["7.5", "9.0a", "Hopper", "sm_90"])
def test_an_unknown_architecture_is_refused_with_what_is_known(asked):
    message = rf"names '{re.escape(asked)}'; molkernels and this nvcc support 8.0, 8.6"
    with pytest.raises(build.BuildError, match=message):
        build.architectures(asked, SUPPORTED)


def test_gencode_embeds_ptx_only_where_asked():
    assert build.gencode("9.0") == "-gencode arch=compute_90,code=[sm_90]"
    assert build.gencode("12.0+PTX") == "-gencode arch=compute_120,code=[sm_120,compute_120]"


@pytest.mark.parametrize(
    ("target", "sets"),
    [
        ("x86_64-linux-gnu", ["portable", "avx2", "avx512", "avx512_bf16", "amx"]),
        ("aarch64-linux-gnu", ["neon", "neon_bf16"]),
        ("arm64-apple-darwin23.1.0", ["neon", "neon_bf16"]),
        ("riscv64-linux-gnu", ["portable"]),
    ],
)
def test_the_target_of_the_compiler_decides_the_instruction_sets(target, sets):
    assert build.instruction_sets(target) == sets


def compiler_for(folder, target):
    """A program that names this target and compiles nothing."""
    path = folder / "c++"
    path.write_text(f"#!/bin/sh\necho {target}\n")
    path.chmod(0o755)
    return str(path)


def test_macos_links_as_torchs_extensions_do_and_linux_against_an_empty_library(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "torch_headers", lambda: Path("/site/torch/include"))
    rules = {}
    for target in ("arm64-apple-darwin23.1.0", "aarch64-linux-gnu"):
        plan = build.make_plan(environment(CXX=compiler_for(tmp_path, target), MOLKERNELS_CUDA="0"))
        rules[target] = "\n".join(build._ninja(plan, ""))
        assert "cpu/neon_bf16/fcc.o" in rules[target]
    macos, linux = rules.values()
    assert "-dynamiclib $objects -undefined dynamic_lookup -L/site/torch/lib -ltorch_cpu -o $out" in macos
    assert "soname" not in macos
    assert "libtorch_cpu.so" not in macos
    assert "build libtorch_cpu.so: stub" in linux


def built_elsewhere(folder, **changes):
    """A folder with a library that was built from these sources for Hopper, as far as its record says."""
    record = {"architectures": ["9.0"], "sources": build.sources_digest("cuda"), **changes}
    folder.mkdir(exist_ok=True)
    (folder / "_cuda.so").touch()
    (folder / "_build.json").write_text(json.dumps({"built": {"cuda": record}}))
    return folder


@pytest.mark.parametrize(
    ("architectures", "device", "fits"),
    [
        (["9.0"], "9.0", True),
        (["8.0"], "8.6", True),  # machine code runs on later minor versions
        (["8.6"], "8.0", False),
        (["9.0"], "10.0", False),
        (["9.0+PTX"], "10.0", True),
        (["8.0", "12.0+PTX"], "9.0", False),
    ],
)
def test_a_carried_library_fits_the_architectures_that_its_code_runs_on(tmp_path, architectures, device, fits):
    folder = built_elsewhere(tmp_path, architectures=architectures)
    reasons = build.misfits(folder, "cuda", device, "2.11.0+cu130")
    assert reasons == ([] if fits else [f"it was built for {', '.join(architectures)}, and the device is {device}"])


def test_a_carried_library_fits_every_torch_of_the_stable_abi(tmp_path):
    folder = built_elsewhere(tmp_path)
    assert not any(build.misfits(folder, "cuda", "9.0", torch) for torch in ("2.10.0", "2.11.0+cu130", "3.0.0"))
    assert build.misfits(folder, "cuda", "9.0", "2.9.1+cu128") == [
        "it needs torch 2.10 or newer, and here is 2.9.1+cu128"
    ]


def test_a_carried_library_of_other_sources_or_without_a_record_does_not_fit(tmp_path):
    assert build.misfits(tmp_path, "cuda", "9.0", "2.11.0") == [f"{tmp_path} has no _cuda.so"]
    (tmp_path / "_cuda.so").touch()
    assert "has no _build.json" in build.misfits(tmp_path, "cuda", "9.0", "2.11.0")[0]
    old = built_elsewhere(tmp_path, sources="0123456789abcdef")
    assert build.misfits(old, "cuda", "9.0", "2.11.0") == ["it was built from other sources than these in csrc"]


def test_a_build_says_what_it_was_built_from(tmp_path):
    plan = build.Plan(cxx="c++", nvcc=None, left_out={"cuda": "no toolkit"})
    build.write_record(plan, tmp_path)
    (tmp_path / "_cpu.so").touch()
    assert build.misfits(tmp_path, "cpu", None, "2.13.0") == []


def test_a_build_into_a_folder_brings_the_library_and_its_record(tmp_path, monkeypatch):
    built = tmp_path / "work" / "_cpu.so"
    built.parent.mkdir()
    built.write_bytes(b"library")
    monkeypatch.setattr(build, "build", lambda plan, jobs: {"cpu": built})
    monkeypatch.setenv("MOLKERNELS_CUDA", "0")
    build.main(["--into", str(tmp_path / "new")])
    assert (tmp_path / "new" / "_cpu.so").read_bytes() == b"library"
    assert build.misfits(tmp_path / "new", "cpu", None, "2.11.0") == []


def test_an_unknown_option_of_the_build_is_refused(capsys):
    with pytest.raises(SystemExit, match="the only options are --sanitize and --into FOLDER"):
        build.main(["--into"])


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"MOLKERNELS_CUDA": "yes"}, "MOLKERNELS_CUDA is 'yes'; must be one of auto, 0, 1"),
        ({"MOLKERNELS_CPU": "2"}, "MOLKERNELS_CPU is '2'; must be one of 0, 1"),
        ({"CUDA_HOME": "/nowhere"}, "CUDA_HOME is '/nowhere', but /nowhere/bin/nvcc does not exist"),
        ({"CXX": "no-such-compiler"}, "CXX is 'no-such-compiler', which is not a program on this machine"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(variables, words):
    with pytest.raises(build.BuildError, match=re.escape(words)):
        build.make_plan(environment(**variables))


def test_without_a_compiler_the_plan_is_pure_python_and_says_so(monkeypatch):
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    plan = build.make_plan({})
    assert plan.libraries == []
    assert plan.record()["left_out"] == dict.fromkeys(
        ("cpu", "cuda"), "no C++ compiler was found when molkernels was built"
    )
    with pytest.raises(build.BuildError, match="no C\\+\\+ compiler was found: install"):
        build.make_plan({"MOLKERNELS_CUDA": "1"})


def test_without_a_toolkit_the_cpu_kernels_are_built_alone_and_the_record_says_so(monkeypatch):
    monkeypatch.setattr(build, "_find_nvcc", lambda environment: None)
    plan = build.make_plan(environment())
    assert plan.libraries == ["cpu"]
    assert plan.left_out == {"cuda": "no CUDA toolkit (nvcc) was found when molkernels was built"}
    with pytest.raises(build.BuildError, match="MOLKERNELS_CUDA=1, but nvcc was not found"):
        build.make_plan(environment(MOLKERNELS_CUDA="1"))


def test_where_nothing_is_to_be_compiled_no_compiler_is_asked_for(tmp_path):
    plan = build.make_plan(environment(MOLKERNELS_CPU="0", MOLKERNELS_CUDA="0"))
    assert build.build(plan, work=tmp_path / "work") == {}
    assert not (tmp_path / "work").exists()


def test_a_build_that_breaks_is_an_error_and_not_a_fall_back(tmp_path, monkeypatch, capfd):
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    (tmp_path / "csrc" / "cpu" / "isa.cpp").write_text("#error broken on purpose\n")
    for folder in ("cpu/kernels", "cpu"):
        for source in (tmp_path / "csrc" / folder).glob("*.cpp"):
            if source.name != "isa.cpp":
                source.unlink()
    monkeypatch.setattr(build, "CSRC", tmp_path / "csrc")
    plan = build.make_plan(environment(MOLKERNELS_CUDA="0"))
    with pytest.raises(build.BuildError, match="compiling molkernels failed; the compiler's message is above"):
        build.build(plan, work=tmp_path / "work")
    assert "broken on purpose" in "".join(capfd.readouterr())


def wheel(folder, source, **variables):
    """Build a wheel from `source` in the test's own environment."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        str(source),
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
    ]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | variables)
    (path,) = folder.glob("*.whl")
    return path


def copy_of_the_project(folder):
    names = ["csrc", "molkernels", "mol", "pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in"]
    for name in names:
        source = ROOT / name
        ignore = shutil.ignore_patterns("*.so", "_build.json", "__pycache__")
        shutil.copytree(source, folder / name, ignore=ignore) if source.is_dir() else shutil.copy(source, folder)
    return folder


def test_a_pure_python_wheel_fits_any_machine_and_says_what_it_lacks(tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    path = wheel(tmp_path, copy_of_the_project(project), MOLKERNELS_CPU="0", MOLKERNELS_CUDA="0")
    assert path.name == f"molkernels-{mk.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(path) as archive:
        record = json.loads(archive.read("molkernels/_build.json"))
        assert not [name for name in archive.namelist() if name.endswith(".so")]
        assets = {f"mol/viewer/assets/{path.name}" for path in (ROOT / "mol" / "viewer" / "assets").iterdir()}
        assert assets < set(archive.namelist())
    assert record["built"] == {}
    assert "MOLKERNELS_CPU=0" in record["left_out"]["cpu"]


@pytest.mark.slow
def test_sdist_builds_a_wheel_that_serves_every_python(tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    copy_of_the_project(project)
    command = [sys.executable, "setup.py", "--quiet", "sdist", "--formats=gztar", "-d", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, cwd=project)
    (sdist,) = tmp_path.glob("*.tar.gz")
    path = wheel(tmp_path, sdist, MOLKERNELS_CUDA="0")
    assert re.fullmatch(r"molkernels-.*-py3-none-linux_\w+\.whl", path.name)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "site")
    code = """
import torch, molkernels as mk
assert mk.available_backends("cpu") == ("cpu", "reference"), mk.explain()
mk.F5C(8, 4, 2, backend="cpu")(torch.randn(2, 8, 4, 4)).sum().backward()
"""
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, check=True)


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory):
    """A Python with setuptools but without torch: a new environment with a link to this one's setuptools."""
    folder = tmp_path_factory.mktemp("without-torch")
    venv.create(folder / "env")
    python = folder / "env" / "bin" / "python"
    command = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    here = Path(setuptools.__file__).parent.parent
    for name in ("setuptools", "_distutils_hack", f"setuptools-{setuptools.__version__}.dist-info"):
        (site / name).symlink_to(here / name)
    code = "import importlib.util, setuptools; assert importlib.util.find_spec('torch') is None"
    subprocess.run([python, "-c", code], check=True)
    return python


def call_hook(python, project, call, **variables):
    """The result of a function of csrc/pep517.py when `python` calls it as pip does, and the finished process."""
    code = f"import sys, json; sys.path.insert(0, 'csrc'); import pep517; print(json.dumps(pep517.{call}))"
    clean = {"PATH": os.environ["PATH"], "MOLKERNELS_CUDA": "0", **variables}
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, env=clean, cwd=project, check=False)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None, done


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_the_hook_asks_for_torch_where_its_headers_are_missing_and_compiles_nothing(tmp_path, without_torch, kind):
    project = copy_of_the_project(tmp_path)
    asked, done = call_hook(without_torch, project, f"get_requires_for_build_{kind}()")
    assert done.returncode == 0, done.stderr
    assert asked == ["torch>=2.10"]
    assert not (project / "build").exists()
    asked, done = call_hook(without_torch, project, f"get_requires_for_build_{kind}()", MOLKERNELS_CPU="0")
    assert asked == [], done.stderr
    asked, done = call_hook(sys.executable, project, f"get_requires_for_build_{kind}()")
    assert asked == [], done.stderr


def test_an_sdist_needs_no_torch_and_a_wheel_without_it_is_refused_with_the_remedy(tmp_path, without_torch):
    project = tmp_path / "project"
    project.mkdir()
    copy_of_the_project(project)
    name, done = call_hook(without_torch, project, f"build_sdist({str(tmp_path)!r})")
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / name) as archive:
        files = {path.partition("/")[2] for path in archive.getnames()}
    assert {"csrc/pep517.py", "csrc/build.py", "csrc/cpu/isa.cpp", "setup.py", "pyproject.toml"} <= files
    _, done = call_hook(without_torch, project, f"build_wheel({str(tmp_path)!r})")
    assert done.returncode != 0
    assert (
        "molkernels: PyTorch's headers were not found. Install torch >= 2.10 first (pip install torch)" in done.stderr
    )


@pytest.mark.slow
def test_pip_install_works_without_torch_and_beside_it(tmp_path):
    """In a new environment: pip downloads torch for the build; the next build uses the torch installed by the first."""
    project = tmp_path / "project"
    project.mkdir()
    copy_of_the_project(project)
    # The same torch as here, for the isolated build too: pip ≥ 25.3 has a variable of its own for that.
    (tmp_path / "constraints.txt").write_text(f"torch=={metadata.version('torch')}\n")
    variables = dict.fromkeys(("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"), str(tmp_path / "constraints.txt"))
    variables |= {"MOLKERNELS_CUDA": "0", "PYTHONPATH": ""}
    venv.create(tmp_path / "env", with_pip=True)
    python = str(tmp_path / "env" / "bin" / "python")

    def run(*arguments):
        done = subprocess.run(
            [python, *arguments], capture_output=True, text=True, env=os.environ | variables, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def installed_kernels_run():
        run(
            "-c",
            "import sys, torch, molkernels as mk\n"
            "assert mk.__file__.startswith(sys.prefix), mk.__file__\n"
            "mk.F5C(8, 4, 2, backend='cpu')(torch.randn(2, 8, 4, 4)).sum().backward()",
        )

    run("-c", "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is not None)")
    run("-m", "pip", "install", str(project))
    installed_kernels_run()
    run("-m", "pip", "uninstall", "--yes", "molkernels")
    run("-m", "pip", "install", "setuptools>=77", "ninja")
    shutil.rmtree(project / "build")
    run("-m", "pip", "install", "--no-build-isolation", str(project))
    installed_kernels_run()


# What a library may import: the stable C shims of libtorch, the C and C++ runtimes, the dynamic linker.
ALLOWED = re.compile(
    r"(aoti_torch|torch)_\w+$"
    r"|\w+@(GLIBC|GLIBCXX|CXXABI|GCC)_[\d.]+$"
    r"|(_ITM_\w+TMCloneTable|__gmon_start__|__cxa_finalize.*)$"
)


@pytest.mark.parametrize("name", BUILT)
def test_a_library_imports_only_the_stable_shims_and_the_runtimes(name):
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", extension.FOLDER / f"_{name}.so"], capture_output=True, text=True, check=True
    ).stdout
    symbols = [line.split()[-1] for line in listed.splitlines()]
    assert any(symbol.startswith("aoti_torch_") for symbol in symbols)
    assert [symbol for symbol in symbols if not ALLOWED.match(symbol)] == []


@pytest.mark.skipif("cpu" not in BUILT, reason="the CPU library was not built")
def test_no_code_for_one_instruction_set_can_be_linked_into_another():
    """An inline function compiled for AVX-512 must not be the copy that the linker keeps for all callers."""
    objects = [p for name in build.MACHINE_FLAGS for p in (build.WORK / "cpu" / name).glob("*.o")]
    if not objects:
        pytest.skip("the objects of the build are gone (python csrc/build.py makes them)")
    for path in objects:
        listed = subprocess.run(["nm", "-C", "--defined-only", path], capture_output=True, text=True, check=True).stdout
        shared = [line for line in listed.splitlines() if re.match(r"[0-9a-f]+ [WVu] ", line)]
        foreign = [line for line in shared if f"molkernels::{path.parent.name}::" not in line]
        assert foreign == [], path


def cuobjdump():
    """NVIDIA's disassembler of GPU binaries, from the toolkit or from its wheel."""
    wheel = next(Path(sysconfig.get_path("purelib")).glob("nvidia/*/bin/cuobjdump"), "")
    return shutil.which("cuobjdump") or shutil.which("/usr/local/cuda/bin/cuobjdump") or shutil.which(str(wheel))


@pytest.mark.skipif("cuda" not in BUILT, reason="the CUDA library was not built")
def test_cuda_kernels_spill_no_registers():
    """On every built architecture: no stack, no local memory."""
    if cuobjdump() is None:
        pytest.skip("cuobjdump (CUDA toolkit, or the wheel nvidia-cuda-cuobjdump) is not here")
    command = [cuobjdump(), "-res-usage", extension.FOLDER / "_cuda.so"]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    parts = re.split(r"arch = sm_(\d+)", report)
    usage = r"Function (\S+):\s*\n\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)"
    kernels = {
        (arch, name): (int(stack), int(local))
        for arch, text in zip(parts[1::2], parts[2::2], strict=True)
        for name, _registers, stack, _shared, local in re.findall(usage, text)
    }
    built = {a.removesuffix("+PTX").replace(".", "") for a in extension.record()["built"]["cuda"]["architectures"]}
    assert {arch for arch, _ in kernels} == built
    for op in ("fcc", "knn", "edge_max", "cost_volume"):
        assert any(op in name for _, name in kernels), op
    assert {kernel: use for kernel, use in kernels.items() if any(use)} == {}


def test_the_record_of_the_build_is_in_build_info():
    info = mk.build_info()["backends"]
    for name in ("cpu", "cuda"):
        if name in BUILT:
            assert info[name]["compiler"]
        else:
            assert info[name].startswith("not built: ")
    if "cpu" in BUILT:
        assert info["cpu"]["instruction_set_in_use"] in info["cpu"]["instruction_sets"]
