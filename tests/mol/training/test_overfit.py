"""The emotion's path can learn at all: it fits 64 clips, of which `make test` takes 32, in a dozen steps.

A head that cannot learn shows here at once. That of version 0.2 (`meeting="side-by-side"`) is at an accuracy of 0.65
on 64 clips after as many steps and needs more than twice as many.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mol import MOL
from mol.data.clips import ResidentClips
from mol.networks.mol import OWN
from mol.synth.clip_plan import SynthSettings
from mol.synth.synthetic_set import synthesize

STEPS = 12


@pytest.fixture(scope="module", params=[16, pytest.param(32, marks=pytest.mark.slow)], ids="{} people".format)
def clips(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ResidentClips:
    """Two clips each of some people; six emotions of 0.3 to 3 px, with head motion, light and noise."""
    settings = SynthSettings(people=request.param, pictures=1, clips=2, seed=3)
    cache = synthesize(tmp_path_factory.mktemp("overfit") / "clips", settings, workers=1)
    assert np.bincount([row["label"] for row in cache.rows], minlength=6).min() >= request.param // 4
    return ResidentClips(cache, range(len(cache)))


def test_the_emotions_path_fits_clips_in_a_dozen_steps(clips: ResidentClips) -> None:
    """Stack, F5C blocks and head: centre crops, never varied, no dropout, the learning rate of `mol train`."""
    torch.manual_seed(0)
    model = MOL(6, dropout=0.0).train()
    parameters = [p for part in (model.stack, model.f5c1, model.f5c2, model.emotion) for p in part.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=OWN.learning_rate, weight_decay=1e-3)
    order, right = np.random.default_rng(0), np.zeros(STEPS)
    for step in range(STEPS):
        if step % 2 == 0:
            halves = order.permutation(len(clips)).reshape(2, -1)
        batch = clips.evaluation_batch(halves[step % 2])
        logits = model.recognise(batch.clips)
        right[step] = (logits.argmax(1) == batch.label).float().mean()
        F.cross_entropy(logits, batch.label).backward()
        nn.utils.clip_grad_norm_(parameters, 10.0)
        optimizer.step()
        optimizer.zero_grad()
    assert right[:2].mean() < 0.5  # nobody told it before
    assert right[-2:].mean() >= 0.95, right
