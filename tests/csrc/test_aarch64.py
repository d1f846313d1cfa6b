"""The CPU kernels for AArch64 under qemu: each instruction set against the float64 reference, and the choice of one.

The tests of the operators (tests/molkernels) run on it too, as the backend "cpu-aarch64".
"""

import aarch64
import pytest
import torch

from molkernels import dispatch, known_answers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(aarch64.missing() is not None, reason=str(aarch64.missing())),
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("op", dispatch.OPERATORS)
@pytest.mark.parametrize("isa", ["neon", "neon_bf16"])
def test_every_operator_and_its_gradient_agree_with_the_reference(isa, op, dtype):
    machine = aarch64.machine(isa=isa)
    assert machine.isa() == isa
    error = known_answers.largest_error(op, lambda name: getattr(machine, name), dtype, torch.device("cpu"))
    assert error <= known_answers.LIMITS[str(dtype).removeprefix("torch.")] / 3


@pytest.mark.parametrize(("processor", "isa"), [(aarch64.OLD, "neon"), (aarch64.NEW, "neon_bf16")])
def test_the_best_instruction_set_of_the_processor_is_chosen(processor, isa):
    assert aarch64.machine(processor).isa() == isa


@pytest.mark.parametrize(
    ("processor", "isa"), [(aarch64.OLD, "neon_bf16"), (aarch64.NEW, "avx2"), (aarch64.NEW, "portable")]
)
def test_an_instruction_set_that_the_processor_lacks_is_refused(processor, isa):
    with pytest.raises(RuntimeError, match=f"MOLKERNELS_CPU_ISA is '{isa}', which this processor does not have"):
        aarch64.machine(processor, isa).isa()


@pytest.mark.parametrize("isa", ["neon", "neon_bf16"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_finite_value_in_16_bits_is_read_and_rounded_as_torch_does(isa, dtype):
    """Through fcc, whose kernels have one tap of one and whose norm multiplies by a little more than one."""
    machine = aarch64.machine(isa=isa)
    values = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    side = 7  # odd: nothing is halved, so each value goes through unchanged but for the product
    gamma = torch.full((2,), 1 + torch.finfo(dtype).eps, dtype=dtype)
    values = values[(values.float() * float(gamma[0])).isfinite()]  # an infinite product would meet the taps of zero
    maps = torch.nn.functional.pad(values, (0, -len(values) % (2 * side**2))).view(-1, 2, side, side)
    zeros = torch.zeros(2, dtype=dtype)
    nothing, tap = torch.zeros(2, 2, side, dtype=dtype)
    tap[:, 0] = 1
    statistics = torch.zeros(1, 2), torch.ones(1, 2)
    y = machine.fcc(maps, *statistics, gamma, zeros, nothing, nothing, tap, tap, zeros, zeros, 0.0, False)
    assert torch.equal(y, (maps.float() * float(gamma[0])).to(dtype))
