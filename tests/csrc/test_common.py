"""The index arithmetic of csrc/common, compiled for the CPU, against the plain formulas."""

import ctypes
import itertools
import shutil
import subprocess

import pytest
import torch
from places import ROOT

from molkernels import functional, reference

COMMON = ROOT / "csrc" / "common"

WRAPPERS = """
#include "cost_volume.h"
#include "index.h"
using namespace molkernels;
extern "C" {
int ceil_div_(int a, int b) { return ceil_div(a, b); }
int64_t ceil_div_64(int64_t a, int64_t b) { return ceil_div(a, b); }
int circular_(int i, int t, int length) { return circular(i, t, length); }
int64_t channel_(int dy, int dx, int ry, int rx) { return displacement_channel(dy, dx, ry, rx); }
int64_t channels_(int64_t ry, int64_t rx) { return displacement_channels(ry, rx); }
int class_count_(int length, int stride) { return class_count(length, stride); }
int class_extent_(int length, int stride, int residue) { return class_extent(length, stride, residue); }
int steps_first(int i, int begin, int count, int radius) { return steps_into(i, begin, count, radius).first; }
int steps_last(int i, int begin, int count, int radius) { return steps_into(i, begin, count, radius).last; }
}
"""


@pytest.fixture(scope="module")
def common(tmp_path_factory):
    compiler = next((name for name in ("g++", "clang++", "c++") if shutil.which(name)), None)
    if compiler is None:
        pytest.skip("no C++ compiler was found (g++, clang++, c++)")
    folder = tmp_path_factory.mktemp("common")
    (folder / "common.cpp").write_text(WRAPPERS)
    library = folder / "common.so"
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{COMMON}"]
    subprocess.run([compiler, *flags, folder / "common.cpp", "-o", library], check=True)
    loaded = ctypes.CDLL(str(library))
    for name in ("channel_", "channels_", "ceil_div_64"):
        getattr(loaded, name).restype = ctypes.c_int64
    loaded.ceil_div_64.argtypes = loaded.channels_.argtypes = [ctypes.c_int64] * 2
    return loaded


def test_ceil_div_rounds_up(common):
    for a, b in itertools.product(range(20), range(1, 8)):
        assert common.ceil_div_(a, b) == common.ceil_div_64(a, b) == -(-a // b)
    assert common.ceil_div_64(2**40 + 1, 2**20) == 2**20 + 1


def test_circular_is_the_remainder(common):
    for length in (1, 2, 5, 16):
        for i, t in itertools.product(range(length), repeat=2):
            assert common.circular_(i, t, length) == (i + t) % length


@pytest.mark.parametrize(("radius_y", "radius_x"), [(0, 0), (1, 3), (10, 10)])
def test_displacements_are_numbered_row_by_row(common, radius_y, radius_x):
    steps = itertools.product(range(-radius_y, radius_y + 1), range(-radius_x, radius_x + 1))
    numbered = [common.channel_(dy, dx, radius_y, radius_x) for dy, dx in steps]
    assert numbered == list(range(common.channels_(radius_y, radius_x)))


def test_displacement_channels_count_in_64_bits(common):
    assert common.channels_(40_000, 40_000) == 80_001**2


@pytest.mark.parametrize("length", [1, 2, 7, 16, 64])
@pytest.mark.parametrize("stride", [1, 2, 3, 7, 70])
def test_classes_share_an_axis_out(common, length, stride):
    classes = common.class_count_(length, stride)
    assert classes == len({i % stride for i in range(length)})
    for residue in range(classes):
        assert common.class_extent_(length, stride, residue) == len(range(residue, length, stride))


def test_steps_into_a_range(common):
    for i, begin, count, radius in itertools.product(range(6), range(6), range(4), range(4)):
        wanted = [d for d in range(-radius, radius + 1) if begin <= i + d < begin + count]
        first, last = common.steps_first(i, begin, count, radius), common.steps_last(i, begin, count, radius)
        assert list(range(first, last + 1)) == wanted


@pytest.mark.parametrize(("height", "width", "stride", "radius"), [(16, 16, 2, 10), (5, 9, 2, 3), (7, 4, 3, 2)])
def test_classes_and_steps_are_the_valid_displacements_of_the_reference(common, height, width, stride, radius):
    target, valid = reference.displaced_positions(height, width, radius, radius, stride, "cpu")
    met = torch.full_like(target, -1)
    for y, x in itertools.product(range(height), range(width)):
        for dy in _steps(common, y, height, stride, radius):
            for dx in _steps(common, x, width, stride, radius):
                channel = common.channel_(dy, dx, radius, radius)
                met[y * width + x, channel] = (y + stride * dy) * width + x + stride * dx
    assert torch.equal(met, torch.where(valid, target, -1))
    reachable = functional.reachable_displacements(radius, stride, (height, width))
    assert reachable == valid.any(0).nonzero().flatten().tolist()


def _steps(common, position, length, stride, radius):
    extent = common.class_extent_(length, stride, position % stride)
    arguments = (position // stride, 0, extent, radius)
    return range(common.steps_first(*arguments), common.steps_last(*arguments) + 1)
