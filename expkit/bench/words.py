"""How figures of a bench are written, the same on a terminal, in the README and in a plot."""

from __future__ import annotations

from expkit.bench.machine import Machine
from expkit.bench.measure import Spread
from expkit.system.units import format_count, format_size

# Below this many a second, the time of one says more than the rate: starting a process, not moving a row.
_SLOW = 100.0
# What stands around the figure of a measure.
_UNITS = {
    "ratio": ("", ""),
    "rows_per_second": ("", " rows/s"),
    "bytes_per_row": ("", " B/row"),
    "size_ratio": ("size ", ""),
    "seconds_per_pass": ("", " s"),
    "cpu_ratio": ("CPU ", ""),
    "allocated_per_row": ("", " B/row allocated"),
}


def format_ratio(value: float) -> str:
    """Three digits that count: `0.024`, `0.83`, `12.4`, `1,035`."""
    if value < 0.0995:
        return f"{value:.3f}"
    if value < 9.995:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def format_interval(spread: Spread, between: str = "-") -> str:
    """`0.79-0.85`"""
    return f"{format_ratio(spread.low)}{between}{format_ratio(spread.high)}"


def format_rate(spread: Spread) -> str:
    """`1.21M ±4%` rows a second, or `187 ms ±4%` a row."""
    return f"{format_bare_rate(spread.median)} ±{spread.width * 100:.0f}%"


def format_bare_rate(rate: float) -> str:
    """As `format_rate`, of one number."""
    return format_count(rate) if rate >= _SLOW or not rate else format_time(1e9 / rate)


def format_time(nanoseconds: float) -> str:
    """`812 ns`, `4.1 µs`, `31 ms`, `1.2 s`."""
    for limit, unit in ((1e3, "ns"), (1e6, "µs"), (1e9, "ms")):
        if nanoseconds < limit:
            value = nanoseconds / (limit / 1e3)
            return f"{value:.1f} {unit}" if value < 10 and unit != "ns" else f"{value:.0f} {unit}"
    return f"{nanoseconds / 1e9:.1f} s"


def format_measure(measure: str, value: float) -> str:
    """The value of a goal's measure with its unit: `1.24M rows/s`, `21.3 B/row`, `CPU 2.81`."""
    before, after = _UNITS.get(measure, ("", f" {measure}"))
    return f"{before}{format_bare_measure(measure, value)}{after}"


def format_bare_measure(measure: str, value: float) -> str:
    """As `format_measure`, without the unit."""
    if measure == "rows_per_second":
        return format_count(value)
    return f"{value:.1f}" if measure.endswith("_per_row") else format_ratio(value)


def format_target(measure: str, least: float | None, most: float | None) -> str:
    """`≥ 1.25`, `CPU ≤ 2.2`, `≥ 4M rows/s`."""
    before, after = _UNITS.get(measure, ("", f" {measure}"))
    bounds = [f"{sign} {_round(bound)}" for sign, bound in (("≥", least), ("≤", most)) if bound is not None]
    return f"{before}{' and '.join(bounds)}{after}"


def format_short_target(measure: str, least: float | None, most: float | None) -> str:
    """As `format_target`, for a narrow column: `≥1.25`, `CPU≤2.2`, `≥4M/s`."""
    text = format_target(measure, least, most)
    for long, short in ((" rows/s", "/s"), ("/row", ""), ("≥ ", "≥"), ("≤ ", "≤"), (" ≥", "≥"), (" ≤", "≤")):
        text = text.replace(long, short)
    return text


def _round(bound: float) -> str:
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if bound >= scale:
            return f"{bound / scale:g}{unit}"
    return f"{bound:g}"


def format_limits(machine: Machine) -> list[str]:
    """What the machine can do, a piece each: `memcpy 16.0 GB/s`."""
    rates = (
        ("memcpy", machine.memcpy), ("zstd-1", machine.zstd), ("crc32", machine.crc32),
        ("disk with fdatasync", machine.disk),
    )  # fmt: skip
    return [f"{name} {_bytes_a_second(rate)}" for name, rate in rates]


def _bytes_a_second(rate: float) -> str:
    return f"{rate / 1e9:.1f} GB/s" if rate >= 0.995e9 else f"{rate / 1e6:.0f} MB/s"


def format_machine(machine: Machine) -> str:
    """`AMD EPYC · 2 cores · Linux x86_64 · 23.5 GiB`"""
    return f"{machine.fingerprint} · {format_size(machine.memory)}"


def format_versions(machine: Machine) -> str:
    """`expkit 0.1.0, python 3.11.7, …`"""
    return ", ".join(f"{name} {version}" for name, version in machine.versions.items())


def format_date(created: str) -> str:
    """The day of `Report.created`."""
    return created[:10]
