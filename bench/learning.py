"""Why the emotion is learned, in numbers: `python -m bench.learning probe` and others (docs/learning.md).

All of it uses synthetic clips (`mol demo`) and the people who are trained on: a quarter of them is set aside to compare
on, and the people held out by the demonstration are never looked at.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.tables import markdown_table
from mol.common.devices import fastest_precision
from mol.common.errors import SettingsError
from mol.common.storage import write_json
from mol.data.cache import Cache
from mol.data.clips import Batch, ResidentClips, normalise_clips
from mol.data.split import split_by_subject
from mol.demo import DEMO
from mol.network.estimates import FLOW, LANDMARKS
from mol.network.heads import EmotionHead, MotionHead
from mol.network.model import FRAMES, MOL
from mol.network.normal_flow import NormalFlow
from mol.networks.mol import NETWORK, OWN
from mol.networks.trained import load_model
from mol.synth.clip_plan import SynthSettings, plan_clips
from mol.synth.faces import load_faces
from mol.synth.render import render_clip
from mol.synth.synthetic_set import synthesize

INNER = 0.25
"""Share of the training people set aside to compare on."""

# Heads that are not part of the network: what each step towards the one that is gives.


class NormalisedHead(EmotionHead):
    """The head of version 0.2 (F and G side by side) with batch norm before each activation."""

    def __init__(self, num_classes: int, dropout: float) -> None:
        super().__init__(num_classes, FRAMES, "paper", dropout)
        self.norm1, self.norm2 = nn.BatchNorm3d(32), nn.BatchNorm1d(256)
        self.initialise()

    def forward(self, first: Tensor, second: Tensor, groups: int = 1) -> Tensor:
        """Logits."""
        sequence = torch.cat([first, second], 2).permute(0, 2, 3, 4, 1)
        pooled = F.max_pool3d(F.relu(self.norm1(self.conv(sequence))), 2)
        return self.fc2(self.dropout(F.relu(self.norm2(self.fc1(self.dropout(pooled.flatten(1)))))))


class Product(NormalFlow):
    """Change times slope, not divided by the slope's energy."""

    def forward(self, first: Tensor, second: Tensor, groups: int = 1) -> Tensor:
        """As `NormalFlow`."""
        first, second = first.float(), second.float()
        slope = self.slope(self.norm_slope((first + second) / 2, groups)).float()
        return self.norm(slope * self.change(self.norm_change(second - first, groups)).float(), groups)


class FromLastFrame(MotionHead):
    """Normal flow from each frame to the next, not since the first."""

    def forward(self, first: Tensor, second: Tensor, groups: int = 1) -> Tensor:
        """Logits; needs F of all frames."""
        batch, steps = second.shape[:2]
        motion = self.motion(first.flatten(0, 1), second.flatten(0, 1), groups).unflatten(0, (batch, steps))
        hidden = F.avg_pool3d(F.relu(self.norm1(self.conv(motion.permute(0, 2, 3, 4, 1)))), 2)
        return self.fc2(self.dropout(F.relu(self.norm2(self.fc1(self.dropout(hidden.flatten(1)))))))


def _product(classes: int) -> MotionHead:
    head = MotionHead(classes, FRAMES, 0.3)
    head.motion = Product(128, 64)
    return head


HEADS: dict[str, tuple[dict[str, Any], Callable[[int], nn.Module] | None]] = {
    "version 0.2: side by side": ({"meeting": "side-by-side", "dropout": 0.5}, None),
    "+ batch norm, dropout 0.3": ({"meeting": "side-by-side"}, lambda classes: NormalisedHead(classes, 0.3)),
    "product of slope and change": ({}, _product),
    "normal flow, frame to frame": ({}, lambda classes: FromLastFrame(classes, FRAMES, 0.3)),
    "normal flow since the first frame (the network)": ({}, None),
    "the same without FCC": ({"fcc": False}, None),
    "the same without CCC": ({"ccc": False}, None),
    "the same without F5C": ({"f5c": False}, None),
}
"""Settings of MOL and a head to put into it, by what they are called in the table."""


def compare_heads(cache: Cache, seeds: Sequence[int], steps: int, names: Sequence[str], out: Path) -> None:
    """Train the emotion's path with each head and each seed; print and save the accuracy on the people set aside."""
    training, aside = _inner_split(cache)
    done: dict[str, list[dict[str, float]]] = {}
    for name in names:
        for seed in seeds:
            result = _train_emotion(name, seed, steps, training, aside, len(cache.classes))
            done.setdefault(name, []).append(result)
            print(f"{name}, seed {seed}: {result}", flush=True)
            write_json(out, {"steps": steps, "batch_size": OWN.batch_size, "precision": _precision(), "results": done})
    rows = []
    for name, results in done.items():
        scores = [[100 * r[column] for r in results] for column in ("trained", "aside")]
        rows.append([name, *(_spread(score) for score in scores), f"{_mean(results, 'clips_per_second'):.0f}"])
    print(markdown_table(["head", "trained on, %", "set aside, %", "clips/s"], rows))


def _train_emotion(
    name: str, seed: int, steps: int, training: ResidentClips, aside: ResidentClips, classes: int
) -> dict[str, float]:
    settings, head = HEADS[name]
    torch.manual_seed(seed)
    model = MOL(classes, **{"dropout": 0.3, **settings})
    if head is not None:
        model.emotion = head(classes)  # type: ignore[assignment]
    whole = isinstance(model.emotion, FromLastFrame)
    parts = [model.stack, model.f5c1, model.f5c2, model.emotion]
    parameters = [parameter for part in parts for parameter in part.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=OWN.learning_rate, weight_decay=1e-3, fused=True)

    def logits(clips: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=_precision() == "bf16-mixed"):
            if not whole:
                return model.recognise(clips).float()
            stacked = model._stacked(clips)
            return model.emotion(model._first(stacked), model._second(stacked)).float()

    right, started = 0.0, time.perf_counter()
    for step in range(steps):
        warm = min(1.0, (step + 1) / (OWN.warmup_steps + 1))
        for group in optimizer.param_groups:
            group["lr"] = OWN.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
        batch = training.training_batch(step, seed, OWN.batch_size)
        answer = logits(batch.clips)
        F.cross_entropy(answer, batch.label).backward()
        nn.utils.clip_grad_norm_(parameters, 10.0)
        optimizer.step()
        optimizer.zero_grad()
        if step >= steps * 3 // 4:
            right += (answer.argmax(1) == batch.label).float().mean().item() / (steps - steps * 3 // 4)
    seconds = time.perf_counter() - started
    model.eval()
    with torch.inference_mode():
        answers = torch.cat([logits(batch.clips).argmax(1) == batch.label for batch in aside.evaluation_batches(48)])
    return {
        "trained": right,
        "aside": answers.float().mean().item(),
        "clips_per_second": steps * OWN.batch_size / seconds,
    }


def probe(people: int = 40) -> None:
    """How far 1 px of motion, noise, light and a shifted crop change the features that the emotion head gets.

    Untrained network, its blocks at their start (the identity), float32; a change is ‖G(changed) − F‖ / ‖F‖ of one
    frame, its median over faces. "Lost" is the share of that change which rounding F and G to bfloat16 before the
    subtraction puts in error.
    """
    settings = SynthSettings(people=people, pictures=1, clips=1, amplitude=(1.0, 1.0), noise=0.0, lighting=0.0)
    settings = SynthSettings(**{**vars(settings), "head_shift": 0.0, "head_turn": 0.0, "head_zoom": 0.0})
    faces = load_faces(settings.sources, settings.people, settings.pictures)
    still, moved = [], []
    for plan in plan_clips(faces, settings):
        frames = render_clip(plan, faces[plan.face], plan.starts[0], settings).frames.astype(np.float32)
        apex = np.abs(frames - frames[:1]).mean((1, 2)).argmax()
        still.append(frames[0])
        moved.append(frames[apex])
    before = torch.from_numpy(np.stack(still))
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(before.shape, np.float32))
    centre = slice(8, 136)
    changed = {
        "an expression of 1 px at its peak": torch.from_numpy(np.stack(moved))[:, centre, centre],
        "the whole face shifted by 1 px": before[:, centre, 7:135],
        "sensor noise of 1 grey level": (before + noise)[:, centre, centre],
        "light 3 % brighter": 1.03 * before[:, centre, centre],
        "the crop shifted by 8 px": before[:, centre, 0:128],
    }
    torch.manual_seed(0)
    model = MOL(6).eval()
    rows = []
    for name, after in changed.items():
        pair = normalise_clips(torch.stack([before[:, centre, centre], after], 1))
        with torch.inference_mode():
            f, g = model.stack(pair.flatten(0, 1)[:, None]).unflatten(0, (-1, 2)).flatten(2).unbind(1)
        change = (g - f).norm(dim=1)
        rounded = g.bfloat16().float() - f.bfloat16().float()
        lost = (rounded - (g - f)).norm(dim=1) / change
        rows.append([name, f"{100 * (change / f.norm(dim=1)).median():.2f} %", f"{100 * lost.median():.1f} %"])
    print(markdown_table(["change of a frame", "change of its features", "lost in bfloat16"], rows))


def gradients(cache: Cache, weights: str | None) -> None:
    """Norm of each loss's gradient by part of the network, and the angles between them on the shared stack."""
    training, _ = _inner_split(cache)
    torch.manual_seed(0)
    model = load_model(weights).model if weights else NETWORK.build(len(cache.classes), OWN.model, training)
    model.train()
    batch = NETWORK.training_batch(training, 0, 0, OWN.batch_size, OWN.flow_pairs)
    terms = NETWORK.loss(OWN.loss)(model(batch.clips, batch.pairs), batch)  # type: ignore[attr-defined]
    parts = ("stack", "f5c1", "f5c2", "motion", "flow", "landmarks", "emotion")
    on_stack, rows = {}, []
    for name, weight in (("emotion", "w_me"), (FLOW, "w_of"), (LANDMARKS, "w_ldm")):
        model.zero_grad()
        (OWN.loss[weight] * getattr(terms, name)).backward(retain_graph=True)
        norms = []
        for part in parts:
            found = [p.grad.flatten() for p in getattr(model, part).parameters() if p.grad is not None]
            norms.append(torch.cat(found).norm().item() if found else 0.0)
        on_stack[name] = torch.cat([p.grad.flatten() for p in model.stack.parameters() if p.grad is not None])
        rows.append([name, *(f"{norm:.3g}" for norm in norms)])
    print(markdown_table(["weighted loss", *parts], rows))
    names = list(on_stack)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            print(
                f"cosine on the stack, {one} and {other}: {F.cosine_similarity(on_stack[one], on_stack[other], 0):.3f}"
            )


def step_rates(rounds: int = 5, threads: int | None = None) -> dict[str, float]:
    """Clips per second of training steps, median of rounds in which all take turns; random clips, all of AdamW's work.

    Returns:
        "whole": 4 clips with all 28 pairs; "few pairs": 32 clips with 16 pairs, the default; "emotion": 32 clips,
        the emotion alone.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    kinds = {"whole": (4, "all", OWN.loss), "few pairs": (32, 16, OWN.loss), "emotion": (32, 0, _EMOTION_ONLY)}
    networks = {}
    for kind in kinds:
        torch.manual_seed(0)
        model = MOL(6)
        networks[kind] = model, torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(rounds + 1):
        for kind, (clips, pairs, weights) in kinds.items():
            batch = _random_batch(clips, pairs)
            started = time.perf_counter()
            _step(*networks[kind], batch, NETWORK.loss(weights))
            if turn:  # the first round allocates
                rates[kind].append(clips / (time.perf_counter() - started))
    torch.set_num_threads(before)
    return {kind: statistics.median(values) for kind, values in rates.items()}


_EMOTION_ONLY = {"w_me": 1.0, "w_of": 0.0, "w_ldm": 0.0}


def _step(model: MOL, optimizer: torch.optim.Optimizer, batch: Batch, loss: Any) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=_precision() == "bf16-mixed"):
        terms = loss(NETWORK.run(model, batch, loss), batch)
    terms.total.backward()
    optimizer.step()
    optimizer.zero_grad()


def _random_batch(clips: int, flow_pairs: int | str) -> Batch:
    generator = torch.Generator().manual_seed(0)
    pairs = FRAMES - 1
    every = torch.cartesian_prod(torch.arange(clips), torch.arange(pairs)).T
    return Batch(
        torch.randn(clips, 1, FRAMES, 128, 128, generator=generator),
        0.1 * torch.randn(clips, pairs, 2, 128, 128, generator=generator),
        128 * torch.rand(clips, pairs, 68, 2, generator=generator),
        torch.arange(clips) % 6,
        torch.arange(clips),
        None if flow_pairs == "all" else every[:, :: every.shape[1] // max(1, int(flow_pairs))][:, : int(flow_pairs)],
    )


def _inner_split(cache: Cache) -> tuple[ResidentClips, ResidentClips]:
    """Clips to train on and to compare on, both of people on whom the demonstration trains."""
    outer = split_by_subject(cache.rows, DEMO.held_out, 0)
    inner = split_by_subject([cache.rows[i] for i in outer.train], INNER, 0)
    return ResidentClips(cache, outer.train[inner.train]), ResidentClips(cache, outer.train[inner.held_out])


def _precision() -> str:
    return fastest_precision("cpu")


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def _mean(results: Sequence[dict[str, float]], column: str) -> float:
    return statistics.mean(result[column] for result in results)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("probe", "gradients", "emotion", "speed"))
    parser.add_argument("--cache", default="learning/clips", help="rendered as for mol demo if it is not there")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--heads", nargs="+", default=list(HEADS), metavar="NAME", help=f"of: {'; '.join(HEADS)}")
    parser.add_argument("--weights", help="gradients of this run instead of at the start")
    parser.add_argument("--out", default="learning/emotion.json")
    options = parser.parse_args()
    if unknown := set(options.heads) - set(HEADS):
        raise SettingsError(f"unknown heads: {', '.join(sorted(unknown))} (heads: {'; '.join(HEADS)})")
    if options.what == "probe":
        probe()
        return
    if options.what == "speed":
        rates = step_rates()
        rows = [[kind, f"{rate:.1f}", f"{rate / rates['whole']:.1f} ×"] for kind, rate in rates.items()]
        print(markdown_table(["training step", "clips/s", "of the whole step"], rows))
        return
    cache = synthesize(options.cache, DEMO.synth)
    if options.what == "gradients":
        gradients(cache, options.weights)
    else:
        compare_heads(cache, options.seeds, options.steps, options.heads, Path(options.out))


if __name__ == "__main__":
    main()
