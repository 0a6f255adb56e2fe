"""Seeds and times of all runs at the end of the output, in whichever process they ran."""

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
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
