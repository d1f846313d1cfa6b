"""Training clips without end: rendered in worker processes while the network trains, none of them twice.

Every picture shows every emotion once per pass, in a shuffled order; motion, light and noise are drawn anew for every
clip. The batch of a step is a function of (seed, step, batch size) alone: it does not depend on the number of workers,
nor on where a run was interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mol.common.ahead import Ahead
from mol.common.environment import available_cores
from mol.common.errors import SettingsError
from mol.common.workers import in_processes
from mol.data.cache import CacheSettings, ClipSet
from mol.data.clips import CROP, Augmentation
from mol.data.order import ClipOrder
from mol.networks.interface import Batch, Network
from mol.synth.clip_plan import ClipPlan, SynthSettings, plan_one
from mol.synth.faces import FaceImage
from mol.synth.render import Clip, render_stored
from mol.synth.synthetic_set import clip_rows
from mol.vision.align import alignment_matrix, transform_points

# This module's stream of random numbers; 1 to 4 belong to mol.data and mol.networks, 11 and 12 to mol.training.
_CLIPS = 5


class RenderedClips:
    """Clips to train on that are made as they are needed.

    Each batch is rendered by processes of its own and put into the network's form in a thread, up to `ahead` batches
    before it is asked for. Asking for steps in order is fast; any other step starts the rendering anew.

    Args:
        network: in whose form the clips are given.
        faces: pictures of the people to train on.
        settings: what the clips are like; its numbers of people, clips, sub-clips and its seed don't matter.
        device: where the batches go.
        augmentation: how the crops of the clips vary.
        workers: processes that render; 0 for one per core but one, at least one.
        ahead: batches that may wait, ready to be trained on.
        steps: of the whole training, beyond which nothing is rendered ahead; without end by default.
    Raises:
        SettingsError: no pictures, or a negative number of workers or none of batches.
    """

    def __init__(
        self,
        network: Network,
        faces: Sequence[FaceImage],
        settings: SynthSettings,
        device: torch.device | str = "cpu",
        augmentation: Augmentation | None = None,
        workers: int = 0,
        ahead: int = 3,
        steps: int | None = None,
    ) -> None:
        if not faces or workers < 0 or ahead < 1:
            raise SettingsError(
                f"{len(faces)} pictures, workers={workers}, ahead={ahead}: at least one picture and one batch ahead "
                "are needed, and workers must not be negative"
            )
        self.device = torch.device(device)
        self._network, self._faces, self._augmentation = network, list(faces), augmentation
        self._settings = replace(settings, subclips=1)
        self._workers, self._ahead, self._steps = workers or max(1, available_cores() - 1), ahead, steps
        emotions = range(len(settings.emotions))
        self._choices = [(face, emotion) for face in range(len(self._faces)) for emotion in emotions]
        self.labels = np.array([emotion for _, emotion in self._choices], np.int64)
        self.rows: list[dict[str, Any]] = [
            {
                "dataset": "synthetic",
                "subject": self._faces[face].subject,
                "clip": f"{face}-{emotion}",
                "label": emotion,
            }
            for face, emotion in self._choices
        ]
        self._rendering: _Rendering | None = None

    def __len__(self) -> int:
        """Number of kinds of clips: pictures times emotions; the clips themselves are without number."""
        return len(self._choices)

    def mean_shape(self) -> Tensor:
        """Mean landmarks of the faces at rest, (68, 2) float32 on the CPU, in pixels of the centre crop."""
        align = self._settings.align()
        points = [transform_points(alignment_matrix(face.points, align), face.points) for face in self._faces]
        mean = np.mean(points, axis=0, dtype=np.float64) - (self._settings.size - CROP) // 2
        return torch.from_numpy(mean.astype(np.float32))

    def plans(self, step: int, seed: int, batch_size: int) -> list[ClipPlan]:
        """What happens in the clips of a step."""
        # More clips than kinds of them in a batch: every kind several times in a pass, each time another clip.
        times = math.ceil(batch_size / len(self._choices))
        positions = ClipOrder(np.tile(self.labels, times)).positions(step, seed, batch_size) % len(self._choices)
        plans = []
        for slot, position in enumerate(positions.tolist()):
            face, emotion = self._choices[position]
            rng = np.random.default_rng((seed, _CLIPS, step, slot))
            name = self._settings.emotions[emotion]
            plans.append(plan_one(rng, face, f"step{step}-{slot}", name, self._settings))
        return plans

    def sampled_rows(self, count: int, seed: int) -> list[dict[str, Any]]:
        """Index rows of at least `count` clips such as those of a run, to count what they show."""
        rows: list[dict[str, Any]] = []
        for step in range(math.ceil(count / len(self))):
            rows += clip_rows(self.plans(step, seed, len(self)), self._faces, self._settings)
        return rows

    def training_batch(self, step: int, seed: int, batch_size: int) -> Batch:
        """Batch of one training step: new clips, randomly cropped and mirrored; equal for equal (seed, step).

        Args:
            step: counted from 0.
            seed: of the run.
            batch_size: number of clips.
        Raises:
            MOLError: a worker process died twice. Errors of the rendering pass through with their cause.
        """
        rendering = self._rendering
        if rendering is None or rendering.place != (step, seed, batch_size) or step >= rendering.last:
            self.close()
            last = math.inf if self._steps is None else max(self._steps, step + 1)
            batches = Ahead(self._batches(step, last, seed, batch_size), self._ahead)
            rendering = _Rendering((step, seed, batch_size), last, batches)
        self._rendering = rendering._replace(place=(step + 1, seed, batch_size))
        return next(rendering.batches)

    def close(self) -> None:
        """End the workers; a batch that is asked for later starts new ones."""
        if self._rendering is not None:
            self._rendering.batches.close()
            self._rendering = None

    def __enter__(self) -> RenderedClips:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _batches(self, first: int, last: float, seed: int, batch_size: int) -> Generator[Batch, None, None]:
        """The batches of the steps from `first` up to, but without, `last`, on the device."""
        everyone = range(batch_size)
        with closing(self._clip_sets(first, last, seed, batch_size)) as clip_sets:
            for step, clip_set in clip_sets:
                held = self._network.hold(clip_set, everyone, self.device, augmentation=self._augmentation)
                yield held.training_batch(step, seed, batch_size)

    def _clip_sets(
        self, first: int, last: float, seed: int, batch_size: int
    ) -> Generator[tuple[int, ClipSet], None, None]:
        """(step, its clips), in order; clips arrive in any order, at most a few more than the workers ahead."""
        plans: dict[int, list[ClipPlan]] = {}
        arrived: dict[int, dict[int, Clip]] = {}

        def tasks() -> Iterator[tuple[ClipPlan, FaceImage, int, SynthSettings]]:
            step = first
            while step < last:
                plans[step] = self.plans(step, seed, batch_size)
                for plan in plans[step]:
                    yield plan, self._faces[plan.face], plan.starts[0], self._settings
                step += 1

        step = first
        kept = "The last checkpoint is kept."
        with closing(in_processes(render_stored, tasks(), self._workers, apart=True, kept=kept)) as rendered:
            for index, clip in rendered:
                arrived.setdefault(first + index // batch_size, {})[index % batch_size] = clip
                while len(arrived.get(step, ())) == batch_size:
                    clips = arrived.pop(step)
                    yield step, self._clip_set(plans.pop(step), [clips[slot] for slot in range(batch_size)])
                    step += 1

    def _clip_set(self, plans: Sequence[ClipPlan], clips: Sequence[Clip]) -> ClipSet:
        settings = self._settings
        return ClipSet(
            path=Path("rendered while training"),
            settings=CacheSettings("synthetic", settings.emotions, {}, {}, settings.frames, settings.size),
            rows=clip_rows(plans, self._faces, settings),
            frames=np.stack([clip.frames for clip in clips]),
            flow=np.stack([clip.flow for clip in clips]),
            landmarks=np.stack([clip.landmarks for clip in clips]),
            checksums=np.zeros(len(clips), np.uint64),
        )


class _Rendering(NamedTuple):
    """Batches in progress, the (step, seed, batch size) of the next one, and the step before which they end."""

    place: tuple[int, int, int]
    last: float
    batches: Ahead[Batch]
