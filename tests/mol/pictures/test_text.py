"""Text in pictures: drawn as it is, whatever it contains."""

from __future__ import annotations

import html
import re
from pathlib import Path

import numpy as np
import pytest
from hostile import NAMES
from tiny_cache import write_tiny_cache

from mol.common.terminal import printable
from mol.pictures.contact_sheet import contact_sheet
from mol.pictures.evaluation import GalleryExample, Seen, confusion_picture, evaluation_gallery, failure_picture
from mol.pictures.overview import Timeline, _draw_timeline
from mol.pictures.reliability import ReliabilityCurve, reliability_picture
from mol.pictures.style import open_figure, plain_power
from mol.prediction.overlay import OverlayFrame, OverlayStyle, draw_frame
from mol.report.charts import comparison_picture, curve_picture, people_picture, svg_text

pytestmark = pytest.mark.filterwarnings("ignore:Glyph .* missing:UserWarning")

# Formulas, markup, control characters, and the name of a file that is not UTF-8.
TEXTS = (r"$\foo$", "a$b$^{c", "[b]_{x}</text>&amp;", "_hidden", "\x1b[31mred\x07", "name-\udcff.mp4")


def text_of(path: Path) -> str:
    """The letters of an SVG picture that has them as text, without space."""
    return re.sub(r"\s+", "", html.unescape(re.sub(r"<[^>]+>", "", path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("text", TEXTS)
def test_titles_and_names_of_classes_are_drawn_letter_by_letter(tmp_path: Path, text: str):
    with svg_text():
        confusion_picture(tmp_path / "a.svg", np.eye(2, dtype=int), [text, "other"], title=text, subtitle=text)
    drawn = text_of(tmp_path / "a.svg")
    title, name = (re.sub(r"\s+", "", printable(one)) for one in (text, text.replace("_", " ")))
    assert drawn.count(title) >= 2 + 2 * (title == name)
    assert drawn.count(name) >= 2


def test_no_picture_takes_text_for_a_command(tmp_path: Path):
    names = [*TEXTS, *NAMES]
    count = len(names)
    points = np.full((7, 68, 2), 30.0)
    seen = Seen(np.zeros((8, 64, 64), np.uint8), range(8), np.ones((7, 2, 64, 64)), None, points, None)
    grey, flow = np.zeros((64, 64), np.uint8), np.ones((2, 64, 64), np.float32)
    bins = np.array([[0.0, 0.5], [0.5, 1.0]])
    half = np.array([0.4, 0.7])
    for text in TEXTS:
        curve_picture([tmp_path / "curve.png"], [[(1, 1.0), (2, 0.001)]], text, text)
        curve = ReliabilityCurve(text, bins, np.array([3, 4]), half, half, bins)
        reliability_picture(tmp_path / "reliability.png", [curve], text, text)
        failure_picture(tmp_path / "failure.png", seen, text, text)
        example = GalleryExample(text, grey, flow, flow, flow, points[0], points[0])
        evaluation_gallery(tmp_path / "gallery.png", [example], text)
    people_picture(tmp_path / "people.png", {name: [(name, 2, 1.0)] for name in names}, names[0])
    scores = {name: [(0.5, 0.1)] * count for name in names[:3]}
    comparison_picture(tmp_path / "comparison.png", names, scores)
    shares = np.full((3, count), 1 / count)
    times = np.arange(3.0)
    timeline = Timeline(times, shares, names, 3.0, shares[0], [], 0, times / 9, (0.0, 0.1), 0.2, False)
    with open_figure(tmp_path / "timeline.png", 8, 3) as figure:
        _draw_timeline(figure.subplots(), timeline)
    assert len(list(tmp_path.iterdir())) == 7


@pytest.mark.parametrize("text", TEXTS)
def test_the_overlay_draws_any_name_of_a_class(text: str):
    style = OverlayStyle([text, "other"], None, text, np.zeros((0, 3)), 1.0)
    drawn = [
        draw_frame(OverlayFrame(np.zeros((64, 64), np.uint8), 0.0, 0, probabilities=shares, verdict=verdict), style)
        for shares, verdict in ((np.array([0.7, 0.3]), None), (np.array([0.7, 0.3]), text), (None, None))
    ]
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != drawn[2]).any()


def test_a_contact_sheet_draws_any_name(tmp_path: Path):
    cache = write_tiny_cache(tmp_path / "cache")
    for row, text in zip(cache.rows, TEXTS, strict=False):
        row |= {"emotion": text, "subject": text, "clip": text, "action_units": text}
    assert contact_sheet(cache, tmp_path / "sheet.png", rows=range(len(TEXTS)), title=TEXTS[0]).is_file()


def test_powers_on_logarithmic_axes_are_written_as_text(tmp_path: Path):
    with svg_text(), open_figure(tmp_path / "a.svg", 3, 3) as figure:
        axes = figure.subplots()
        axes.plot([1, 2], [1e-3, 1e3])
        axes.set_yscale("log")
    drawn = text_of(tmp_path / "a.svg")
    assert "10⁻³" in drawn
    assert "mathdefault" not in drawn
    assert plain_power(r"$\mathdefault{2\times10^{-12}}$") == "2×10⁻¹²"
