"""Everything is declared in pyproject.toml; the kernels in csrc/ are compiled from here (see csrc/build.py)."""

import os
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "csrc"))

import build  # noqa: E402

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # setuptools < 70.1
    from wheel.bdist_wheel import bdist_wheel

try:
    PLAN = build.make_plan(os.environ)
except build.BuildError as error:
    sys.exit(f"molkernels: {error}")


class BuildLibraries(build_ext):
    """Run ninja and put the libraries beside the package's Python files."""

    def run(self) -> None:
        """Compile; in place for an editable install."""
        try:
            built = build.build(PLAN, os.environ.get("MAX_JOBS"))
        except build.BuildError as error:
            sys.exit(f"molkernels: {error}")
        folder = (ROOT if self.inplace else Path(self.build_lib)) / "molkernels"
        build.write_record(PLAN, folder)
        for path in built.values():
            # A new file, so that a process that has the old one mapped goes on undisturbed.
            target = folder / path.name
            shutil.copy2(path, target.with_suffix(".new"))
            target.with_suffix(".new").replace(target)
            print(f"molkernels: built {target}")

    def get_ext_filename(self, fullname: str) -> str:
        """No Python version in the name: nothing of Python is inside."""
        return fullname.replace(".", "/") + ".so"

    def get_outputs(self) -> list[str]:
        """The libraries, for the wheel's record."""
        return [str(Path(self.build_lib) / "molkernels" / f"_{name}.so") for name in PLAN.libraries]


class RecordWithoutLibraries(build_py):
    """Say in `_build.json` why nothing was compiled."""

    def run(self) -> None:
        """Copy the Python files, then write the record."""
        super().run()
        if not PLAN.libraries:
            folder = ROOT if self.editable_mode else Path(self.build_lib)
            build.write_record(PLAN, folder / "molkernels")


class AnyPythonWheel(bdist_wheel):
    """py3-none-PLATFORM: the libraries serve every Python and every torch >= 2.10."""

    def get_tag(self) -> tuple[str, str, str]:
        """The wheel's tag."""
        _, _, system = super().get_tag()
        return "py3", "none", system if PLAN.libraries else "any"


for name, reason in PLAN.left_out.items():
    print(f"molkernels: without the {name} kernels: {reason}", file=sys.stderr)

setup(
    ext_modules=[Extension(f"molkernels._{name}", sources=[]) for name in PLAN.libraries],
    cmdclass={"build_ext": BuildLibraries, "build_py": RecordWithoutLibraries, "bdist_wheel": AnyPythonWheel},
)
