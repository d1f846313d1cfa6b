"""Pictures: colours match their legend, files are complete or untouched."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from mol.common.errors import SettingsError, StorageError
from mol.pictures import evaluation, overview
from mol.pictures.evaluation import GalleryExample, confusion_picture, evaluation_gallery
from mol.pictures.faces import flow_colours, flow_maximum, flow_wheel, strongest_pair
from mol.pictures.overview import Timeline, spread
from mol.pictures.reliability import ReliabilityCurve, reliability_picture
from mol.pictures.style import CLASS_COLOURS
from mol.vision.video import read_picture

CLASSES = ["surprise", "happiness", "disgust"]


def one_vector(dx: float, dy: float, maximum: float = 1.0) -> np.ndarray:
    return flow_colours(np.array([dx, dy]).reshape(2, 1, 1), maximum)[0, 0].astype(int)


def test_no_motion_is_white():
    assert one_vector(0, 0).tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("direction", "strong", "weak"),
    [((1, 0), [0], [1, 2]), ((0, 1), [0, 1], [2]), ((-1, 0), [1, 2], [0]), ((0, -1), [2], [1])],
    ids=["right is red", "down is yellow", "left is cyan", "up is blue-violet"],
)
def test_direction_is_hue(direction, strong, weak):
    colour = one_vector(*direction)
    assert colour[strong].min() > 150
    assert colour[weak].max() < 60


def test_longer_flow_is_more_saturated_and_beyond_the_maximum_darker():
    saturation = [np.ptp(one_vector(length, 0)) for length in (0.1, 0.4, 0.9)]
    assert saturation == sorted(saturation)
    assert len(set(saturation)) == 3
    assert one_vector(1.5, 0).max() < one_vector(0.99, 0).max()


def test_flow_colours_keeps_leading_axes():
    flow = np.random.default_rng(0).normal(size=(3, 7, 2, 5, 6))
    colours = flow_colours(flow, 2.0)
    assert colours.shape == (3, 7, 5, 6, 3)
    np.testing.assert_array_equal(colours[1, 4], flow_colours(flow[1, 4], 2.0))


@pytest.mark.parametrize("maximum", [0, -1, np.nan, np.inf])
def test_flow_colours_refuses_a_scale_that_cannot_work(maximum):
    with pytest.raises(SettingsError, match="positive"):
        flow_colours(np.zeros((2, 4, 4)), maximum)


def test_wheel_shows_each_direction_in_the_colour_that_flow_gets():
    wheel = flow_wheel(101).astype(int)
    for row, column, direction in ((50, 90, (0.8, 0)), (90, 50, (0, 0.8)), (50, 10, (-0.8, 0)), (10, 50, (0, -0.8))):
        np.testing.assert_allclose(wheel[row, column, :3], one_vector(*direction), atol=1)
        assert wheel[row, column, 3] == 255
    assert wheel[0, 0, 3] == 0


def test_flow_maximum_has_a_floor_and_pools_all_fields():
    assert flow_maximum([np.zeros((2, 8, 8))]) == 0.1
    assert flow_maximum([]) == 0.1
    strong = np.zeros((2, 8, 8))
    strong[0] = 3
    assert flow_maximum([np.zeros((2, 8, 8)), strong]) == pytest.approx(3, abs=0.01)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_spread_labels_keep_their_order_and_do_not_touch(values):
    placed = spread(np.array(values), gap=0.05, low=0.0, high=1.0)
    order = np.argsort(values, kind="stable")
    assert (np.diff(placed[order]) >= 0.05 - 1e-9).all()
    assert placed.min() >= -1e-9
    assert placed.max() <= 1 + 1e-9


def test_spread_leaves_labels_with_room_where_they_are():
    np.testing.assert_allclose(spread(np.array([0.9, 0.1, 0.5]), 0.05, 0, 1), [0.9, 0.1, 0.5])


def test_strongest_pair_is_the_one_that_moves_most():
    flow = np.zeros((7, 2, 4, 4))
    flow[2, 0], flow[5, 1] = 0.5, -2.0
    assert strongest_pair(flow) == 5


def test_confusion_picture_is_drawn_for_a_class_without_videos(tmp_path: Path, recwarn):
    path = tmp_path / "confusion.png"
    confusion_picture(path, np.array([[3, 1, 0], [0, 0, 0], [2, 2, 5]]), CLASSES, "Title", "Subtitle")
    picture = read_picture(path)
    assert min(picture.shape) > 300
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]


def test_confusion_picture_refuses_a_matrix_of_other_classes(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"shape \(2, 2\); \(3, 3\) is needed"):
        confusion_picture(tmp_path / "confusion.png", np.zeros((2, 2), int), CLASSES)
    assert list(tmp_path.iterdir()) == []


def timeline(gaps=()) -> Timeline:
    times = np.array([0.2, 0.4, 1.0, 1.2])
    probabilities = np.random.default_rng(1).dirichlet(np.ones(3), 4)
    distances = np.array([0.1, 0.2, 0.3, 0.05])
    return Timeline(
        times, probabilities, CLASSES, 1.4, probabilities.mean(axis=0), gaps, 1, distances, (0.02, 0.06), 0.09, False
    )


def test_probability_lines_do_not_bridge_skipped_windows():
    axes = Figure().subplots()
    overview._draw_timeline(axes, timeline([(0.5, 0.9)]))
    line = next(line for line in axes.lines if line.get_color() == CLASS_COLOURS[0])
    x, y = line.get_data()
    assert x.tolist() == pytest.approx([0.2, 0.4, 0.7, 1.0, 1.2])
    assert np.isnan(y).tolist() == [False, False, True, False, False]


def test_distances_have_the_band_of_the_still_clips_behind_them():
    axes = Figure().subplots()
    overview._draw_distances(axes, timeline([(0.5, 0.9)]))
    line, limit = axes.lines
    assert limit.get_ydata() == [0.09, 0.09]
    assert line.get_ydata()[[0, 1, 3, 4]].tolist() == [0.1, 0.2, 0.3, 0.05]
    assert np.isnan(line.get_ydata()[2])
    band = axes.patches[-1].get_extents().transformed(axes.transData.inverted())
    assert (band.y0, band.y1) == pytest.approx((0.02, 0.06))
    assert "up to 0.090" in axes.texts[0].get_text()
    assert "0.020 to 0.060" in axes.texts[0].get_text()


@pytest.mark.parametrize("winner", [None, 2])
def test_only_the_winner_is_emphasised(winner):
    axes = Figure().subplots()
    overview._draw_timeline(axes, replace(timeline(), winner=winner))
    bold = [text.get_text() for text in axes.texts if text.get_weight() == "bold"]
    assert [name.split("  ")[0] for name in bold] == ([] if winner is None else [CLASSES[winner]])


def test_every_class_is_named_beside_the_lines():
    axes = Figure().subplots()
    overview._draw_timeline(axes, timeline())
    written = " ".join(text.get_text() for text in axes.texts)
    assert all(name in written for name in CLASSES)


def test_gallery_writes_truth_error_beside_each_flow(tmp_path: Path, monkeypatch):
    generator = np.random.default_rng(2)
    points = generator.uniform(20, 100, (68, 2))
    example = GalleryExample(
        "s1 · surprise",
        np.full((128, 128), 120, np.uint8),
        np.zeros((2, 128, 128)),
        np.stack([np.full((128, 128), 0.3), np.full((128, 128), 0.4)]),
        np.zeros((2, 128, 128)),
        points,
        points + np.array([3.0, 4.0]),
    )
    captions: list[str] = []
    monkeypatch.setattr(evaluation, "caption", lambda axes, text: captions.append(text))
    evaluation_gallery(tmp_path / "gallery.png", [example])
    assert captions[0] == "s1 · surprise"
    assert captions[2:] == ["EPE 0.500 px", "EPE 0.000 px"]
    assert min(read_picture(tmp_path / "gallery.png").shape) > 300


def test_gallery_without_examples_is_refused(tmp_path: Path):
    with pytest.raises(SettingsError, match="at least one"):
        evaluation_gallery(tmp_path / "gallery.png", [])


def test_a_full_disk_leaves_the_old_picture(tmp_path: Path, monkeypatch):
    path = tmp_path / "confusion.png"
    path.write_bytes(b"old")

    def fill(self, target, **_):
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", fill)
    with pytest.raises(StorageError, match=r"confusion\.png"):
        confusion_picture(path, np.eye(3, dtype=int), CLASSES)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["confusion.png"]


def reliability_curve(name: str, shift: float = 0.0) -> ReliabilityCurve:
    confidence = np.array([0.35, 0.5, 0.9])
    edges = np.stack([confidence - 0.04, confidence + 0.03], axis=1)
    accuracy = (confidence - shift).clip(0, 1)
    interval = np.stack([accuracy - 0.1, accuracy + 0.1], axis=1).clip(0, 1)
    return ReliabilityCurve(name, edges, np.array([4, 12, 130]), confidence, accuracy, interval)


def test_a_reliability_diagram_shows_both_curves_and_every_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *rest, **more: (drawn.append(figure), save(figure, *rest, **more))
    )
    curves = [reliability_curve("calibrated"), reliability_curve("not calibrated", 0.3)]
    reliability_picture(tmp_path / "reliability.png", curves, "Reliability", "146 videos")
    assert read_picture(tmp_path / "reliability.png").ndim == 2
    panel, bars = drawn[0].axes
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["calibrated", "not calibrated"]
    assert [text.get_text() for text in bars.texts] == ["4", "12", "130"] * 2
    looks = {
        (line.get_color(), line.get_marker(), line.get_linestyle())
        for line in panel.lines
        if line.get_label() in ("calibrated", "not calibrated")
    }
    assert [len(set(each)) for each in zip(*looks, strict=True)] == [2, 2, 2]


@pytest.mark.parametrize("count", [0, 3])
def test_a_reliability_diagram_refuses_more_curves_than_can_be_told_apart(count: int, tmp_path: Path):
    with pytest.raises(SettingsError, match=f"Reliability: {count} curves"):
        reliability_picture(tmp_path / "a.png", [reliability_curve("one")] * count, "Reliability", "")
