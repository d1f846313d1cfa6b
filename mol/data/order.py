"""The order in which training draws clips: a function of (seed, step) alone."""

from __future__ import annotations

import numpy as np

from mol.common.errors import SettingsError

# This module's stream of random numbers; 2 belongs to crops (mol.data.clips), 3 to mol.data.split.
_ORDER = 1
CROPS = 2
"""The stream of random numbers of crops and mirroring: ``np.random.default_rng((seed, CROPS, step))``."""
WHOLE = slice(None)
"""All clips of a batch."""


class ClipOrder:
    """Batches that go through one shuffled pass over the clips after another without a gap.

    Args:
        labels: (n,) class indices.
        balanced: draw every class equally often instead of every clip.
    """

    def __init__(self, labels: np.ndarray, balanced: bool = False) -> None:
        self.labels = labels
        self.balanced = balanced
        self._pass: tuple[tuple[int, int], np.ndarray] | None = None

    def positions(self, step: int, seed: int, batch_size: int) -> np.ndarray:
        """Positions (batch_size,) of the clips of one batch.

        Args:
            step: counted from 0.
            seed: of the run.
            batch_size: number of clips.
        Raises:
            SettingsError: the batch is larger than the data set.
        """
        count = len(self.labels)
        if not 1 <= batch_size <= count:
            raise SettingsError(f"batch_size={batch_size} must be between 1 and the number of training clips, {count}")
        first = step * batch_size
        places = np.arange(first, first + batch_size)
        return np.concatenate(
            [
                self._epoch(epoch, seed)[places[places // count == epoch] % count]
                for epoch in range(first // count, (first + batch_size - 1) // count + 1)
            ]
        )

    def _epoch(self, epoch: int, seed: int) -> np.ndarray:
        """Shuffled positions of one pass; if `balanced`, as many draws in which every class is equally likely."""
        if self._pass is None or self._pass[0] != (epoch, seed):
            generator = np.random.default_rng((seed, _ORDER, epoch))
            count = len(self.labels)
            if self.balanced:
                weight = 1.0 / np.bincount(self.labels)[self.labels]
                order = generator.choice(count, count, p=weight / weight.sum())
            else:
                order = generator.permutation(count)
            self._pass = ((epoch, seed), order)
        return self._pass[1]
