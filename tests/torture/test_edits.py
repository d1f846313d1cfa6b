"""Edits: each does what its name says, and none fails on what another has left behind."""

from __future__ import annotations

import csv
import io
import json
import stat
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torture.readers.arrays import npy_edits, npz_edits, safetensors_edits
from torture.readers.books import book_edits
from torture.readers.documents import csv_edits, json_edits, set_in_json, yaml_edits
from torture.readers.edits import Edit, byte_edits, file_edits
from torture.readers.media import header_edits

JSON = {"name": "run", "classes": ["a", "b", "c", "d"], "deep": {"count": 3}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One valid file of every kind, as an example has them."""
    import cv2
    import torch
    from safetensors.torch import save_file

    folder = tmp_path / "box" / "example"
    folder.mkdir(parents=True)
    (tmp_path / "box" / "victim").mkdir()
    (folder / "state.json").write_text(json.dumps(JSON))
    (folder / "settings.yaml").write_text("steps: 3\nmodel:\n  k: 4\nseeds:\n- 0\n- 1\n")
    (folder / "table.csv").write_text("subject,clip,onset\nanna,one,3\nben,two,4\n")
    np.save(folder / "array.npy", np.arange(12.0).reshape(3, 4))
    np.savez(folder / "arrays.npz", landmarks=np.zeros((2, 68, 2)))
    save_file(
        {"weight": torch.ones(2, 3)}, folder / "weights.safetensors", metadata={"format": "1", "groups": '[{"lr": 1}]'}
    )
    book = openpyxl.Workbook()
    for row in (["Subject", "Onset"], ["sub01", 3], ["sub02", 4]):
        book.active.append(row)
    book.save(folder / "sheet.xlsx")
    for name in ("picture.png", "picture.jpg"):
        cv2.imwrite(str(folder / name), np.arange(64, dtype=np.uint8).reshape(8, 8))
    return folder


def strategies(folder: Path) -> st.SearchStrategy[Edit]:
    return st.one_of(
        json_edits(folder, "state.json"),
        yaml_edits(folder, "settings.yaml"),
        csv_edits(folder, "table.csv"),
        npy_edits("array.npy"),
        npz_edits(folder, "arrays.npz"),
        safetensors_edits(folder, "weights.safetensors"),
        book_edits(folder, "sheet.xlsx"),
        header_edits("picture.png"),
        header_edits("picture.jpg"),
        *(byte_edits(path.name) for path in folder.iterdir()),
        file_edits([path.name for path in folder.iterdir()]),
    )


def test_no_edit_fails_whatever_was_done_before_it(folder: Path):
    valid = {path.name: path.read_bytes() for path in folder.iterdir()}

    @settings(max_examples=300, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(strategies(folder), min_size=1, max_size=4))
    def check(edits: Sequence[Edit]) -> None:
        for path in list(folder.iterdir()):
            path.rmdir() if path.is_dir() else path.unlink()
        for name, data in valid.items():
            (folder / name).write_bytes(data)
        for one in edits:
            one.apply(folder)
            Edit(**json.loads(json.dumps(one.to_json())))  # a reproducer holds it as JSON

    check()
    assert {path.name for path in folder.parent.iterdir()} == {"example", "victim"}


def apply(folder: Path, what: str, file: str, **arguments: Any) -> Path:
    Edit(what, file, arguments).apply(folder)
    return folder / file


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (["name"], "null", {**JSON, "name": None}),
        (["classes", 1], "[1]", {**JSON, "classes": ["a", [1], "c", "d"]}),
        (["deep", "count"], "9" * 400, {**JSON, "deep": {"count": int("9" * 400)}}),
        ([], "[]", []),
        (["nowhere"], "1", JSON),
    ],
)
def test_json_is_set_at_any_place(path: list[str | int], value: str, expected: Any):
    assert json.loads(set_in_json(json.dumps(JSON), path, value)) == expected


def test_json_nested_100000_deep_can_be_set(folder: Path):
    path = apply(folder, "json-set", "state.json", place=["name"], value=[("[", 100_000), ("]", 100_000)])
    assert "[" * 100_000 in path.read_text()
    before = path.read_text()
    assert apply(folder, "json-drop", "state.json", place=["name"]).read_text() == before


def test_json_keys_are_dropped_swapped_and_renamed(folder: Path):
    apply(folder, "json-drop", "state.json", place=["classes", 0])
    apply(folder, "json-swap", "state.json", place=["name"], other=["deep", "count"])
    path = apply(folder, "json-key", "state.json", place=["deep"], name=[("shallow", 1)])
    assert json.loads(path.read_text()) == {"name": 3, "classes": ["b", "c", "d"], "shallow": {"count": "run"}}


def test_a_path_to_the_neighbour_is_spelled_out(folder: Path):
    path = apply(folder, "json-set", "state.json", place=["name"], value=[('"@VICTIM@/evil"', 1)])
    assert json.loads(path.read_text())["name"] == f"{folder.parent}/victim/evil"


def test_yaml_gets_tags_and_anchors(folder: Path):
    path = apply(folder, "yaml-set", "settings.yaml", place=["model", "k"], value=[("!!python/name:os.system", 1)])
    assert "k: !!python/name:os.system\n" in path.read_text()


def test_cells_and_columns_of_a_table_change(folder: Path):
    apply(folder, "cell", "table.csv", row=1, column=2, value=[("=1+1", 1)])
    path = apply(folder, "column-drop", "table.csv", column=1)
    assert list(csv.reader(io.StringIO(path.read_text()))) == [["subject", "onset"], ["anna", "=1+1"], ["ben", "4"]]


def test_arrays_get_other_shapes_and_values(folder: Path):
    apply(folder, "npy-fill", "array.npy", at=0.0, share=1.0, pattern="000000000000f87f", member="")
    assert np.isnan(np.load(folder / "array.npy")).all()
    apply(folder, "npy-header", "array.npy", key="shape", value="(2, 6)", member="")
    assert np.load(folder / "array.npy").shape == (2, 6)
    apply(folder, "npy-header", "arrays.npz", key="descr", value="'|O'", member="landmarks.npy")
    with np.load(folder / "arrays.npz") as arrays, pytest.raises(ValueError, match="allow_pickle"):
        arrays["landmarks"]


def test_safetensors_stay_readable_where_only_values_change(folder: Path):
    from safetensors.torch import load_file

    apply(folder, "tensors-fill", "weights.safetensors", at=0.0, share=1.0, pattern="0000c07f")
    assert load_file(folder / "weights.safetensors")["weight"].isnan().all()
    path = apply(folder, "tensors-header", "weights.safetensors", place=["weight", "shape"], value=[("[3, 2]", 1)])
    assert load_file(path)["weight"].shape == (3, 2)


def test_json_in_the_metadata_of_safetensors_changes_and_stays_a_text(folder: Path):
    from safetensors import safe_open

    path = apply(folder, "tensors-metadata", "weights.safetensors", name="groups", place=[0, "lr"], value=[("NaN", 1)])
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "1", "groups": '[\n {\n  "lr": NaN\n }\n]'}


def test_a_workbook_gets_a_far_cell_and_a_sheet_in_front(folder: Path):
    apply(folder, "book-far", "sheet.xlsx", place=[3000, 16384])
    path = apply(folder, "book-sheet", "sheet.xlsx", first=True)
    book = openpyxl.load_workbook(path)
    assert book.worksheets[1].max_row == 3000
    assert book.worksheets[0]["A1"].value == "see the other sheet"


def test_rows_of_a_workbook_are_listed_blank_and_no_later_edit_takes_long(folder: Path):
    path = apply(folder, "book-blank", "sheet.xlsx", rows=1_048_576, cells=1)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("xl/worksheets/sheet1.xml").count(b"<row ") > 1_000_000
    started = time.process_time()
    apply(folder, "book-floats", "sheet.xlsx")
    assert time.process_time() - started < 2


def test_whole_numbers_become_floats_and_a_stray_last_cell_costs_nothing(folder: Path):
    apply(folder, "book-far", "sheet.xlsx", place=[1_048_576, 1])
    started = time.process_time()
    path = apply(folder, "book-floats", "sheet.xlsx")
    assert time.process_time() - started < 2
    sheet = openpyxl.load_workbook(path).worksheets[0]
    assert (sheet["B2"].value, sheet["A1048576"].value) == ("3.0", "x")


def test_an_edit_says_whether_its_file_is_there(folder: Path):
    assert Edit("cut", "table.csv", {"at": 0.5}).apply(folder)
    assert not Edit("cut", "gone.csv", {"at": 0.5}).apply(folder)


def test_a_png_keeps_right_checksums_when_its_size_changes(folder: Path):
    from mol.vision.integrity import truncation

    path = apply(folder, "field", "picture.png", mark="IHDR", occurrence=0, delta=4, value=70_000, width=4, big=True)
    data = path.read_bytes()
    assert data[16:20] == (70_000).to_bytes(4, "big")
    assert truncation(data) is None


def test_something_else_can_stand_where_a_file_was(folder: Path):
    assert stat.S_ISFIFO(apply(folder, "instead", "table.csv", of="pipe").stat().st_mode)
    assert apply(folder, "instead", "state.json", of="folder").is_dir()
    assert not apply(folder, "instead", "array.npy", of="dangling link").exists()
