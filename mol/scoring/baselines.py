"""Flow errors beside those of zero flow and of TV-L1 on the same pairs of frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from mol.data.clips import ResidentClips
from mol.scoring.estimate import Errors
from mol.scoring.evaluation import FlowScores
from mol.scoring.metrics import endpoint_error
from mol.vision.tvl1 import require_tvl1, tvl1_flow


def flow_scores(found: Errors, clips: ResidentClips, tvl1_pairs: int, workers: int) -> FlowScores:
    """Flow errors over all pairs, and over at most `tvl1_pairs` random ones (always the same) also TV-L1's."""
    scores = FlowScores(float(found.ours.mean()), float(found.baseline.mean()))
    if not tvl1_pairs:
        return scores
    count = min(tvl1_pairs, found.ours.numel())
    chosen = np.sort(np.random.default_rng(0).choice(found.ours.numel(), count, replace=False))
    pairs = [divmod(int(i), found.ours.shape[1]) for i in chosen]
    return dataclasses.replace(
        scores,
        tvl1_pairs=count,
        tvl1_epe=float(tvl1_errors(clips, pairs, workers).mean()),
        epe_on_tvl1_pairs=float(found.ours.flatten()[torch.as_tensor(chosen)].mean()),
    )


def tvl1_errors(clips: ResidentClips, pairs: Sequence[tuple[int, int]], workers: int) -> np.ndarray:
    """EPE of TV-L1 on the centre crops that the network saw, (pairs,) in pixels.

    Args:
        clips: with exact flow.
        pairs: (clip, frame) each: from that frame to the next.
        workers: threads; OpenCV releases Python's lock while it computes.
    """
    cv2 = require_tvl1()
    # One core per pair: OpenCV's own threads would compete with ours.
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with ThreadPoolExecutor(workers) as pool:
            return np.array(list(pool.map(lambda pair: _tvl1_error(clips, *pair), pairs)))
    finally:
        cv2.setNumThreads(before)


def _tvl1_error(clips: ResidentClips, clip: int, frame: int) -> float:
    flow = tvl1_flow(clips.centre_frames(clip)[frame : frame + 2])[0]
    target = clips.evaluation_batch([clip]).flow[0, frame].cpu()
    return float(endpoint_error(torch.from_numpy(flow), target))
