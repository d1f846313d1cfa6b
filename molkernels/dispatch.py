"""Which backend runs an operator, and why.

A backend has a name, kernels (functions with the names and arguments of those in `molkernels.reference`), and a
predicate that gives the reason why it cannot run. A backend chosen by name runs or raises an error; only "auto" falls
back, in the order of `AUTO_ORDER` or in that measured by `molkernels.tune`. It passes over a backend whose known-answer
test (`trials`) failed.
"""

from __future__ import annotations

import functools
import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from molkernels import cache, extension, precision, reference, trials, triton
from molkernels.version import __version__

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

COMPILED = "compiled"

OPERATORS = ("fcc", "fcc_train", "knn", "edge_max", "f5c", "cost_volume")
Kernel = Callable[..., Any]


@dataclass(frozen=True)
class Backend:
    """A set of kernels.

    `missing(device_type, dtype)` gives the reason why the backend cannot run there, or None (dtype None means any);
    `kernel(name)` gives the function; `build()` names the build, which a verdict about the kernels holds for.
    """

    name: str
    missing: Callable[[str, torch.dtype | None], str | None]
    kernel: Callable[[str], Kernel]
    build: Callable[[], str] = lambda: __version__


def _reference_missing(device_type: str, dtype: torch.dtype | None) -> str | None:
    return None


def _compiled(name: str, device_type: str) -> Backend:
    def missing(asked: str, dtype: torch.dtype | None) -> str | None:
        if asked != device_type:
            return f"it runs on {device_type} tensors only"
        return extension.missing(name) or extension.refuses(name, dtype)

    return Backend(name, missing, lambda op: extension.kernel(name, op), lambda: extension.identity(name))


def _compiled_reference_missing(device_type: str, dtype: torch.dtype | None) -> str | None:
    if device_type == "cuda" and not torch.cuda.is_available():
        return "torch finds no GPU"
    if device_type == "cuda":
        return None if triton.installed() else "torch.compile needs triton (pip install triton)"
    if device_type != "cpu":
        return "it runs on cpu and cuda tensors only"
    return None if any(map(shutil.which, ("g++", "clang++", "c++"))) else "torch.compile finds no C++ compiler"


@functools.cache
def _compiled_reference(op: str) -> Kernel:
    return torch.compile(torch.no_grad()(getattr(reference, op)))


BACKENDS: dict[str, Backend] = {
    "reference": Backend("reference", _reference_missing, lambda op: getattr(reference, op)),
    "cpu": _compiled("cpu", "cpu"),
    "cuda": _compiled("cuda", "cuda"),
    "triton": Backend("triton", triton.missing, triton.kernel, triton.identity),
    # torch.compile of the reference: by name, and by "auto" where `molkernels.tune` measured it to be the fastest.
    COMPILED: Backend(COMPILED, _compiled_reference_missing, _compiled_reference),
}


class _Requested(threading.local):
    name: str = "auto"
    standard: bool = False


_requested = _Requested()


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Run the operators of this thread on one backend inside a ``with`` block.

    A module that was made with an explicit ``backend=`` keeps it.

    Args:
        name: "auto", "reference", "cpu", "cuda", "triton" or "compiled".
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


@contextmanager
def standard_operators() -> Iterator[None]:
    """Compute with operators of PyTorch alone inside a ``with`` block: for graphs that run without this library.

    What `torch.export.export` or `torch.jit.trace` records there holds the formulas of `molkernels.reference` instead
    of the operators ``molkernels::…``. `torch.onnx.export` needs no such block: it always gets the formulas.
    """
    before = _requested.standard
    _requested.standard = True
    try:
        yield
    finally:
        _requested.standard = before


def wants_standard_operators() -> bool:
    """Whether this thread is in a `standard_operators` block, or an export to ONNX is going on."""
    if _requested.standard:
        return True
    # An export to ONNX exports or traces. That is asked first: every call comes by here, and it takes a tenth as long.
    return (torch.compiler.is_exporting() or torch.jit.is_tracing()) and torch.onnx.is_in_onnx_export()


def requested(explicit: str = "auto") -> str:
    """The backend that a call asks for: its own, or that of the enclosing `backend` block."""
    return _requested.name if explicit == "auto" else explicit


def check_name(name: str) -> None:
    """Raise ValueError if there is no backend of this name."""
    if name != "auto" and name not in BACKENDS:
        raise ValueError(f"backend is {name!r}; must be one of {', '.join(map(repr, ('auto', *BACKENDS)))}")


def select(
    op: str,
    device: torch.device,
    name: str,
    dtype: torch.dtype | None,
    passes: Callable[[str, Backend, torch.device, torch.dtype | None], bool],
) -> Backend:
    """The backend that runs `op` on this device (with this dtype, if one is given).

    Args:
        passes: whether "auto" may take a backend that can run.
    Raises:
        RuntimeError: the backend was chosen by name and cannot run.
    """
    if name != "auto":
        reason = BACKENDS[name].missing(device.type, dtype)
        if reason is not None:
            raise RuntimeError(
                f"backend {name!r} was requested but cannot run {op} on {device.type}: {reason}. "
                f"Available on this machine: {', '.join(available_backends(device.type))}."
            )
        return BACKENDS[name]
    for candidate in map(BACKENDS.__getitem__, order(op, device)):
        if candidate.missing(device.type, dtype) is None and passes(op, candidate, device, dtype):
            log.debug("%s on %s: %s", op, device, candidate.name)
            return candidate
    raise AssertionError("the reference backend runs everywhere")


def order(op: str, device: torch.device) -> tuple[str, ...]:
    """The order in which "auto" tries the backends: as measured on this device, else `AUTO_ORDER`."""
    times = measured(device).get(trials.FORWARD.get(op, (op,))[-1], {})
    usual = AUTO_ORDER.get(device.type, DEFAULT_ORDER)
    return tuple(dict.fromkeys((*sorted(times, key=times.__getitem__), *usual))) if times else usual


TIMES_FILE = "times.json"


_times: dict[torch.device, dict[str, dict[str, float]]] = {}


def measured(device: torch.device) -> dict[str, dict[str, float]]:
    """Seconds of each operator on each backend, as `molkernels.tune` measured them on this device with these builds."""
    if device.type not in AUTO_ORDER or (device.type == "cuda" and not torch.cuda.is_available()):
        return {}
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    if device not in _times:
        _times[device] = {
            op: {name: seconds for name, seconds in times.items() if name in BACKENDS and isinstance(seconds, float)}
            for op, times in cache.load(TIMES_FILE).get(times_key(device), {}).items()
            if isinstance(times, dict)
        }
    return _times[device]


def keep_times(device: torch.device, times: dict[str, dict[str, float]]) -> None:
    """Go by these times from now on, here and in later processes."""
    _times[device] = times
    cache.save(TIMES_FILE, times_key(device), times)
    reselect()


def times_key(device: torch.device) -> str:
    """What measured times hold for: the device, and the builds of its backends."""
    return cache.key(device, ", ".join(f"{name} {BACKENDS[name].build()}" for name in AUTO_ORDER[device.type]))


_kernels: dict[tuple[str, torch.device, str, torch.dtype, bool], Kernel] = {}


def kernel(op: str, device: torch.device, name: str, dtype: torch.dtype) -> Kernel:
    """The function that runs `op` on the selected backend: looked up once, as a look costs more than a small kernel."""
    tf32 = dtype is torch.float32 and device.type == "cuda" and precision.uses_tf32(op)
    found = _kernels.get((op, device, name, dtype, tf32))
    if found is None:
        found = select(op, device, name, dtype, trials.passes).kernel(op)
        if name != "auto" or not trials.busy(device):
            _kernels[op, device, name, dtype, tf32] = found
    return found


def reselect() -> None:
    """Select again at the next call: an order, a verdict or the environment has changed."""
    _kernels.clear()


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
        dtype: dtype of the tensors; None for any (with the verdicts on float32).
    Returns:
        The answer in words: a line for each operator, with the times that `molkernels.tune` measured, one for each
        backend, and one for each known-answer test that failed. No test is run: of a backend that was not tested yet
        the answer is that it can run.
    Raises:
        ValueError: the operator or the backend is unknown.
    """
    check_name(backend)
    if op is not None and op not in OPERATORS:
        raise ValueError(f"op is {op!r}; must be one of {', '.join(map(repr, OPERATORS))}")
    device = torch.device(device)
    asked = requested(backend)
    operators = OPERATORS if op is None else (op,)
    lines = []
    for name in operators:
        try:
            selected = select(name, device, asked, dtype, lambda *tried: not trials.failures(*tried)).name
            lines.append(f"{name} on {device.type}: {selected} (requested: {asked})")
        except RuntimeError as error:
            lines.append(str(error))
        times = measured(device).get(name, {})
        if times:
            found = (f"{each} {1e3 * times[each]:.3g} ms" for each in sorted(times, key=times.__getitem__))
            lines.append(f"  measured by molkernels.tune: {', '.join(found)}")
    for candidate in BACKENDS.values():
        reason = candidate.missing(device.type, dtype)
        lines.append(f"  {candidate.name}: {'can run' if reason is None else 'cannot run, ' + reason}")
        if reason is None:
            failed = (trials.failures(name, candidate, device, dtype) for name in operators)
            lines += [f"    'auto' leaves it out: {verdict}" for verdicts in failed for verdict in verdicts]
    return "\n".join(lines)
