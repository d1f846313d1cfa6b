"""Released checkpoints: their names and shapes, to and from those of `mol.MOL`.

The released code stores both FCC branches apart, kernels and embeddings with length 32, and an ``ffn`` that is never
called. All of it is kept, so that a checkpoint comes out as it went in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from mol.common.errors import CheckpointError
from molkernels.modules import RELEASED_LENGTH

_FLOW_LAYERS = {
    "conv_redir": "redirect",
    **{f"deconv{level}": f"upsample{level}" for level in range(6)},
    **{f"predict_flow{level}": f"predict{level}" for level in range(7)},
    **{f"upsampled_flow{level + 1}_to_{level}": f"upflow{level}" for level in range(6)},
}
# FCC tensors: ours, then the released names of the first C/2 channels (branch A) and of the others (branch B).
_FCC_HALVES = {
    "pe_h": ("meta_pe_1_H", "meta_pe_2_H"),
    "pe_w": ("meta_pe_2_W", "meta_pe_1_W"),
    "weight_h": ("meta_kernel_1_H", "meta_kernel_2_H"),
    "weight_w": ("meta_kernel_2_W", "meta_kernel_1_W"),
    "bias_h": ("meta_1_H_bias", "meta_2_H_bias"),
    "bias_w": ("meta_2_W_bias", "meta_1_W_bias"),
    "norm.weight": ("pre_Norm_1.weight", "pre_Norm_2.weight"),
    "norm.bias": ("pre_Norm_1.bias", "pre_Norm_2.bias"),
    "norm.running_mean": ("pre_Norm_1.running_mean", "pre_Norm_2.running_mean"),
    "norm.running_var": ("pre_Norm_1.running_var", "pre_Norm_2.running_var"),
}
_COUNTERS = ("pre_Norm_1.num_batches_tracked", "pre_Norm_2.num_batches_tracked")


class UnusedEntries(nn.Module):
    """What a released checkpoint holds and its network never uses: the two FCCs' ``ffn``, as buffers."""

    def __init__(self) -> None:
        super().__init__()
        for block in (1, 2):
            ffn = nn.ModuleDict({"0": nn.BatchNorm2d(128), "1": nn.Conv2d(128, 2, 1), "4": nn.Conv2d(2, 128, 1)})
            for name, value in ffn.state_dict().items():
                self.register_buffer(self.buffer_name(f"FCC_{block}.ffn.{name}"), value)

    @staticmethod
    def buffer_name(released: str) -> str:
        """A buffer's name may hold no dot."""
        return released.replace(".", "__")


def class_count(state: Mapping[str, Tensor]) -> int:
    """Number of classes of a released state dict.

    Raises:
        CheckpointError: it has no emotion head, so it is not a released checkpoint.
    """
    head = state.get("mer_3dcnn.fc2.weight")
    if head is None:
        raise CheckpointError(
            "this is not a released MOL checkpoint: it has no entry mer_3dcnn.fc2.weight. "
            "Pass the state dict itself, not the file or a dictionary around it."
        )
    return head.shape[0]


def to_released(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of `mol.MOL` (variant "released") in the released layout: the inverse of `to_ours`."""
    out: dict[str, Tensor] = {}
    for name in own:
        released = _released_name(name)
        if released is not None:
            out[released] = own[name]
    for block in (1, 2):
        prefix, ours = f"FCC_{block}.", f"f5c{block}.fcc."
        for name, halves in _FCC_HALVES.items():
            for half, value in zip(halves, own[ours + name].chunk(2), strict=True):
                out[prefix + half] = value.reshape(_released_shape(half, value))
        for counter in _COUNTERS:
            out[prefix + counter] = own[ours + "norm.num_batches_tracked"].clone()
        for conv, which in (("conv1", "1"), ("conv2", "2")):
            out[f"CCC_{block}.{conv}.weight"] = own[f"f5c{block}.ccc.weight{which}"][:, None, :]
            out[f"CCC_{block}.{conv}.bias"] = own[f"f5c{block}.ccc.bias{which}"]
        for name in own:
            if name.startswith(f"unused.FCC_{block}__"):
                out[name.removeprefix("unused.").replace("__", ".")] = own[name]
    return out


def to_ours(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The entries of a complete released state dict under our names and in our shapes.

    Raises:
        CheckpointError: the two halves of a batch norm have counted different numbers of batches.
    """
    for released, value in state.items():
        name = _our_name(released)
        if name is not None:
            yield name, value
    for block in (1, 2):
        prefix, ours = f"FCC_{block}.", f"f5c{block}.fcc."
        for name, (half_a, half_b) in _FCC_HALVES.items():
            halves = torch.cat([state[prefix + half_a].flatten(), state[prefix + half_b].flatten()])
            yield ours + name, halves.view(-1, RELEASED_LENGTH) if "_pe_" in half_a or "kernel" in half_a else halves
        counters = [state[prefix + counter] for counter in _COUNTERS]
        if int(counters[0]) != int(counters[1]):
            raise CheckpointError(
                f"{prefix}{_COUNTERS[0]} and {_COUNTERS[1]} differ ({int(counters[0])}, {int(counters[1])}); "
                "the released network always counts them together, so this checkpoint was put together from others"
            )
        yield ours + "norm.num_batches_tracked", counters[0]
        for conv, which in (("conv1", "1"), ("conv2", "2")):
            yield f"f5c{block}.ccc.weight{which}", state[f"CCC_{block}.{conv}.weight"].squeeze(1)
            yield f"f5c{block}.ccc.bias{which}", state[f"CCC_{block}.{conv}.bias"]


def _our_name(released: str) -> str | None:
    """Our name of an entry that only changes its name; None for those of FCC and CCC, which change their shape."""
    if ".ffn." in released:
        return "unused." + UnusedEntries.buffer_name(released)
    if match := re.fullmatch(r"flownet\.(\w+)\.(.+)", released):
        layer, rest = match.groups()
        rest = re.sub(r"^0\.", "conv.", re.sub(r"^1\.", "norm.", rest))
        return f"flow.{_FLOW_LAYERS.get(layer, layer)}.{rest}"
    for prefix, ours in (
        ("conv_stack.conv_stack.", "stack."),
        ("mer_3dcnn.conv3d.", "emotion.conv."),
        ("mer_3dcnn.", "emotion."),
        ("ldm_predictor.convldm.", "landmarks.conv."),
        ("ldm_predictor.", "landmarks."),
    ):
        if released.startswith(prefix):
            return ours + released.removeprefix(prefix)
    return None


def _released_name(name: str) -> str | None:
    """The inverse of `_our_name`, but for the unused entries."""
    if match := re.fullmatch(r"flow\.(\w+)\.(.+)", name):
        layer, rest = match.groups()
        released = {ours: theirs for theirs, ours in _FLOW_LAYERS.items()}.get(layer, layer)
        return f"flownet.{released}.{re.sub(r'^norm[.]', '1.', re.sub(r'^conv[.]', '0.', rest))}"
    for ours, prefix in (
        ("stack.", "conv_stack.conv_stack."),
        ("emotion.conv.", "mer_3dcnn.conv3d."),
        ("emotion.", "mer_3dcnn."),
        ("landmarks.conv.", "ldm_predictor.convldm."),
        ("landmarks.", "ldm_predictor."),
    ):
        if name.startswith(ours):
            return prefix + name.removeprefix(ours)
    return None


def _released_shape(name: str, value: Tensor) -> tuple[int, ...]:
    """(64, 1, 32, 1) for a kernel along H, (1, 64, 1, 32) for an embedding along W, and so on."""
    channels, axis = value.shape[0], name[-1]
    length = (RELEASED_LENGTH, 1) if axis == "H" else (1, RELEASED_LENGTH)
    if "kernel" in name:
        return (channels, 1, *length)
    if "_pe_" in name:
        return (1, channels, *length)
    return tuple(value.shape)


def check_entries(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Compare the names and shapes of a released state dict with those of the released network.

    Raises:
        CheckpointError: entries that are missing, unknown or of another shape, all named.
    """
    missing = sorted(expected.keys() - state.keys())
    extra = sorted(state.keys() - expected.keys())
    wrong = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    problems = [
        f"{what}: {', '.join(names)}"
        for what, names in (("missing entries", missing), ("unknown entries", extra), ("wrong shapes", wrong))
        if names
    ]
    if problems:
        raise CheckpointError(
            "this released checkpoint does not fit: "
            + "; ".join(problems)
            + ". It must hold exactly the entries of the "
            "released network (a checkpoint of `mol train` is opened with mol.networks.trained.load_model)."
        )
