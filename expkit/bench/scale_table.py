"""The two series of `expkit bench --scale` as tables: cells of words, and Markdown for a page."""

from __future__ import annotations

from expkit.bench.scale import MEASURES, ScaleReport, Series
from expkit.bench.table import make_table
from expkit.bench.words import format_date, format_limits, format_machine, format_ratio, format_time, format_versions
from expkit.system.units import format_size

PART = "scale"  # of a page, between the lines <!-- scale --> and <!-- end scale -->
REGENERATE = "expkit bench --scale {rows} --save-baseline .ci/scale.json --readme expkit/docs/performance.md"
GROWTH = "largest by second"


def titles(series: Series) -> list[str]:
    """Headings of the columns of a series."""
    return [series.name, *MEASURES[series.name].values()]


def cells(series: Series) -> list[list[str]]:
    """A line a point, and the growth of each column as the last."""
    measures = [name for name in MEASURES[series.name] if series.points]
    lines = [
        [f"{point.size:,}", *(format_value(name, point.values[name]) for name in measures)] for point in series.points
    ]
    if len(series.points) > 2:
        lines.append([GROWTH, *(f"× {format_ratio(series.growth(name))}" for name in measures)])
    return lines


def format_value(measure: str, value: float) -> str:
    """`1.1 µs` for nanoseconds of something, `543 MiB` for memory, `21.9 B` for bytes of a row."""
    if "_ns_" in measure:
        return format_time(value)
    return f"{value:.1f} B" if measure == "bytes_per_row" else format_size(int(value))


def markdown(report: ScaleReport, anew: str = "") -> str:
    """Both tables, the machine and how to make them anew, by the command `anew` if not by that of the page; ends with
    a newline."""
    parts = []
    for series in report.series:
        names = titles(series)
        parts.append(f"{series.name.capitalize()} {series.title}:\n")
        parts.append(make_table(names, [True] * len(names), cells(series)))
    most = max((point.size for point in report.series[0].points), default=0)
    parts.append(
        f"Measured on {format_date(report.created)} on {format_machine(report.machine)} "
        f"({', '.join(format_limits(report.machine))}), {format_versions(report.machine)}, each line in a process of "
        f"its own; wall time. Made by `{anew or REGENERATE.format(rows=most)}`.\n"
    )
    return "\n".join(parts)
