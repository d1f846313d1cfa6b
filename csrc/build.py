"""Compile csrc/ into two shared libraries, `_cpu.so` and `_cuda.so`, with ninja.

Neither needs a GPU, PyTorch's libraries or Python's headers, only PyTorch's header files of the stable ABI. So one
binary works with every torch ≥ 2.10 and every Python.

Environment:
    MOLKERNELS_CPU        1 (default) or 0: leave out the CPU library.
    MOLKERNELS_CUDA       auto (default: if nvcc is found), 1 (an error without nvcc) or 0.
    TORCH_CUDA_ARCH_LIST  e.g. "8.0;9.0+PTX"; default: all of ARCHITECTURES that nvcc supports, and PTX for later ones.
    CUDA_HOME, CXX, MAX_JOBS as usual.

Run as a program, it builds into build/csrc without installing; with --into FOLDER, also copies the libraries and their
record there; with --sanitize, builds only the CPU library, with AddressSanitizer and UndefinedBehaviorSanitizer, into
build/sanitize.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

CSRC = Path(__file__).resolve().parent
ROOT = CSRC.parent
WORK = ROOT / "build" / "csrc"
SANITIZED = ROOT / "build" / "sanitize"
SANITIZE_FLAGS = "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined"

TORCH_TARGET_VERSION = "0x020a000000000000"  # the stable ABI of torch 2.10
OLDEST_TORCH = (2, 10)  # the same as numbers
ARCHITECTURES = ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
MACHINE_FLAGS = {
    "portable": "",
    "avx2": "-mavx2 -mfma -mf16c",
    "avx512": "-mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mprefer-vector-width=512",
    "avx512_bf16": (
        "-mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16 -mprefer-vector-width=512"
    ),
    "amx": (
        "-mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16 -mprefer-vector-width=512 "
        "-mamx-tile -mamx-bf16"
    ),
    "neon": "",
    "neon_bf16": "-march=armv8.2-a+bf16",
}
VECTOR_BYTES = {
    "portable": 16,
    "avx2": 32,
    "avx512": 64,
    "avx512_bf16": 64,
    "amx": 64,
    "neon": 16,
    "neon_bf16": 16,
}


class BuildError(Exception):
    """A requested build is impossible; the message has the remedy."""


@dataclass
class Plan:
    """What will be compiled, and why parts are left out."""

    headers: Path | None = None
    cxx: str | None = None
    nvcc: Path | None = None
    architectures: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def libraries(self) -> list[str]:
        """The libraries to build, of "cpu" and "cuda"."""
        return [name for name in ("cpu", "cuda") if name not in self.left_out]

    @property
    def target(self) -> str:
        """What the compiler compiles for, e.g. "x86_64-linux-gnu" or "arm64-apple-darwin23.1.0"."""
        return _first_line(self.cxx, "-dumpmachine")

    @property
    def for_macos(self) -> bool:
        """Whether the libraries are for macOS."""
        return "-apple-" in self.target

    @property
    def lacks_headers(self) -> bool:
        """Whether there is something to compile but PyTorch's headers were not found."""
        return bool(self.libraries) and self.headers is None

    def record(self) -> dict[str, object]:
        """What `molkernels.build_info()` reports about the build."""
        built: dict[str, object] = {}
        if "cpu" in self.libraries:
            built["cpu"] = {
                "compiler": _first_line(self.cxx, "--version"),
                "instruction_sets": instruction_sets(self.target),
                "sources": sources_digest("cpu"),
            }
        if "cuda" in self.libraries:
            built["cuda"] = {
                "toolkit": _nvcc_version(self.nvcc),
                "compiler": _first_line(self.cxx, "--version"),
                "architectures": self.architectures,
                "sources": sources_digest("cuda"),
            }
        return {"built": built, "left_out": self.left_out}


def make_plan(environment: Mapping[str, str]) -> Plan:
    """Look for compilers and headers; only `build` requires the headers, so that a build can be planned without them.

    Raises:
        BuildError: something that the environment asks for was not found, or a value is invalid.
    """
    plan = Plan()
    cpu = _choice(environment, "MOLKERNELS_CPU", "1", ("0", "1"))
    cuda = _choice(environment, "MOLKERNELS_CUDA", "auto", ("auto", "0", "1"))
    if cpu == "0":
        plan.left_out["cpu"] = "MOLKERNELS_CPU=0 was set when molkernels was built"
    if cuda == "0":
        plan.left_out["cuda"] = "MOLKERNELS_CUDA=0 was set when molkernels was built"
    if not plan.libraries:
        return plan

    plan.cxx = _compiler(environment)
    if plan.cxx is None:
        if cuda == "1":
            raise BuildError("MOLKERNELS_CUDA=1, but no C++ compiler was found: install g++ or clang++, or set CXX")
        reason = "no C++ compiler was found when molkernels was built"
        return _without(plan, reason)
    plan.headers = torch_headers()
    if cuda != "0":
        _plan_cuda(plan, environment, required=cuda == "1")
    return plan


def _plan_cuda(plan: Plan, environment: Mapping[str, str], *, required: bool) -> None:
    plan.nvcc = _find_nvcc(environment)
    if plan.nvcc is None:
        if required:
            raise BuildError("MOLKERNELS_CUDA=1, but nvcc was not found: install a CUDA toolkit or set CUDA_HOME")
        plan.left_out["cuda"] = "no CUDA toolkit (nvcc) was found when molkernels was built"
        return
    plan.architectures = architectures(environment.get("TORCH_CUDA_ARCH_LIST", ""), _supported(plan.nvcc))


def _without(plan: Plan, reason: str) -> Plan:
    for name in plan.libraries:
        plan.left_out[name] = reason
    return plan


def _choice(environment: Mapping[str, str], name: str, default: str, allowed: tuple[str, ...]) -> str:
    value = environment.get(name) or default
    if value not in allowed:
        raise BuildError(f"{name} is {value!r}; must be one of {', '.join(allowed)}")
    return value


def _compiler(environment: Mapping[str, str]) -> str | None:
    asked = environment.get("CXX")
    if asked:
        if shutil.which(asked.split()[0]) is None:
            raise BuildError(f"CXX is {asked!r}, which is not a program on this machine: correct or unset CXX")
        return asked
    return next((name for name in ("g++", "clang++", "c++") if shutil.which(name)), None)


def _find_nvcc(environment: Mapping[str, str]) -> Path | None:
    home = environment.get("CUDA_HOME") or environment.get("CUDA_PATH")
    if home:
        nvcc = Path(home) / "bin" / "nvcc"
        if not nvcc.exists():
            raise BuildError(f"CUDA_HOME is {home!r}, but {nvcc} does not exist: correct or unset CUDA_HOME")
        return nvcc
    found = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    return Path(found) if found else None


def _supported(nvcc: Path) -> tuple[str, ...]:
    listed = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout
    known = {_dotted(digits) for digits in re.findall(r"sm_(\d+)\b", listed)}
    return tuple(a for a in ARCHITECTURES if a in known)


def _dotted(digits: str) -> str:
    return f"{digits[:-1]}.{digits[-1]}"


def architectures(asked: str, supported: tuple[str, ...]) -> list[str]:
    """The architectures of TORCH_CUDA_ARCH_LIST, e.g. ["8.0", "9.0+PTX"]; all supported ones if it is empty.

    Raises:
        BuildError: an architecture is not supported.
    """
    if not asked.strip():
        return [*supported[:-1], supported[-1] + "+PTX"]
    chosen = [a for a in re.split(r"[;,\s]+", asked) if a]
    for name in chosen:
        if name.removesuffix("+PTX") not in supported:
            raise BuildError(
                f"TORCH_CUDA_ARCH_LIST names {name!r}; molkernels and this nvcc support {', '.join(supported)} "
                "(each optionally with +PTX)"
            )
    return chosen


def torch_headers() -> Path | None:
    """PyTorch's include folder in the environment being built for, even from an isolated build environment."""
    places = [*sys.path, sysconfig.get_path("platlib"), sysconfig.get_path("purelib")]
    for place in places:
        include = Path(place) / "torch" / "include"
        if (include / "torch" / "csrc" / "stable" / "library.h").exists():
            return include
    return None


def instruction_sets(target: str) -> list[str]:
    """The instruction sets that csrc/cpu/kernels is compiled for; a target begins with the name of its processor."""
    arm = [name for name in MACHINE_FLAGS if name.startswith("neon")]
    machine = target.partition("-")[0]
    if machine in ("x86_64", "AMD64"):
        return [name for name in MACHINE_FLAGS if name not in arm]
    return arm if machine in ("aarch64", "arm64") else ["portable"]


def kernel_sources(instruction_set: str) -> list[Path]:
    """The files of csrc/cpu/kernels that are compiled for an instruction set, as csrc/cpu/isa.h declares them.

    Products of bfloat16 are compiled for the sets that have them. With AMX, all other kernels are those of AVX-512.
    """
    sources = sorted((CSRC / "cpu" / "kernels").glob("*.cpp"))
    of_bf16 = [source for source in sources if source.stem.endswith("_bf16")]
    if instruction_set == "amx":
        return of_bf16
    return (
        sources
        if instruction_set in ("avx512_bf16", "neon_bf16")
        else [source for source in sources if source not in of_bf16]
    )


def build(plan: Plan, jobs: str | None = None, work: Path = WORK, flags: str = "") -> dict[str, Path]:
    """Compile and link what changed, in the folder `work` and with `flags` for g++; returns each library's path.

    Raises:
        BuildError: PyTorch's headers are missing, or a compiler failed (its output is printed above).
    """
    if plan.lacks_headers:
        raise BuildError(
            "PyTorch's headers were not found. Install torch >= 2.10 first (pip install torch), or build without "
            "kernels: MOLKERNELS_CPU=0 MOLKERNELS_CUDA=0 pip install ..."
        )
    if not plan.libraries:
        return {}
    work.mkdir(parents=True, exist_ok=True)
    (work / "build.ninja").write_text("\n".join(_ninja(plan, flags)) + "\n")
    if not (work / "empty.cpp").exists():
        (work / "empty.cpp").touch()
    command = [_ninja_program(), "-C", str(work), *(["-j", jobs] if jobs else [])]
    if subprocess.run(command, check=False).returncode:
        raise BuildError(
            "compiling molkernels failed; the compiler's message is above. MOLKERNELS_CUDA=0 leaves out the CUDA "
            "kernels, MOLKERNELS_CPU=0 the CPU kernels"
        )
    return {name: work / f"_{name}.so" for name in plan.libraries}


def _ninja_program() -> str:
    try:
        import ninja
    except ImportError:
        found = shutil.which("ninja")
        if found is None:
            raise BuildError("ninja was not found: pip install ninja") from None
        return found
    return str(Path(ninja.BIN_DIR) / "ninja")


def _ninja(plan: Plan, flags: str) -> Iterator[str]:
    """The lines of build.ninja."""
    common = f"-std=c++17 -O3 -DNDEBUG -DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}"
    # GCC warns of the undefined vectors inside its own intrinsics.
    host = "-fPIC -fvisibility=hidden -Wall -Wno-psabi -Wno-unused-function -Wno-uninitialized"
    yield f"cxx = {plan.cxx}"
    yield f"common = {common}"
    arithmetic = "-fno-math-errno -fno-trapping-math -ffp-contract=fast"
    yield f"cxxflags = {common} {host} {arithmetic} -isystem {plan.headers} {flags}"
    yield "rule cxx"
    yield "  command = $cxx $cxxflags $extra -MD -MF $out.d -c $in -o $out"
    yield "  depfile = $out.d"
    yield "  deps = gcc"
    yield "  description = $cxx $out"
    yield "rule link"
    if plan.for_macos:
        # Its linker wants the real library, as for torch's own extensions; at run time it is the one already loaded.
        torch = f"-undefined dynamic_lookup -L{plan.headers.parent / 'lib' if plan.headers else ''} -ltorch_cpu"
        yield f"  command = $cxx {flags} -dynamiclib $objects {torch} -o $out"
    else:
        yield f"  command = $cxx {flags} -shared $objects -L. -Wl,--no-as-needed -ltorch_cpu -o $out"
        # Empty libraries with the right names: the real ones are already loaded when ours is.
        yield "rule stub"
        yield "  command = $cxx -shared $in -Wl,-soname,$soname -o $out"
        yield "build libtorch_cpu.so: stub empty.cpp"
        yield "  soname = libtorch_cpu.so"
    if "cpu" in plan.libraries:
        yield from _ninja_cpu(plan)
    if "cuda" in plan.libraries:
        yield from _ninja_cuda(plan)


def _ninja_cpu(plan: Plan) -> Iterator[str]:
    objects = []
    for source in sorted((CSRC / "cpu").glob("*.cpp")):
        objects.append(f"cpu/{source.stem}.o")
        yield f"build {objects[-1]}: cxx {source}"
    for name in instruction_sets(plan.target):
        for source in kernel_sources(name):
            objects.append(f"cpu/{name}/{source.stem}.o")
            yield f"build {objects[-1]}: cxx {source}"
            yield f"  extra = {MACHINE_FLAGS[name]} -DMK_ISA={name} -DMK_VECTOR_BYTES={VECTOR_BYTES[name]}"
    yield f"build _cpu.so: link {' '.join(objects)}{'' if plan.for_macos else ' | libtorch_cpu.so'}"
    yield f"  objects = {' '.join(objects)}"


def _ninja_cuda(plan: Plan) -> Iterator[str]:
    yield f"nvcc = {plan.nvcc}"
    yield "rule nvcc"
    yield (
        "  command = $nvcc -ccbin $cxx $common -DUSE_CUDA $gencode --expt-relaxed-constexpr -isystem "
        f"{plan.headers} -Xcompiler -fPIC,-fvisibility=hidden -Xfatbin -compress-all -MD -MF $out.d -c $in -o $out"
    )
    yield "  depfile = $out.d"
    yield "  deps = gcc"
    yield "  description = nvcc $out"
    yield "rule link_cuda"
    yield (
        "  command = $nvcc -ccbin $cxx -shared -cudart static $objects -L. -Xlinker --no-as-needed,--exclude-libs=ALL "
        "-ltorch_cpu -ltorch_cuda -o $out"
    )
    yield "build libtorch_cuda.so: stub empty.cpp"
    yield "  soname = libtorch_cuda.so"
    objects = []
    for source in sorted((CSRC / "cuda").glob("*.cu")):
        objects.append(f"cuda/{source.stem}.o")
        yield f"build {objects[-1]}: nvcc {source}"
        yield f"  gencode = {' '.join(gencode(a) for a in plan.architectures)}"
    yield f"build _cuda.so: link_cuda {' '.join(objects)} | libtorch_cpu.so libtorch_cuda.so"
    yield f"  objects = {' '.join(objects)}"


def gencode(architecture: str) -> str:
    """nvcc's option for "9.0" or "9.0+PTX"."""
    digits = architecture.removesuffix("+PTX").replace(".", "")
    code = f"sm_{digits},compute_{digits}" if architecture.endswith("+PTX") else f"sm_{digits}"
    return f"-gencode arch=compute_{digits},code=[{code}]"


def write_record(plan: Plan, folder: Path) -> None:
    """Write `_build.json` beside the libraries."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "_build.json").write_text(json.dumps(plan.record(), indent=2) + "\n")


def sources_digest(library: str) -> str:
    """A hash of the names and contents of the files that the library "cpu" or "cuda" is compiled from."""
    digest = hashlib.sha256()
    for folder in ("common", library):
        for path in sorted(path for path in (CSRC / folder).rglob("*") if path.is_file()):
            digest.update(f"{path.relative_to(CSRC).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def misfits(folder: Path, library: str, architecture: str | None, torch_version: str) -> list[str]:
    """Why a library that was built elsewhere cannot be used on this machine; empty if nothing speaks against it.

    PyTorch's stable ABI makes one binary serve every torch from `OLDEST_TORCH` on, whichever it was built with. Whether
    the system's libraries are new enough shows only when it is loaded.

    Args:
        folder: holds the library and its `_build.json`.
        library: "cpu" or "cuda".
        architecture: of the GPU, such as "9.0"; None for the CPU library.
        torch_version: of the torch that will load it.
    """
    if not (folder / f"_{library}.so").exists():
        return [f"{folder} has no _{library}.so"]
    try:
        record = json.loads((folder / "_build.json").read_text(encoding="utf-8"))["built"][library]
    except (OSError, ValueError, KeyError):
        return [f"{folder} has no _build.json that tells how _{library}.so was built"]
    reasons = []
    if record.get("sources") != sources_digest(library):
        reasons.append("it was built from other sources than these in csrc")
    if architecture is not None and not any(_runs_on(built, architecture) for built in record["architectures"]):
        reasons.append(f"it was built for {', '.join(record['architectures'])}, and the device is {architecture}")
    if tuple(int(part) for part in torch_version.split(".")[:2]) < OLDEST_TORCH:
        reasons.append(f"it needs torch {'.'.join(map(str, OLDEST_TORCH))} or newer, and here is {torch_version}")
    return reasons


def _runs_on(built: str, device: str) -> bool:
    """Machine code runs on its own major architecture from its minor one on; PTX on every later one."""
    (major, minor), (here, little) = (map(int, a.removesuffix("+PTX").split(".")) for a in (built, device))
    return (major == here and minor <= little) or (built.endswith("+PTX") and (major, minor) <= (here, little))


def _first_line(program: str | Path | None, option: str) -> str:
    if program is None:
        return "none"
    command = [*str(program).split(), option]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def _nvcc_version(nvcc: Path | None) -> str:
    text = subprocess.run([str(nvcc), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"release ([\d.]+)", text)
    return found.group(1) if found else "unknown"


def _copy(path: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy2(path, folder))


def main(arguments: list[str]) -> None:
    """Build without installing; prints the libraries' paths."""
    jobs = os.environ.get("MAX_JOBS")
    try:
        if arguments == ["--sanitize"]:
            plan = make_plan({**os.environ, "MOLKERNELS_CUDA": "0"})
            paths = build(plan, jobs, SANITIZED, SANITIZE_FLAGS)
            write_record(plan, SANITIZED)
        elif len(arguments) == 2 and arguments[0] == "--into":
            plan = make_plan(os.environ)
            paths = {name: _copy(path, Path(arguments[1])) for name, path in build(plan, jobs).items()}
            write_record(plan, Path(arguments[1]))
        elif not arguments:
            paths = build(make_plan(os.environ), jobs)
        else:
            raise BuildError(f"{' '.join(arguments)}: the only options are --sanitize and --into FOLDER")
    except BuildError as error:
        sys.exit(str(error))
    for path in paths.values():
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
