"""Which face is whose: people who pass each other, come back, take another's place, or are no people at all."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from data_fixtures import dlib_detector, smooth_texture
from heads import film_of, passing

from mol.vision.crowd import Crowd, Seen
from mol.vision.landmarks import Face

HEIGHT, WIDTH, SIDE = 120, 320, 60


def points_at(x: float, y: float, width: float = SIDE) -> np.ndarray:
    """68 points in a square, with eyes, nose and mouth where alignment looks for them."""
    points = np.random.default_rng(0).uniform(-0.45, 0.45, (68, 2))
    points[36:42], points[42:48] = [-0.2, -0.2], [0.2, -0.2]
    points[30], points[48], points[54] = [0, 0.05], [-0.15, 0.25], [0.15, 0.25]
    points[0], points[16], points[8] = [-0.5, 0], [0.5, 0], [0, 0.5]
    return (width * points + [x, y]).astype(np.float32)


def face_at(x: float, y: float, width: float = SIDE) -> Face:
    half = width / 2
    return Face((round(x - half), round(y - half), round(x + half), round(y + half)), points_at(x, y, width))


LOOKS = [smooth_texture(np.random.default_rng(10 + person), SIDE, SIDE) for person in range(4)]


def draw(people: Sequence[tuple[int, float, float]], rng: np.random.Generator) -> np.ndarray:
    """A picture with the looks of some people at places (x, y), the hindmost first."""
    picture = np.full((HEIGHT, WIDTH), 100, np.float32)
    for who, x, y in people:
        matrix = np.float32([[1, 0, x - SIDE / 2], [0, 1, y - SIDE / 2]])
        cover = cv2.warpAffine(np.ones((SIDE, SIDE), np.float32), matrix, (WIDTH, HEIGHT))
        picture = np.where(cover > 0.5, cv2.warpAffine(LOOKS[who], matrix, (WIDTH, HEIGHT)), picture)
    return np.clip(picture + 2 * rng.standard_normal(picture.shape), 0, 255).astype(np.uint8)


def watch(frames: Sequence[Sequence[tuple[int, float, float]]], hidden: Sequence[set[int]]) -> list[list[Seen]]:
    """Whose each found face is: for each frame and person in order, those that are not hidden."""
    rng, found = np.random.default_rng(1), []
    shown: list[list[Face]] = []
    crowd = Crowd(lambda picture: shown[-1])
    for people, away in zip(frames, hidden, strict=True):
        shown.append([face_at(x, y) for who, x, y in people if who not in away])
        found.append(crowd.look(draw(people, rng)))
    return found


def test_people_who_pass_each_other_stay_themselves():
    ways = np.linspace(40, 280, 33)
    frames = [[(0, 320 - x, 60.0), (1, x, 62.0)] for x in ways]
    hidden = [{0} if abs(320 - 2 * x) < 45 else set() for x in ways]
    assert sum(map(bool, hidden)) >= 5
    found = watch(frames, hidden)
    behind, before = found[0]
    for seen, away in zip(found, hidden, strict=True):
        assert seen == ([before] if away else [behind, before])


def test_the_order_in_which_faces_are_found_means_nothing():
    rng = np.random.default_rng(3)
    shown: list[list[Face]] = []
    crowd = Crowd(lambda picture: shown[-1])
    people = [(0, 70.0, 60.0), (1, 160.0, 55.0), (2, 250.0, 64.0)]
    places: dict[Seen, set[int]] = {}
    for _ in range(12):
        order = rng.permutation(3)
        shown.append([face_at(people[who][1] + rng.normal(), people[who][2]) for who in order])
        for who, seen in zip(order.tolist(), crowd.look(draw(people, rng)), strict=True):
            places.setdefault(seen, set()).add(who)
    assert sorted(map(sorted, places.values())) == [[0], [1], [2]]


def test_who_takes_anothers_seat_is_another_person():
    frames = [[(0, 160.0, 60.0)]] * 10 + [[(1, 161.0, 60.0)]] * 10
    found = watch(frames, [set()] * 20)
    first, second = found[0][0], found[-1][0]
    assert first is not second
    assert (first.places, second.places) == (list(range(10)), list(range(10, 20)))


def test_who_comes_back_after_minutes_is_known_and_another_is_not():
    seat = [(0, 160.0, 60.0)]
    frames = [seat] * 8 + [[]] * 200 + [[(1, 160.0, 60.0)]] * 6 + [[]] * 80 + [[(0, 60.0, 50.0)]] * 4
    found = [seen[0] for seen in watch(frames, [set()] * len(frames)) if seen]
    assert found[0] is found[-1]
    assert found[8] is not found[0]
    assert len(set(found)) == 2


def test_a_passer_by_takes_nobodys_place():
    frames = [[(0, 160.0, 60.0)]] * 20
    frames[8] = [(0, 160.0, 60.0), (2, 240.0, 60.0)]
    found = watch(frames, [set()] * 20)
    assert {seen[0] for seen in found} == {found[0][0]}
    assert len({seen for some in found for seen in some}) == 2


def test_a_fainter_face_is_looked_for_where_somebody_was():
    asked = []

    def faint(picture: np.ndarray) -> list[Face]:
        asked.append(len(asked))
        return [face_at(161, 60), face_at(60, 60)]

    shown = [[face_at(160, 60)], [], [face_at(162, 60)]]
    frames = iter(shown)
    crowd = Crowd(lambda picture: next(frames), faint)
    picture = draw([(0, 160.0, 60.0)], np.random.default_rng(0))
    found = [crowd.look(picture) for _ in shown]
    assert len(asked) == 1
    assert [seen.places for seen in found[0]] == [[0, 1, 2]]
    assert len(crowd.known()) == 1


@pytest.fixture(scope="module")
def passed() -> tuple[Crowd, list[list[tuple[float, float]]]]:
    """Two real heads that pass each other, followed by dlib's detector."""
    places = passing(30)
    crowd = Crowd(dlib_detector())
    for picture in film_of(places):
        crowd.look(picture)
    return crowd, places


def test_two_real_heads_that_pass_each_other_stay_themselves(passed):
    crowd, places = passed
    behind, before = sorted(crowd.known()[:2], key=lambda seen: len(seen.places))
    assert len(before.places) >= 28  # the one in front is hardly ever lost
    assert 16 <= len(behind.places) < 28  # the other one is hidden for a while
    for who, seen in enumerate((behind, before)):
        x = [places[place][who][0] for place in seen.places]
        assert seen.places[0] <= 1
        assert seen.places[-1] >= 28
        np.testing.assert_allclose([points.mean(axis=0)[0] for points in seen.points], x, atol=25)
    # Whatever else was found is no person.
    assert all(len(seen.places) <= 2 for seen in crowd.known()[2:])


def test_a_real_head_that_takes_anothers_seat_is_another_person():
    here = (200.0, 120.0)
    crowd = Crowd(dlib_detector())
    for picture in film_of([[here, None]] * 7 + [[None, here]] * 7):
        crowd.look(picture)
    assert [seen.places for seen in sorted(crowd.known(), key=lambda seen: seen.places[0])] == [
        list(range(7)),
        list(range(7, 14)),
    ]
