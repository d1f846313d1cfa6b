"""Long synthetic recordings that several test files use, and traces of them with exact flow, without a network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from data_fixtures import dlib_detector

from mol.prediction.regions import REGIONS, region_boxes
from mol.prediction.trace import Trace
from mol.scoring.expression import Expression
from mol.synth.faces import FaceImage, load_faces
from mol.synth.long_plan import LongPlan, LongSettings, plan_long
from mol.synth.long_render import LongMotion

SHORT = LongSettings(people=1, videos=1, minutes=0.1, micro=20, macro=0, blinks=20, pictures=1)
"""Six seconds with two micro-expressions and two blinks."""


@cache
def first_face() -> FaceImage:
    """The first person of the ORL set."""
    return load_faces(people=1, pictures=1, detector=dlib_detector())[0]


def annotated(plan: LongPlan) -> list[Expression]:
    """What happens in a recording."""
    return [Expression(one.onset, one.apex, one.offset, one.kind, one.emotion) for one in plan.events]


def exact_trace(
    settings: LongSettings,
    interval: int = 2,
    stride: int = 4,
    noise: float = 0.03,
    classes: Sequence[str] = ("happiness", "neutral"),
) -> tuple[Trace, LongPlan]:
    """A trace of the first recording with the true flow of every region and noise, the classes equally probable."""
    plan = plan_long(settings)[0]
    motion = LongMotion.of(plan, first_face(), settings)
    squares = []
    for left, top, right, bottom in region_boxes(motion.points):
        squares.append(np.stack(np.meshgrid(np.linspace(left, right, 5), np.linspace(top, bottom, 5))).reshape(2, -1))
    rest = np.concatenate(squares, axis=1)
    moved = np.stack([motion.at(time).forward(0, rest) for time in range(plan.length)])
    places = moved.reshape(plan.length, 2, len(REGIONS), -1).mean(axis=-1).transpose(0, 2, 1)
    frames = np.arange(0, plan.length - 7 * interval, stride)[:, None] + interval * np.arange(8)
    flow = places[frames[:, 1:]] - places[frames[:, :-1]]
    flow += noise * np.random.default_rng(0).standard_normal(flow.shape)
    even = np.full((len(frames), len(classes)), 1 / len(classes), np.float32)
    seconds = plan.length / settings.fps
    return Trace(tuple(classes), settings.fps, seconds, plan.length, frames, frames / settings.fps, even, flow), plan
