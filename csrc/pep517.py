"""The PEP 517 build hook: that of setuptools, but it also requires PyTorch if its headers are needed and missing."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403

sys.path.insert(0, str(Path(__file__).resolve().parent))

import build


def _headers() -> list[str]:
    return ["torch>=2.10"] if build.make_plan(os.environ).lacks_headers else []


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """The requirements of a build beyond the list in pyproject.toml."""
    return build_meta.get_requires_for_build_wheel(config_settings) + _headers()


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    """The requirements of an editable build beyond the list in pyproject.toml."""
    return build_meta.get_requires_for_build_editable(config_settings) + _headers()
