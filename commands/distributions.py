"""How often values occur, in a line for each kind of value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from expkit.commands import output
from expkit.reading.summary import Distribution


def distribution_as_json(part: Distribution) -> dict[str, Any]:
    return {"counts": part.counts, "edges": part.edges, "mean": part.mean, "low": part.low, "high": part.high}


def show_distributions(parts: Sequence[Distribution]) -> None:
    """A table: name, mean, and the bins as a histogram or the shares of single values."""
    cells = min(max(output.width() - 48, 12), 40)
    rows: list[list[output.Piece]] = []
    for part in parts:
        if part.is_binned:
            rows.append(
                [
                    part.name,
                    figure(part.mean),
                    (f"{figure(part.low)} ", "dim"),
                    (output.histogram(part.counts, cells), "cyan"),
                    (figure(part.high), "dim"),
                ]
            )
        else:
            shares = "  ".join(
                f"{figure(value)}: {percent(count / part.total)}"
                for value, count in zip(part.edges, part.counts, strict=True)
            )
            rows.append([part.name, figure(part.mean), "", shares, ""])
    columns = [output.Column("of"), output.Column("mean", right=True), output.Column("from", right=True)]
    columns += [output.Column("distribution", fold=True), output.Column("to")]
    output.table(columns, rows)


def figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def percent(share: float) -> str:
    """`12%`, `0.3%`, and never `0%` or `100%` for what is not."""
    if 0 < share < 0.0005:
        return "<0.1%"
    return f"{share * 100:.1f}%" if share < 0.1 or 0.995 <= share < 1 else f"{share * 100:.0f}%"
