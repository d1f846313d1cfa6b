"""Keep freed memory in the process.

glibc returns blocks of 32 MiB and more to the system as soon as they are freed, and the kernel zeroes every page when
they are requested again. A training step on the CPU frees and requests gigabytes of them.
"""

from __future__ import annotations

import ctypes
import os
import platform

# From glibc's malloc.h; blocks from this size on still go back to the system.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _LARGE = -1, -3, 2**30


def keep_freed_memory() -> bool:
    """Make glibc keep freed blocks below 1 GiB for the next request, in the whole process and until it ends.

    A training step at batch 16 on two cores took 14.9 s instead of 21.5, with a seventh more memory at its peak
    (docs/performance.md). Settings made by the user (``GLIBC_TUNABLES``, ``MALLOC_…``) are left alone.

    Returns:
        Whether it was set: false without glibc, and if the user has chosen settings.
    """
    chosen = [name for name in os.environ if name == "GLIBC_TUNABLES" or name.startswith("MALLOC_")]
    if chosen or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, _LARGE)) and bool(mallopt(_TRIM_THRESHOLD, -1))
