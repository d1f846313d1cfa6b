"""Whether a backend's kernels are right on this device: tried once on known answers before "auto" takes them.

A verdict is kept in the user's cache folder, for this device, driver, PyTorch and build. With MOLKERNELS_SELF_TEST=0 in
the environment nothing is tried, and "auto" takes every backend that can run.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch

from molkernels import cache, known_answers, precision

FILE = "verdicts.json"
# What has run on real devices through all of the tests, and what is PyTorch's own work.
PROVEN = ("cpu", "reference", "compiled")
# Operators that a function's kernels belong to, where it has another name.
FORWARD = {
    "fcc_backward": ("fcc", "fcc_train"),
    "edge_max_backward": ("edge_max",),
    "cost_volume_backward": ("cost_volume",),
}


class Candidate(Protocol):
    """A backend, as `molkernels.dispatch` has them."""

    @property
    def name(self) -> str: ...
    @property
    def kernel(self) -> Callable[[str], Callable[..., Any]]: ...
    @property
    def build(self) -> Callable[[], str]: ...


@dataclass(frozen=True)
class Verdict:
    """What a known-answer test of one operator found.

    Attributes:
        op, backend, device: their names.
        precision: "float64", "float32", "tf32" (float32 where PyTorch's settings allow TF32), "float16" or "bfloat16".
        error: the largest difference from the reference, relative to the largest value of the same result; infinite if
            an index or a shape is wrong, a value is not finite or the kernel raised an error.
        limit: the largest error that is allowed.
        raised: the error that the kernel raised; empty if it ran.
    """

    op: str
    backend: str
    device: str
    precision: str
    error: float
    limit: float
    raised: str = ""

    @property
    def passed(self) -> bool:
        """Whether the error is within its limit."""
        return self.error <= self.limit

    def __str__(self) -> str:
        found = f"it raised {self.raised}" if self.raised else f"largest error {self.error:.2g}, limit {self.limit:.2g}"
        state = "passed" if self.passed else "FAILED"
        return f"{self.op} on backend {self.backend!r}, {self.precision}, {self.device}: {state}, {found}"


_verdicts: dict[tuple[str, str, str], Verdict] = {}  # by cache key, operator and precision
_read: set[str] = set()  # the cache keys whose verdicts were read from the file
_warned: set[Verdict] = set()
_lock = threading.RLock()


def passes(op: str, backend: Candidate, device: torch.device, dtype: torch.dtype | None) -> bool:
    """Whether "auto" may take the backend for `op`: its verdict, after a trial if there is none; warns if it may not.

    During the capture of a CUDA graph and while PyTorch traces there is no trial: without a verdict the answer is yes.
    """
    if not wanted() or backend.name in PROVEN:
        return True
    for part in FORWARD.get(op, (op,)):
        if known(part, backend, device, dtype) is None and not busy(device):
            run(part, backend, device, dtype)
    failed = failures(op, backend, device, dtype)
    for verdict in failed:
        _warn(verdict)
    return not failed


def failures(op: str, backend: Candidate, device: torch.device, dtype: torch.dtype | None) -> list[Verdict]:
    """The verdicts for which "auto" leaves the backend out, of those that there are."""
    if not wanted() or backend.name in PROVEN:
        return []
    found = (known(part, backend, device, dtype) for part in FORWARD.get(op, (op,)))
    return [verdict for verdict in found if verdict is not None and not verdict.passed]


def wanted() -> bool:
    """Whether MOLKERNELS_SELF_TEST leaves the trials on."""
    return os.environ.get("MOLKERNELS_SELF_TEST", "1").lower() not in ("0", "false", "off", "no")


def busy(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured or PyTorch traces with tensors that hold nothing."""
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return True
    return torch.compiler.is_compiling() or type(torch.empty(0)) is not torch.Tensor


def known(op: str, backend: Candidate, device: torch.device, dtype: torch.dtype | None) -> Verdict | None:
    """The verdict of an earlier trial, in this process or in the cache."""
    key = _key(backend, device)
    with _lock:
        if key not in _read:
            _read.add(key)
            for entry in cache.load(FILE).get(key, {}).values():
                verdict = _verdict(entry)
                if verdict is not None:
                    _verdicts.setdefault((key, verdict.op, verdict.precision), verdict)
        return _verdicts.get((key, op, arithmetic(op, dtype, device)))


def run(op: str, backend: Candidate, device: torch.device, dtype: torch.dtype | None) -> Verdict | None:
    """Try the backend now and keep the verdict; None if the device lacks the memory to try."""
    error, raised = float("inf"), ""
    with _lock, torch.no_grad(), torch.amp.autocast(device.type, enabled=False):
        try:
            error = known_answers.largest_error(op, backend.kernel, dtype or torch.float32, device)
        except torch.OutOfMemoryError:
            return None
        except Exception as failure:  # whatever a kernel raises, the reference still runs
            raised = f"{type(failure).__name__}: {failure}".partition("\n")[0]
        limit = known_answers.LIMITS[arithmetic(op, dtype, device)]
        device_name = cache.device_name(device)
        verdict = Verdict(op, backend.name, device_name, arithmetic(op, dtype, device), error, limit, raised)
        key = _key(backend, device)
        known(op, backend, device, dtype)  # so that the file, read later, does not count for more than this
        _verdicts[key, op, verdict.precision] = verdict
        if not raised:  # an error may have passed by the next process: a compiler is there, memory is free
            cache.save(FILE, key, {f"{op} {verdict.precision}": asdict(verdict)})
    return verdict


def arithmetic(op: str, dtype: torch.dtype | None, device: torch.device) -> str:
    """The name of the arithmetic of an operator in a dtype (None: float32). TF32 on a GPU has kernels of its own."""
    dtype = dtype or torch.float32
    if dtype == torch.float32 and device.type == "cuda" and precision.uses_tf32(op):
        return "tf32"
    return str(dtype).removeprefix("torch.")


def _key(backend: Candidate, device: torch.device) -> str:
    return cache.key(device, f"{backend.name} {backend.build()}")


def _verdict(entry: object) -> Verdict | None:
    """A verdict from the cache file, if it is one."""
    if not isinstance(entry, dict):
        return None
    try:
        verdict = Verdict(**entry)
    except TypeError:
        return None
    numbers, words = (verdict.error, verdict.limit), (verdict.op, verdict.backend, verdict.precision, verdict.raised)
    right = all(isinstance(n, (int, float)) for n in numbers) and all(isinstance(w, str) for w in words)
    return verdict if right else None


def _warn(verdict: Verdict) -> None:
    if verdict in _warned:
        return
    _warned.add(verdict)
    warnings.warn(
        f"molkernels: a known-answer test failed, so 'auto' leaves the backend out: {verdict}. Results are right, but "
        "slower. Please report this to the authors, with what `python -m molkernels --self-test` prints. "
        "MOLKERNELS_SELF_TEST=0 skips the test.",
        RuntimeWarning,
        stacklevel=2,
    )
