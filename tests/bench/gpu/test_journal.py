"""The folder of results: whole lines, from several threads, also when the disk is full."""

import json
import threading
from pathlib import Path

import pytest

from bench.gpu import journal
from bench.gpu.journal import RESULTS, Journal, read_lines


def full(path: Path) -> None:
    """Make every write to `path` fail as on a full disk."""
    path.symlink_to("/dev/full")


def test_lines_are_read_back_in_order(tmp_path):
    written = Journal(tmp_path / "a" / "b")
    for number in range(3):
        written.line("row", number=number, text="ä\n")
    lines, torn = read_lines(tmp_path / "a" / "b")
    assert [(line["kind"], line["number"], line["text"]) for line in lines] == [("row", n, "ä\n") for n in range(3)]
    assert torn == 0
    assert written.lost == 0


def test_lines_of_several_threads_stay_whole(tmp_path):
    written = Journal(tmp_path)
    threads = [
        threading.Thread(target=lambda: [written.line("row", text="x" * 5000) for _ in range(50)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines, torn = read_lines(tmp_path)
    assert (len(lines), torn) == (200, 0)


def test_a_line_that_finds_the_disk_full_is_said_on_stderr_and_counted(tmp_path, capsys):
    full(tmp_path / RESULTS)
    written = Journal(tmp_path)
    written.line("row", number=7)
    assert written.lost == 1
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert json.loads(said.partition("only here: ")[2])["number"] == 7


def test_a_line_after_half_a_line_is_not_lost(tmp_path, monkeypatch):
    written = Journal(tmp_path)
    whole = journal._append

    def half(path, content):
        whole(path, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(journal, "_append", half)
        written.line("row", number=1)
    written.line("row", number=2)
    lines, torn = read_lines(tmp_path)
    assert [line["number"] for line in lines] == [2]
    assert torn == 1


def test_output_that_finds_the_disk_full_is_said_once(tmp_path, capsys):
    full(tmp_path / "log-1.txt")
    written = Journal(tmp_path)
    written.output(b"one")
    written.output(b"two")
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_a_long_log_goes_on_in_another_file(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "PART_BYTES", 10)
    written = Journal(tmp_path)
    for _ in range(3):
        written.output(b"123456789\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log-1.txt", "log-2.txt", "log-3.txt"]
    assert (tmp_path / "log-3.txt").read_bytes() == b"123456789\n"


def test_a_folder_without_results_cannot_be_read(tmp_path):
    with pytest.raises(OSError, match=RESULTS):
        read_lines(tmp_path)
