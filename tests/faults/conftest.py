"""`tried("kill", 0, kills=10, durable_rows=8_000)`: what a suite tried of a promise, told and reported."""

from collections.abc import Callable

import promises
import pytest


@pytest.fixture
def tried(tell) -> Callable[..., None]:
    """Say what this test tried of a promise; see `promises.report`. The number broken has to be 0."""

    def say(promise: str, broken: int = 0, **figures: int) -> None:
        tell(promises.report(promise, broken, **figures))
        assert not broken, f"{promise}: {broken:,} {promises.BY_ID[promise].none_of}"

    return say
