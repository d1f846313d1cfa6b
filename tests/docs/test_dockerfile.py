"""The Dockerfile: linted, with the commands of the documentation, and a build context that can be installed."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from places import ROOT, environment

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
HADOLINT = Path(sys.executable).with_name("hadolint")


@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint is not installed")
def test_the_linter_has_nothing_to_say() -> None:
    done = subprocess.run([HADOLINT, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_it_installs_the_pytorch_and_the_extra_of_the_documentation() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    pinned = re.search(r"^TORCH \?= (\S+)$", makefile, re.MULTILINE)
    assert pinned
    assert re.findall(r"torch==\S+", DOCKERFILE) == [pinned[1]] * 2
    assert DOCKERFILE.count('--no-build-isolation ".[mol]"') == 2


def test_the_default_image_is_the_one_for_the_cpu() -> None:
    stages = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE)
    assert stages == ["build-cuda", "cuda", "build-cpu", "cpu"]
    copied = re.findall(r"^COPY --from=(\S+)", DOCKERFILE, re.MULTILINE)
    assert copied == ["build-cuda", "build-cpu"]


def is_left_out(name: str, rules: list[str]) -> bool:
    """Whether .dockerignore leaves a file out: the last rule that fits it or a folder above it decides."""
    out = False
    for rule in rules:
        pattern = rule.removeprefix("!").removeprefix("**/")
        above = [Path(name), *Path(name).parents]
        fits = any(
            fnmatch.fnmatch(str(path), pattern) or (rule.startswith("**/") and fnmatch.fnmatch(path.name, pattern))
            for path in above
        )
        if fits:
            out = not rule.startswith("!")
    return out


def test_what_is_copied_can_be_installed_and_holds_all_of_the_program(tmp_path: Path) -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = listed.stdout.splitlines()
    for name in tracked:
        if not is_left_out(name, rules) and (ROOT / name).is_file():
            target = tmp_path / "src" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)
    assert not (tmp_path / "src" / "tests").exists()
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, "."]
    variables = environment(MOLKERNELS_CPU="0", MOLKERNELS_CUDA="0")
    done = subprocess.run(command, cwd=tmp_path / "src", env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    wanted = {name for name in tracked if name.startswith(("mol/", "molkernels/")) and name.endswith(".py")}
    assert wanted <= packed
