"""A reader with planted faults: they are found, told apart, made small, and can be repeated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from films import moving_frames, write_film

from mol.common.errors import DataError
from torture import reproducers
from torture.outcome import Outcome
from torture.readers.documents import json_edits
from torture.readers.edits import Edit, edits
from torture.readers.films import _compare_last
from torture.readers.films import readers as films
from torture.readers.project import _mend_cache, _mend_checkpoint
from torture.readers.reader import MUST_READ, MUST_REFUSE, Reader, _judged, _tried
from torture.sandbox import InvalidResultError
from torture.unit import REPORT, Session


def read_carelessly() -> None:
    """Three planted faults: a missing key, a name used as a path, and a list where a text should be."""
    content = json.loads(Path("facts.json").read_text())
    if not isinstance(content, dict):
        raise DataError("no object")
    name = content["name"]
    if isinstance(name, str) and "/" in name:
        Path(name).write_text("x")
    name + ""


CARELESS = Reader(
    "careless",
    400,
    10,
    read_carelessly,
    {"facts": lambda materials, base: (base / "facts.json").write_text('{"name": "run", "other": 1}')},
    lambda base: json_edits(base, "facts.json"),
)


def session(tmp_path: Path, reader: Reader, target: int = 400) -> Session:
    (tmp_path / "work").mkdir()
    return Session(reader.unit(), tmp_path, tmp_path / "work", tmp_path / "failures", 5, target, 300.0)


@pytest.mark.slow
def test_planted_faults_are_found_made_small_and_repeated(tmp_path: Path):
    found = session(tmp_path, CARELESS)
    found.unit.run(found)
    assert found.done >= found.target
    assert found.kinds["refused"] > 0
    faults = {fault.outcome.kind + " " + fault.outcome.error for fault in found.faults.values()}
    assert {"raised KeyError", "raised TypeError"} <= faults
    for number, fault in enumerate(found.faults.values()):
        case, files = reproducers.load(fault.reproducer, tmp_path / f"case{number}")
        assert len(case["edits"]) <= 2
        assert found.unit.repeat(replace(found, work=found.work), case, files).key == fault.outcome.key


def test_writing_outside_is_a_fault_of_its_own(tmp_path: Path):
    found = session(tmp_path, CARELESS)
    base = tmp_path / "base"
    base.mkdir()
    CARELESS.variants["facts"](tmp_path, base)
    evil = Edit("json-set", "facts.json", {"place": ["name"], "value": [('"../victim/evil"', 1)]})
    assert _tried(CARELESS, found, base, [evil], False).kind == "wrote outside"


def test_a_text_must_be_refused_and_a_renamed_film_read():
    text, moved = Edit(next(iter(MUST_REFUSE)), "film.mp4", {}), Edit(next(iter(MUST_READ)), "film.mp4", {})
    assert _judged(Outcome("result"), [text]).kind == "wrong"
    assert _judged(Outcome("refused"), [text]).kind == "refused"
    assert _judged(Outcome("refused"), [moved]).kind == "wrong"
    assert _judged(Outcome("refused"), [moved, Edit("flip", "film.mp4", {})]).kind == "refused"


def test_an_edit_of_a_file_that_was_moved_before_counts_for_nothing(tmp_path: Path):
    for name in ("film.avi", "film.mp4"):
        write_film(tmp_path / name, moving_frames(9))
    video = next(reader for reader in films() if reader.name == "video")
    found, base = session(tmp_path, video), tmp_path / "base"
    base.mkdir()
    video.variants["film.avi"](tmp_path, base)
    moved = Edit("rename", "film.avi", {"to": "take:2.avi"})
    text = Edit("content", "film.avi", {"text": "<MPD><BaseURL>decoy/film.mp4</BaseURL></MPD>"})
    assert _tried(video, found, base, [moved, text], False) == Outcome("result")
    assert _tried(video, found, base, [text], False).kind == "refused"


def test_what_differs_now_and_then_is_no_fault_and_what_always_differs_is(tmp_path: Path, monkeypatch):
    from mol.vision import video

    frames = np.zeros((3, 4, 4), np.uint8)
    other = iter(range(1, 100))
    monkeypatch.setattr(video, "read_video", lambda path: video.Video(frames, 30.0, list("abc")))
    monkeypatch.setattr(video, "read_frames", lambda path, numbers: frames[:1] + 1)
    with pytest.raises(InvalidResultError, match="the last frame alone differs"):
        _compare_last(tmp_path, frames[-1])
    monkeypatch.setattr(video, "read_frames", lambda path, numbers: frames[:1] + next(other) % 2)
    _compare_last(tmp_path, frames[-1])
    monkeypatch.setattr(video, "read_frames", lambda path, numbers: frames[:1] + 1)
    monkeypatch.setattr(video, "read_video", lambda path: video.Video(frames + next(other) % 5, 30.0, list("abc")))
    _compare_last(tmp_path, frames[-1])


def test_examples_end_with_the_time_and_one_is_tried_in_any_case(tmp_path: Path):
    found = session(tmp_path, replace(CARELESS, edits=lambda base: edits("cut", "facts.json", at=_share())))
    found.budget = 0.0
    found.unit.run(found)
    assert found.done == 1
    assert json.loads((found.work / REPORT).read_text())["done"] == 1


def _share():
    from hypothesis import strategies as st

    return st.floats(0, 1, allow_nan=False)


def test_checksums_of_a_checkpoint_are_made_right_again(tmp_path: Path):
    import torch

    from mol.network.checkpoint import read_state, save_checkpoint

    class Model(torch.nn.Linear):
        config: ClassVar[dict[str, int]] = {}

    state = {"classes": ["a"], "mean_shape": None, "step": 1}
    save_checkpoint(tmp_path / "run", Model(2, 2), None, state)
    weights = tmp_path / "run" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(Exception, match="damaged"):
        read_state(tmp_path / "run")
    _mend_checkpoint(tmp_path)
    assert read_state(tmp_path / "run")["step"] == 1


def test_checksums_of_a_cache_are_made_right_again(tmp_path: Path):
    from tiny_cache import write_tiny_cache

    from mol.data.cache import Cache

    write_tiny_cache(tmp_path / "small", people=1, videos=1)
    frames = np.load(tmp_path / "small" / "frames.npy", mmap_mode="r+")
    frames[0, 0, 0, 0] ^= 1
    frames.flush()
    assert list(Cache.open(tmp_path / "small").damaged_rows()) == [0]
    _mend_cache(tmp_path)
    Cache.open(tmp_path / "small").verify()


def test_every_reader_of_films_has_something_to_read():
    assert {reader.name for reader in films()} == {"video", "picture", "frames"}
