"""Each operator once on each backend, forward and backward, held against the reference in float64."""

from dataclasses import replace

import molkernels as mk
from bench import ops
from bench.gpu import worker
from molkernels import dispatch

DTYPES = ("float32", "bfloat16")
MAPS = 2


def backends() -> tuple[str, ...]:
    """The backends that have to run here."""
    if worker.pretended():
        return tuple(name for name in mk.available_backends("cpu") if name != "reference")
    return ("cuda", "triton")


def check(backend: str, op: str, dtype: str) -> None:
    """Run the operator in both directions.

    Raises:
        RuntimeError: the backend cannot run here.
        AssertionError: a result is off the reference.
    """
    device = worker.device()
    reason = dispatch.BACKENDS[backend].missing(device, None)
    if reason is not None:
        raise RuntimeError(f"backend {backend} cannot run: {reason}")
    point = replace(ops.STANDARD, maps=1, side=8) if worker.pretended() else replace(ops.STANDARD, maps=MAPS)
    wrong = []
    for direction in ops.DIRECTIONS:
        contenders = ops.group(op, direction, point, device).contenders
        found = next(one for one in contenders if (one.name, one.dtype) == (backend, dtype)).check()
        worker.report("smoke", op=op, direction=direction, backend=backend, dtype=dtype, **found._asdict())
        if not found.passed:
            wrong.append(f"{direction}: relative error {found.error:.2e}, allowed {found.tolerance:.2e}")
    assert not wrong, f"{op} on {backend} in {dtype}: {'; '.join(wrong)}"


def self_test() -> None:
    """The known answers that "auto" asks a backend for before it takes it.

    Raises:
        AssertionError: a backend gave another answer.
    """
    verdicts = mk.self_test(worker.device())
    print(*verdicts, sep="\n")
    wrong = [str(verdict) for verdict in verdicts if not verdict.passed]
    assert not wrong, "\n".join(wrong)


def main() -> None:
    """Check every operator."""
    cases = {f"{b} {op} {dtype}": (b, op, dtype) for b in backends() for op in ops.CASES for dtype in DTYPES}
    tasks = [*cases, *(["self_test"] if hasattr(mk, "self_test") else [])]
    for name in worker.plan(tasks):
        with worker.task(name):
            if name in cases:
                check(*cases[name])
            else:
                self_test()


if __name__ == "__main__":
    main()
