"""The published code's folders, spelled as the official loaders spell people and clips."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_sets import notes, write_frames

from mol.common.errors import DataError
from mol.data.manifest import key
from mol.data.protocol import apply
from mol.data.protocols import find_protocol
from mol.data.sets.released import load_released

CLIPS = {
    "CASME2_data_3": ["surprise/01_EP19_05f", "negative/26_EP18_50"],
    "CASME2_data_5": ["others/01_EP19_05f"],
    "SAMM_data_3": ["negative/006_1_2"],
    "SMIC_data_3": ["surprise/s9_sur_03", "negative/s1_ne_01"],
}


def write_data(root: Path, *folders: str) -> Path:
    for folder in folders or CLIPS:
        for clip in CLIPS[folder]:
            write_frames(root / folder / clip, range(46, 57), "img{}.jpg")
    return root


def test_people_and_clips_are_spelled_as_in_the_official_sets(tmp_path: Path) -> None:
    loaded = load_released(write_data(tmp_path))
    assert {key(clip): clip.emotion for clip in loaded.clips} == {
        "casme2/sub26/EP18_50": "negative",
        "casme2/sub01/EP19_05f": "surprise",
        "samm/006/006_1_2": "negative",
        "smic/s1/s1_ne_01": "negative",
        "smic/s9/s9_sur_03": "surprise",
    }
    assert [clip.fps for clip in loaded.clips] == [200, 200, 200, 100, 100]


def test_a_clip_runs_from_the_first_to_the_last_frame_of_its_folder(tmp_path: Path) -> None:
    clip = load_released(write_data(tmp_path, "SAMM_data_3")).clips[0]
    assert (clip.onset, clip.apex, clip.offset) == (46, None, 56)
    assert clip.path == clip.source == "SAMM_data_3/negative/006_1_2"


@pytest.mark.parametrize("where", ["data", ".", "data/CASME2_data_5"])
def test_root_may_be_data_the_folder_above_or_one_of_its_folders(tmp_path: Path, where: str) -> None:
    write_data(tmp_path / "data", "CASME2_data_5")
    root = tmp_path / where
    clip = load_released(root).clips[0]
    assert (root / clip.path).is_dir()
    assert (key(clip), clip.emotion) == ("casme2/sub01/EP19_05f", "others")


def test_three_classes_are_read_where_three_and_five_are_there_with_a_note(tmp_path: Path) -> None:
    loaded = load_released(write_data(tmp_path, "CASME2_data_3", "CASME2_data_5"))
    assert {clip.emotion for clip in loaded.clips} == {"surprise", "negative"}
    assert "CASME2_data_5: ignored, since a manifest has each clip once" in notes(loaded, "warning")[0]


def test_numbers_of_three_classes_are_the_published_codes(tmp_path: Path) -> None:
    for number, clip in enumerate(["s9_sur_03", "s1_po_01", "s1_ne_01"]):
        write_frames(tmp_path / "SMIC_data_3" / str(number) / clip, [1, 2])
    loaded = load_released(tmp_path)
    assert [clip.emotion for clip in loaded.clips] == ["surprise", "positive", "negative"]
    assert apply(find_protocol("released-smic-3"), loaded.clips) == [0, 1, 2]


def test_frames_missing_in_a_folder_are_a_warning(tmp_path: Path) -> None:
    write_data(tmp_path, "SAMM_data_3")
    (tmp_path / "SAMM_data_3/negative/006_1_2/img50.jpg").unlink()
    assert "lacks 1 frame inside the interval: 50" in notes(load_released(tmp_path), "warning")[0]


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ("SMIC_data_3/positive/s9_sur_04", "the name says surprise, but the folder says positive"),
        ("SMIC_data_3/positive/006_1_2", "is not a clip name of smic, such as s9_sur_03"),
        ("CASME2_data_3/positive/EP02_01f", "is not a clip name of casme2, such as 01_EP19_05f"),
        ("SAMM_data_3/positive/s1_po_01", "is not a clip name of samm"),
        ("SMIC_data_3/happy/s1_po_01", "the folder 'happy' is not named after a class or a class number 0, 1, 2"),
        ("CASME2_data_5/3/01_EP19_05f", "the folder '3' is not named after a class:"),
    ],
)
def test_what_does_not_belong_is_refused_with_its_place_and_dropped_on_request(
    tmp_path: Path, clip: str, message: str
) -> None:
    write_data(tmp_path, "SMIC_data_3")
    write_frames(tmp_path / clip, [1, 2])
    with pytest.raises(DataError) as caught:
        load_released(tmp_path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(clip.rsplit("/", 1)[0])
    loaded = load_released(tmp_path, on_error="skip")
    assert [clip.clip for clip in loaded.clips] == ["s1_ne_01", "s9_sur_03"]
    assert message in notes(loaded, "dropped")[0]


def test_empty_folders_and_frames_without_numbers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "SMIC_data_3/positive/s1_po_01").mkdir(parents=True)
    with pytest.raises(DataError, match=r"SMIC_data_3/positive/s1_po_01: .*holds no pictures"):
        load_released(tmp_path)
    write_frames(tmp_path / "SMIC_data_3/positive/s1_po_01", ["one"])
    with pytest.raises(DataError, match=r"one.jpg has no number"):
        load_released(tmp_path)


def test_one_clip_under_two_classes_is_refused(tmp_path: Path) -> None:
    write_data(tmp_path, "SAMM_data_3")
    write_frames(tmp_path / "SAMM_data_3/positive/006_1_2", [1])
    with pytest.raises(DataError, match=r"positive/006_1_2.*already listed in .*negative/006_1_2"):
        load_released(tmp_path)


def test_a_root_without_such_folders_names_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a folder such as CASME2_data_3"):
        load_released(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        load_released(tmp_path / "nowhere")
