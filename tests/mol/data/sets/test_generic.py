"""A table of one's own clips: loose titles, three separators, errors with line numbers."""

from __future__ import annotations

import os
from pathlib import Path

import av
import numpy as np
import pytest
from films import moving_frames, write_timed
from tiny_sets import notes, write_book, write_frames

from mol.common.errors import DataError
from mol.data.sets.generic import load_generic

HEADER = "subject,clip,path,onset,apex,offset,label"
LINE = "anna,smile,frames/smile,12,14,18,Happiness"


def write_table(root: Path, *lines: str, name: str = "mine.csv", encoding: str = "utf-8") -> Path:
    write_frames(root / "frames" / "smile", range(10, 21), "img{}.png")
    (root / name).write_text("\n".join(lines) + "\n", encoding=encoding)
    return root


def write_video(path: Path, frames: int, fps: int = 30) -> None:
    rng = np.random.default_rng(frames)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(frames):
            picture = rng.integers(0, 256, (32, 32), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="gray").reformat(format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_a_line_becomes_a_clip_of_the_set_that_the_table_names(tmp_path: Path) -> None:
    clip = load_generic(write_table(tmp_path, HEADER, LINE)).clips[0]
    assert (clip.dataset, clip.subject, clip.clip, clip.path) == ("mine", "anna", "smile", "frames/smile")
    assert (clip.onset, clip.apex, clip.offset, clip.emotion) == (12, 14, 18, "happiness")
    assert (clip.action_units, clip.fps, clip.source) == ("", 0.0, "mine.csv line 2")


def test_optional_columns_are_taken(tmp_path: Path) -> None:
    table = write_table(tmp_path, f"{HEADER},dataset,fps,Action Units", f"{LINE},lab,59.94,6+12")
    clip = load_generic(table).clips[0]
    assert (clip.dataset, clip.fps, clip.action_units) == ("lab", 59.94, "6+12")


@pytest.mark.parametrize(
    "header",
    [
        "Subject;Clip Name;Path;Onset Frame;ApexFrame;offset_frame;Estimated Emotion",
        "PERSON\tFilename\tFolder\tOnset\tApex\tOffset\tLabel",
    ],
)
def test_titles_are_matched_loosely_and_separators_are_found(tmp_path: Path, header: str) -> None:
    separator = ";" if ";" in header else "\t"
    table = write_table(tmp_path, header, LINE.replace(",", separator))
    assert load_generic(table).clips[0].offset == 18


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_and_other_line_ends_do_not_matter(tmp_path: Path, encoding: str) -> None:
    write_table(tmp_path, HEADER, LINE.replace("anna", "Åsa"), encoding=encoding)
    table = tmp_path / "mine.csv"
    table.write_bytes(table.read_bytes().replace(b"\n", b"\r\n"))
    assert load_generic(tmp_path).clips[0].subject == "Åsa"


def test_blank_onset_and_offset_are_the_whole_folder(tmp_path: Path) -> None:
    clip = load_generic(write_table(tmp_path, HEADER, "anna,smile,frames/smile,,,,joy")).clips[0]
    assert (clip.onset, clip.apex, clip.offset) == (10, None, 20)


def test_columns_of_the_interval_may_be_left_out(tmp_path: Path) -> None:
    clip = load_generic(write_table(tmp_path, "subject,clip,path,label", "anna,smile,frames/smile,joy")).clips[0]
    assert (clip.onset, clip.offset) == (10, 20)


def test_a_video_is_counted_from_0_and_states_its_own_rate(tmp_path: Path) -> None:
    write_table(tmp_path, HEADER, "ben,frown,frown.mp4,,,,anger", "ben,part,frown.mp4,3,,9,anger")
    write_video(tmp_path / "frown.mp4", 12)
    whole, part = load_generic(tmp_path).clips
    assert (whole.onset, whole.offset, whole.fps, whole.path) == (0, 11, 30.0, "frown.mp4")
    assert (part.onset, part.offset) == (3, 9)


def test_backslashes_of_another_system_are_understood(tmp_path: Path) -> None:
    clip = load_generic(write_table(tmp_path, HEADER, LINE.replace("frames/smile", "frames\\smile"))).clips[0]
    assert clip.path == "frames/smile"


def test_a_clip_outside_the_tables_folder_keeps_its_absolute_path(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "elsewhere", range(10, 21))
    write_table(tmp_path / "table", HEADER, LINE.replace("frames/smile", str(folder)))
    clip = load_generic(tmp_path / "table").clips[0]
    assert (tmp_path / "table" / clip.path).resolve() == folder.resolve()


def test_a_link_in_the_tables_folder_stays_relative(tmp_path: Path) -> None:
    write_table(tmp_path / "table", HEADER, LINE.replace("frames/smile", "linked"))
    (tmp_path / "table" / "linked").symlink_to(write_frames(tmp_path / "elsewhere", range(10, 21)))
    assert load_generic(tmp_path / "table").clips[0].path == "linked"


def test_the_table_itself_may_be_the_root(tmp_path: Path) -> None:
    write_table(tmp_path, HEADER, LINE)
    write_table(tmp_path, HEADER, name="other.csv")
    assert load_generic(tmp_path / "mine.csv").clips[0].path == "frames/smile"


def test_blank_lines_and_quoted_line_ends_keep_the_line_numbers(tmp_path: Path) -> None:
    lines = [f"{HEADER},action units", f'{LINE},"6\n12"', "", "ben,b,nowhere,,,,joy,"]
    with pytest.raises(DataError, match=r"mine.csv line 5 \(ben/b\): .*nowhere does not exist"):
        load_generic(write_table(tmp_path, *lines))


def test_frames_missing_inside_the_interval_are_a_warning(tmp_path: Path) -> None:
    write_table(tmp_path, HEADER, LINE)
    (tmp_path / "frames/smile/img13.png").unlink()
    assert "lacks 1 frame inside the interval: 13" in notes(load_generic(tmp_path), "warning")[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ben,smile,frames/none,,,,joy", "frames/none does not exist"),
        ("ben,smile,frames/smile,18,,12,joy", "onset 18 is after offset 12"),
        ("ben,smile,frames/smile,12,19,18,joy", "apex 19 is outside"),
        ("ben,smile,frames/smile,12,,25,joy", "has the frames 10–20, but the annotation is for 12–25"),
        ("ben,smile,frames/smile,12,,18,", "the column 'label' is blank"),
        (",smile,frames/smile,12,,18,joy", "the column 'subject' is blank"),
        ("ben,smile", "the column 'path' is blank"),
        ("ben,smile,frames/smile,12.5,,18,joy", "expected a whole number"),
        ("ben,a/b,frames/smile,12,,18,joy", "contains a slash"),
        ("ben,smile,frames/smile,12,,18,joy,great", "1 cells more than the header;"),
        ("ben,smile,frames/smile/img10.png,,,,joy", "is a single picture"),
        ("ben,smile,mine.csv,,,,joy", "cannot be read as a video"),
        (LINE, "is already listed in mine.csv line 2"),
        (f"ben,{'9' * 5000},frames/smile,,,,joy", "the column 'clip' holds 5,000 characters, expected at most 1,000"),
        (
            f"ben,smile,frames/smile,{'9' * 3000},,,joy",
            "the column 'onset' holds 3,000 characters, expected at most 1,000",
        ),
    ],
)
def test_a_line_that_cannot_be_used_is_refused_with_its_number_and_dropped_on_request(
    tmp_path: Path, line: str, message: str
) -> None:
    write_table(tmp_path, HEADER, LINE, line)
    with pytest.raises(DataError, match=r"mine.csv line 3") as caught:
        load_generic(tmp_path)
    assert message in str(caught.value)
    loaded = load_generic(tmp_path, on_error="skip")
    assert [clip.subject for clip in loaded.clips] == ["anna"]
    assert message in notes(loaded, "dropped")[0]


@pytest.mark.parametrize("fps", ["fast", "-25", "inf", "-inf"])
def test_a_wrong_rate_is_refused(tmp_path: Path, fps: str) -> None:
    with pytest.raises(DataError, match=r"line 2.*expected frames per second"):
        load_generic(write_table(tmp_path, f"{HEADER},fps", f"{LINE},{fps}"))


def test_a_cell_of_a_million_characters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mine.csv line \d+ cannot be read as a table"):
        load_generic(write_table(tmp_path, HEADER, LINE.replace("anna", "a" * 1_000_000)))


def test_an_empty_folder_and_frames_without_numbers_are_refused(tmp_path: Path) -> None:
    write_table(tmp_path, HEADER, LINE.replace("smile,12", "bad,12"))
    (tmp_path / "frames/bad").mkdir()
    with pytest.raises(DataError, match=r"line 2.*holds no pictures"):
        load_generic(tmp_path)
    write_frames(tmp_path / "frames/bad", ["one"])
    with pytest.raises(DataError, match=r"one.jpg has no number"):
        load_generic(tmp_path)


def test_missing_columns_are_named_with_what_looks_like_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 1 lacks the columns subject, label") as caught:
        load_generic(write_table(tmp_path, HEADER.replace("subject", "Subjekt").replace("label", "mood"), LINE))
    assert "'Subjekt' looks like subject" in str(caught.value)


def test_text_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 2 is not UTF-8"):
        load_generic(write_table(tmp_path, HEADER, LINE.replace("anna", "Åsa"), encoding="latin-1"))
    with pytest.raises(DataError, match="UTF-16"):
        load_generic(write_table(tmp_path, HEADER, LINE, encoding="utf-16"))


def test_an_unclosed_quote_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read as a table"):
        load_generic(write_table(tmp_path, HEADER, f'"{LINE}'))


def test_an_empty_table_and_one_without_clips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty"):
        load_generic(write_table(tmp_path))
    with pytest.raises(DataError, match="it lists none"):
        load_generic(write_table(tmp_path, HEADER))


def test_a_folder_with_none_or_several_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 0 CSV files \(none\)"):
        load_generic(tmp_path)
    write_table(tmp_path, HEADER, LINE, name="a.csv")
    write_table(tmp_path, HEADER, LINE, name="b.csv")
    with pytest.raises(DataError, match=r"has 2 CSV files \(a.csv, b.csv\)"):
        load_generic(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        load_generic(tmp_path / "c.csv")


def test_a_workbook_is_a_table_as_well_on_whichever_worksheet(tmp_path: Path) -> None:
    write_frames(tmp_path / "frames" / "smile", range(10, 21), "img{}.png")
    table = tmp_path / "mine.xlsx"
    write_book(table, [], [["notes"], HEADER.split(","), ["anna", 7, "frames/smile", 12.0, None, 18, "Joy"]])
    for root in (table, tmp_path):
        clip = load_generic(root).clips[0]
        assert (clip.clip, clip.onset, clip.apex, clip.offset) == ("7", 12, None, 18)
        assert clip.source == "mine.xlsx [Sheet2] row 3"


def test_a_table_as_pandas_and_excel_write_it(tmp_path: Path) -> None:
    lines = ["sep=;", HEADER.replace(",", ";"), "1.0;smile;frames/smile;12.0;nan;18,0;joy"]
    clip = load_generic(write_table(tmp_path, *lines, encoding="utf-8-sig")).clips[0]
    assert (clip.subject, clip.onset, clip.apex, clip.offset) == ("1", 12, None, 18)
    assert clip.source == "mine.csv line 3"


@pytest.mark.parametrize("place", range(4))
def test_a_cell_of_a_million_characters_is_refused_in_one_line(tmp_path: Path, place: int) -> None:
    cells = LINE.split(",")
    for length, message in ((100_000, "100,000 characters"), (1_000_000, "more than 131,072 characters")):
        line = ",".join([*cells[:place], "x" * length, *cells[place + 1 :]])
        with pytest.raises(DataError, match=message) as caught:
            load_generic(write_table(tmp_path, HEADER, line))
        assert len(str(caught.value)) < 500


def test_a_video_of_varying_rate_is_told_and_has_its_mean_rate(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir(parents=True)
    times = [*range(0, 400, 40), *range(440, 1240, 80)]
    write_timed(tmp_path / "films" / "smile:1.mp4", moving_frames(20), times)
    loaded = load_generic(write_table(tmp_path, HEADER, "anna,smile-1,films/smile:1.mp4,,,,happiness"))
    (clip,) = loaded.clips
    assert (clip.onset, clip.offset) == (0, 19)
    assert clip.fps == pytest.approx(19 / 1.16)
    assert "the frame rate varies: from one frame to the next pass 40 to 80 ms" in notes(loaded, "warning")[0]


def test_a_pipe_in_place_of_a_video_is_refused(tmp_path: Path) -> None:
    write_table(tmp_path, HEADER, "anna,smile,pipe.mp4,,,,joy")
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(DataError, match=r"mine\.csv line 2 .*pipe\.mp4 is a pipe; give an ordinary file"):
        load_generic(tmp_path)
