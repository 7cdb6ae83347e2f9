"""Sizes, durations and rates as people write them."""

import pytest

from expkit.errors import UsageError
from expkit.system.units import (
    format_count,
    format_duration,
    format_size,
    parse_board_size,
    parse_count,
    parse_duration,
    parse_rate,
    parse_share,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("64MiB", 64 << 20),
        ("2GB", 2 * 10**9),
        ("1.5 kib", 1536),
        (4096, 4096),
        ("0", 0),
        ("1_000", 1000),
        ("10m", 10**7),
    ],
)
def test_sizes(text, expected):
    assert parse_size(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("250ms", 0.25), ("8h", 28800), ("2", 2), ("5m", 300)])
def test_durations(text, expected):
    assert parse_duration(text) == pytest.approx(expected)


@pytest.mark.parametrize(("text", "expected"), [("40%", 0.4), ("0.4", 0.4), (".5", 0.5), ("12.5 %", 0.125)])
def test_shares(text, expected):
    assert parse_share(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["40", "0", "0%", "100%", "1", "-5%", "40x", "half", "", "nan", "1e999"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(UsageError, match="share .*40% or 0.4|too large"):
        parse_share(text)


@pytest.mark.parametrize(("text", "expected"), [("2x", 2), ("0.5", 0.5), (".25X", 0.25)])
def test_rates(text, expected):
    assert parse_rate(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("250000", 250_000),
        ("250_000", 250_000),
        ("1e8", 10**8),
        (7, 7),
        ("1M", 10**6),
        ("1.5k", 1500),
        ("7" * 18, 777_777_777_777_777_777),
    ],
)
def test_counts(text, expected):
    assert parse_count(text) == expected


@pytest.mark.parametrize("text", ["1.5", "2x", "1e-4k", "nan", "inf"])
def test_what_is_no_count_is_refused(text):
    with pytest.raises(UsageError):
        parse_count(text)


@pytest.mark.parametrize("parse", [parse_count, parse_size, parse_duration, parse_rate, parse_board_size])
@pytest.mark.parametrize("text", ["", "fast", "-1", "1e", "3 parsecs", "0x", "20by20"])
def test_nonsense_is_refused(parse, text):
    with pytest.raises(UsageError):
        parse(text)


def test_board_sizes():
    assert parse_board_size("20x25") == (20, 25)


def test_formatting():
    assert [format_size(n) for n in (12, 2048, 100_500_000)] == ["12 B", "2.0 KiB", "95.8 MiB"]
    assert [format_duration(s) for s in (6.2, 185, 7384, 3 * 86400)] == ["6.2 s", "3:05", "2:03:04", "3 d 0 h"]
    assert [format_count(n) for n in (950, 812_000, 2_410_000)] == ["950", "812k", "2.41M"]
