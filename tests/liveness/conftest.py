"""A failure is told at once, since the long mode takes an hour; seeds and times of all runs are at the end."""

import pytest


class _AtOnce:
    """Writes what a failed run found when it ends, in whichever process it ran."""

    def __init__(self, reporter: pytest.TerminalReporter) -> None:
        self._reporter = reporter

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Tell a failure."""
        if (
            report.failed
            and report.when == "call"
            and any(name == "liveness" for name, _ in report.user_properties)
        ):
            self._reporter.write_line(f"\n{report.longreprtext}")


@pytest.hookimpl(trylast=True)  # when there is a terminal
def pytest_configure(config: pytest.Config) -> None:
    """Tell failures at once in the process that has a terminal."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_AtOnce(reporter))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List all runs."""
    told = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, value in report.user_properties
        if name == "liveness"
    ]
    if told:
        terminalreporter.section("liveness")
        for line in told:
            terminalreporter.write_line(str(line))
