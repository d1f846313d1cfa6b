"""The page as Python writes it: what is in the file, that names stay text, that nothing is left behind."""

from __future__ import annotations

import base64
import errno
import html
import json
import os
import re
import subprocess
import sys
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from hostile import NAMES
from viewer_films import CLASSES, EXPRESSIONS, HEIGHT, WIDTH, numbered_frames, viewer_data

import mol.viewer.film
import mol.viewer.thinning
from mol.common.errors import MediaError, StorageError
from mol.common.storage import read_csv
from mol.scoring.expression import Expression
from mol.viewer.data import ViewerData
from mol.viewer.expressions import COLUMNS, write_expressions_csv
from mol.viewer.film import encode_film, media_clock, reduced
from mol.viewer.looks import ABSENT, LOOK, UNIT, Looks, coarse_flow
from mol.viewer.page import write_page
from mol.viewer.thinning import kept_frames


def written(folder: Path, data: ViewerData, **settings: float) -> str:
    return write_page(folder / "page.html", data, numbered_frames, **settings).read_text(encoding="utf-8")


def described(text: str) -> dict:
    """The JSON of a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def bytes_of(text: str, name: str) -> bytes:
    """The bytes of an array, or of the film, of a page."""
    return b"".join(map(base64.b64decode, re.findall(rf'data-bytes="{name}">([^<]*)<', text)))


def test_the_page_holds_the_numbers_that_it_was_given(tmp_path: Path):
    data = viewer_data(60)
    text = written(tmp_path, data)
    known = described(text)
    assert (known["frames"], known["classes"], known["size"]) == (60, list(CLASSES), [WIDTH, HEIGHT])
    np.testing.assert_allclose(np.frombuffer(bytes_of(text, "seconds"), "<f8"), data.seconds)
    series = data.people[0].series
    probabilities = np.frombuffer(bytes_of(text, "probabilities-0"), "<f4").reshape(-1, 3)
    np.testing.assert_allclose(probabilities, series.probabilities, atol=1e-6)
    np.testing.assert_allclose(np.frombuffer(bytes_of(text, "flow-0"), "<f4").reshape(-1, 3), series.flow, atol=1e-6)
    looks = np.frombuffer(bytes_of(text, "looks-0"), LOOK)
    assert len(looks) == 60
    assert (looks["square"][1] == ABSENT).all()
    expected = (np.array([8, 52]) + 0.5) / (WIDTH, HEIGHT) * UNIT
    np.testing.assert_allclose(looks["square"][2, 0], expected, atol=0.5)
    assert [row[1] for row in known["people"][0]["expressions"]] == [one.onset for one in EXPRESSIONS]


def test_the_film_in_the_page_shows_each_frame_at_its_own_time(tmp_path: Path):
    seconds = np.cumsum(np.random.default_rng(1).uniform(0.01, 0.4, 30))
    seconds -= seconds[0]
    text = written(tmp_path, viewer_data(30, fps=5.0, seconds=seconds, expressions=None))
    (tmp_path / "film").write_bytes(bytes_of(text, "film"))
    with av.open(str(tmp_path / "film")) as container:
        frames = [(float(frame.time), frame.to_ndarray(format="gray")) for frame in container.decode(video=0)]
    np.testing.assert_allclose([time for time, _ in frames], seconds, atol=0.00051)
    for number, (_, picture) in enumerate(frames):
        bits = picture[20, 8::16] > 128
        assert int("".join(map(str, bits.astype(int))), 2) == number


def test_the_page_needs_nothing_and_runs_only_its_own_script(tmp_path: Path):
    text = written(tmp_path, viewer_data(8))
    outside = re.sub(r"<script.*?</script>|<style>.*?</style>", "", text, flags=re.DOTALL)
    assert not re.search(r"""(src|href)=["'](?!#)""", outside)
    assert "default-src 'none'; script-src 'sha256-" in html.unescape(outside)
    assert not re.search(r"https?:|@import|url\(", text.replace("http-equiv", ""))


@pytest.mark.parametrize("name", [*NAMES, "</SCRIPT >", "<!--<script>", "\u2028", "a\udcffb.mp4"])
def test_names_end_no_element(tmp_path: Path, name: str):
    expressions = [Expression(1, 2, 3, emotion=name)]
    data = replace(viewer_data(8, classes=(name, "other"), expressions=expressions, title=name), notes=[name])
    text = written(tmp_path, data)
    usual = written(tmp_path, replace(viewer_data(8, classes=("a", "b"), title="a"), notes=["a"]))
    assert text.count("<script") == usual.count("<script")
    assert text.count("</script") == usual.count("</script")
    assert "\u2028" not in re.findall(r'id="data">.*', text)[0]
    assert described(text)["classes"][0] == name
    assert described(text)["people"][0]["expressions"][0][9] == name


@pytest.mark.parametrize("stop", ["film", "page"])
def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: str):
    page = tmp_path / "page.html"
    page.write_text("old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    # A disk cannot be filled here: the calls that write to it say that it is.
    monkeypatch.setattr("mol.viewer.film._mux" if stop == "film" else "mol.viewer.page._write_bytes", full)
    with pytest.raises(StorageError, match=r"page\.html: No space left on device"):
        write_page(page, viewer_data(8), numbered_frames)
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]
    assert page.read_text() == "old"


def test_a_film_larger_than_files_may_be_is_a_storage_error(tmp_path: Path):
    """A real limit of the system, in a process of its own."""
    script = """
import resource, signal, sys
from pathlib import Path
from viewer_films import numbered_frames, viewer_data
from mol.common.errors import StorageError
from mol.viewer.page import write_page
data = viewer_data(40, with_looks=False)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
try:
    write_page(Path(sys.argv[1]), data, numbered_frames)
except StorageError as error:
    print(error)
"""
    path = tmp_path / "page.html"
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True, env=env()
    )
    assert "could not write" in done.stdout, done.stdout
    assert list(tmp_path.iterdir()) == []


def env() -> dict[str, str]:
    """So that other processes find what this one does."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_frames_are_taken_once_and_let_go(tmp_path: Path):
    asked: list[list[int]] = []
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def walk(numbers: Iterable[int]) -> Iterator[np.ndarray]:
        nonlocal most
        numbers = list(numbers)
        asked.append(numbers)
        for picture in numbered_frames(numbers):
            alive.append(weakref.ref(picture))
            most = max(most, sum(one() is not None for one in alive))
            yield picture

    write_page(tmp_path / "page.html", viewer_data(60), walk)
    assert asked == [list(range(60))]
    assert most <= 3


def test_a_fault_of_the_film_leaves_no_page(tmp_path: Path):
    def walk(numbers: Iterable[int]) -> Iterator[np.ndarray]:
        yield from numbered_frames([0, 1])
        raise MediaError("film.mp4 was changed while it was read")

    with pytest.raises(MediaError, match="was changed"):
        write_page(tmp_path / "page.html", viewer_data(8), walk)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("codec", ["libvpx-vp9", "libvpx", "libx264"])
def test_every_codec_keeps_the_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str):
    monkeypatch.setattr("mol.viewer.film._can_encode", lambda av, name: name == codec)
    clock = media_clock(np.array([0, 0.04, 0.12, 0.5, 0.52]), 0.6)
    kind = encode_film(tmp_path / "film", numbered_frames(range(5)), clock)
    assert kind == ("video/mp4" if codec == "libx264" else "video/webm")
    with av.open(str(tmp_path / "film")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    np.testing.assert_allclose(times, clock.starts / 1000, atol=1e-3)


def test_without_a_codec_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mol.viewer.film._can_encode", lambda av, name: False)
    with pytest.raises(StorageError, match="--page false"):
        write_page(tmp_path / "page.html", viewer_data(8), numbered_frames)
    assert list(tmp_path.iterdir()) == []


def test_the_clock_gives_every_frame_a_time_of_its_own():
    usual = media_clock(np.arange(5) / 25, 0.2)
    assert (usual.starts.tolist(), usual.end, usual.stretch) == ([0, 40, 80, 120, 160], 200, 1)
    fast = media_clock(np.arange(1000) / 1000, 1.0)
    assert (fast.stretch, fast.end) == (4, 4000)
    equal = media_clock(np.array([0, 0.1, 0.1, 0.1, 0.2]), 0.2)
    assert (np.diff([*equal.starts, equal.end]) >= 1).all()
    assert media_clock(np.array([3.0]), 3.0).end == 1


@pytest.mark.parametrize(
    ("shape", "expected"), [((1080, 1920), (480, 854)), ((97, 131), (96, 130)), ((480, 640), (480, 640))]
)
def test_pictures_are_reduced_to_even_sides(shape: tuple[int, int], expected: tuple[int, int]):
    found = reduced(np.zeros(shape, np.uint8)).shape
    assert np.abs(np.subtract(found, expected)).max() <= 2
    assert found[0] % 2 == found[1] % 2 == 0


def test_looks_come_back_as_they_were_added(tmp_path: Path):
    rng = np.random.default_rng(0)
    looks = Looks((1920, 1080), tmp_path)
    points = rng.uniform(0, 1000, (68, 2))
    flow = rng.normal(0, 2, (2, 16, 16))
    looks.add(0, points)
    looks.add(5, points, flow=flow)
    assert len(looks) == 6
    (first,), (gap,), (last,), (beyond,) = (looks.read(number) for number in (0, 3, 5, 99))
    back = first["landmarks"] / UNIT * (1920, 1080) - 0.5
    np.testing.assert_allclose(back, points, atol=0.06)
    assert (gap["landmarks"] == ABSENT).all()
    assert (beyond["square"] == ABSENT).all()
    np.testing.assert_allclose(last["flow"] * last["step"], flow, atol=last["step"] / 2 + 1e-6)
    with pytest.raises(ValueError, match="comes after"):
        looks.add(3)
    missing = np.full((68, 2), np.nan)
    looks.add(6, missing, flow=np.zeros((2, 16, 16)))
    assert (looks.read(6)["landmarks"] == ABSENT).all()
    looks.close()
    assert list(tmp_path.iterdir()) == []


def test_coarse_flow_is_turned_with_the_picture():
    """The square is turned by 90° and half as large: what is rightward in it is upward in the picture."""
    flow = np.zeros((2, 128, 128), np.float32)
    flow[0, :64] = 2.0
    matrix = 0.5 * np.array([[0, -1.0, 0], [1, 0, 0]])
    coarse = coarse_flow(flow, matrix)
    expected = np.linalg.solve(matrix[:, :2] / 0.5, [2.0, 0])
    np.testing.assert_allclose(coarse[:, 3, 3], expected, atol=1e-6)
    np.testing.assert_allclose(coarse[:, 12, 3], 0, atol=1e-6)


def test_a_short_film_is_held_whole():
    kept = kept_frames(np.arange(900) / 30, 30.0, [])
    assert kept.numbers.tolist() == list(range(900))
    assert kept.note is None


def test_of_a_long_film_the_expressions_are_held_and_few_frames_else():
    """An hour at 30 frames a second; the first two expressions fit into half a minute, the least sure one does not."""
    seconds = np.arange(108000) / 30
    shown = [Expression(start, start + 5, start + 12, confidence=0.9) for start in (30000, 90000)]
    unsure = Expression(60000, 60600, 61200, kind="macro", confidence=0.2)
    kept = kept_frames(seconds, 3600.0, [*shown, unsure], minutes=0.5, most=20000)
    held = set(kept.numbers.tolist())
    assert all(set(range(one.onset - 30, one.offset + 31)) <= held for one in shown)
    assert not set(range(60000, 61200)) <= held
    assert 900 <= len(held) < 8500
    gaps = np.diff(seconds[kept.numbers], append=3600.0)
    assert gaps.max() < 1.1
    assert kept.note
    assert "2 of 3 expressions" in kept.note
    assert "--page-minutes" in kept.note
    covered = sum(end - start for start, end in kept.thinned)
    assert 3600 - covered == pytest.approx(30, abs=0.2)


def test_of_a_long_film_without_expressions_the_beginning_is_held():
    kept = kept_frames(np.arange(36000) / 50, 720.0, [], minutes=1.0)
    assert kept.numbers[:3000].tolist() == list(range(3000))
    assert len(kept.numbers) < 3000 + 2 * 720
    assert kept.thinned == [(pytest.approx(60, abs=0.1), 720.0)]
    slow = kept_frames(np.arange(3000), 3000.0, [], minutes=1.0)
    assert (len(slow.numbers), slow.note) == (3000, None)


def test_a_thinned_page_has_the_numbers_of_its_frames(tmp_path: Path):
    text = written(tmp_path, viewer_data(200, expressions=(Expression(120, 123, 126),)), minutes=3 / 60)
    numbers = np.frombuffer(bytes_of(text, "numbers"), "<u4")
    assert set(range(95, 152)) <= set(numbers.tolist())
    assert len(numbers) < 120
    assert len(np.frombuffer(bytes_of(text, "looks-0"), LOOK)) == len(numbers)
    assert "--page-minutes" in text


def test_an_hour_of_looks_fits_into_the_limit():
    """36000 frames of 804 bytes and a film of 45 MB, in base64, are under 100 MB."""
    most = mol.viewer.thinning.MOST_LOOKS
    assert 4 / 3 * (most * LOOK.itemsize + mol.viewer.film._MOST_BYTES) < 100e6


def test_expressions_are_a_table_that_no_spreadsheet_runs(tmp_path: Path):
    path = tmp_path / "expressions.csv"
    seconds = np.arange(30) / 10
    people = [
        ("person 1", [Expression(20, 25, 29, emotion="=1+1"), Expression(2, 3, 4, kind="blink", confidence=0.5)]),
        ("@two", [Expression(0, 0, 0, emotion="\u2028")]),
    ]
    write_expressions_csv(path, people, seconds, 3.0)
    assert path.read_text().splitlines()[1] == "person 1,2,3,4,0.2,0.3,0.4,0.3,blink,,0.5"
    rows = [row for _, row in read_csv(path, COLUMNS, "")]
    assert [row["emotion"] for row in rows] == ["", "=1+1", "\u2028"]
    assert ",'=1+1," in path.read_text()
    assert rows[1]["duration_seconds"] == "1.0"
    assert rows[2]["person"] == "@two"


@pytest.mark.slow
def test_a_page_of_many_frames_needs_no_more_memory_than_a_short_one(tmp_path: Path):
    script = """
import resource, sys
from pathlib import Path
from viewer_films import numbered_frames, viewer_data
from mol.viewer.page import write_page
for count in (40, 4000):
    write_page(Path(sys.argv[1]) / "page.html", viewer_data(count), numbered_frames)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True, env=env()
    )
    short, long = map(int, done.stdout.split())
    assert long - short < 20_000  # kilobytes; the numbers of the page alone are 3.2 MB
