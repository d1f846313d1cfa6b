"""Clips held as a few small maps each, for networks whose input is a picture and not a sequence.

A training crop moves by up to the margin that the aligned frames have, and is mirrored at random; both are cut from the
held maps, so nothing is computed again. All randomness is a function of (seed, step) alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mol.common.devices import upload
from mol.common.environment import available_cores
from mol.common.errors import SettingsError
from mol.common.terminal import silently, tracking
from mol.common.workers import one_thread
from mol.data.cache import ClipSet
from mol.data.clips import CROP, Augmentation, checked_labels
from mol.data.order import CROPS, WHOLE, ClipOrder

Item = TypeVar("Item")

_MANY = 100  # Fewer are done within a second or two.
_SHRINK = 2  # The maps are held at half the resolution of the frames, a quarter of the memory.


class MapBatch(NamedTuple):
    """Maps of clips and their labels, on one device.

    Attributes:
        inputs: (B, C, size, size) float32.
        label: (B,) int64, class index.
        row: (B,) int64, row of the cache.
    """

    inputs: Tensor
    label: Tensor
    row: Tensor


@dataclass(frozen=True)
class MapForm:
    """What maps are like.

    Attributes:
        size: side of the network's input.
        signs: one per map, -1 for those whose values change their sign in a mirror.
    """

    size: int
    signs: tuple[int, ...]


def shrunk(maps: Tensor) -> Tensor:
    """Maps (B, C, S, S) in the resolution in which they are held."""
    return F.adaptive_avg_pool2d(maps, maps.shape[-1] // _SHRINK)


def computed(work: Callable[[Item], Tensor], items: Sequence[Item], what: str) -> Tensor:
    """Maps of some items, each (1, C, S, S), on all cores; shows a progress bar if there are many.

    Args:
        work: called in threads; OpenCV releases Python's lock while it computes.
        items: its arguments, at least one.
        what: heading of the progress bar.
    """
    bars = tracking() if len(items) > _MANY else nullcontext(silently)
    with one_thread(), ThreadPoolExecutor(available_cores()) as pool, bars as track:
        found = pool.map(work, items)
        return torch.cat([next(found) for _ in track(items, what)])


def centre_inputs(maps: Tensor, form: MapForm) -> Tensor:
    """The network's input from the centre crops of maps (B, C, S, S) in the resolution of the frames."""
    maps = shrunk(maps)
    side = CROP // _SHRINK
    at = (maps.shape[-1] - side) // 2
    return F.adaptive_avg_pool2d(maps[..., at : at + side, at : at + side], form.size)


class HeldMaps:
    """Rows of a cache on a device, as maps.

    Args:
        cache: an opened cache or pool.
        rows: which of its rows.
        maps: (n, C, S, S) float32, one for each of these rows, `shrunk`.
        form: what they are like.
        device: where to hold them.
        augmentation: how training crops vary; of it only the mirroring applies.
        balanced: draw every class equally often in training instead of every clip.
    Raises:
        ClipError: a label that is missing or not a class; the message names the row.
        SettingsError: no rows.
    """

    def __init__(
        self,
        cache: ClipSet,
        rows: Sequence[int] | np.ndarray,
        maps: Tensor,
        form: MapForm,
        device: torch.device | str = "cpu",
        augmentation: Augmentation | None = None,
        balanced: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self.rows: list[dict[str, Any]] = [cache.rows[int(i)] for i in rows]
        self.labels = checked_labels(cache, rows)
        self._form = form
        self._maps = maps.to(self.device)
        self._positions = torch.arange(len(self.rows), device=self.device)
        self._label = torch.as_tensor(self.labels, device=self.device)
        self._row = torch.as_tensor(np.asarray(rows, dtype=np.int64), device=self.device)
        self._vary(augmentation, balanced)

    def _vary(self, augmentation: Augmentation | None, balanced: bool) -> None:
        if not self.rows:
            raise SettingsError("no clips to hold: the list of rows is empty")
        self._flip = (augmentation or Augmentation()).flip
        self._order = ClipOrder(self.labels, balanced)

    def __len__(self) -> int:
        return len(self.rows)

    def part(
        self, rows: Sequence[int] | np.ndarray, augmentation: Augmentation | None = None, balanced: bool = False
    ) -> HeldMaps:
        """Some of these clips, given by their positions; the maps are shared."""
        chosen = np.asarray(rows, np.int64)
        part = object.__new__(HeldMaps)
        part.device, part._form, part._maps, part._label, part._row = (
            self.device,
            self._form,
            self._maps,
            self._label,
            self._row,
        )
        part.rows, part.labels = [self.rows[i] for i in chosen.tolist()], self.labels[chosen]
        part._positions = self._positions[torch.as_tensor(chosen, device=self.device)]
        part._vary(augmentation, balanced)
        return part

    def training_batch(self, step: int, seed: int, batch_size: int, cut: slice = WHOLE) -> MapBatch:
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
                *generator.integers(0, self._margin + 1, (2, batch_size)),
                generator.integers(0, 2, batch_size) * self._flip,
            ]
        )
        return self._crop(*upload(torch.from_numpy(drawn[:, cut].astype(np.int64)), self.device).unbind(0))

    def evaluation_batch(self, indices: Sequence[int] | np.ndarray) -> MapBatch:
        """Centre crops, never mirrored.

        Args:
            indices: positions of the clips.
        Raises:
            IndexError: a position outside 0..len-1.
        """
        positions = torch.as_tensor(np.asarray(indices, dtype=np.int64))
        if len(positions) and not 0 <= int(positions.min()) <= int(positions.max()) < len(self):
            raise IndexError(f"positions must be in 0..{len(self) - 1}")
        index = positions.to(self.device)
        centre = torch.full_like(index, self._margin // 2)
        return self._crop(index, centre, centre, torch.zeros_like(index))

    def evaluation_batches(self, batch_size: int, indices: np.ndarray | None = None) -> Iterator[MapBatch]:
        """All clips, or those at `indices`, in order and in batches of at most `batch_size`."""
        positions = np.arange(len(self)) if indices is None else np.asarray(indices)
        for start in range(0, len(positions), batch_size):
            yield self.evaluation_batch(positions[start : start + batch_size])

    @property
    def _margin(self) -> int:
        """Pixels of the maps by which a crop can move."""
        return int(self._maps.shape[-1]) - CROP // _SHRINK

    def _crop(self, index: Tensor, top: Tensor, left: Tensor, flip: Tensor) -> MapBatch:
        position = self._positions[index]
        side = CROP // _SHRINK
        steps = torch.arange(side, device=self.device)
        y = top[:, None] + steps
        x = left[:, None] + torch.where(flip[:, None] > 0, side - 1 - steps, steps)
        channel = torch.arange(len(self._form.signs), device=self.device)
        maps = self._maps[
            position[:, None, None, None], channel[:, None, None], y[:, None, :, None], x[:, None, None, :]
        ]
        signs = torch.tensor(self._form.signs, dtype=maps.dtype, device=self.device)
        mirrored = torch.where(flip[:, None] > 0, signs, torch.ones_like(signs))
        inputs = F.adaptive_avg_pool2d(maps * mirrored[:, :, None, None], self._form.size)
        return MapBatch(inputs, self._label[position], self._row[position])
