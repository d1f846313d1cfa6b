"""The frames of a clip that go into the cache."""

from extract_sets import config_of, make_set

from mol.data.cache import Cache
from mol.data.extract.frames import plan_clip
from mol.data.extract.run import extract
from mol.data.extract.settings import ExtractionSettings
from mol.data.manifest import Clip, Manifest


def test_frames_that_are_missing_inside_are_passed_over_and_told(tmp_path):
    manifest = make_set(tmp_path, (17,))
    (tmp_path / "pictures/sub01/EP01/reg_img50.png").unlink()
    result = extract(config_of(manifest))
    row = Cache.open(result.path).rows[0]
    assert (row["length"], row["frames"][:3]) == (16, [46, 48, 51])
    assert "casme2/sub01/EP01 has no picture for 1 of the frames 46 to 62 (50)" in result.warnings[0]


def test_at_most_so_many_sub_clips_are_spread_over_the_starts(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    for number in range(68):
        (folder / f"{number}.jpg").touch()
    manifest = Manifest("own", tmp_path, [])
    clip = Clip("own", "s", "c", "a", 0, None, 67, "others")
    starts = [plan_clip(manifest, clip, ExtractionSettings(subclips=most)).starts for most in (0, 1, 2, 3, 99)]
    assert starts == [tuple(range(8)), (0,), (0, 7), (0, 4, 7), tuple(range(8))]
