"""Makes pytest a step's process: its tests are the tasks, each reported as soon as it ends."""

import time

import pytest

from bench.gpu import worker

EXAMPLES = 10  # of each property: always the same, so that a failure is seen again


def pytest_configure(config: pytest.Config) -> None:
    """Few and always the same examples."""
    try:
        from hypothesis import settings
    except ImportError:
        return
    settings.register_profile("gpu", max_examples=EXAMPLES, derandomize=True, deadline=None)
    settings.load_profile("gpu")


class Reporter:
    """Reports the tests of one session."""

    def __init__(self, session: pytest.Session) -> None:
        self.session = session
        self.outcome, self.text = "passed", ""
        self.began = time.monotonic()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.outcome, self.text, self.began = "passed", "", time.monotonic()
        worker.report("started", task=nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self):
        """An error of a kernel belongs to the test that launched it."""
        result = yield
        worker.synchronize()
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.outcome, self.text = "failed", self.text + report.longreprtext
        elif hasattr(report, "wasxfail"):
            self.outcome, self.text = ("xfailed" if report.skipped else "xpassed"), report.wasxfail
        elif report.skipped:
            self.outcome, self.text = "skipped", _reason(report)
        if report.when == "teardown":
            worker.finish(report.nodeid, self.outcome, time.monotonic() - self.began, self.text)
            if self.outcome == "failed" and worker.device_is_lost():
                self.session.shouldstop = "the device answers only with errors"


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    return str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A file that cannot be collected, or leaves itself out, is a task too."""
    if report.failed:
        worker.finish(report.nodeid, "failed", 0.0, report.longreprtext)
    elif report.skipped:
        worker.finish(report.nodeid, "skipped", 0.0, _reason(report))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Keep this process's share; after -k and -m."""
    left = set(worker.plan([item.nodeid for item in items]))
    items[:] = [item for item in items if item.nodeid in left]
    session.config.pluginmanager.register(Reporter(session))
