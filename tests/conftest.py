"""Options and reports that every test shares: deep sweeps, left-out tests, and rows of the catalogue."""

import json
import os
from pathlib import Path

import pytest

from tests.support.peers import MACHINE_CANNOT

ROWS_FILE = os.environ.get("GATEPOST_ROWS")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --deep: run the long sweeps whole instead of their fixed sample."""
    parser.addoption("--deep", action="store_true", help="run the long sweeps whole")


@pytest.fixture(scope="session")
def deep(request: pytest.FixtureRequest) -> bool:
    """Tell whether the long sweeps run whole."""
    return bool(request.config.getoption("--deep"))


class RowLedger:
    """Collect which test proves which row, for the generated pages, and refuse skips in CI."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, str]] = {}
        self.marks: dict[str, tuple[str, ...]] = {}
        self.idle_skips: list[str] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Remember each test's rows."""
        for item in items:
            ids = tuple(row for mark in item.iter_markers("row") for row in mark.args)
            if ids:
                self.marks[item.nodeid] = ids

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the outcome of a test's call, or of a setup that skipped or broke it."""
        if report.when != "call" and report.outcome == "passed":
            return
        for row in self.marks.get(report.nodeid, ()):
            self.rows.setdefault(row, {})[report.nodeid.split("[")[0]] = report.outcome
        if report.skipped and isinstance(report.longrepr, tuple):
            reason = str(report.longrepr[2]).removeprefix("Skipped: ")
            if not reason.startswith(MACHINE_CANNOT):
                self.idle_skips.append(f"{report.nodeid}: {reason}")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the rows file when asked; in CI a test that could have run fails the run."""
        if ROWS_FILE:
            Path(ROWS_FILE).write_text(json.dumps(self.rows, indent=1, sort_keys=True))
        if self.idle_skips and os.environ.get("GATEPOST_CI") and session.exitstatus == 0:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say which skips this machine could have run."""
        if self.idle_skips and os.environ.get("GATEPOST_CI"):
            terminalreporter.section("left out although this machine could have run them")
            for line in self.idle_skips:
                terminalreporter.line(line)


def pytest_configure(config: pytest.Config) -> None:
    """Register the ledger."""
    config.pluginmanager.register(RowLedger(), "row-ledger")
