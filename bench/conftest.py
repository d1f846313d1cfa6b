"""One run of `pytest bench/`: the machine's limits first, then groups measured as they are asked for."""

from collections.abc import Callable, Hashable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from bench import machine, report
from bench.groups import Group, Row, measure
from bench.timing import ReplayClock

CLOCK = ReplayClock()
RESULTS = Path(__file__).parent / "results"


class Run:
    """What has been measured so far in this session."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.machine = machine.describe(device)
        self.limits = machine.measure_limits(device)
        self.memory: list[dict[str, object]] = []
        self._rows: dict[Hashable, dict[str, Row]] = {}

    def row(self, key: Hashable, build: Callable[[], Group], contender: str) -> Row:
        """The figures of one contender; its whole group is measured when it is first asked for."""
        if key not in self._rows:
            self._rows[key] = measure(build(), self.limits)
        return self._rows[key][contender]

    def as_json(self) -> dict[str, object]:
        """Everything of this run, as it is saved."""
        rows = [asdict(row) for group in self._rows.values() for row in group.values()]
        return {"format": 1, "machine": self.machine, "limits": self.limits, "rows": rows, "memory": self.memory}


_RUN = pytest.StashKey[Run]()


def pytest_addoption(parser: pytest.Parser) -> None:
    options = parser.getgroup("bench", "speed and memory of molkernels and mol")
    options.addoption("--device", choices=("cpu", "cuda"), default="cpu", help="where to measure")
    options.addoption("--full", action="store_true", help="the network at batch 8 as well")
    options.addoption("--threads", type=int, default=None, help="threads of PyTorch (default: all cores)")
    options.addoption(
        "--save-results", action="store_true", help="write bench/results/<device>/<date>-<commit>.json at the end"
    )


def pytest_configure(config: pytest.Config) -> None:
    # torch._inductor's own call of a deprecated check; nothing a reader of the figures can act on.
    config.addinivalue_line("filterwarnings", "ignore:`torch._prims_common.check` is deprecated:FutureWarning")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes a `contender` is made for each one of its module's subject on the chosen device."""
    config, names = metafunc.config, metafunc.fixturenames
    if "batch" in names:
        metafunc.parametrize("batch", (2, 8) if config.getoption("--full") else (2,))
    if "contender" in names:
        metafunc.parametrize("contender", metafunc.module.SUBJECT.contender_keys(config.getoption("--device")))


@pytest.fixture(scope="session")
def bench_run(pytestconfig: pytest.Config) -> Run:
    """The session's measurements."""
    torch.set_num_threads(pytestconfig.getoption("--threads") or machine.usable_cores())
    run = Run(pytestconfig.getoption("--device"))
    pytestconfig.stash[_RUN] = run
    return run


@pytest.fixture
def replay(benchmark) -> Callable[[Row], None]:
    """Fail where a row is not right; else hand its recorded times to pytest-benchmark."""

    def play(row: Row) -> None:
        assert row.error <= row.tolerance, f"{row.contender} is off the reference by {row.error:.1e}: not timed"
        benchmark.group = row.group
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
        path = report.save(result, RESULTS)
        terminalreporter.write_line(f"\nsaved to {path}")
