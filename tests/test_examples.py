"""The example that turns one's own clips into a cache, on real frames in folders."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from data_fixtures import astronaut

from mol.data.cache import Cache
from mol.data.synth import write_frames_folder

EXAMPLE = Path(__file__).parent.parent / "examples" / "own_clips.py"


def test_own_clips_become_a_cache(tmp_path):
    picture = astronaut().image
    for folder, count in (("clips/neutral/eileen/a", 8), ("clips/moved/eileen/b", 17)):
        write_frames_folder(np.stack([np.roll(picture, t // 4, 1) for t in range(count)]), tmp_path / folder)
    command = [sys.executable, str(EXAMPLE), str(tmp_path / "clips"), str(tmp_path / "cache")]
    subprocess.run(command, check=True, capture_output=True)
    cache = Cache.open(tmp_path / "cache")
    assert cache.classes == ("moved", "neutral")
    assert [(row["clip"], row["start"], row["interval"]) for row in cache.rows] == [
        ("moved/b", 0, 2),
        ("moved/b", 1, 2),
        ("neutral/a", 0, 1),
    ]
    assert cache.frames.shape == (3, 8, 144, 144)
