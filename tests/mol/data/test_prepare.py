"""From a data set's sheets and folders to a manifest: what is written, what is said and what is never overwritten."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import openpyxl
import pytest

from mol.common.errors import DataError, SettingsError, StorageError
from mol.data.manifest import read_manifest
from mol.data.prepare import PrepareConfig, manifest_root, prepare, run_prepare
from mol.synth.layout_plan import LayoutSettings
from mol.synth.layouts import write_layout

HEADER = ["Subject", "Filename", "", "OnsetFrame", "ApexFrame", "OffsetFrame", "", "Action Units", "Estimated Emotion"]


def write_casme2(root: Path, rows: list[tuple], frames: range = range(1, 41)) -> Path:
    """A CASME II of these (subject, clip, onset, apex, offset, emotion)."""
    root.mkdir(parents=True, exist_ok=True)
    book = openpyxl.Workbook()
    book.active.append(HEADER)
    for subject, name, onset, apex, offset, emotion in rows:
        book.active.append([subject, name, None, onset, apex, offset, None, "4+7", emotion])
        folder = root / "CASME2_RAW_selected" / f"sub{subject:02d}" / name
        folder.mkdir(parents=True)
        for number in frames:
            (folder / f"img{number}.jpg").touch()
    book.save(root / "CASME2-coding-20190701.xlsx")
    return root


def write_table(folder: Path, name: str = "clips.csv") -> Path:
    """A user's own table of one clip of 9 frames."""
    (folder / "video").mkdir(parents=True)
    for number in range(9):
        (folder / "video" / f"{number}.png").touch()
    table = folder / name
    table.write_text("subject,clip,path,onset,apex,offset,label\nann,smile,video,0,4,8,happiness\n", encoding="utf-8")
    return table


@pytest.fixture
def casme2(tmp_path: Path) -> Path:
    rows = [
        (1, "EP02_01f", 2, 10, 20, "happiness"),
        (1, "EP03_02", 3, "/", 30, "others"),
        (2, "EP01_11f", 5, 9, 33, "surprise"),
    ]
    return write_casme2(tmp_path / "CASME2", rows)


def test_people_spelled_alike_and_doubtful_annotations_are_told_before_other_notes(tmp_path, capsys):
    write_table(tmp_path / "own", "own.csv")
    lines = ["subject,clip,path,onset,apex,offset,label,fps"]
    lines += [f"{name},c{at},video,0,0,8,joy,10" for at, name in enumerate(["Ann", "ann", "ben"])]
    (tmp_path / "own" / "own.csv").write_text("\n".join(lines), encoding="utf-8")
    run_prepare(PrepareConfig("generic", str(tmp_path / "own"), str(tmp_path / "m")))
    notes = read_manifest(tmp_path / "m").notes
    assert [note.kind for note in notes] == ["warning"] * 3
    said = capsys.readouterr().out
    assert 'own.csv line 2, own.csv line 3: "Ann" and "ann" differ only in upper and lower case' in said
    assert "video is listed for 3 people" in said
    assert "own: 3 of 3 clips last longer than 0.5 s" in said


def test_a_manifest_holds_clips_notes_settings_and_the_absolute_root(casme2, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare(PrepareConfig("casme2", "CASME2", on_error="skip"))
    manifest = read_manifest(tmp_path / "manifests/casme2")
    assert [(clip.subject, clip.clip, clip.emotion) for clip in manifest.clips] == [
        ("sub01", "EP02_01f", "happiness"),
        ("sub01", "EP03_02", "others"),
        ("sub02", "EP01_11f", "surprise"),
    ]
    assert manifest.root == casme2.resolve()
    assert manifest.path_of(manifest.clips[0]).is_dir()
    assert any("EP03_02" in note.where for note in manifest.notes)
    assert manifest.made["settings"] == {"on_error": "skip"}
    assert manifest.made["synthetic"] is False
    assert "molkernels" in manifest.made["versions"]


def test_running_again_gives_the_same_files(casme2, tmp_path):
    config = PrepareConfig("casme2", str(casme2), str(tmp_path / "out"))
    prepare(config)
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    prepare(config)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first
    assert set(first) == {"clips.csv", "manifest.json"}


def test_counts_repairs_and_the_next_command_are_told(casme2, tmp_path, capsys):
    run_prepare(PrepareConfig("casme2", str(casme2), str(tmp_path / "out")))
    told = capsys.readouterr().out
    assert "casme2: 3 clips of 2 subjects" in told
    assert all(f"{emotion} 1" in told for emotion in ("happiness", "others", "surprise"))
    assert "EP03_02" in told
    assert f"next: mol check-data {tmp_path / 'out'}" in told


def test_many_notes_are_shortened_and_the_place_of_all_is_told(tmp_path, capsys):
    rows = [(1, f"EP01_{i:02d}", 2, "/", 20, "others") for i in range(12)]
    run_prepare(PrepareConfig("casme2", str(write_casme2(tmp_path / "set", rows)), str(tmp_path / "out")))
    told = capsys.readouterr().out
    assert "repaired (12):" in told
    assert "… and 7 more" in told
    assert f"all 12 notes: {tmp_path / 'out' / 'manifest.json'}" in told
    assert len(json.loads((tmp_path / "out/manifest.json").read_text(encoding="utf-8"))["notes"]) == 12


def test_a_clip_that_cannot_be_used_stops_or_is_dropped_and_listed(casme2, tmp_path, capsys):
    shutil.rmtree(casme2 / "CASME2_RAW_selected/sub02/EP01_11f")
    config = PrepareConfig("casme2", str(casme2), str(tmp_path / "out"))
    with pytest.raises(DataError, match="row 4"):
        prepare(config)
    assert not (tmp_path / "out").exists()
    config.on_error = "skip"
    run_prepare(config)
    assert len(read_manifest(tmp_path / "out").clips) == 2
    assert "dropped (1):" in capsys.readouterr().out


def test_a_table_as_root_gives_paths_from_its_folder(tmp_path):
    table = write_table(tmp_path / "own")
    manifest = prepare(PrepareConfig("generic", str(table), str(tmp_path / "out")))
    assert manifest.root == table.parent.resolve()
    assert manifest.path_of(manifest.clips[0]).is_dir()


def test_a_table_of_the_users_own_is_never_overwritten(tmp_path):
    table = write_table(tmp_path / "own")
    before = table.read_bytes()
    with pytest.raises(StorageError, match="choose an empty folder"):
        prepare(PrepareConfig("generic", str(table), str(table.parent)))
    assert table.read_bytes() == before


def test_a_folder_of_other_files_is_refused(casme2, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").touch()
    with pytest.raises(StorageError, match="has other files and no manifest"):
        prepare(PrepareConfig("casme2", str(casme2), str(tmp_path / "out")))


def test_an_empty_folder_is_used(casme2, tmp_path):
    (tmp_path / "out").mkdir()
    prepare(PrepareConfig("casme2", str(casme2), str(tmp_path / "out")))
    assert len(read_manifest(tmp_path / "out").clips) == 3


def test_a_manifest_that_was_interrupted_is_finished(casme2, tmp_path):
    config = PrepareConfig("casme2", str(casme2), str(tmp_path / "out"))
    prepare(config)
    (tmp_path / "out/manifest.json").unlink()
    prepare(config)
    assert len(read_manifest(tmp_path / "out").clips) == 3


def test_the_pictures_can_be_chosen(casme2, tmp_path):
    shutil.copytree(casme2 / "CASME2_RAW_selected", casme2 / "Cropped")
    manifest = prepare(PrepareConfig("casme2", str(casme2), str(tmp_path / "out"), frames="cropped"))
    assert all(clip.path.startswith("Cropped/") for clip in manifest.clips)
    assert manifest.made["settings"]["frames"] == "cropped"


def test_a_synthetic_set_is_known_as_one(tmp_path):
    settings = LayoutSettings(people=2, clips=3, enlarge=2, length=(16, 18), pictures=1)
    write_layout("smic", tmp_path / "set", settings, workers=1)
    manifest = prepare(PrepareConfig("smic", str(tmp_path / "set"), str(tmp_path / "out")))
    assert manifest.made["synthetic"] is True
    assert any(note.kind == "warning" and "mol synth" in note.what for note in manifest.notes)


def test_an_option_of_another_set_is_refused(casme2, tmp_path):
    with pytest.raises(SettingsError, match="--part NIR does not apply to casme2"):
        prepare(PrepareConfig("casme2", str(casme2), str(tmp_path / "out"), part="NIR"))


def test_an_unknown_set_is_named_with_the_nearest(tmp_path):
    with pytest.raises(SettingsError, match="did you mean casme2"):
        prepare(PrepareConfig("casme22", str(tmp_path)))


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere does not exist"):
        prepare(PrepareConfig("casme2", str(tmp_path / "nowhere"), str(tmp_path / "out")))


def test_on_error_is_one_of_two_words():
    with pytest.raises(SettingsError, match="'raise' or 'skip'"):
        PrepareConfig("casme2", "root", on_error="ignore")  # type: ignore[arg-type]


def test_manifest_root_is_the_folder_of_a_table(tmp_path):
    table = tmp_path / "mine.csv"
    table.touch()
    assert manifest_root(table) == manifest_root(tmp_path) == tmp_path.resolve()
    with pytest.raises(DataError, match="does not exist"):
        manifest_root(tmp_path / "nowhere")
