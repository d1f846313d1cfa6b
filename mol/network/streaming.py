"""MOL on windows that share frames: everything that belongs to a frame or a pair alone is computed once.

In evaluation mode every batch norm uses its running statistics, so frames do not depend on one another: the stack, both
F5C blocks, the landmarks and the flow network's encoder are functions of a frame, the flow of a pair, and only the
emotion head, and that for action units, see a window. Windows have frames and pairs in common if their starts differ
by multiples of the interval between their frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mol.network.flownet import Encoded
from mol.network.model import MOL, MOLOutput, MOLUnitsOutput, output_of


class _Frame(NamedTuple):
    """What is kept of a frame: a row of each map."""

    first: Tensor
    second: Tensor
    landmarks: Tensor
    encoded: Encoded


class MOLStream:
    """Reads windows in the order of time; the numbers are those of `MOL.forward` on each window.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: MOL) -> None:
        self._model = model
        self._frames: dict[int, _Frame] = {}
        self._flows: dict[tuple[int, int], Tensor] = {}

    def missing(self, samples: np.ndarray) -> list[int]:
        """The frames of some windows (B, T) that have not been read yet."""
        return [number for number in np.unique(samples).tolist() if number not in self._frames]

    def read(self, samples: np.ndarray, frames: Mapping[int, Tensor]) -> MOLOutput | MOLUnitsOutput:
        """The network's estimates for some windows.

        Args:
            samples: (B, T) frame numbers, B at least 1; no window starts before one of an earlier call.
            frames: number → normalised (128, 128), of the frames that are `missing`.
        """
        self._forget(int(samples[:, 0].min()))
        if new := self.missing(samples):
            self._read_frames(new, torch.stack([frames[number] for number in new]).unsqueeze(1))
        rows = samples.tolist()
        pairs = {pair: None for row in rows for pair in pairwise(row)}
        if unknown := [pair for pair in pairs if pair not in self._flows]:
            self._read_pairs(unknown)
        logits, units = self._recognise(rows)
        return output_of(
            logits,
            torch.stack([torch.stack([self._flows[pair] for pair in pairwise(row)]) for row in rows]),
            torch.stack([torch.stack([self._frames[number].landmarks for number in row[1:]]) for row in rows]),
            units,
        )

    def _forget(self, first: int) -> None:
        """Let everything go that no window needs that starts at `first` or later."""
        self._frames = {number: frame for number, frame in self._frames.items() if number >= first}
        self._flows = {pair: flow for pair, flow in self._flows.items() if pair[0] >= first}

    def _read_frames(self, numbers: Sequence[int], frames: Tensor) -> None:
        model = self._model
        stacked = model.stack(frames)
        first, second = model.f5c1(stacked), model.f5c2(stacked)
        landmarks, encoded = model.landmarks(second), model.flow.encode(frames)
        for row, number in enumerate(numbers):
            maps = Encoded(*(x[row] for x in encoded))
            self._frames[number] = _Frame(first[row], second[row], landmarks[row], maps)

    def _read_pairs(self, pairs: Sequence[tuple[int, int]]) -> None:
        model = self._model
        earlier, later = ([self._frames[number] for number in numbers] for numbers in zip(*pairs, strict=True))
        met = model.meet(_rows([x.first for x in earlier]), _rows([x.second for x in later]))
        encoded = Encoded(*(_rows(list(maps)) for maps in zip(*(x.encoded for x in earlier), strict=True)))
        flow = model.flow.decode(encoded.c3, _rows([x.encoded.c3 for x in later]), met, encoded, lambda x: x)
        self._flows.update(zip(pairs, flow, strict=True))

    def _recognise(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
        model = self._model
        firsts = [row[:1] if model.by_motion else row[:-1] for row in rows]
        first = torch.stack([torch.stack([self._frames[number].first for number in row]) for row in firsts])
        second = torch.stack([torch.stack([self._frames[number].second for number in row[1:]]) for row in rows])
        return model.recognised(first, second)


def _rows(maps: list[Tensor]) -> Tensor:
    """Maps (C, H, W) as a batch, in the order of memory that they have."""
    batch = torch.stack(maps)
    last = maps[0].permute(1, 2, 0).is_contiguous() and not maps[0].is_contiguous()
    return batch.contiguous(memory_format=torch.channels_last) if last else batch
