"""What all tests of `mol` share."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import dlib
import pytest


@pytest.fixture(scope="session", autouse=True)
def _dlib_is_read_once() -> Iterator[None]:
    """Its models take 0.8 s to load, and many tests make a detector."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("get_frontal_face_detector", "shape_predictor"):
            patch.setattr(dlib, name, cache(getattr(dlib, name)))
        yield
