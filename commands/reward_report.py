"""What other rewards would change, as `rewrite --reward … --dry-run` shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from expkit.commands import output
from expkit.commands.distributions import distribution_as_json, figure, percent, show_distributions
from expkit.rewrite.revalue import ColumnChange


def changes_as_json(changes: Sequence[ColumnChange]) -> dict[str, Any]:
    """By column: reward, rows, changed, old and new (distributions, null where there is none), examples."""
    return {
        change.column: {
            "reward": change.text,
            "rows": change.rows,
            "changed": change.changed,
            "old": None if change.old is None else distribution_as_json(change.old),
            "new": None if change.new is None else distribution_as_json(change.new),
            "examples": [{**row._asdict(), "episode": output.wide_integer(row.episode)} for row in change.examples],
        }
        for change in changes
    }


def show_changes(changes: Sequence[ColumnChange]) -> None:
    """The distributions of each column before and after, and the rows that change most."""
    for change in changes:
        share = f" ({percent(change.changed / change.rows)})" if change.rows else ""
        what = "a new column" if change.old is None else f"{change.changed:,} of {change.rows:,} rewards change{share}"
        output.blank()
        output.line((change.column, "bold"), f" = {change.text}: {what}")
        show_distributions([part for part in (change.old, change.new) if part is not None])
        if not change.examples:
            continue
        several = len({row.run for row in change.examples}) > 1
        columns = [output.Column(name, right=True) for name in ("episode", "player", "step", "old", "new")]
        rows: list[list[output.Piece]] = [
            [
                str(row.episode),
                str(row.player),
                str(row.step),
                "" if row.old is None else figure(row.old),
                figure(row.new),
                *([row.run] if several else []),
            ]
            for row in change.examples
        ]
        output.table([*columns, *([output.Column("run")] if several else [])], rows, indent=2)
