"""Rendering long synthetic recordings, frame by frame: memory does not grow with their length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from mol.synth.action_units import DisplacementField, displacement_field, eyelid_field
from mol.synth.faces import FaceImage
from mol.synth.long_plan import BLINK, Event, LongPlan, LongSettings, lamp_level, sines
from mol.synth.motion import NO_FIELD, Motion, head_motion
from mol.synth.render import Camera, expose, light_of
from mol.vision.align import AlignSettings, alignment_matrix, transform_points

_ALIGN = AlignSettings()


@dataclass
class LongMotion:
    """Where each point of a face is in every frame of a recording.

    Attributes:
        plan: of the recording.
        settings: of its set.
        points: (68, 2) landmarks at rest, float64 aligned pixels.
    """

    plan: LongPlan
    settings: LongSettings
    points: np.ndarray
    _lids: DisplacementField | None = None
    _fields: dict[int, DisplacementField] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: LongPlan, face: FaceImage, settings: LongSettings) -> LongMotion:
        """The motion of a planned recording of one face."""
        matrix = alignment_matrix(face.points, _ALIGN)
        return cls(plan, settings, transform_points(matrix, face.points.astype(np.float64)))

    def at(self, time: int) -> Motion:
        """The motion of a frame, as a video of that frame alone."""
        active = self.plan.active(time)
        expression = next((event for event in active if event.kind != BLINK), None)
        blink = next((event for event in active if event.kind == BLINK), None)
        strength = expression.strength(time) if expression else 0.0
        shown = self._field(expression) if expression else NO_FIELD
        head = self._head(time)
        if blink is None:
            return Motion(shown, np.array([strength]), head)
        self._lids = self._lids or eyelid_field(self.points)
        return Motion(shown, np.array([strength]), head, self._lids, np.array([blink.amplitude * blink.strength(time)]))

    def _field(self, event: Event) -> DisplacementField:
        """Of the event that is going on; earlier ones are let go."""
        if event.onset not in self._fields:
            intensities = event.intensities or {}
            self._fields = {event.onset: displacement_field(self.points, intensities, event.amplitude, _ALIGN.size)}
        return self._fields[event.onset]

    def _head(self, time: int) -> np.ndarray:
        across, down, turn, zoom = sines(self.plan.head, time / self.settings.fps)
        shift = self.settings.head_shift * np.array([[across, down]])
        angle = np.deg2rad(self.settings.head_turn) * np.array([turn])
        return head_motion(shift, angle, self.settings.head_zoom * np.array([zoom]), _ALIGN.size)


def render_long(plan: LongPlan, face: FaceImage, settings: LongSettings) -> Iterator[np.ndarray]:
    """The frames of a recording as a camera would see them, one at a time: (H, W) uint8.

    Args:
        plan: what happens.
        face: the picture.
        settings: of the set.
    """
    motion, camera = LongMotion.of(plan, face, settings), Camera(face, _ALIGN, settings.enlarge)
    rng = np.random.default_rng(plan.noise_seed)
    for time in range(plan.length):
        seconds = time / settings.fps
        level, across, down = (settings.lighting * sines(plan.light, seconds)).tolist()
        level += settings.lighting * lamp_level(plan.lamps, seconds)
        light = light_of(level, across, down, camera.aligned, _ALIGN.size)
        yield expose(camera.picture(motion.at(time), 0), light, settings.noise, rng)
