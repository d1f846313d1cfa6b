"""A network as one graph of PyTorch's standard operators: what every exported file is made from."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn.utils import parametrize

import molkernels as mk
from mol.common.errors import ExportError
from mol.export.onnx_model import CLIP_SHAPE

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Estimates(nn.Module):
    """A network whose output is a plain tuple: logits, flow, landmarks, and action units if it tells any."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.network = model

    def forward(self, clips: Tensor) -> tuple[Tensor, ...]:
        """The estimates for clips (B, 1, 8, 128, 128)."""
        return tuple(self.network(clips))


def program_of(model: nn.Module) -> ExportedProgram:
    """Record what a network computes, for any batch of at least one clip.

    The graph holds operators of PyTorch alone, so whoever loads it needs nothing of this program.

    Args:
        model: clips (B, 1, 8, 128, 128) → logits, flow, landmarks; in evaluation mode.
    Raises:
        ExportError: the network is in training mode, has hooks or parametrizations, or cannot be recorded.
    """
    require_exportable(model)
    parameter = next(model.parameters())
    clips = torch.zeros(2, *CLIP_SHAPE, dtype=parameter.dtype, device=parameter.device)
    try:
        with torch.no_grad(), mk.standard_operators():
            return torch.export.export(Estimates(model), (clips,), dynamic_shapes=({0: Dim("batch", min=1)},))
    except Exception as error:  # a class of its own for every kind of failure
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(
            f"torch.export cannot record {type(model).__name__} ({reason}); an exported network must not decide by the "
            "values of its clips"
        ) from error


def require_exportable(model: nn.Module) -> None:
    """Refuse a network that computes more than its modules' own formulas, or not as in evaluation.

    Raises:
        ExportError: the first module that is so, by name, and the remedy.
    """
    for name, module in model.named_modules():
        where = f"the module {name!r}" if name else "the network"
        if module.training:
            raise ExportError(f"{where} is in training mode; call model.eval() before the export")
        if parametrize.is_parametrized(module):
            raise ExportError(
                f"{where} has parametrizations; make their values its own with "
                "torch.nn.utils.parametrize.remove_parametrizations before the export"
            )
        if any(getattr(module, kind) for kind in _HOOKS) or "forward" in module.__dict__:
            raise ExportError(
                f"{where} has hooks or a replaced forward, which a file could only hold in part; remove them before "
                "the export"
            )
