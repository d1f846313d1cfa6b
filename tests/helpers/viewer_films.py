"""A small film whose frames carry their numbers, and what a network might say of the faces in it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mol.scoring.expression import BLINK, MACRO, Expression
from mol.viewer.data import Person, Series, ViewerData
from mol.viewer.looks import Looks

CELL = 16
BITS = 8
HEIGHT, WIDTH = 96, CELL * BITS
CLASSES = ("happiness", "surprise", "others")
REGIONS = ("right_brow", "left_brow", "mouth")
EXPRESSIONS = (
    Expression(6, 10, 14, emotion="happiness", confidence=0.91),
    Expression(20, 24, 26, kind=BLINK, confidence=0.7),
    Expression(30, 40, 55, kind=MACRO, emotion="surprise", confidence=0.62),
)


def numbered_frames(numbers: Iterable[int]) -> Iterator[np.ndarray]:
    """(96, 128) pictures; the upper half is the number in eight squares, white for 1, the highest bit first."""
    for number in numbers:
        bits = [(number >> place) & 1 for place in reversed(range(BITS))]
        picture = np.full((HEIGHT, WIDTH), 96, np.uint8)
        picture[: HEIGHT // 2] = np.repeat(np.array(bits, np.uint8) * 255, CELL)
        yield picture


READ_NUMBER = f"""(() => {{
  const canvas = document.querySelector("#picture");
  const copy = Object.assign(document.createElement("canvas"), {{width: {BITS}, height: 1}});
  const context = copy.getContext("2d", {{willReadFrequently: true}});
  for (let bit = 0; bit < {BITS}; bit += 1) {{
    const x = Math.round((bit + 0.5) / {BITS} * canvas.width);
    context.drawImage(canvas, x, Math.round(canvas.height / 4), 1, 1, bit, 0, 1, 1);
  }}
  const {{data}} = context.getImageData(0, 0, {BITS}, 1);
  return [...Array({BITS}).keys()].reduce((number, bit) => 2 * number + (data[4 * bit] > 128 ? 1 : 0), 0);
}})()"""
"""The number that the canvas shows, in JavaScript, where nothing is drawn over the picture."""


def viewer_data(
    count: int = 64,
    fps: float = 25.0,
    people: int = 1,
    classes: Sequence[str] = CLASSES,
    expressions: Sequence[Expression] | None = EXPRESSIONS,
    seconds: np.ndarray | None = None,
    title: str = "film.mp4",
    with_looks: bool = True,
) -> ViewerData:
    """Numbers from a seeded generator for a film of `count` frames."""
    rng = np.random.default_rng(5)
    seconds = np.arange(count) / fps if seconds is None else seconds
    times = seconds[4::4]
    expressions = None if expressions is None else [one for one in expressions if one.offset < count]
    return ViewerData(
        title=title,
        classes=classes,
        fps=fps,
        seconds=seconds,
        duration=float(seconds[-1] + 1 / fps),
        size=(WIDTH, HEIGHT),
        people=[
            Person(
                name=f"person {place + 1}",
                verdict=classes[place % len(classes)],
                series=Series(
                    times,
                    rng.dirichlet(np.ones(len(classes)), len(times)),
                    rng.gamma(2, 0.2, (len(times), len(REGIONS))),
                ),
                looks=looks_of(count, place, rng) if with_looks else None,
                expressions=expressions if place == 0 or expressions is None else (),
            )
            for place in range(people)
        ],
        regions=REGIONS,
        notes=("the probabilities are not calibrated",),
        facts={"Network": "MOL"},
    )


def looks_of(count: int, place: int, rng: np.random.Generator) -> Looks:
    """Points, a square and flow in the lower half of every frame but the first two."""
    looks = Looks((WIDTH, HEIGHT), Path(tempfile.gettempdir()))
    left = 8 + 56 * place
    square = np.array([[left, 52], [left + 40, 52], [left + 40, 92], [left, 92]], float)
    points = rng.uniform(0, 30, (68, 2)) + np.array([left + 5, 57])
    for number in range(2, count):
        looks.add(number, points, square, rng.normal(0, 0.5, (2, 16, 16)))
    return looks
