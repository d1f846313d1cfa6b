"""MOL: micro-expression, optical flow and landmarks from raw grey frames.

Source: Shao et al., "MOL: Joint Estimation of Micro-Expression, Optical Flow, and Landmark via
Transformer-Graph-Style Convolution", IEEE TPAMI 2025, arXiv 2506.14511.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import molkernels as mk
from mol.common.errors import ClipError, SettingsError
from mol.network.flownet import FlowNetC
from mol.network.heads import ActionUnitHead, EmotionHead, LandmarkHead, MotionHead, conv_stack, keep_variance
from mol.network.normal_flow import NormalFlow
from mol.network.released import UnusedEntries, check_entries, class_count, to_ours, to_released
from mol.network.units import CODES
from molkernels.modules import GRAPH_OF_VARIANT

FRAMES = 8
SIZE = 128
CHANNELS = 128
VARIANTS = ("paper", "released")
BATCH_STATS = ("clip", "frame")
GRAPHS = ("channel", "position")
MEETINGS = ("normal-flow", "side-by-side")


class MOLOutput(NamedTuple):
    """The network's estimates for a batch of clips."""

    logits: Tensor
    """(B, num_classes)."""
    flow: Tensor
    """(B, T−1, 2, 128, 128), pixels (dx, dy), frame t to t+1; of chosen pairs only, (M, 2, 128, 128)."""
    landmarks: Tensor
    """(B, T−1, 68, 2), pixels (x, y), of frames 2 to T."""


class MOLUnitsOutput(NamedTuple):
    """`MOLOutput` of a network that also tells action units."""

    logits: Tensor
    flow: Tensor
    landmarks: Tensor
    action_units: Tensor
    """(B, units), a logit for each unit: above 0 it is rather shown than not."""


class MOL(nn.Module):
    """Recognise a micro-expression while estimating optical flow and 68 landmarks.

    All frames run as one batch: F_t = F5C_1(stack(I_t)), G_{t+1} = F5C_2(stack(I_{t+1})); landmarks from G, flow from
    the frames and from F and G, the emotion from F and G.

    Args:
        num_classes: number of emotions, at least 2.
        k: neighbours in the CCC graphs, 1 to 16.
        variant: "paper" (the figure of the paper) or "released" (bit for bit the function of the released code).
        batch_stats: "clip" pools all frames in the batch norms' training statistics; "frame" computes them per
            frame and updates the running ones in frame order, as the released code does. Default: "clip" for
            paper, "frame" for released.
        dropout: of the emotion head.
        backend: of the kernels; see `molkernels.functional`.
        fcc, ccc: False removes FCC (z = x) or CCC (y = z) from both F5C blocks.
        f5c: False replaces both blocks by the identity: all heads work on the convolution stack.
        graph: of CCC, "channel" or "position". Default: "channel" for paper, "position" for released.
        meeting: how F and G meet: "normal-flow", change over slope (`mol.network.normal_flow`), or "side-by-side",
            their channels one after another. Default: "normal-flow" for paper; released has "side-by-side" only.
        action_units: numbers of facial action units that a further head tells; it needs "normal-flow". None by default.
    Shapes:
        clips (B, 1, 8, 128, 128), any B ≥ 0, floating, normalised → `MOLOutput`, or `MOLUnitsOutput` with action units.
    Raises:
        SettingsError: an argument is wrong.
        ClipError: clips have a wrong shape or dtype, or (on the CPU) are not finite.

    Parameters with 5 classes: paper 43,754,017, released 44,103,583. Without FCC 50,432 fewer (released 33,792),
    without CCC 296,192 (263,168), without F5C both. From one seed, all that remains starts with the same values.
    """

    def __init__(
        self,
        num_classes: int = 5,
        k: int = 4,
        variant: str = "paper",
        *,
        batch_stats: str | None = None,
        dropout: float = 0.5,
        backend: str = "auto",
        fcc: bool = True,
        ccc: bool = True,
        f5c: bool = True,
        graph: str | None = None,
        meeting: str | None = None,
        action_units: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        _check_settings(num_classes, variant, batch_stats, dropout)
        _check_meeting(meeting, variant)
        _check_switches({"fcc": fcc, "ccc": ccc, "f5c": f5c}, graph)
        self.variant = variant
        self.batch_stats = batch_stats or ("clip" if variant == "paper" else "frame")
        self.num_classes = num_classes
        self.config: dict[str, Any] = {
            "num_classes": num_classes,
            "k": k,
            "variant": variant,
            "batch_stats": self.batch_stats,
            "dropout": dropout,
            "fcc": fcc,
            "ccc": ccc,
            "f5c": f5c,
            "graph": graph or GRAPH_OF_VARIANT[variant],
            "meeting": meeting or ("normal-flow" if variant == "paper" else "side-by-side"),
        }
        self.by_motion = self.config["meeting"] == "normal-flow"
        self.stack = conv_stack()
        self.f5c1 = f5c_block(mk.F5C(CHANNELS, 16, k, variant, backend, graph=graph), fcc and f5c, ccc and f5c)
        self.f5c2 = f5c_block(mk.F5C(CHANNELS, 16, k, variant, backend, graph=graph), fcc and f5c, ccc and f5c)
        self.flow = FlowNetC()
        self.landmarks = LandmarkHead()
        if self.by_motion:
            self.motion = NormalFlow(CHANNELS, CHANNELS)
            self.emotion: MotionHead | EmotionHead = MotionHead(num_classes, FRAMES, dropout)
        else:
            self.emotion = EmotionHead(num_classes, FRAMES, variant, dropout)
            if variant == "paper":
                self.emotion.initialise()
        if variant == "paper":
            keep_variance(self.stack)
            self.flow.initialise(differences=not self.by_motion)
        elif not self._departures():
            self.unused = UnusedEntries()
        self.action_units: ActionUnitHead | None = None
        if action_units is not None:  # last, so that all other parts draw the same random numbers without it
            self._add_action_units(action_units, dropout)

    def _add_action_units(self, units: Sequence[int], dropout: float) -> None:
        _check_units(units)
        if not isinstance(self.emotion, MotionHead):
            raise SettingsError(
                f"action_units={list(units)} are told from the normal flow; this network has meeting='side-by-side' "
                f"(variant {self.variant!r}). Leave action_units out, or take the paper's variant"
            )
        self.config["action_units"] = list(units)
        self.action_units = ActionUnitHead(self.emotion.fc1.in_features, len(units), dropout)

    def forward(
        self, clips: Tensor, pairs: Tensor | None = None, elsewhere: bool = False
    ) -> MOLOutput | MOLUnitsOutput:
        """Logits, flow and landmarks of clips (B, 1, 8, 128, 128).

        Args:
            clips: normalised grey frames.
            pairs: (2, M) int64, clip and first frame (0 to 6) of the pairs whose flow is wanted; all pairs by default.
                The flow network is nine tenths of the work and the pairs of a clip are alike, so training on a few
                pairs of many clips learns more in the same time. All are computed with ``batch_stats="frame"``, whose
                statistics need them.
            elsewhere: other processes compute pairs at the same time, so the flow network takes part in their batch
                statistics even without a pair here.
        Raises:
            ClipError: clips or pairs that the network cannot take.
        """
        check_clips(clips)
        if pairs is not None:
            check_pairs(pairs, clips.shape[0])
        if clips.shape[0] == 0:
            return self._nothing(clips, pairs)
        stacked = self._stacked(clips)
        second = self._second(stacked)
        landmarks = self.landmarks(second.flatten(0, 1)).unflatten(0, (-1, FRAMES - 1))
        if pairs is None or (self.batch_stats == "frame" and (pairs.shape[1] or elsewhere)):
            first = self._first(stacked)
            logits, units = self.recognised(first, second)
            met = self.meet(first.flatten(0, 1), second.flatten(0, 1))
            flow = self.flow(_frames(clips), met, FRAMES, self.batch_stats == "frame").unflatten(0, (-1, FRAMES - 1))
            return output_of(logits, flow if pairs is None else flow[pairs[0], pairs[1]], landmarks, units)
        clip, start = pairs
        if self.by_motion:  # of the first frames it reads the opening one only
            opening, first = self.f5c1(torch.cat([stacked[:, 0], stacked[clip, start]])).split([len(clips), len(clip)])
            logits, units = self.recognised(opening[:, None], second)
        else:
            every = self._first(stacked)
            (logits, units), first = self.recognised(every, second), every[clip, start]
        if not (len(clip) or elsewhere):
            return output_of(logits, clips.new_empty(0, 2, SIZE, SIZE), landmarks, units)
        frames = torch.stack([clips[clip, 0, start], clips[clip, 0, start + 1]], 1).flatten(0, 1).unsqueeze(1)
        return output_of(logits, self.flow(frames, self.meet(first, second[clip, start]), 2, False), landmarks, units)

    def recognise(self, clips: Tensor) -> Tensor:
        """The logits alone, (B, num_classes), without flow and landmarks: a twentieth of the work of `forward`.

        In evaluation mode they are those of `forward`.

        Args:
            clips: (B, 1, 8, 128, 128), normalised grey frames.
        Raises:
            ClipError: clips that the network cannot take.
        """
        return self.recognise_units(clips)[0]

    def recognise_units(self, clips: Tensor) -> tuple[Tensor, Tensor | None]:
        """As `recognise`, with the logits of action units, (B, units); None without action units."""
        check_clips(clips)
        if clips.shape[0] == 0:
            return clips.new_empty(0, self.num_classes), self._no_units(clips)
        stacked = self._stacked(clips)
        first = self.f5c1(stacked[:, 0])[:, None] if self.by_motion else self._first(stacked)
        return self.recognised(first, self._second(stacked))

    def recognised(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits of emotions and of action units; `first` as `MotionHead` or `EmotionHead` take it."""
        if self.action_units is None or not isinstance(self.emotion, MotionHead):
            return self.emotion(first, second, self._groups), None
        pooled = self.emotion.pooled(first, second, self._groups)
        return self.emotion.classify(pooled), self.action_units(pooled)

    def _no_units(self, clips: Tensor) -> Tensor | None:
        return None if self.action_units is None else clips.new_empty(0, self.action_units.fc2.out_features)

    @property
    def _groups(self) -> int:
        """Frames that have batch statistics of their own."""
        return FRAMES - 1 if self.batch_stats == "frame" else 1

    def _stacked(self, clips: Tensor) -> Tensor:
        """The stack's features of all frames, (B, T, 128, 16, 16)."""
        return self.stack(_frames(clips)).unflatten(0, (-1, FRAMES))

    def _first(self, stacked: Tensor) -> Tensor:
        """F of frames 1 to T − 1, (B, T − 1, 128, 16, 16)."""
        return self.f5c1(stacked[:, :-1].flatten(0, 1), self._groups).unflatten(0, (-1, FRAMES - 1))

    def _second(self, stacked: Tensor) -> Tensor:
        """G of frames 2 to T, (B, T − 1, 128, 16, 16)."""
        return self.f5c2(stacked[:, 1:].flatten(0, 1), self._groups).unflatten(0, (-1, FRAMES - 1))

    def meet(self, first: Tensor, second: Tensor) -> Tensor:
        """What the flow network gets of F and G of some pairs: (N, 128, 16, 16) each → (N, 256, 16, 16)."""
        if not self.by_motion:
            return torch.cat([first, second], 1)
        motion = self.motion(first, second, self._groups)
        return torch.cat([motion, first.to(motion.dtype)], 1)

    def _nothing(self, clips: Tensor, pairs: Tensor | None) -> MOLOutput | MOLUnitsOutput:
        chosen = () if pairs is not None else (FRAMES - 1,)
        return output_of(
            clips.new_empty(0, self.num_classes),
            clips.new_empty(0, *chosen, 2, SIZE, SIZE),
            clips.new_empty(0, FRAMES - 1, 68, 2),
            self._no_units(clips),
        )

    def _departures(self) -> list[str]:
        """What makes this another network than its variant is: ``["ccc=False", …]``."""
        whole = {"fcc": True, "ccc": True, "f5c": True, "graph": GRAPH_OF_VARIANT[self.variant]}
        return [f"{name}={self.config[name]!r}" for name, usual in whole.items() if self.config[name] != usual]

    @torch.no_grad()
    def initialise_outputs(self, mean_shape: Tensor) -> None:
        """Start training at the baselines: the mean shape for landmarks, no motion for flow.

        Args:
            mean_shape: (68, 2), pixels (x, y) in the 128×128 crop.
        """
        if tuple(mean_shape.shape) != (68, 2) or not torch.isfinite(mean_shape).all():
            raise ClipError(f"mean_shape has shape {tuple(mean_shape.shape)}; finite (68, 2) is needed")
        self.landmarks.fc2.weight.zero_()
        self.landmarks.fc2.bias.copy_(mean_shape.flatten())
        if self.variant == "released":  # the paper's variant starts there by itself
            self.flow.predict0.weight.zero_()

    @classmethod
    def from_released(cls, state_dict: Mapping[str, Tensor], k: int = 4, dropout: float = 0.5) -> MOL:
        """The released network with the weights of a released-layout state dict.

        Args:
            state_dict: the 175 entries of a released checkpoint (a leading ``module.`` is removed).
            k: neighbours; the checkpoint does not contain it.
            dropout: of the emotion head.
        Raises:
            CheckpointError: entries that are missing, extra or of a wrong shape, all named.
        """
        state = {name.removeprefix("module."): value for name, value in state_dict.items()}
        model = cls(num_classes=class_count(state), k=k, variant="released", dropout=dropout)
        own = model.state_dict()
        check_entries(state, to_released(own))
        model.load_state_dict(own | {name: value.to(own[name].dtype) for name, value in to_ours(state)})
        return model

    def released_state_dict(self) -> dict[str, Tensor]:
        """The inverse of `from_released`, exact: all entries, in the released layout.

        Raises:
            SettingsError: the variant is not "released", or parts of the network are switched off.
        """
        if self.variant != "released":
            raise SettingsError(f"variant is {self.variant!r}; only variant='released' has a released layout")
        if departures := self._departures():
            raise SettingsError(
                f"this network has {', '.join(departures)}; the released layout needs the complete network. "
                "Save it with mol.network.checkpoint.save_checkpoint"
            )
        return to_released(self.state_dict())


class WithoutCCC(nn.Module):
    """F5C with y = z: x + Conv1x1(FCC(x)), as released x + FCC(x)."""

    def __init__(self, block: mk.F5C) -> None:
        super().__init__()
        self.fcc, self.variant = block.fcc, block.variant

    def forward(self, x: Tensor, groups: int = 1) -> Tensor:
        """As `molkernels.F5C`."""
        x = mk.functional.block_input(x)
        y: Tensor = self.fcc(x, groups)
        return x + y if self.variant == "paper" else y


class WithoutFCC(nn.Module):
    """F5C with z = x: x + Conv1x1(CCC(x)), as released x + CCC(x)."""

    def __init__(self, block: mk.F5C) -> None:
        super().__init__()
        self.ccc, self.mix = block.ccc, block.mix

    def forward(self, x: Tensor, groups: int = 1) -> Tensor:
        """As `molkernels.F5C`; without FCC there is no batch norm, and `groups` changes nothing."""
        x = mk.functional.block_input(x)
        y: Tensor = self.ccc(x)
        return x + (y if self.mix is None else self.mix(y))


class WithoutF5C(nn.Module):
    """The identity instead of F5C."""

    def forward(self, x: Tensor, groups: int = 1) -> Tensor:
        """As `molkernels.F5C`."""
        return x


def f5c_block(block: mk.F5C, fcc: bool, ccc: bool) -> nn.Module:
    """The wanted parts of an F5C block, under the names that they have in the complete one.

    Parts are taken from a complete block instead of being made alone, so that an ablated network draws the same
    random numbers: from one seed, all that remains starts with the same values.
    """
    if fcc:
        return block if ccc else WithoutCCC(block)
    return WithoutFCC(block) if ccc else WithoutF5C()


def _check_settings(num_classes: int, variant: str, batch_stats: str | None, dropout: float) -> None:
    if num_classes < 2:
        raise SettingsError(f"num_classes is {num_classes}; at least 2 are needed")
    if variant not in VARIANTS:
        raise SettingsError(f"variant is {variant!r}; must be 'paper' or 'released'")
    if batch_stats not in (None, *BATCH_STATS):
        raise SettingsError(f"batch_stats is {batch_stats!r}; must be 'clip' or 'frame'")
    if not 0 <= dropout < 1:
        raise SettingsError(f"dropout is {dropout}; must be at least 0 and less than 1")


def _check_switches(switches: Mapping[str, Any], graph: str | None) -> None:
    if odd := [f"{name} is {value!r}" for name, value in switches.items() if not isinstance(value, bool)]:
        raise SettingsError(f"{', '.join(odd)}; must be True or False")
    if graph not in (None, *GRAPHS):
        raise SettingsError(f"graph is {graph!r}; must be 'channel' or 'position'")


def _check_meeting(meeting: str | None, variant: str) -> None:
    if meeting not in (None, *MEETINGS):
        raise SettingsError(f"meeting is {meeting!r}; must be 'normal-flow' or 'side-by-side'")
    if meeting == "normal-flow" and variant == "released":
        raise SettingsError("meeting is 'normal-flow'; the released variant has 'side-by-side' only")


def _check_units(units: Sequence[int]) -> None:
    odd = [unit for unit in units if type(unit) is not int or not 0 < unit < CODES]
    if odd or not units or len(set(units)) < len(units):
        raise SettingsError(
            f"action_units is {list(units)}; different numbers from 1 to {CODES - 1} are needed, at least one"
        )


def output_of(logits: Tensor, flow: Tensor, landmarks: Tensor, units: Tensor | None) -> MOLOutput | MOLUnitsOutput:
    """The output of a network with or, if `units` is None, without action units."""
    if units is None:
        return MOLOutput(logits, flow, landmarks)
    return MOLUnitsOutput(logits, flow, landmarks, units)


def _frames(clips: Tensor) -> Tensor:
    """(B, 1, T, H, W) → (B·T, 1, H, W)."""
    return clips.transpose(1, 2).flatten(0, 1)


def check_clips(clips: Any) -> None:
    """Raise an error for clips that the network cannot take.

    Raises:
        ClipError: not a floating tensor of shape (B, 1, 8, 128, 128); on the CPU also NaN or infinite values.
    """
    if not isinstance(clips, Tensor) or not clips.is_floating_point():
        raise ClipError(
            f"clips is {getattr(clips, 'dtype', type(clips).__name__)}; a floating tensor is needed "
            "(mol.data.clips.normalise_clips makes one from uint8 frames)"
        )
    if clips.ndim != 5 or tuple(clips.shape[1:]) != (1, FRAMES, SIZE, SIZE):
        raise ClipError(f"clips has shape {tuple(clips.shape)}; (B, 1, {FRAMES}, {SIZE}, {SIZE}) is needed")
    # On an accelerator this would wait for the device at every step; the data set and predict check there.
    if clips.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.isfinite(clips).all():
        bad = (~torch.isfinite(clips)).flatten(1).any(1).nonzero().flatten().tolist()
        raise ClipError(f"clips holds NaN or infinite values in clip(s) {bad}; leave them out or repair their frames")


def check_pairs(pairs: Any, clips: int) -> None:
    """Raise an error for pairs whose flow the network cannot estimate.

    Args:
        pairs: of `MOL.forward`.
        clips: how many clips there are.
    Raises:
        ClipError: not an int64 tensor of shape (2, M); on the CPU also a clip or a first frame that does not exist.
    """
    if not isinstance(pairs, Tensor) or pairs.dtype != torch.int64 or pairs.ndim != 2 or pairs.shape[0] != 2:
        found = f"{pairs.dtype} of shape {tuple(pairs.shape)}" if isinstance(pairs, Tensor) else type(pairs).__name__
        raise ClipError(f"pairs is {found}; int64 of shape (2, M) is needed: clips, and their first frames")
    # On an accelerator this would wait for the device, as in `check_clips`.
    if pairs.device.type != "cpu" or torch.compiler.is_compiling():
        return
    bad = ((pairs < 0) | (pairs >= torch.tensor([[clips], [FRAMES - 1]]))).any(0)
    if bad.any():
        clip, start = pairs[:, bad][:, 0].tolist()
        raise ClipError(
            f"pairs holds clip {clip} with first frame {start}; there are {clips} clips, counted from 0, and first "
            f"frames 0 to {FRAMES - 2}"
        )
