"""The forked process of an example: each way to go wrong is told from the others."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

import pytest

from mol.common.errors import DataError, MOLError
from mol.common.storage import write_atomic
from torture.outcome import Outcome
from torture.sandbox import InvalidResultError, Limits, run

QUICK = Limits(processor=1, idle=0.6, memory=512 << 20, file_size=1 << 20)


@pytest.fixture
def box(tmp_path: Path) -> Path:
    (tmp_path / "box" / "example").mkdir(parents=True)
    (tmp_path / "box" / "victim").mkdir()
    return tmp_path / "box"


def outcome(box: Path, action) -> Outcome:
    return run(action, box, box / "example", QUICK, (MOLError,))


def test_what_returns_is_a_result(box: Path):
    assert outcome(box, lambda: Path("written").write_text("x")) == Outcome("result")
    assert (box / "example" / "written").is_file()


def test_an_error_of_the_project_is_a_refusal(box: Path):
    def refuse() -> None:
        raise DataError("no\nsheet")

    assert outcome(box, refuse) == Outcome("refused", "DataError", "no sheet")


def test_any_other_exception_names_the_function_of_the_project(box: Path):
    found = outcome(box, lambda: write_atomic(Path("facts.json"), lambda temporary: {}["text"]))
    assert found == Outcome("raised", "KeyError", "'text'", "mol/common/storage.py:write_atomic")


def test_a_wrong_result_is_no_refusal(box: Path):
    def wrong() -> None:
        raise InvalidResultError("2 names, 3 logits")

    assert outcome(box, wrong) == Outcome("wrong", message="2 names, 3 logits")


def test_a_crash_is_named_by_its_signal(box: Path):
    found = outcome(box, lambda: ctypes.string_at(0))
    assert (found.kind, found.error) == ("died", "SIGSEGV")


def test_leaving_the_process_is_no_result(box: Path):
    import os

    assert outcome(box, lambda: os._exit(3)).error == "exit status 3"


def test_sleeping_for_ever_is_told_from_computing_for_ever(box: Path):
    def busy() -> None:
        while True:
            pass

    assert outcome(box, lambda: time.sleep(60)).key == "hung asleep"
    assert outcome(box, busy).key == "hung busy"


def test_memory_is_limited(box: Path):
    assert outcome(box, lambda: bytearray(2 << 30)).key == "raised MemoryError"
    assert outcome(box, lambda: bytearray(100 << 20)).kind == "result"


def test_the_size_of_files_is_limited(box: Path):
    assert outcome(box, lambda: Path("large").write_bytes(bytes(2 << 20))).key == "raised OSError"


@pytest.mark.parametrize("where", ["../victim/new", "../beside"])
def test_writing_outside_is_found_even_after_a_refusal(box: Path, where: str):
    def write() -> None:
        Path(where).write_text("x")
        raise DataError("too late")

    found = outcome(box, write)
    assert found.kind == "wrote outside"
    assert Path(where).name in found.message
