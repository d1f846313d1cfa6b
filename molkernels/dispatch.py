"""Which backend runs an operator, and why.

A backend has a name, kernels (functions with the names and arguments of those in `molkernels.reference`), and a
predicate that gives the reason why it cannot run. A backend chosen by name runs or raises an error; only "auto" falls
back, in the order of `AUTO_ORDER`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from molkernels import extension, reference, triton

log = logging.getLogger("molkernels")

# The order in which "auto" tries the backends on each kind of device: fastest first, as measured by `pytest bench/`.
#
# "cpu" before "reference", float32, 2 cores with AVX2 (bench/results/amd-epyc-2-threads/2026-11-24-db28eca.json),
# speed-up over the reference, forward / forward and backward:
#   fcc 2.9 / 5.0, ccc 2.9 / 1.6 (channel graph) and 2.5 / 2.3 (position graph), f5c 2.8 / 2.2, cost_volume 2.4 / 1.9
# "cuda" and "triton" have not been measured: the more specific a backend is to a chip, the earlier it comes (`make gpu`
# measures both).
AUTO_ORDER: dict[str, tuple[str, ...]] = {
    "cpu": ("cpu", "reference"),
    "cuda": ("cuda", "triton", "reference"),
}
DEFAULT_ORDER = ("reference",)

OPERATORS = ("fcc", "fcc_train", "knn", "edge_max", "f5c", "cost_volume")
Kernel = Callable[..., Any]


@dataclass(frozen=True)
class Backend:
    """A set of kernels.

    `missing(device_type, dtype)` gives the reason why the backend cannot run there, or None (dtype None means any);
    `kernel(name)` gives the function.
    """

    name: str
    missing: Callable[[str, torch.dtype | None], str | None]
    kernel: Callable[[str], Kernel]


def _reference_missing(device_type: str, dtype: torch.dtype | None) -> str | None:
    return None


def _compiled(name: str, device_type: str) -> Backend:
    def missing(asked: str, dtype: torch.dtype | None) -> str | None:
        if asked != device_type:
            return f"it runs on {device_type} tensors only"
        return extension.missing(name) or extension.refuses(name, dtype)

    return Backend(name, missing, lambda op: extension.kernel(name, op))


BACKENDS: dict[str, Backend] = {
    "reference": Backend("reference", _reference_missing, lambda op: getattr(reference, op)),
    "cpu": _compiled("cpu", "cpu"),
    "cuda": _compiled("cuda", "cuda"),
    "triton": Backend("triton", triton.missing, triton.kernel),
}


class _Requested(threading.local):
    name: str = "auto"


_requested = _Requested()


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Run the operators of this thread on one backend inside a ``with`` block.

    A module that was made with an explicit ``backend=`` keeps it.

    Args:
        name: "auto", "reference", "cpu", "cuda" or "triton".
    Raises:
        ValueError: the name is unknown.
    """
    check_name(name)
    before = _requested.name
    _requested.name = name
    try:
        yield
    finally:
        _requested.name = before


def requested(explicit: str = "auto") -> str:
    """The backend that a call asks for: its own, or that of the enclosing `backend` block."""
    return _requested.name if explicit == "auto" else explicit


def check_name(name: str) -> None:
    """Raise ValueError if there is no backend of this name."""
    if name != "auto" and name not in BACKENDS:
        raise ValueError(f"backend is {name!r}; must be one of {', '.join(map(repr, ('auto', *BACKENDS)))}")


def select(op: str, device_type: str, name: str, dtype: torch.dtype | None = None) -> Backend:
    """The backend that runs `op` on this kind of device (and dtype, if one is given).

    Raises:
        RuntimeError: the backend was chosen by name and cannot run.
    """
    if name != "auto":
        reason = BACKENDS[name].missing(device_type, dtype)
        if reason is not None:
            raise RuntimeError(
                f"backend {name!r} was requested but cannot run {op} on {device_type}: {reason}. "
                f"Available on this machine: {', '.join(available_backends(device_type))}."
            )
        return BACKENDS[name]
    for candidate in AUTO_ORDER.get(device_type, DEFAULT_ORDER):
        if BACKENDS[candidate].missing(device_type, dtype) is None:
            log.debug("%s on %s: %s", op, device_type, candidate)
            return BACKENDS[candidate]
    raise AssertionError("the reference backend runs everywhere")


def available_backends(device: str | torch.device = "cpu") -> tuple[str, ...]:
    """The backends that can run on tensors of this device, in the order in which "auto" tries them."""
    device_type = torch.device(device).type
    order = AUTO_ORDER.get(device_type, DEFAULT_ORDER)
    return tuple(name for name in order if BACKENDS[name].missing(device_type, None) is None)


def explain(
    op: str | None = None,
    device: str | torch.device = "cpu",
    backend: str = "auto",
    dtype: torch.dtype | None = None,
) -> str:
    """Which backend would run `op` (or each operator) on `device`, and why each of the others would not.

    Args:
        op: "fcc", "fcc_train", "knn", "edge_max", "f5c" or "cost_volume"; None for all.
        device: a device or its name.
        backend: as for `molkernels.backend`; an enclosing ``with`` block counts.
        dtype: dtype of the tensors; None for any.
    Returns:
        The answer in words, one line for each operator and each backend.
    Raises:
        ValueError: the operator or the backend is unknown.
    """
    check_name(backend)
    if op is not None and op not in OPERATORS:
        raise ValueError(f"op is {op!r}; must be one of {', '.join(map(repr, OPERATORS))}")
    device_type = torch.device(device).type
    asked = requested(backend)
    lines = []
    for name in OPERATORS if op is None else (op,):
        try:
            lines.append(
                f"{name} on {device_type}: {select(name, device_type, asked, dtype).name} (requested: {asked})"
            )
        except RuntimeError as error:
            lines.append(str(error))
    for candidate in BACKENDS.values():
        reason = candidate.missing(device_type, dtype)
        lines.append(f"  {candidate.name}: {'can run' if reason is None else 'cannot run, ' + reason}")
    return "\n".join(lines)
