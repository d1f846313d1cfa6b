"""Memory that is asked for before it is used."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
import torch

from mol.common import memory
from mol.common.errors import NotEnoughMemoryError
from mol.common.memory import available_memory, failures_named, memory_for


def test_what_fits_is_loaded():
    with memory_for(1000, "ten numbers", "buy memory"):
        pass


def test_what_does_not_fit_is_not_begun():
    with (
        pytest.raises(
            NotEnoughMemoryError, match=r"the frames need 1048576.0 GiB of memory and .* are available; cut it"
        ),
        memory_for(2**50, "the frames", "cut it"),
    ):
        raise AssertionError("was begun")


def test_an_allocation_that_fails_has_need_and_remedy():
    wanted = r"the frames need 1 MiB, besides .*; cut it"
    with pytest.raises(NotEnoughMemoryError, match=wanted) as caught, memory_for(2**20, "the frames", "cut it"):
        raise MemoryError
    assert isinstance(caught.value, MemoryError)


def test_pytorch_has_no_memory_in_other_words():
    wanted = r"not enough memory: the frames need 1 MiB"
    with pytest.raises(NotEnoughMemoryError, match=wanted), failures_named(2**20, "the frames", "cut it"):
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="size") as caught, failures_named(2**20, "the frames", "cut it"):
        torch.ones(2) + torch.ones(3)
    assert not isinstance(caught.value, NotEnoughMemoryError)


def test_available_memory_is_within_what_the_machine_has():
    pages = resource.getpagesize()
    total = int(memory._text(memory._MEMINFO).split()[1]) * 1024
    assert pages < available_memory() <= total


def test_a_limit_of_the_address_space_counts():
    script = (
        "import resource\n"
        "from mol.common.memory import available_memory\n"
        "resource.setrlimit(resource.RLIMIT_AS, (3 << 29, 3 << 29))\n"
        "print(available_memory())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 3 << 29


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    assert available_memory() == 3000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() > 3000
