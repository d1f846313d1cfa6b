"""The tile sizes of every kernel per architecture, and autotuning on request.

`TABLE` has the defaults. With MOLKERNELS_AUTOTUNE=1, or inside ``with autotune():``, each kernel is measured on its
first call with every shape, with the tile sizes of `CANDIDATES`, and the fastest is used for all later calls with that
shape, also in later processes: the results are kept in a JSON file in the user's cache folder, and ``python -m
molkernels.triton.report --tuned`` prints them.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import logging
import os
import threading
from collections.abc import Callable, Hashable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger("molkernels")


@dataclass(frozen=True)
class Config:
    """Tile sizes by the names of the kernel's constants, warps per program, and stages of its pipelined loops.

    registers: the maximum per thread, on NVIDIA chips; None leaves it to the assembler, which sometimes spills one
    register so that more programs fit on a multiprocessor.
    """

    tiles: dict[str, int]
    num_warps: int
    num_stages: int
    registers: int | None = None


def _config(num_warps: int, num_stages: int, registers: int | None = None, **tiles: int) -> Config:
    return Config(tiles, num_warps, num_stages, registers)


# (kernel, architecture, products) → Config; None means any. Products are "ieee" (float32), "tf32", "tf32x3" or
# "16-bit". The most specific line applies.
#
# NOT YET MEASURED on a GPU: chosen so that no kernel spills registers on any architecture and shared memory fits the
# smallest of them (`python -m molkernels.triton.report`; the table that it prints is in docs/triton-report.md).
TABLE: dict[tuple[str, str | None, str | None], Config] = {
    ("fcc_fwd_kernel", None, None): _config(4, 1),
    ("fcc_statistics_kernel", None, None): _config(4, 1),
    ("fcc_statistics_merge_kernel", None, None): _config(4, 1, BLOCK=128),
    ("fcc_bwd_kernel_sums", None, None): _config(4, 1),
    ("fcc_bwd_kernel_sums", None, "ieee"): _config(4, 1, 255),
    ("fcc_bwd_kernel_dx", None, None): _config(4, 1),
    ("fcc_bwd_kernel_dx", "sm_100", None): _config(4, 1, 128),
    ("edge_max_channel_fwd_kernel", None, None): _config(8, 2, BLOCK_P=32, BLOCK_Q=32),
    ("edge_max_channel_fwd_kernel", None, "ieee"): _config(8, 2, BLOCK_P=16, BLOCK_Q=16),
    ("edge_max_gather_kernel", None, None): _config(4, 1, BLOCK_P=256),
    ("edge_max_channel_bwd_kernel_messages", None, None): _config(4, 1, BLOCK_P=256),
    ("edge_max_channel_bwd_kernel_dx", None, None): _config(4, 2, BLOCK_R=64, BLOCK_P=32, BLOCK_Q=64),
    ("edge_max_channel_bwd_kernel_dx", None, "ieee"): _config(4, 2, BLOCK_R=32, BLOCK_P=16, BLOCK_Q=64),
    ("edge_max_channel_bwd_kernel_dw", None, None): _config(4, 2, BLOCK_P=64, BLOCK_Q=64, BLOCK_R=32),
    ("edge_max_channel_bwd_kernel_dw", None, "ieee"): _config(4, 2, BLOCK_P=64, BLOCK_Q=64, BLOCK_R=16),
    ("edge_max_position_fwd_kernel", None, None): _config(8, 2, BLOCK_C=64, BLOCK_P=64, BLOCK_Q=32),
    ("edge_max_position_fwd_kernel", None, "ieee"): _config(8, 2, BLOCK_C=64, BLOCK_P=64, BLOCK_Q=16),
    ("edge_max_position_fwd_kernel", "sm_80", "tf32"): _config(8, 2, BLOCK_C=64, BLOCK_P=64, BLOCK_Q=16),
    ("edge_max_position_bwd_kernel_edges", None, None): _config(4, 2, BLOCK_C=64, BLOCK_P=32, BLOCK_Q=64),
    ("edge_max_position_bwd_kernel_edges", None, "ieee"): _config(8, 2, BLOCK_C=64, BLOCK_P=16, BLOCK_Q=64),
    ("edge_max_position_bwd_kernel_dx", None, None): _config(4, 1, BLOCK_C=128, BLOCK_P=16),
    ("edge_max_position_bwd_kernel_dw", None, None): _config(8, 2, BLOCK_P=64, BLOCK_Q=64, BLOCK_C=32),
    ("edge_max_position_bwd_kernel_dw", None, "ieee"): _config(8, 2, BLOCK_P=32, BLOCK_Q=64, BLOCK_C=16),
    ("reverse_graph_kernel", None, None): _config(4, 1, BLOCK_E=32, BLOCK_F=128),
    ("knn_norms_kernel", None, None): _config(4, 1, BLOCK_M=32, BLOCK_D=32),
    ("knn_fwd_kernel", None, None): _config(8, 2, BLOCK_M=16, BLOCK_N=128, BLOCK_D=16),
    ("cost_volume_fwd_kernel", None, None): _config(8, 2, BLOCK_C=32),
    ("cost_volume_fwd_kernel", None, "ieee"): _config(8, 2, BLOCK_C=16),
    ("cost_volume_bwd_kernel_da", None, None): _config(4, 1, BLOCK_C=64),
    ("cost_volume_bwd_kernel_da", None, "ieee"): _config(4, 1, 255, BLOCK_C=64),
    ("cost_volume_bwd_kernel_db", None, None): _config(4, 1, BLOCK_C=64),
    ("cost_volume_bwd_kernel_db", None, "ieee"): _config(4, 1, 255, BLOCK_C=64),
    ("mix_fwd_kernel", None, None): _config(4, 2, BLOCK_C=32, BLOCK_D=64, BLOCK_P=64),
    ("mix_fwd_kernel", None, "ieee"): _config(4, 2, BLOCK_C=16, BLOCK_D=64, BLOCK_P=64),
}

# The values that `measure` tries for each tile size, in addition to the line of the table.
CANDIDATES: dict[str, tuple[int, ...]] = {
    "BLOCK_C": (32, 64, 128),
    "BLOCK_P": (32, 64, 128),
    "BLOCK_Q": (32, 64),
    "BLOCK_R": (32, 64, 128),
}
MOST_TRIED = 48

Key = tuple[str, str, str]


def config(key: Key, shape: tuple[Hashable, ...]) -> Config:
    """The tile sizes of a kernel: measured for this shape, or else those of the table.

    Args:
        key: (kernel, architecture, products).
        shape: the shapes of its tensors and its other constants.
    """
    known = _measured()
    found = known.get(_entry(key, shape)) if known else None  # on every launch: build no key needlessly
    return found if found is not None else from_table(key)


def from_table(key: Key) -> Config:
    """The most specific line of `TABLE`."""
    kernel, architecture, products = key
    for line in itertools.product((kernel,), (architecture, None), (products, None)):
        if line in TABLE:
            return TABLE[line]
    raise KeyError(f"TABLE in {__name__} has no line for {kernel}")


# --------------------------------------------------------------------------------------------------------------
# Measuring


class _Requested(threading.local):
    now: bool = False


_requested = _Requested()


def requested() -> bool:
    """Whether to measure kernels on their first call."""
    return _requested.now or os.environ.get("MOLKERNELS_AUTOTUNE", "0") == "1"


@contextlib.contextmanager
def autotune() -> Iterator[None]:
    """Measure each kernel on its first call with a shape inside the block, and keep the fastest tile sizes."""
    before, _requested.now = _requested.now, True
    try:
        yield
    finally:
        _requested.now = before


def measure(key: Key, shape: tuple[Hashable, ...], run: Callable[[Config], None]) -> None:
    """Time `run` with every candidate, unless already done, and keep the fastest."""
    if _entry(key, shape) in _measured():
        return
    from triton.testing import do_bench

    times: dict[int, float] = {}
    tried = candidates(key)
    for i, candidate in enumerate(tried):
        try:
            times[i] = float(do_bench(lambda candidate=candidate: run(candidate), warmup=5, rep=20))
        except Exception as error:  # too much shared memory, too many registers: Triton has a class for each
            log.debug("%s cannot run with %s: %s", key[0], candidate, error)
    if not times:
        return
    best = min(times, key=times.__getitem__)
    log.info("%s on %s, %s: %s, %.4f ms", *key[:2], shape, tried[best], times[best])
    keep(key, shape, tried[best], times[best])


def candidates(key: Key) -> list[Config]:
    """The line of the table and its variations."""
    given = from_table(key)
    axes = [CANDIDATES.get(name, (size,)) for name, size in given.tiles.items()]
    others = [
        Config(dict(zip(given.tiles, sizes, strict=True)), warps, given.num_stages)
        for sizes, warps in itertools.product(itertools.product(*axes), (4, 8))
    ]
    return [given, *(c for c in others if c != given)][:MOST_TRIED]


# --------------------------------------------------------------------------------------------------------------
# The file of measurements


def file() -> Path:
    """Where measured tile sizes are kept: $MOLKERNELS_CACHE, or molkernels in the user's cache folder."""
    folder = os.environ.get("MOLKERNELS_CACHE")
    base = Path(folder) if folder else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "molkernels"
    return base / "triton-tuned.json"


def measured() -> dict[str, dict[str, Any]]:
    """The measurements on this machine: entry → tile sizes and milliseconds.

    Raises:
        RuntimeError: the file is not in the format that this module writes.
    """
    path = file()
    try:
        content = json.loads(path.read_text()) if path.exists() else {}
        for line in content.values():
            Config(**line["config"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RuntimeError(f"{path} is not a record of tile sizes ({error}); delete it to measure again") from error
    return dict(content)


def keep(key: Key, shape: tuple[Hashable, ...], best: Config, milliseconds: float) -> None:
    """Add a line to the file, which is replaced atomically: another process never reads half of it."""
    path = file()
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {**measured(), _entry(key, shape): {"config": asdict(best), "milliseconds": milliseconds}}
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1, sort_keys=True))
    temporary.replace(path)
    _read.cache_clear()


def _measured() -> dict[str, Config]:
    """`measured` as configurations, read again if the settings name another file."""
    return _read(os.environ.get("MOLKERNELS_CACHE"), os.environ.get("XDG_CACHE_HOME"))


@functools.cache
def _read(*folders: str | None) -> dict[str, Config]:
    return {entry: Config(**line["config"]) for entry, line in measured().items()}


def _entry(key: Key, shape: tuple[Hashable, ...]) -> str:
    return " ".join(map(str, (*key, *shape)))
