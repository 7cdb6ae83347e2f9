"""What suites tried, told at the end of the run: `tell("crashes: 812 states, 0 rows lost beyond the promise")`."""

import sys
from collections.abc import Callable

import pytest
from places import HELPERS

sys.path[:0] = [folder for folder in HELPERS if folder not in sys.path]

TOLD = "told"


@pytest.fixture
def tell(record_property) -> Callable[[str], None]:
    """Say in one line, after all tests, what this test tried. Travels with the report, so it survives xdist."""

    def say(line: str) -> None:
        record_property(TOLD, line)

    return say


def pytest_terminal_summary(terminalreporter) -> None:
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, line in getattr(report, "user_properties", ()):
                if name == TOLD and report.when == "call":
                    terminalreporter.write_line(line)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: one that begins as the last is waited for while the other process has nothing to do."""
    items.sort(key=lambda item: "faults" not in item.path.parts)
