"""What suites tried, told at the end of the run: `tell("crashes: 812 states, 0 rows lost beyond the promise")`."""

import sys
from collections.abc import Callable

import pytest
from places import HELPERS

sys.path[:0] = [folder for folder in HELPERS if folder not in sys.path]

TOLD = "told"
# Test files of more than some 15 s, the longest first.
LONGEST = (
    "test_compact", "test_readme", "test_full_disk", "test_merge", "test_cli_contract", "test_crashes",
    "test_shard_seal", "test_state_machine", "test_record_cli", "test_export_cli", "test_ledger", "test_plug_ins",
    "test_reading_memory", "test_rewrite_rewards", "test_recover", "test_kills_of_maintenance", "test_readers",
    "test_kills", "test_cli_replay", "test_damage", "test_bench_baseline", "test_salvage", "test_crashed_maintenance",
    "test_round_trips", "test_follow", "test_record_append", "test_rule_choice", "test_rewrite_representation",
    "test_predicates", "test_rewrite",
)  # fmt: skip


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
    """The longest files first: one that begins as the last is waited for while the other process has nothing to do.
    `--no-loadscope-reorder` keeps that order; pytest-xdist goes by the number of tests, and the longest have few."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
