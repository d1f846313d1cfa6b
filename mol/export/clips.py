"""The clips that an exported file is compared with its network on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mol.common.errors import MissingExtraError, SettingsError
from mol.data.cache import Cache
from mol.export.onnx_model import CLIP_SHAPE
from mol.networks.interface import Network
from mol.synth.clip_plan import SynthSettings, plan_one
from mol.synth.faces import load_faces
from mol.synth.render import render_clip


class CheckClips(NamedTuple):
    """Inputs of a network, and what they are."""

    inputs: Tensor
    """(B, 1, 8, 128, 128) float32."""
    what: str
    """In words."""


def check_clips(network: Network, cache: str | None, count: int) -> CheckClips:
    """Clips of a cache, spread over its rows; without one synthetic clips of real faces, else random ones.

    Args:
        network: whose inputs they become.
        cache: a cache folder, or None.
        count: how many, at least 2.
    Raises:
        CacheError: the folder is no cache.
        SettingsError: a cache of clips of another length or size.
    """
    if cache is None:
        try:
            return synthetic_clips(network, count)
        except MissingExtraError:
            return random_clips(count)
    opened = Cache.open(cache)
    frames, size = opened.settings.frames, opened.settings.size
    if frames != CLIP_SHAPE[1] or size < CLIP_SHAPE[-1]:
        raise SettingsError(
            f"{cache} has clips of {frames} frames of {size}×{size} pixels; {CLIP_SHAPE[1]} frames of at least "
            f"{CLIP_SHAPE[-1]}×{CLIP_SHAPE[-1]} are needed"
        )
    rows = np.linspace(0, len(opened) - 1, count).round().astype(int)
    chosen = np.stack([np.asarray(opened.frames[int(row)]) for row in rows])
    return CheckClips(network.window_inputs(chosen, torch.device("cpu")), f"{count} clips of {cache}")


def synthetic_clips(network: Network, count: int) -> CheckClips:
    """Clips of `mol synth`: a real face that moves, with light and noise.

    Raises:
        MissingExtraError: the pictures of faces are not installed.
    """
    (face,) = load_faces(("orl",), people=1, pictures=1)
    settings, rng, clips = SynthSettings(), np.random.default_rng(0), []
    for number in range(count):
        emotion = settings.emotions[number % len(settings.emotions)]
        plan = plan_one(rng, 0, f"clip{number}", emotion, settings)
        clips.append(render_clip(plan, face, plan.starts[0], settings).frames)
    what = f"{count} synthetic clips of a real face (give real ones with --cache)"
    return CheckClips(network.window_inputs(np.stack(clips), torch.device("cpu")), what)


def random_clips(count: int) -> CheckClips:
    """Noise."""
    inputs = torch.randn(count, *CLIP_SHAPE, generator=torch.Generator().manual_seed(0))
    what = f"{count} clips of random numbers: no pictures of faces are installed (give real clips with --cache)"
    return CheckClips(inputs, what)
