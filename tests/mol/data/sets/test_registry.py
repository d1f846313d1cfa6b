"""The registry of data sets."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from places import ROOT
from sheet_files import touch_frames, write_book

from mol.common.errors import DataError, SettingsError
from mol.data.sets.registry import SETS, describe_sets, find_set, load_set, set_of_folder


def test_sets_to_apply_for_come_first_and_each_part_is_in_the_order_of_titles() -> None:
    expected = ["4dme", "casme-sq", "casme3", "casme2", "mmew", "samm", "smic", "smic-e", "released", "generic"]
    assert [name for name in SETS if name in expected] == expected


@pytest.mark.parametrize("name", list(SETS))
def test_every_loader_refuses_an_empty_and_a_missing_folder(tmp_path: Path, name: str) -> None:
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError) as caught:
            load_set(name, root)
        assert str(root) in str(caught.value)
        with pytest.raises(DataError):
            load_set(name, root, "skip")


def test_help_has_one_line_per_set_with_its_title_and_options() -> None:
    lines = describe_sets().splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(SETS)
    assert all(entry.title in line for line, entry in zip(lines, SETS.values(), strict=True))
    (smic,) = (line for line in lines if line.split()[0] == "smic")
    assert smic.endswith("[--part --frames --neutral]")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("casme_2", "casme2"), ("CASME II", "casme2"), ("casme_sq", "casme-sq"), ("SMIC", "smic"), ("4DME", "4dme")],
)
def test_a_near_miss_is_offered(name: str, meant: str) -> None:
    with pytest.raises(SettingsError, match=rf"did you mean {meant}\?"):
        find_set(name)


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(SettingsError, match=r"unknown data set 'fer2013' \(data sets: 4dme, casme-sq, casme3"):
        find_set("fer2013")


# Each data set by what only it has: an annotation sheet, or a folder where there is none.
TRACES = {
    "4dme": "4DME_Labelling_Micro_release v1.xlsx",
    "casme-sq": "CAS(ME)^2code_final.xlsx",
    "casme3": "cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx",
    "casme2": "CASME2_RAW_selected/sub01",
    "mmew": "MMEW_Micro_Exp.xlsx",
    "samm": "SAMM_Micro_FACS_Codes_v2.xlsx",
    "smic": "SMIC_all_raw/HS",
    "smic-e": "SMIC-E_raw image/HS_long",
}


@pytest.mark.parametrize("owner", TRACES)
@pytest.mark.parametrize("nested", ["", "copy"])
def test_the_root_of_another_set_is_recognised(tmp_path: Path, owner: str, nested: str) -> None:
    trace = tmp_path / nested / TRACES[owner]
    if trace.suffix:
        write_book(trace, [("a", "b")])
    else:
        touch_frames(trace, [46])
    for name in set(TRACES) - {owner}:
        with pytest.raises(DataError, match=rf"It looks like another data set: --dataset {owner}\.$"):
            load_set(name, tmp_path)
    with pytest.raises(DataError) as caught:
        load_set(owner, tmp_path)
    assert "another data set" not in str(caught.value)


def test_the_registry_needs_neither_torch_nor_readers_of_pictures_and_sheets() -> None:
    heavy = ("torch", "cv2", "av", "pandas", "openpyxl", "dlib", "matplotlib")
    code = f"import sys, mol.data.sets.registry; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_sets_are_found_in_a_zip_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "mol.zip", "w") as archive:
        for path in sorted((ROOT / "mol").rglob("*.py")):
            archive.write(path, path.relative_to(ROOT))
    code = "import mol.data.sets.registry as registry; print(registry.__file__, *registry.SETS)"
    environment = {"PYTHONPATH": str(tmp_path / "mol.zip")}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    place, *names = run.stdout.split()
    assert place.startswith(str(tmp_path / "mol.zip"))
    assert names == list(SETS)


def test_a_folder_of_frames_is_recognised_by_the_folders_and_sheets_above_it(tmp_path: Path) -> None:
    casme2 = tmp_path / "CASME2_RAW_selected" / "sub01" / "EP02_01f"
    samm = tmp_path / "downloads" / "SAMM" / "006" / "006_1_2"
    other = tmp_path / "mine" / "anna" / "smile-1"
    for folder in (casme2, samm, other):
        folder.mkdir(parents=True)
    (samm.parents[1] / "SAMM_Micro_FACS_Codes_v2.xlsx").touch()
    assert set_of_folder(casme2) == (SETS["casme2"].title, 200)
    assert set_of_folder(samm) == (SETS["samm"].title, 200)
    assert set_of_folder(other) is None


def test_a_set_of_several_cameras_has_the_rate_of_the_camera(tmp_path: Path) -> None:
    rates = {}
    for camera in ("HS", "VIS", "NIR"):
        folder = tmp_path / "SMIC_all_cropped" / camera / "s1" / "micro" / "negative" / "s1_ne_01"
        folder.mkdir(parents=True)
        rates[camera] = set_of_folder(folder)
    assert rates == {camera: (SETS["smic"].title, fps) for camera, fps in (("HS", 100), ("VIS", 25), ("NIR", 25))}
