"""The two series of `expkit bench --scale` as a picture: costs and memory over size, both axes logarithmic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from expkit.bench.plot import FAINT, STYLE, check_plot
from expkit.bench.scale import MEASURES, ScaleReport, Series
from expkit.bench.scale_table import format_value
from expkit.bench.words import format_date, format_machine

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = ("#2a7f9e", "#c0692b", "#2f8f4e", "#7b5ea7", "#7b8794")


def plot(report: ScaleReport, path: Path) -> None:
    """Draw into a file at `path`, in the format of its suffix. Raises as `check_plot`, and OSError."""
    check_plot(path)
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE | {"axes.spines.left": True, "ytick.major.size": 3}):
        figure = Figure(figsize=(11, 7.5), dpi=150, layout="constrained")
        axes = figure.subplots(2, 2, squeeze=False)
        figure.suptitle(f"expkit bench --scale · {format_date(report.created)}", x=0.01, ha="left", weight="bold")
        figure.supxlabel(format_machine(report.machine), x=0.01, ha="left", fontsize=8, color=FAINT)
        for line, series in zip(axes, report.series, strict=True):
            names = MEASURES[series.name]
            for panel, kind, title in zip(line, ("_ns_", "_peak_"), ("time", "peak memory"), strict=True):
                _draw(panel, series, [name for name in names if kind in name], f"{series.name}: {title}")
        figure.savefig(path)


def _draw(axes: Axes, series: Series, measures: list[str], title: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_title(title, loc="left")
    axes.set_xscale("log")
    axes.set_yscale("log")
    sizes = [point.size for point in series.points]
    for color, name in zip(_COLORS, measures, strict=False):
        values = [point.values[name] for point in series.points]
        axes.plot(sizes, values, marker="o", markersize=4, color=color, label=MEASURES[series.name][name])
        for size, value in zip(sizes, values, strict=True):
            axes.annotate(
                format_value(name, value), (size, value), textcoords="offset points", xytext=(0, 5), ha="center",
                fontsize=7, color=color,
            )  # fmt: skip
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    in_bytes = measures[0].endswith("_bytes")
    axes.yaxis.set_major_locator(LogLocator(base=2) if in_bytes else LogLocator(subs=(1, 2, 5), numticks=12))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_value(measures[0], value)))
    low, high = axes.get_ylim()
    # No panel makes mountains of noise: what is flat looks flat.
    axes.set_ylim(min(low, high / 8) / 1.3, high * 1.5)
    axes.grid(axis="y", color="#e4e7eb", linewidth=0.8)
    axes.legend(
        frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.08), ncols=3, borderaxespad=0,
        handletextpad=0.4, columnspacing=1.4,
    )  # fmt: skip
