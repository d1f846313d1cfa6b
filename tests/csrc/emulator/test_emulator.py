"""The emulator itself, tested with kernels (probe.cu) whose results are known."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import emulator
import pytest
import torch
from places import HELPERS, ROOT

pytestmark = pytest.mark.skipif(emulator.compiler() is None, reason="no C++ compiler")

SIXTEEN_BIT = (torch.bfloat16, torch.float16)


@pytest.fixture(scope="module")
def probe():
    emulator.load(emulator.HERE / "probe.cu")
    return torch.ops.molkernels_probe


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(7)


@pytest.mark.parametrize("order", emulator.SCHEDULES)
def test_a_barrier_lets_no_thread_read_early(probe, generator, order):
    x = torch.randn(5, 96, generator=generator)
    with emulator.schedule(order):
        assert torch.equal(probe.mirror(x, True, 0), x + x.flip(1))


def test_without_the_barrier_unwritten_shared_memory_is_nan(probe, generator):
    x = torch.randn(5, 96, generator=generator)
    with emulator.schedule("forward"):
        y = probe.mirror(x, False, 0)
    assert torch.equal(y.isnan(), (torch.arange(96) < 48).expand(5, 96))


def test_a_race_shows_as_different_bits_under_different_schedules(probe, generator):
    x = torch.randn(5, 96, generator=generator)
    seen = []
    for order in emulator.SCHEDULES:
        with emulator.schedule(order):
            seen.append(probe.mirror(x, False, 0).isnan())
    assert all(not torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])


def test_an_unknown_schedule_is_refused(probe):
    with emulator.schedule("sideways"), pytest.raises(RuntimeError, match="allowed are forward, reverse and random"):
        probe.mirror(torch.ones(1, 32), True, 0)


@pytest.mark.parametrize("order", emulator.SCHEDULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.int64])
def test_shuffles_and_votes(probe, generator, dtype, order):
    x = (torch.randn(32, generator=generator, dtype=torch.float64) * 1000).to(dtype)
    lane = torch.arange(32)
    expected = [
        x[torch.full((32,), 5)],
        x[lane ^ 3],
        x[torch.where(lane >= 2, lane - 2, lane)],
        x[torch.where(lane % 8 < 6, lane + 2, lane)],
        (x > 0).sum().expand(32).to(dtype),
    ]
    with emulator.schedule(order):
        assert torch.equal(probe.shuffle(x), torch.stack(expected))


@pytest.mark.parametrize(("waits", "missing"), [(2, []), (1, range(128, 160)), (0, range(160))])
def test_asynchronous_copies_arrive_when_their_group_is_waited_for(probe, generator, waits, missing):
    x = torch.randn(160, generator=generator)
    expected = torch.cat([x[:157], torch.zeros(3)])
    expected[list(missing)] = torch.nan
    torch.testing.assert_close(probe.copy(x, 3, waits), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (0, r"thread 0 of block \(0, 0, 0\) waits for its block at .*probe.cu:\d+, but thread 7 .* has ended"),
        (1, r"thread 0 .* waits for its block at .*, but thread 16 .* waits for its block at"),
        (2, r"thread 0 .* waits for its block at .*, but thread 32 .* waits for its block at"),
        (3, r"thread 0 .* waits for its warp at .*, but thread 16 .* waits for its block at"),
        (4, r"probe.cu:\d+: an asynchronous copy of 4 bytes is not aligned \(thread 0 of block \(0, 0, 0\)\)"),
        (5, r"probe.cu:\d+: the row of a matrix lies outside shared memory"),
    ],
)
def test_misuse_is_reported_with_its_place(probe, how, message):
    with pytest.raises(RuntimeError, match=message):
        probe.diverge(torch.ones(1), how)
    assert torch.equal(probe.diverge(torch.ones(1), 6), torch.zeros(64))  # and leaves nothing behind


def test_more_shared_memory_than_the_device_has_is_refused(probe, monkeypatch):
    x = torch.ones(1, 32)
    limit = 227 * 1024
    probe.mirror(x, True, limit - 128)
    with pytest.raises(RuntimeError, match="more shared memory than the device grants: 232449 bytes of 232448"):
        probe.mirror(x, True, limit - 127)
    monkeypatch.setenv("MOLKERNELS_EMULATED_SHARED", "1000")
    with pytest.raises(RuntimeError, match="more shared memory than the device grants: 1001 bytes of 1000"):
        probe.mirror(x, True, 1001 - 128)


@pytest.mark.parametrize("b_rows", [False, True])
@pytest.mark.parametrize("dtype", SIXTEEN_BIT)
def test_products_of_16_bit_fragments(probe, generator, dtype, b_rows):
    a, b = (torch.randn(shape, generator=generator).to(dtype) for shape in ((16, 16), (16, 8)))
    c = torch.randn(16, 8, generator=generator)
    d = probe.product(a, b.T.contiguous() if b_rows else b, c, b_rows, False)
    torch.testing.assert_close(d.double(), c.double() + a.double() @ b.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rounded", [False, True])
def test_products_of_tf32_fragments(probe, generator, rounded):
    a, b, c = (torch.randn(shape, generator=generator) for shape in ((16, 8), (8, 8), (16, 8)))
    d = probe.product(a, b, c, False, rounded)
    narrow = functools.partial(_tf32, rounded=rounded)
    torch.testing.assert_close(d.double(), c.double() + narrow(a) @ narrow(b), rtol=1e-6, atol=1e-6)


def test_to_tf32_rounds_ties_away_and_keeps_infinities(probe):
    values = torch.tensor([1 + 2**-11, -1 - 2**-11, 1 + 3 * 2**-11, 1 + 2**-12, torch.inf, -torch.inf, torch.nan, 2.0])
    a = torch.zeros(16, 8)
    a[:8, 0] = values
    b = torch.zeros(8, 8)
    b[0, 0] = 1
    d = probe.product(a, b, torch.zeros(16, 8), False, True)[:8, 0]
    expected = [1 + 2**-10, -1 - 2**-10, 1 + 2**-9, 1.0, torch.inf, -torch.inf, torch.nan, 2.0]
    torch.testing.assert_close(d, torch.tensor(expected), rtol=0, atol=0, equal_nan=True)


def _tf32(x, *, rounded):
    """Float32 reduced to 10 bits of mantissa, to nearest with ties away, or towards zero."""
    mantissa, exponent = torch.frexp(x.double())
    scaled = mantissa.abs() * 2**11
    kept = (scaled + 0.5).floor() if rounded else scaled.floor()
    return torch.ldexp(torch.sign(mantissa) * kept / 2**11, exponent)


@pytest.mark.slow
@pytest.mark.parametrize(("spare", "found"), [(0, False), (-4, True)])
def test_sanitisers_find_an_overrun_of_shared_memory(spare, found):
    runtime = [_runtime_library(name) for name in ("libasan.so", "libstdc++.so")]
    if not all(path.is_absolute() for path in runtime):
        pytest.skip("the compiler has no AddressSanitizer")
    program = (
        "import emulator, torch\n"
        "emulator.load(emulator.HERE / 'probe.cu')\n"
        f"torch.ops.molkernels_probe.mirror(torch.ones(1, 32), True, {spare})"
    )
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(map(str, runtime)),
        "ASAN_OPTIONS": "detect_leaks=0",
        "MOLKERNELS_EMULATED_SANITIZE": "1",
        "PYTHONPATH": f"{ROOT}:{HELPERS}",
    }
    emulator.build([emulator.HERE / "probe.cu"], sanitize=True)  # not below the preloaded library
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (run.returncode != 0) == found, run.stderr
    assert ("ERROR: AddressSanitizer" in run.stderr) == found, run.stderr


def _runtime_library(name):
    command = [*emulator.compiler().split(), f"-print-file-name={name}"]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
