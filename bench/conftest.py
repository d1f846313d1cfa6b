"""A run of `pytest bench/`: the machine's limits first, then each group when a test first asks for it."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, NamedTuple

import pytest
import torch

from bench import machine, memory, ops, record, report
from bench.groups import Group, Row, measure
from bench.timing import ReplayClock
from mol.common.allocator import keep_freed_memory
from mol.common.environment import available_cores

CLOCK = ReplayClock()


class Cases(NamedTuple):
    """The parameters of a test: `make(device, full, threads)` yields a `pytest.param` of the `names` for each case."""

    names: tuple[str, ...]
    make: Callable[[str, bool, int], Iterator[Any]]


class Run:
    """The measurements of this session so far."""

    def __init__(self, device: str, full: bool) -> None:
        self.device, self.full = device, full
        self.machine = machine.describe(device)
        self.threads = torch.get_num_threads()
        self.limits = {self.threads: machine.measure_limits(device)}
        self.memory: list[dict[str, object]] = []
        self.operators: list[tuple[str, str]] = []
        self._rows: dict[Hashable, dict[str, Row]] = {}
        self._peaks: dict[tuple[str, str, str], int] | None = None

    def row(self, key: Hashable, build: Callable[[], Group], contender: str, threads: int) -> Row:
        """The figures of a contender; its whole group is measured on the first request."""
        if key not in self._rows:
            with _threads(threads):
                if threads not in self.limits:
                    self.limits[threads] = machine.measure_limits(self.device)
                self._rows[key] = measure(build(), self.limits[threads])
        return self._rows[key][contender]

    def operator_peak(self, op: str, direction: str, contender: str) -> int | None:
        """Bytes that one call needs at its peak; None for max-autotune, where that takes too long to measure.

        All operators of the session are measured in one child process.
        """
        if self._peaks is None:
            self._peaks = memory.measure_operators(self.operators, self.device)
        return self._peaks.get((op, direction, contender))

    def as_json(self) -> dict[str, object]:
        """The whole run as it is saved."""
        rows = [asdict(row) for group in self._rows.values() for row in group.values()]
        return record.assemble(self.machine, self.limits[self.threads], rows, self.memory, ops.left_out())


_RUN = pytest.StashKey[Run]()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pytest_addoption(parser: pytest.Parser) -> None:
    options = parser.getgroup("bench", "speed and memory of molkernels and mol")
    options.addoption("--device", choices=("cpu", "cuda"), default="cpu", help="where to measure")
    options.addoption(
        "--full",
        action="store_true",
        help="also sweep maps, side, k, threads and batch, and every mode of torch.compile for every subject",
    )
    options.addoption("--threads", type=int, default=None, help="threads of PyTorch (default: all cores)")
    options.addoption(
        "--save-results", action="store_true", help="write bench/results/<device>/<date>-<commit>.json at the end"
    )


def pytest_configure(config: pytest.Config) -> None:
    keep_freed_memory()  # as the program `mol` does, for every contender alike
    # Raised by torch._inductor itself.
    config.addinivalue_line("filterwarnings", "ignore:`torch._prims_common.check` is deprecated:FutureWarning")
    config.addinivalue_line("filterwarnings", "ignore:TypedStorage is deprecated:UserWarning")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise the tests that the module lists in `CASES`; others run once."""
    cases = getattr(metafunc.module, "CASES", {}).get(metafunc.function.__name__)
    if cases is None:
        return
    config = metafunc.config
    threads = config.getoption("--threads") or available_cores()
    metafunc.parametrize(
        cases.names, list(cases.make(config.getoption("--device"), config.getoption("--full"), threads))
    )


@pytest.fixture(scope="session")
def bench_run(request: pytest.FixtureRequest) -> Run:
    """The session's measurements."""
    config = request.config
    torch.set_num_threads(config.getoption("--threads") or available_cores())
    run = Run(config.getoption("--device"), config.getoption("--full"))
    calls = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    standard = [(call["op"], call["direction"]) for call in calls if "op" in call and call["point"].sweep is None]
    run.operators = list(dict.fromkeys(standard))
    config.stash[_RUN] = run
    return run


@pytest.fixture
def replay(benchmark) -> Callable[[Row], None]:
    """Fail if a row exceeds its tolerance; otherwise pass its recorded times to pytest-benchmark."""

    def play(row: Row) -> None:
        assert row.error <= row.tolerance, f"{row.contender} is off the reference by {row.error:.1e}: not timed"
        benchmark.group = f"{row.group}, {row.shape}, {row.sizes['threads']} threads"
        benchmark.extra_info.update(asdict(row))
        CLOCK.load(row.durations)
        benchmark.pedantic(CLOCK.play, rounds=row.rounds)

    return play


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    run = config.stash.get(_RUN, None)
    if run is None:
        return
    result = run.as_json()
    terminalreporter.write_line("")
    terminalreporter.write_line(report.markdown(result))
    if config.getoption("--save-results"):
        path = record.save(result, record.RESULTS)
        terminalreporter.write_line(f"\nsaved to {path}")
