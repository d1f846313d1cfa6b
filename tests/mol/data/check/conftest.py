"""The data set that most checks start from."""

from __future__ import annotations

from pathlib import Path

import pytest
from check_sets import DataSet


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    made = DataSet(tmp_path / "smic")
    made.add("s1", "s1_ne_01", "negative")
    made.add("s1", "s1_po_01", "positive", suffix=".jpg")
    made.add("s2", "s2_sur_01", "surprise", suffix=".bmp")
    return made
