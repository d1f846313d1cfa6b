"""Freed memory stays with the process of `mol`, unless its user has chosen otherwise."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from mol.common.allocator import keep_freed_memory
print(keep_freed_memory())
def faults():  # an aligned block asks for a little more than itself: the heap grows a few times before one fits
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 * 2**18)  # 64 MiB: 16384 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(20):
    last = faults()
print(last)
"""


def run(**environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=clean | environment, capture_output=True, text=True, check=True
    )
    done_setting, faults = done.stdout.split()
    return done_setting == "True", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_a_block_that_was_freed_is_not_asked_of_the_system_again():
    was_set, faults = run()
    assert was_set
    assert faults < 100


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_what_the_user_chose_is_left_alone():
    was_set, faults = run(MALLOC_MMAP_THRESHOLD_="1000000")
    assert not was_set
    assert faults > 1000
