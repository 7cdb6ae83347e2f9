"""`expkit bench --scale N`: whether cost and memory stay flat as recordings and runs grow."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import typer

from expkit.bench import scale_table
from expkit.bench.lab import Lab
from expkit.bench.results import save_report
from expkit.bench.scale import LEAST_ROWS, ScaleReport, Series, measure_scale
from expkit.bench.words import format_limits, format_machine
from expkit.commands import output, session
from expkit.commands.output import Column, Piece
from expkit.commands.signals import finish_first
from expkit.errors import UsageError
from expkit.system.units import format_duration

if TYPE_CHECKING:
    from expkit.bench.suite import Progress

_MOST_ROWS = 10_000_000_000
# Headings that do not fit 80 columns side by side.
_SHORT = {"validate --quick, a shard": "validate, a shard", "memory recording": "memory", "memory scanning": "scanning"}


def run_scale(
    rows: int,
    *,
    folder: Path,
    save: Path | None,
    plot: Path | None,
    readme: Path | None,
    markdown: bool,
    json: bool,
    showing: Callable[[str], AbstractContextManager[Progress]],
) -> None:
    """Measure, keep what is to be kept, print. Raises UsageError for a size that makes no series."""
    if not LEAST_ROWS <= rows <= _MOST_ROWS:
        raise UsageError(f"--scale {rows:,} is not understood; give {LEAST_ROWS:,} rows or more, as 1e6 or 1e8")
    with finish_first() as request, Lab(folder) as lab, showing(f"bench --scale {rows:,} · files in {folder}") as show:
        report = measure_scale(lab, rows, show, stop=lambda: bool(request))
    if not request:
        _write(report, save, plot, readme)
    if json:
        output.write_json(msgspec.to_builtins(report))
    elif markdown:
        output.raw(scale_table.markdown(report, session.current().command))
    else:
        _print(report)
    raise typer.Exit(request.exit_code)


def _write(report: ScaleReport, save: Path | None, plot: Path | None, readme: Path | None) -> None:
    if save is not None:
        save_report(report, save)
    if plot is not None:
        from expkit.bench.scale_plot import plot as draw

        draw(report, plot)
    if readme is not None:
        from expkit.bench.table import replace_part

        replace_part(readme, scale_table.markdown(report, session.current().command), scale_table.PART)


def _print(report: ScaleReport) -> None:
    output.line((f"{format_machine(report.machine)}", "bold"), f" · {' · '.join(format_limits(report.machine))}")
    for series in report.series:
        if series.points:
            output.blank()
            _print_series(series)
    output.blank()
    output.line(f"{sum(len(one.points) for one in report.series)} points in {format_duration(report.seconds)}")
    output.hint("expkit bench --scale 1e8 --plot scale.png")


def _print_series(series: Series) -> None:
    output.line((f"{series.name}", "bold"), f" {series.title}")
    columns = [
        Column(_SHORT.get(title, title) if output.width() < 120 else title, right=True)
        for title in scale_table.titles(series)
    ]
    lines: list[list[Piece]] = []
    for line in scale_table.cells(series):
        style = "dim" if line[0] == scale_table.GROWTH else ""
        lines.append([(cell, style) for cell in line])
    output.table(columns, lines)
