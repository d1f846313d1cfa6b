"""Where the project's files are, for tests that read them or start processes."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HELPERS = ROOT / "tests" / "helpers"
DATA = ROOT / "tests" / "data"


def environment(**changes: str) -> dict[str, str]:
    """This process's environment, extended so that a new process finds the project and the helpers."""
    places = [str(ROOT), str(HELPERS), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places)), **changes}
