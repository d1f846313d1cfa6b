"""The known answers: every right backend passes, also in 16 bits, and every planted error is found."""

import pytest
import torch
from targets import TARGETS

from molkernels import dispatch, known_answers, reference

CPU = torch.device("cpu")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
BACKWARD = {
    "fcc": "fcc_backward",
    "fcc_train": "fcc_backward",
    "edge_max": "edge_max_backward",
    "cost_volume": "cost_volume_backward",
}


def of_reference(name):
    return getattr(reference, name)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("op", dispatch.OPERATORS)
def test_every_backend_passes_in_every_dtype_that_it_has(monkeypatch, target, op):
    if target.slow:
        monkeypatch.setattr(known_answers, "SHAPES", known_answers.SHAPES[:1])
    with target.active():
        for dtype in filter(target.has, DTYPES):
            kernel = dispatch.BACKENDS[target.backend].kernel
            error = known_answers.largest_error(op, kernel, dtype, torch.device(target.device))
            # A third of the limit: no rounding of another processor may cross it.
            assert error <= known_answers.LIMITS[str(dtype).removeprefix("torch.")] / 3, dtype


def nudged(result, place):
    """One value of a result wrong by its largest: an index by one."""
    flat = result.clone().flatten()
    flat[place % flat.numel()] += flat.abs().max() if flat.is_floating_point() else 1
    return flat.view(result.shape)


@pytest.mark.parametrize("op", dispatch.OPERATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("place", [0, -1, 101])
def test_one_wrong_value_in_any_result_is_found(op, dtype, place):
    for name in (op, BACKWARD[op]) if op in BACKWARD else (op,):
        results = 1 if name in ("fcc", "knn", "f5c", "cost_volume") else 2

        for at in range(results):

            def kernel(asked, name=name, at=at):
                def run(*arguments):
                    found = getattr(reference, asked)(*arguments)
                    if asked != name:
                        return found
                    if isinstance(found, torch.Tensor):
                        return nudged(found, place)
                    return tuple(nudged(r, place) if i == at else r for i, r in enumerate(found))

                return run

            assert known_answers.largest_error(op, kernel, dtype, CPU) > 0.9, (name, at)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda y: y * float("nan"),
        lambda y: y[..., :-1],
        lambda y: y.to(torch.int32),
        lambda y: y.double(),
        lambda y: torch.zeros_like(y),
        lambda y: 1.01 * y,
    ],
    ids=["nan", "shape", "integer", "dtype", "zero", "one percent"],
)
def test_a_result_of_another_kind_is_found(spoil):
    def kernel(name):
        def run(*arguments):
            found = getattr(reference, name)(*arguments)
            return spoil(found) if isinstance(found, torch.Tensor) else (spoil(found[0]), *found[1:])

        return run

    for op in ("fcc", "f5c"):
        assert known_answers.largest_error(op, of_reference, torch.float32, CPU) <= known_answers.LIMITS["float32"]
        assert known_answers.largest_error(op, kernel, torch.float32, CPU) > known_answers.LIMITS["float32"]


def test_a_tie_broken_for_the_highest_index_is_found():
    def kernel(name):
        def run(nodes, k):
            flipped = nodes.shape[1] - 1 - reference.knn(nodes.flip(1), k).flip(1)
            return flipped.to(torch.int32)

        return run

    assert known_answers.largest_error("knn", kernel, torch.float32, CPU) > 0.9


def test_the_inputs_are_the_same_on_every_call_and_keep_clear_of_rounding():
    for op in dispatch.OPERATORS:
        first, second = (list(known_answers._cases(op, torch.float32, CPU)) for _ in range(2))
        for (name, one), (_, other) in zip(first, second, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True) if isinstance(a, torch.Tensor)), name
