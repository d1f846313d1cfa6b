"""setuptools as the build backend; asks for PyTorch's headers only where the installation has none to be found."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403

sys.path.insert(0, str(Path(__file__).resolve().parent))


def _headers() -> list[str]:
    import build

    nothing_compiled = os.environ.get("MOLKERNELS_CPU") == "0" and os.environ.get("MOLKERNELS_CUDA") == "0"
    return [] if nothing_compiled or build.torch_headers() else ["torch>=2.10"]


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """What a build needs beside pyproject.toml's list."""
    return build_meta.get_requires_for_build_wheel(config_settings) + _headers()


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    """What an editable build needs beside pyproject.toml's list."""
    return build_meta.get_requires_for_build_editable(config_settings) + _headers()
