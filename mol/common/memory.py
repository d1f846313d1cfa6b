"""Whether data fit into memory, asked before they are loaded: a full memory ends a process without a word."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mol.common.errors import NotEnoughMemoryError

_MEMINFO, _STATUS = Path("/proc/meminfo"), Path("/proc/self/status")
_CGROUP = Path("/sys/fs/cgroup")
# What PyTorch's errors, which have no class of their own on a CPU, say.
_OUT_OF_MEMORY = re.compile(r"can't allocate memory|out of memory", re.IGNORECASE)
# (limit, in use) of control groups, version 2 and version 1; containers have them at the root.
_GROUPS = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def available_memory() -> int | None:
    """Bytes that this process can still use: free memory, within the limits of its container and of `ulimit -v`.

    Returns:
        None if the system doesn't say.
    """
    rests = [_kibibytes(_MEMINFO, "MemAvailable:"), *(_group_rest(*names) for names in _GROUPS), _address_space_rest()]
    known = [rest for rest in rests if rest is not None]
    return max(0, min(known)) if known else None


@contextmanager
def memory_for(need: int, what: str, remedy: str) -> Iterator[None]:
    """Load something only if it fits, and name the need and the remedy if it doesn't.

    Args:
        need: bytes.
        what: what needs them, as the start of a sentence.
        remedy: what to do about it, as the end of a sentence.
    Raises:
        NotEnoughMemoryError: less is available, or an allocation inside the block fails.
    """
    available = available_memory()
    if available is not None and need > available:
        raise NotEnoughMemoryError(
            f"{what} need {_size(need)} of memory and {_size(available)} are available; {remedy}."
        )
    with failures_named(need, what, remedy):
        yield


@contextmanager
def failures_named(need: int, what: str, remedy: str) -> Iterator[None]:
    """Name the need and the remedy if an allocation inside the block fails, NumPy's, FFmpeg's or PyTorch's.

    Args:
        need: bytes.
        what: what needs them, as in `memory_for`.
        remedy: what to do about it, as the end of a sentence.
    Raises:
        NotEnoughMemoryError: an allocation failed.
    """
    try:
        yield
    except NotEnoughMemoryError:
        raise
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        raise NotEnoughMemoryError(
            f"there is not enough memory: {what} need {_size(need)}, besides what the program itself uses; {remedy}."
        ) from error


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _address_space_rest() -> int | None:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    used = _kibibytes(_STATUS, "VmSize:")
    return None if limit == resource.RLIM_INFINITY or used is None else limit - used


def _group_rest(limit: str, used: str) -> int | None:
    numbers = [_text(_CGROUP / name).strip() for name in (limit, used)]
    return int(numbers[0]) - int(numbers[1]) if all(number.isdecimal() for number in numbers) else None


def _kibibytes(path: Path, name: str) -> int | None:
    """Bytes of a line such as ``MemAvailable:   123 kB``."""
    found = [line.split()[1] for line in _text(path).splitlines() if line.startswith(name)]
    return int(found[0]) * 1024 if found and found[0].isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
