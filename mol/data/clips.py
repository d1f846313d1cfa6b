"""Training and evaluation batches, cut on the device from clips that are held there.

A crop reads frames, flow and landmarks at the same offset; a mirrored clip reads its columns backwards, negates dx and
swaps left and right points. The held data is never modified. All randomness is a function of (seed, step) alone, so a
resumed run draws the same batches as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mol.common.checks import require_at_most, require_not_negative
from mol.common.devices import upload
from mol.common.errors import ClipError, SettingsError
from mol.data.action_units import unit_targets
from mol.data.cache import ClipSet
from mol.data.cache.clip_set import RowArray
from mol.data.order import CROPS, WHOLE, ClipOrder
from mol.data.split import person
from mol.vision.points import FLIP_PERMUTATION

CROP = 128
NORMALISATIONS = ("clip", "released-subject")


class Batch(NamedTuple):
    """Clips and their targets, on one device.

    Attributes:
        clips: (B, 1, T, 128, 128) float32, normalised grey values.
        flow: (B, T-1, 2, 128, 128) float32, (dx, dy) in pixels, frame t to t+1.
        landmarks: (B, T-1, 68, 2) float32, (x, y) in pixels of the crop, frames 2..T.
        label: (B,) int64, class index.
        row: (B,) int64, row of the cache.
        pairs: (2, M) int64, clip and first frame of the pairs whose flow is trained; None for all.
        action_units: (B, `mol.network.units.CODES`) int8, whether each action unit is shown, by its number.
    """

    clips: Tensor
    flow: Tensor
    landmarks: Tensor
    label: Tensor
    row: Tensor
    pairs: Tensor | None = None
    action_units: Tensor | None = None

    @property
    def inputs(self) -> Tensor:
        """What the network is called with: the clips."""
        return self.clips


@dataclass(frozen=True)
class Augmentation:
    """How training crops vary, besides their position.

    Normalisation per clip undoes a change of brightness or contrast; these two changes of light survive it.

    Attributes:
        flip: mirror a random half of the clips.
        gamma: exponent of the grey values, log-uniform in [1 / (1 + gamma), 1 + gamma]; 0 turns it off.
        drift: change of brightness from the first to the last frame, uniform in ±drift of the full range; 0 turns it
            off.
    """

    flip: bool = True
    gamma: float = 0.0
    drift: float = 0.0

    def __post_init__(self) -> None:
        require_not_negative(self, "gamma", "drift")
        require_at_most(self, gamma=100, drift=100)


def normalise_clips(clips: Tensor) -> Tensor:
    """Normalise every clip to zero mean and unit deviation over all its frames; a constant clip becomes zeros.

        y = (x − mean(x)) / std(x),   both over (T, H, W)

    Args:
        clips: (..., T, H, W), grey values in any scale.
    Returns:
        Float32 tensor of the same shape (float64 stays float64).
    """
    mean, deviation = grey_statistics(clips)
    return (clips - mean) / deviation


def grey_statistics(clips: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every clip's grey values, as `normalise_clips` takes them: (..., 1, 1, 1) each.

    Args:
        clips: (..., T, H, W), grey values in any scale.
    """
    x = clips if clips.is_floating_point() else clips.float()
    mean = x.mean(dim=(-3, -2, -1), keepdim=True)
    deviation = (x - mean).square().mean(dim=(-3, -2, -1), keepdim=True).sqrt()
    # Relative, because rounding alone gives a constant picture a deviation of about 1e-7 of its brightness.
    floor = 1e-5 * mean.abs() + torch.finfo(x.dtype).tiny
    return mean, torch.maximum(deviation, floor)


class _Held:
    """Clips of a cache on a device, as they were read; every selection of them cuts its batches from these tensors.

    Args:
        cache, rows, device, normalisation: as in `ResidentClips`.
    """

    def __init__(
        self, cache: ClipSet, rows: Sequence[int] | np.ndarray, device: torch.device | str, normalisation: str
    ) -> None:
        self.device = torch.device(device)
        self.normalisation = normalisation
        self.rows = [cache.rows[int(i)] for i in rows]
        self.labels = checked_labels(cache, rows)
        self.label = torch.as_tensor(self.labels, device=self.device)
        self.cache_rows = torch.as_tensor(np.asarray(rows, dtype=np.int64), device=self.device)
        self.action_units = torch.as_tensor(unit_targets(self.rows), device=self.device)
        self.frames = _resident(cache.frames, rows, self.device)
        self.flow = _resident(cache.flow, rows, self.device)
        self.landmarks = _resident(cache.landmarks, rows, self.device)
        self._check_finite("flow", self.flow)
        self._check_finite("landmarks", self.landmarks)
        self._permutation = torch.as_tensor(np.asarray(FLIP_PERMUTATION, dtype=np.int64), device=self.device)
        if normalisation == "released-subject":
            self._mean, self._maximum = self._person_statistics()

    @property
    def margin(self) -> int:
        """Pixels by which a crop can move."""
        return self.frames.shape[-1] - CROP

    def crop(
        self, index: Tensor, top: Tensor, left: Tensor, flip: Tensor, relight: Callable[[Tensor], Tensor] | None = None
    ) -> Batch:
        """Cut clips, flow and landmarks at the same offset.

        Args:
            index: (B,) positions of the clips.
            top, left: (B,) offsets in pixels.
            flip: (B,) 1 to mirror a clip, else 0.
            relight: changes the grey values 0..255, (B, T, 128, 128) float32, before they are normalised.
        """
        steps = torch.arange(CROP, device=self.device)
        y = top[:, None] + steps
        x = left[:, None] + torch.where(flip[:, None] > 0, CROP - 1 - steps, steps)
        time = torch.arange(self.frames.shape[1], device=self.device)
        frames = self.frames[
            index[:, None, None, None], time[:, None, None], y[:, None, :, None], x[:, None, None, :]
        ].float()
        component = torch.arange(2, device=self.device)
        flow = self.flow[
            index[:, None, None, None, None],
            time[:-1, None, None, None],
            component[:, None, None],
            y[:, None, None, :, None],
            x[:, None, None, None, :],
        ].float()
        sign = torch.stack([1 - 2 * flip, torch.ones_like(flip)], dim=1)
        if relight is not None:
            frames = relight(frames)
        return Batch(
            clips=self._normalise(frames, index)[:, None],
            flow=flow * sign[:, None, :, None, None],
            landmarks=self._crop_landmarks(index, top, left, flip),
            label=self.label[index],
            row=self.cache_rows[index],
            action_units=self.action_units[index],
        )

    def _crop_landmarks(self, index: Tensor, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
        points = self.landmarks[index, 1:] - torch.stack([left, top], dim=1)[:, None, None, :]
        mirrored = torch.stack([CROP - 1 - points[..., 0], points[..., 1]], dim=-1)[:, :, self._permutation]
        return torch.where(flip[:, None, None, None] > 0, mirrored, points)

    def _normalise(self, frames: Tensor, index: Tensor) -> Tensor:
        if self.normalisation == "clip":
            return normalise_clips(frames)
        return (frames - self._mean[index].view(-1, 1, 1, 1)) / self._maximum[index].view(-1, 1, 1, 1)

    def _person_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and maximum of all frames of each clip's person, each (n,) float32."""
        _, owner = np.unique([person(row) for row in self.rows], return_inverse=True)
        owners = torch.as_tensor(owner, device=self.device)
        means = torch.stack([frames.float().mean() for frames in self.frames])
        maxima = torch.stack([frames.max() for frames in self.frames]).float()
        people = int(owner.max()) + 1
        mean = torch.zeros(people, device=self.device).scatter_reduce(0, owners, means, "mean", include_self=False)
        maximum = torch.ones(people, device=self.device).scatter_reduce(0, owners, maxima, "amax")
        return mean[owners], maximum[owners]

    def _check_finite(self, name: str, values: Tensor) -> None:
        finite = torch.cat([part.isfinite().flatten(1).all(1) for part in values.split(64)])
        if not bool(finite.all()):
            at = int((~finite).nonzero()[0])
            raise ClipError(
                f"NaN or infinite {name} in row {int(self.cache_rows[at])} of the cache "
                f"({_describe(self.rows[at])}); make the cache again, or leave this clip out"
            )


class ResidentClips:
    """Rows of a cache held on a device, about 0.75 MB per clip.

    Args:
        cache: an opened cache or pool.
        rows: which of its rows to hold.
        device: where to hold them.
        normalisation: ``"clip"`` (`normalise_clips`, the default), or ``"released-subject"``: minus the mean, divided
            by the maximum over all frames of the person's clips, as in the published code. A new single clip cannot be
            normalised like that; it exists for comparison.
        augmentation: how training crops vary.
        balanced: draw every class equally often in training instead of every clip.
    Raises:
        ClipError: NaN or infinite flow or landmarks, or a label that is missing or not a class; the message names the
            row.
        SettingsError: an unknown normalisation or no rows.
    """

    def __init__(
        self,
        cache: ClipSet,
        rows: Sequence[int] | np.ndarray,
        device: torch.device | str = "cpu",
        normalisation: str = "clip",
        augmentation: Augmentation | None = None,
        balanced: bool = False,
    ) -> None:
        if normalisation not in NORMALISATIONS:
            raise SettingsError(f"normalisation={normalisation!r} must be one of {', '.join(NORMALISATIONS)}")
        _require_rows(rows)
        if cache.settings.size < CROP:
            raise ClipError(
                f"the frames of {cache.path} are {cache.settings.size} pixels wide and high; networks take crops of "
                f"{CROP}: make the cache again with a larger size"
            )
        self._select(_Held(cache, rows, device, normalisation), np.arange(len(rows)), augmentation, balanced)

    def _select(self, held: _Held, positions: np.ndarray, augmentation: Augmentation | None, balanced: bool) -> None:
        """Select the clips at `positions` among those that are held."""
        self._held = held
        self._positions = torch.as_tensor(positions, device=held.device)
        self.device = held.device
        self.normalisation = held.normalisation
        self.rows = [held.rows[i] for i in positions.tolist()]
        self.labels = held.labels[positions]
        self.augmentation = augmentation or Augmentation()
        self._order = ClipOrder(self.labels, balanced)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def margin(self) -> int:
        """Pixels by which a crop can move: 16 for frames of 144."""
        return self._held.margin

    def part(
        self, rows: Sequence[int] | np.ndarray, augmentation: Augmentation | None = None, balanced: bool = False
    ) -> ResidentPart:
        """Some of these clips, given by their positions; nothing is copied."""
        return ResidentPart(self, rows, augmentation, balanced)

    def mean_shape(self) -> Tensor:
        """Mean landmarks of frames 2..T of all clips, (68, 2) float32 on the CPU, in pixels of the centre crop."""
        landmarks = self._held.landmarks[self._positions, 1:].double()
        return (landmarks.mean(dim=(0, 1)) - self.margin // 2).float().cpu()

    def training_batch(self, step: int, seed: int, batch_size: int, cut: slice = WHOLE) -> Batch:
        """Batch of one training step: random crops, randomly mirrored; equal for equal (seed, step).

        Args:
            step: counted from 0.
            seed: of the run.
            batch_size: number of clips.
            cut: which of them; how each varies does not depend on it.
        Raises:
            SettingsError: the batch is larger than the data set.
        """
        generator = np.random.default_rng((seed, CROPS, step))
        drawn = np.stack(
            [
                self._order.positions(step, seed, batch_size),
                generator.integers(0, self.margin + 1, batch_size),
                generator.integers(0, self.margin + 1, batch_size),
                generator.integers(0, 2, batch_size) * self.augmentation.flip,
            ]
        )
        index, top, left, flip = upload(torch.from_numpy(drawn[:, cut].astype(np.int64)), self.device).unbind(0)
        light = generator.uniform(-1, 1, (2, batch_size)).astype(np.float32)[:, cut]
        return self._crop(index, top, left, flip, upload(torch.from_numpy(light), self.device))

    def evaluation_batch(self, indices: Sequence[int] | np.ndarray | Tensor) -> Batch:
        """Centre crops, never mirrored or varied.

        Args:
            indices: positions of the clips.
        Raises:
            IndexError: a position outside 0..len-1.
        """
        positions = torch.as_tensor(np.asarray(indices, dtype=np.int64))
        if len(positions) and not 0 <= int(positions.min()) <= int(positions.max()) < len(self):
            raise IndexError(f"positions must be in 0..{len(self) - 1}")
        index = positions.to(self.device)
        centre = torch.full_like(index, self.margin // 2)
        return self._crop(index, centre, centre, torch.zeros_like(index), None)

    def evaluation_batches(self, batch_size: int, indices: np.ndarray | None = None) -> Iterator[Batch]:
        """All clips, or those at `indices`, in order and in batches of at most `batch_size`."""
        positions = np.arange(len(self)) if indices is None else np.asarray(indices)
        for start in range(0, len(positions), batch_size):
            yield self.evaluation_batch(positions[start : start + batch_size])

    def centre_frames(self, index: int) -> np.ndarray:
        """Centre crop of one clip, not normalised: (T, 128, 128) uint8."""
        at = self.margin // 2
        return self._held.frames[self._positions[index], :, at : at + CROP, at : at + CROP].cpu().numpy()

    def _crop(self, index: Tensor, top: Tensor, left: Tensor, flip: Tensor, light: Tensor | None) -> Batch:
        relight = None if light is None else partial(self._relight, light=light)
        return self._held.crop(self._positions[index], top, left, flip, relight)

    def _relight(self, frames: Tensor, light: Tensor) -> Tensor:
        """Apply gamma and drift to (B, T, H, W) grey values of 0..255; `light` (2, B) is uniform in [-1, 1]."""
        shape = (-1, 1, 1, 1)
        if self.augmentation.gamma:
            exponent = torch.exp(light[0] * float(np.log1p(self.augmentation.gamma))).view(shape)
            frames = 255 * (frames / 255) ** exponent
        if self.augmentation.drift:
            ramp = torch.linspace(-0.5, 0.5, frames.shape[1], device=frames.device)[None, :, None, None]
            frames = frames + 255 * self.augmentation.drift * light[1].view(shape) * ramp
        return frames


class ResidentPart(ResidentClips):
    """Some of the clips that a device already holds. Nothing is copied, so folds cost no memory.

    Args:
        whole: the clips that are held.
        rows: positions of some of them.
        augmentation, balanced: as in `ResidentClips`.
    Raises:
        SettingsError: no rows.
    """

    def __init__(
        self,
        whole: ResidentClips,
        rows: Sequence[int] | np.ndarray,
        augmentation: Augmentation | None = None,
        balanced: bool = False,
    ) -> None:
        _require_rows(rows)
        chosen = whole._positions.cpu().numpy()[np.asarray(rows, np.int64)]
        self._select(whole._held, chosen, augmentation, balanced)


def _require_rows(rows: Sequence[int] | np.ndarray) -> None:
    if not len(rows):
        raise SettingsError("no clips to hold: the list of rows is empty")


def checked_labels(cache: ClipSet, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """Labels (n,) int64 of some rows of a cache.

    Raises:
        ClipError: a label that is missing or not a class; the message names the row.
    """
    count = len(cache.classes)
    for i in map(int, rows):
        label = cache.rows[i].get("label")
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < count:
            raise ClipError(
                f"label {label!r} in row {i} of the cache ({_describe(cache.rows[i])}) must be a class index in "
                f"0..{count - 1}; label this clip or leave it out"
            )
    return np.array([cache.rows[int(i)]["label"] for i in rows], dtype=np.int64)


def _describe(row: Mapping[str, Any]) -> str:
    return f"{person(row)}, clip {row['clip']}, start {row.get('start')}"


def _resident(source: RowArray, rows: Sequence[int] | np.ndarray, device: torch.device) -> Tensor:
    """Copy rows from disk to the device in pieces, so that the host never holds them all at once."""
    chosen = np.asarray(rows, dtype=np.int64)
    dtype = torch.from_numpy(np.zeros(1, source.dtype)).dtype
    target = torch.empty((len(chosen), *source.shape[1:]), dtype=dtype, device=device)
    for start in range(0, len(chosen), 64):
        part = chosen[start : start + 64]
        target[start : start + 64] = torch.from_numpy(np.ascontiguousarray(source[part])).to(device)
    return target
