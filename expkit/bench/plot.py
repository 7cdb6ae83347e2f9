"""A report as a picture: the ratio of every stage with its interval, and how many times as fast as others expkit is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from expkit.bench.measure import Spread
from expkit.bench.results import GoalResult, PeerResult, Report, Result
from expkit.bench.table import in_order
from expkit.bench.words import format_date, format_limits, format_machine, format_ratio
from expkit.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH = 11.0  # inches
_ROW = 0.26
_HEAD = 0.75  # of a panel: its title and the figures of its axis
_EDGES = 0.9  # of the page: its title, the machine
_FASTER, _SLOWER = "#2a7f9e", "#b4c3cf"
_MET, _MISSED = "#2f8f4e", "#c0392b"
_TEXT, FAINT = "#1f2933", "#7b8794"
STYLE = {
    "font.family": "sans-serif", "font.size": 9, "text.color": _TEXT, "axes.labelcolor": _TEXT, "xtick.color": _TEXT,
    "ytick.color": _TEXT, "axes.edgecolor": FAINT, "axes.spines.top": False, "axes.spines.right": False,
    "axes.spines.left": False, "axes.titlesize": 10, "ytick.major.size": 0, "axes.axisbelow": True,
    "svg.fonttype": "none",
}  # fmt: skip


SUFFIXES = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """Raises UsageError for a name of another format, MissingExtra where matplotlib is not installed."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: a plot is drawn as {', '.join(SUFFIXES)}; name the file so")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingExtra("a plot needs matplotlib; install it with: pip install 'expkit[plot]'") from None


def plot(report: Report, path: Path) -> None:
    """Draw into a file at `path`, in the format of its suffix. Raises as `check_plot`, and OSError."""
    check_plot(path)
    import matplotlib
    from matplotlib.figure import Figure

    stages = [one for one in report.stages if one.ratio is not None]
    peers = [one for one in in_order(report) if one.ratio is not None]
    with matplotlib.rc_context(STYLE):
        heights = [count * _ROW + _HEAD for count in (len(stages), len(peers)) if count]
        figure = Figure(figsize=(_WIDTH, sum(heights) + _EDGES), dpi=150, layout="constrained")
        panels: Any = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0] if heights else []
        figure.suptitle(
            f"expkit bench {report.suite} · {format_date(report.created)}", x=0.01, ha="left", weight="bold"
        )
        figure.supxlabel(
            f"{format_machine(report.machine)}\n{' · '.join(format_limits(report.machine))}",
            x=0.01, ha="left", fontsize=8, color=FAINT,
        )  # fmt: skip
        if stages:
            _draw_stages(panels[0], stages)
        if peers:
            _draw_peers(panels[-1], peers)
        figure.savefig(path)


class _Bar(NamedTuple):
    """A ratio, what it is of, what it stands beside, and the sign between the two with its colour."""

    key: str
    ratio: Spread
    beside: str
    sign: str = ""
    color: str = _TEXT


def _draw_stages(axes: Axes, stages: Sequence[Result]) -> None:
    bars = [_Bar(one.key, one.ratio, one.limit, *_judged(one.goals)) for one in stages if one.ratio is not None]
    _draw_bars(axes, bars)
    for row, one in enumerate(stages):
        for goal in one.goals:
            bound = goal.least if goal.least is not None else goal.most
            if goal.measure == "ratio" and bound is not None:
                axes.plot([bound], [row], **_mark(goal.met), zorder=4)
    axes.set_title("Rows a second beside the limit (1), with 95% interval", loc="left")
    if any(one.goals for one in stages):
        _explain_goals(axes)


def _judged(goals: Sequence[GoalResult]) -> tuple[str, str]:
    """Sign and colour of a stage by its goals, those too that the axis does not measure."""
    met = all(goal.met for goal in goals)
    return ("", _TEXT) if not goals else ("✓", _MET) if met else ("✗", _MISSED)


def _mark(met: bool) -> dict[str, Any]:
    return dict(marker="D", markersize=5.5, color=_MET if met else _MISSED, markeredgecolor="white", linestyle="")


def _explain_goals(axes: Axes) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **_mark(met), label=label) for met, label in ((True, "goal met"), (False, "goal missed"))]
    axes.legend(
        handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, borderaxespad=0,
        handletextpad=0.2, columnspacing=1.2,
    )  # fmt: skip


def _draw_peers(axes: Axes, peers: Sequence[PeerResult]) -> None:
    bars = []
    for one in peers:
        if one.ratio is not None:
            key, name = f"{one.stage} {one.workload}".strip(), f"{one.peer} {one.version}"
            bars.append(_Bar(key, one.ratio, name, *(("", _TEXT) if one.ratio.median >= 1 else ("−", _MISSED))))
    _draw_bars(axes, bars)
    axes.set_title("expkit beside other libraries (1), with 95% interval", loc="left")


def _draw_bars(axes: Axes, bars: Sequence[_Bar]) -> None:
    """From 1 to each ratio on a logarithmic axis: twice as fast is as long as half as fast."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    rows = range(len(bars))
    ratios = [one.ratio for one in bars]
    medians = [one.median for one in ratios]
    axes.set_xscale("log")
    fills = [_FASTER if median >= 1 else _SLOWER for median in medians]
    axes.barh(rows, [median - 1 for median in medians], left=1, height=0.62, color=fills, zorder=2)
    around = [[one.median - one.low for one in ratios], [one.high - one.median for one in ratios]]
    axes.errorbar(medians, rows, xerr=around, fmt="none", ecolor=_TEXT, elinewidth=0.9, capsize=2, zorder=3)
    axes.axvline(1, color=_TEXT, linewidth=1.2, zorder=3)
    low, high = min(one.low for one in ratios), max(one.high for one in ratios)
    axes.set_xlim(min(low, 0.5) / 1.15, max(high, 2.0) * 1.15)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 1000 else (1,), numticks=20))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="x", color="#e4e7eb", linewidth=0.8)
    axes.set_yticks(rows, [one.key for one in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    for row, one in enumerate(bars):
        # Right of the axes: the figure up to 6% of their width, the sign, then what it stands beside.
        for text, at, align, color, weight in (
            (format_ratio(one.ratio.median), 1.06, "right", _TEXT, "bold"),
            (one.sign, 1.08, "center", one.color, "bold"),
            (one.beside, 1.1, "left", FAINT, "normal"),
        ):
            axes.annotate(
                text, (at, row), xycoords=("axes fraction", "data"), ha=align, va="center", color=color,
                weight=weight, fontsize=8.5,
            )  # fmt: skip
