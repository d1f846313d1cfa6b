"""The example that brings one's own clips to a cache, on real frames in folders."""

import subprocess
import sys

import numpy as np
from data_fixtures import astronaut, write_frames_folder
from places import ROOT

from mol.cli import main
from mol.data.cache import Cache

EXAMPLE = ROOT / "examples" / "own_clips.py"


def test_own_clips_become_a_cache(tmp_path):
    picture = astronaut().image
    for folder, count in (("clips/neutral/eileen/a", 8), ("clips/moved/eileen/b", 17)):
        write_frames_folder(np.stack([np.roll(picture, t // 4, 1) for t in range(count)]), tmp_path / folder)
    subprocess.run([sys.executable, str(EXAMPLE), str(tmp_path / "clips")], check=True, capture_output=True)
    manifest, cache = str(tmp_path / "manifest"), str(tmp_path / "cache")
    assert main(["prepare", "--dataset", "generic", "--root", str(tmp_path / "clips"), "--out", manifest]) == 0
    assert main(["extract", manifest, "--out", cache, "--workers", "1"]) == 0
    rows = Cache.open(cache).rows
    assert [(row["emotion"], row["clip"], row["start"], row["interval"]) for row in rows] == [
        ("moved", "moved-b", 0, 2),
        ("moved", "moved-b", 1, 2),
        ("neutral", "neutral-a", 0, 1),
    ]
