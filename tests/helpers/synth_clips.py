"""Synthetic clips that several test files render."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from data_fixtures import astronaut, dlib_detector

from mol.data.cache import Cache
from mol.synth.action_units import displacement_field
from mol.synth.clip_plan import ClipPlan, SynthSettings, plan_clips
from mol.synth.faces import FaceImage, load_faces
from mol.synth.render import Clip, render_clip
from mol.synth.synthetic_set import synthesize
from mol.vision.align import alignment_matrix, transform_points

PURE = SynthSettings(sources=("astronaut",), noise=0, lighting=0, amplitude=(3.0, 3.0), seed=7)


STILL = replace(PURE, head_shift=0, head_turn=0, head_zoom=0)


NOTHING = replace(PURE, emotions=("neutral",), amplitude=(0.3, 3.0))


TINY = SynthSettings(sources=("astronaut", "grace_hopper"), clips=3, subclips=2, seed=1)


def one_clip(settings: SynthSettings, index: int = 0) -> tuple[ClipPlan, Clip]:
    plan = plan_clips([astronaut()], settings)[index]
    return plan, render_clip(plan, astronaut(), plan.starts[0], settings)


@cache
def people() -> list[FaceImage]:
    """Three people of the ORL set, one picture each."""
    return load_faces(people=3, pictures=1, detector=dlib_detector())


def aligned_points(face: FaceImage) -> np.ndarray:
    return transform_points(alignment_matrix(face.points), face.points.astype(np.float64))


def unit_field(face: FaceImage, units: tuple[int, ...], amplitude: float = 3.0):
    return displacement_field(aligned_points(face), dict.fromkeys(units, (1.0, 1.0)), amplitude)


def move_points(field, points: np.ndarray) -> np.ndarray:
    return field(points.T.copy()).T


def make_tiny_set(path: Path) -> tuple[Cache, list[tuple[int, int]]]:
    """A set of 12 rows, and the progress that was reported."""
    calls: list[tuple[int, int]] = []
    made = synthesize(
        path, TINY, workers=1, progress=lambda done, total: calls.append((done, total)), detector=dlib_detector()
    )
    return made, calls
