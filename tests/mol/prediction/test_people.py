"""Whose windows are read: one person's, in spite of passers-by and changes of the face, or everybody's."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from data_fixtures import write_frames_folder
from heads import film_of
from tiny_model import TinyMOL

from mol.common.errors import NoFaceError, SettingsError, SeveralFacesError
from mol.common.terminal import silently
from mol.network.checkpoint import save_checkpoint
from mol.prediction.people import Person, find_people
from mol.prediction.predict import PredictConfig, describe_prediction, predict, predict_people
from mol.vision.crowd import Crowd, Seen
from mol.vision.video import Video

LEFT, RIGHT = (130.0, 120.0), (390.0, 120.0)


class Shown(Crowd):
    """Knows the people of each frame by name."""

    def __init__(self, frames: list[str]) -> None:
        super().__init__(lambda picture: [])
        self._frames = iter(frames)
        self._all: dict[str, Seen] = {}
        self._at = -1

    def look(self, image: np.ndarray) -> list[Seen]:
        self._at += 1
        found = []
        for name in next(self._frames):
            seen = self._all.setdefault(name, Seen())
            box = (10, 10, 50, 50) if name.islower() else (0, 0, 90, 90)
            seen.places.append(self._at)
            seen.points.append(np.full((68, 2), 1000 * ord(name) + self._at, np.float32))
            seen.boxes.append(box)
            seen.area += (box[2] - box[0]) ** 2
            seen.width += box[2] - box[0]
            found.append(seen)
        return found

    def known(self) -> list[Seen]:
        return sorted(self._all.values(), key=lambda seen: -seen.width)


def find(frames: list[str], people=None, on_error="raise", max_gap=4, fps=4.0) -> tuple[list[Person], list[str]]:
    count = len(frames)
    video = Video(np.zeros((count, 4, 4), np.uint8), fps, [f"frame {index}" for index in range(count)])
    return find_people(video, np.arange(count), Shown(frames), people, on_error, max_gap, silently)


def names(person: Person) -> str:
    """Who is followed in each frame, "-" for nobody."""
    first = np.where(person.has_points, person.points[:, 0, 0], 0)
    return "".join(chr(int(value) // 1000) if value else "-" for value in first)


def test_the_one_person_is_followed():
    (person,), notes = find(["a"] * 10)
    assert (names(person), notes, person.number) == ("a" * 10, [], None)


def test_a_face_that_is_seen_in_a_few_frames_is_left_out():
    (person,), notes = find(["a"] * 30 + ["aB"] + ["a"] * 5)
    assert names(person) == "a" * 36
    assert notes == ["1 frame shows other faces too; the person who is there all the time is followed"]


def test_a_second_person_is_named_with_both_remedies():
    with pytest.raises(SeveralFacesError, match=r"frame 7, at .*second one in 20 frames.*--people all.*largest"):
        find(["A"] * 7 + ["Ab"] * 20)


def test_the_largest_of_several_is_the_same_person_all_the_time():
    (person,), notes = find(["aB"] * 10 + ["a"] + ["aB"] * 10, people="largest")
    assert names(person) == "B" * 21
    assert "the largest face is followed" in notes[0]


def test_everybody_who_stays_gets_a_result_and_a_number_the_most_prominent():
    frames = ["aB"] * 12 + ["ac"] * 2 + ["a"] * 10
    everybody, notes = find(frames, people="all")
    assert [person.number for person in everybody] == [1, 2]
    assert [names(person).strip("-")[0] for person in everybody] == ["B", "a"]
    assert notes == ["1 face that stayed for less than 1 s or 8 frames got no result"]
    (one,), notes = find(frames, people=1)
    assert (names(one)[:12], one.number, notes) == ("B" * 12, 1, [])
    three, notes = find(frames, people=3)
    assert (len(three), notes) == (2, ["3 people were asked for, and 2 found"])


def test_where_one_of_several_is_away_is_no_error_and_short_gaps_are_filled():
    (one, two), _ = find(["aB"] * 10 + ["B"] * 3 + ["aB"] * 3 + ["B"] * 9, people="all")
    assert names(one) == "B" * 25
    assert (two.has_points[:16].all(), two.has_points[16:].any()) == (True, False)
    assert two.found[9:14].tolist() == [True, False, False, False, True]


def test_who_takes_the_seat_is_followed_and_noted_and_no_window_spans_both():
    (person,), _ = find(["a"] * 20 + ["b"] * 15)
    assert names(person) == "a" * 20 + "b" * 15
    video = Video(np.zeros((35, 4, 4), np.uint8), 4.0, [f"frame {index}" for index in range(35)])
    (note,) = person.notes(video)
    assert note.startswith("the face is another one from frame 20 on: another person may have taken the place")
    samples = np.arange(0, 28, 4)[:, None] + np.arange(8)
    whole, skipped = person.sort(samples, video)
    assert whole[:, 0].tolist() == [0, 4, 8, 12, 20, 24]
    assert [(window.start, window.reason) for window in skipped] == [
        (16, "the face changes between frame 19 and frame 20")
    ]


def test_a_face_that_only_comes_when_the_other_has_gone_is_followed_though_it_is_short():
    (person,), notes = find(["a"] * 20 + ["B"] * 4 + ["a"] * 20)
    assert (names(person), notes) == ("a" * 20 + "BBBB" + "a" * 20, [])


def test_a_gap_between_two_people_is_not_filled():
    (person,), _ = find(["a"] * 20 + [""] * 3 + ["b"] * 15, on_error="skip")
    assert names(person) == "a" * 20 + "---" + "b" * 15


def test_no_face_for_long_is_an_error_at_once_or_left_out_with_one_reason():
    frames = ["a"] * 10 + [""] * 300 + ["a"] * 300
    with pytest.raises(NoFaceError, match=r"frame 10;.*--max-gap.*--on-error skip"):
        find(frames)
    (person,), _ = find(frames, on_error="skip")
    video = Video(np.zeros((610, 4, 4), np.uint8), 4.0, [f"frame {index}" for index in range(610)])
    _, skipped = person.sort(np.arange(0, 600, 4)[:, None] + np.arange(8), video)
    assert "no face found in frame 10" in skipped[0].reason
    assert len(skipped) == 77


def test_nobody_at_all_is_named():
    with pytest.raises(NoFaceError, match="any of the 20 frames"):
        find([""] * 20, people="all")


@pytest.mark.parametrize("people", [0, -2, "both", True, 1.5])
def test_people_must_be_all_largest_or_a_number(people):
    with pytest.raises(SettingsError, match="people"):
        PredictConfig("talk.mp4", "run", people=people)


# Two real heads, from the pictures to the files


@pytest.fixture(scope="module")
def two_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty frames of two heads, the right one away in the last."""
    places = [[(x + index, y) for x, y in (LEFT, RIGHT)] for index in range(20)]
    places[-1][1] = None
    folder = tmp_path_factory.mktemp("two") / "frames"
    write_frames_folder(film_of(places), folder)
    return folder


@pytest.fixture
def config(tmp_path: Path, two_heads: Path, monkeypatch: pytest.MonkeyPatch) -> PredictConfig:
    monkeypatch.setattr("mol.networks.mol.MOL", TinyMOL)
    monkeypatch.setattr("mol.prediction.watch.STILL_CLIPS", 2)
    monkeypatch.setattr("mol.prediction.watch.NOISE_FACTORS", np.array([0.8, 1.25]))
    torch.manual_seed(0)
    state = {"classes": ["up", "down"], "mean_shape": [[0.0, 0.0]] * 68, "step": 5, "normalisation": "clip"}
    save_checkpoint(tmp_path / "run" / "checkpoints" / "last", TinyMOL(2), None, state)
    paths = (str(two_heads), str(tmp_path / "run"), str(tmp_path / "out"))
    return PredictConfig(*paths, interval=1, stride=4, fps=10.0, overlay=False, page=False)


def test_two_people_have_a_folder_each(config, tmp_path):
    config.people = "all"
    results = predict_people(config)
    found = {}
    for prediction, files in results:
        number = prediction.person.number
        assert {path.parent for path in files.values()} == {tmp_path / "out" / f"person-{number}"}
        written = json.loads(files["predictions"].read_text(encoding="utf-8"))
        assert written["person"] == number
        with files["frames"].open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["frame"] for row in rows] == [str(index) for index in range(20)]
        assert {row["face_id"] for row in rows} == {str(number - 1)}
        x = np.array([float(row["x_30"] or "nan") for row in rows])
        side = "left" if x[0] < 260 else "right"
        found[side] = [row["success"] for row in rows]
        expected = (LEFT if side == "left" else RIGHT)[0] + np.arange(20)
        np.testing.assert_allclose(x[:19], expected[:19], atol=15)
    assert found == {"left": ["1"] * 20, "right": ["1"] * 19 + ["0"]}


def test_two_people_where_one_was_expected_are_named_and_the_old_name_of_the_setting_works(config):
    with pytest.raises(SeveralFacesError, match=r"img001\.png.*--people all"):
        predict(config)
    config.several = "largest"
    prediction, files = predict(config)
    assert files["predictions"].parent == Path(config.out)
    assert "other faces too; the largest face is followed" in describe_prediction(prediction)
