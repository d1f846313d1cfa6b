"""A small synthetic set that several files look at; made once."""

from __future__ import annotations

import pytest
from synth_clips import make_tiny_set

from mol.data.cache import Cache


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory) -> tuple[Cache, list[tuple[int, int]]]:
    """The set, and the progress that was reported."""
    return make_tiny_set(tmp_path_factory.mktemp("synth") / "tiny")
