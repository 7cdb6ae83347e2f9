"""What is in a run, for people and as JSON: counts, ledger, fields with their bytes on disk, distributions, shards."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from expkit.commands import output
from expkit.commands.distributions import distribution_as_json, percent, show_distributions
from expkit.commands.list_ import STATE_STYLES, state_of
from expkit.reading.run import Run
from expkit.reading.summary import (
    Balance,
    Distributions,
    Summary,
    bytes_by_column,
    distributions,
    summarize,
)
from expkit.system.units import format_count, format_duration, format_number, format_size

_SHARDS_SHOWN = 8


class _Field(NamedTuple):
    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


def run_as_json(run: Run) -> dict[str, Any]:
    """The documented keys: rows, steps, episodes, players, shards, bytes, state, fields and more beside them."""
    summary, spread = summarize(run), distributions(run)
    return {
        "run": run.path,
        "id": run.id,
        "state": state_of(run)[0],
        "source": run.info.source,
        "created_ns": output.wide_integer(run.created_ns),
        "seed": None if run.info.seed is None else output.wide_integer(run.info.seed),
        "rows": summary.rows,
        "steps": summary.steps,
        "episodes": summary.episodes,
        "episodes_by_end": summary.ended,
        "episodes_won": summary.won,
        "seconds": summary.seconds,
        "bytes": run.bytes,
        "bytes_per_row": run.bytes / summary.rows if summary.rows else None,
        "players": [_player_as_json(run, player, summary) for player in run.players],
        "policies": [{"name": p.name, "checkpoint": p.checkpoint, "digest": p.digest} for p in run.policies],
        "shards": [
            {"name": s.name, "path": s.path, "rows": s.rows, "bytes": s.bytes, "closed": s.closed} for s in run.shards
        ],
        "fields": [field._asdict() for field in _fields(run)],
        "distributions": {part.name: distribution_as_json(part) for part in spread.parts},
        "distributions_share": spread.share,
    }


def _player_as_json(run: Run, player: int, summary: Summary) -> dict[str, Any]:
    body: dict[str, Any] = {"player": player, "name": run.info.players[player]}
    for entry in summary.balance or []:
        if entry.player == player:
            body |= {
                "rows": entry.present,
                "produced": entry.produced,
                "written": entry.stored,
                "pruned": entry.pruned,
                "quarantined": entry.quarantined,
                "durable": entry.durable,
                "dropped": entry.dropped_rows,
                "dropped_by_cause": entry.dropped,
                "rejected": entry.rejected,
                "pending": entry.pending,
                "lost": entry.lost,
            }
    return body


def show_run(run: Run) -> None:
    """The whole page of a run."""
    summary = summarize(run)
    state, error = state_of(run)
    _show_head(run, summary, state)
    if error is not None:
        output.line((f"damaged: {error}", "bold red"), indent=2)
    _show_players(run, summary)
    _show_fields(run, summary)
    _show_distributions(distributions(run))
    _show_shards(run)
    output.blank()
    episodes = run.episodes()
    if state in ("killed", "damaged"):
        output.hint(f"expkit validate {output.quoted(run.path)}")
    elif episodes:
        path = output.quoted(run.path)
        output.hint(f"expkit inspect {path} --episode {episodes[0].number} · expkit replay {path}")


def _show_head(run: Run, summary: Summary, word: str) -> None:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(run.created_ns / 1e9))
    state = (word, STATE_STYLES.get(word, ""))
    took = f" in {format_duration(summary.seconds)}" if summary.seconds is not None else ""
    seed = "" if run.info.seed is None else f" · seed {run.info.seed}"
    output.line((str(run.path), "bold"), f" · {run.info.source} · ", state, f" · {when} UTC{took}{seed}")
    rate = f", {format_count(summary.rows / summary.seconds)} rows/s" if summary.seconds and summary.rows else ""
    output.line(f"{summary.rows:,} rows ({summary.steps:,} steps){rate}", indent=2)
    output.line(_episodes_line(summary), indent=2)
    each = f", {run.bytes / summary.rows:.1f} B/row" if summary.rows else ""
    output.line(f"{format_size(run.bytes)}{each}, {format_number(len(run.shards), 'shard')}", indent=2)
    if summary.balance is None:
        output.line(("no ledger: what was lost cannot be told", "yellow"), indent=2)
    else:
        output.line(*ledger_line(summary.balance), indent=2)


def _episodes_line(summary: Summary) -> str:
    parts = [f"{summary.won:,} won"] if summary.won else []
    drawn = summary.ended.get("terminated", 0) - summary.won
    parts += [f"{drawn:,} terminated without a winner"] if drawn else []
    parts += [f"{summary.ended[how]:,} {how}" for how in ("truncated", "interrupted") if summary.ended.get(how)]
    return format_number(summary.episodes, "episode") + (f": {', '.join(parts)}" if parts else "")


def ledger_line(entries: list[Balance]) -> list[output.Piece]:
    """`produced 5,000,000 = written 5,000,000 + dropped 0`, with what else there is."""
    produced, stored = sum(e.produced for e in entries), sum(e.stored for e in entries)
    dropped, rejected = sum(e.dropped_rows for e in entries), sum(e.rejected for e in entries)
    pending, lost = sum(e.pending for e in entries), sum(e.lost for e in entries)
    line: list[output.Piece] = [f"produced {produced:,} = written {stored:,} + dropped {dropped:,}"]
    if rejected:
        line.append(f" + rejected {rejected:,}")
    if pending:
        line.append(f" + under way {pending:,}")
    if lost:
        line.append((f" + lost {lost:,}", "bold red"))
    pruned, quarantined = sum(e.pruned for e in entries), sum(e.quarantined for e in entries)
    if pruned or quarantined:
        line.append(f"; present {stored - pruned - quarantined:,} = written")
    if pruned:
        line.append(f" - pruned {pruned:,}")
    if quarantined:
        line.append((f" - quarantined {quarantined:,}", "bold red"))
    return line


def _show_players(run: Run, summary: Summary) -> None:
    if summary.balance is None:
        return
    output.blank()
    columns = [
        output.Column("player"),
        output.Column("name"),
        output.Column("rows", right=True),
        output.Column("produced", right=True),
        output.Column("dropped", right=True),
        output.Column("rejected", right=True, wide=90),
        output.Column("lost", right=True),
    ]
    rows: list[list[output.Piece]] = []
    for entry in summary.balance:
        names = run.info.players
        causes = ", ".join(f"{cause} {count:,}" for cause, count in entry.dropped.items())
        rows.append(
            [
                str(entry.player),
                names[entry.player] if entry.player < len(names) else "",
                f"{entry.present:,}",
                f"{entry.produced:,}",
                causes or "0",
                f"{entry.rejected:,}",
                (f"{entry.lost:,}", "bold red" if entry.lost else ""),
            ]
        )
    output.table(columns, rows)


def _fields(run: Run) -> list[_Field]:
    """Keys first, then the fields; a field's bytes include those of its validity."""
    stored = bytes_by_column(run)
    out = []
    for column in run.schema.columns:
        if column.is_validity:
            continue
        size = stored.get(column.name, 0) + stored.get(f"valid:{column.name}", 0)
        shape = column.field.logical_shape if column.field is not None else ()
        dtype = column.field.dtype if column.field is not None else column.dtype.str.lstrip("<|").replace("b1", "bool")
        out.append(_Field(column.name, dtype, tuple(shape), size))
    return out


def _show_fields(run: Run, summary: Summary) -> None:
    output.blank()
    fields = _fields(run)
    total = sum(field.bytes for field in fields) or 1
    meanings = {field.name: field.meaning for field in run.schema.fields}
    columns = [
        output.Column("field"),
        output.Column("dtype"),
        output.Column("shape"),
        output.Column("on disk", right=True),
        output.Column("B/row", right=True),
        output.Column("share", right=True),
        output.Column("", style="cyan"),
        output.Column("meaning", style="dim", wide=150, fold=True),
    ]
    rows: list[list[output.Piece]] = []
    for field in fields:
        share = field.bytes / total
        rows.append(
            [
                field.name,
                field.dtype,
                "x".join(str(side) for side in field.shape),
                format_size(field.bytes),
                f"{field.bytes / summary.rows:.2f}" if summary.rows else "",
                f"{share * 100:.1f}%",
                output.bar(share, 12).rstrip(),
                meanings.get(field.name, "key"),
            ]
        )
    output.table(columns, rows)


def _show_distributions(spread: Distributions) -> None:
    if not spread.parts:
        return
    output.blank()
    show_distributions(spread.parts)
    if spread.share < 1:
        output.line((f"rewards, actions and staleness from {percent(spread.share)} of the blocks", "dim"))


def _show_shards(run: Run) -> None:
    shards = run.shards
    if not shards:
        return
    output.blank()
    columns = [output.Column("shard"), output.Column("rows", right=True), output.Column("size", right=True)]
    columns.append(output.Column("state"))
    shown = shards if len(shards) <= _SHARDS_SHOWN else [*shards[: _SHARDS_SHOWN - 1], shards[-1]]
    rows: list[list[output.Piece]] = []
    for shard in shown:
        if shard is shards[-1] and len(shown) < len(shards):
            rows.append([(f"… {len(shards) - len(shown)} more", "dim"), "", "", ""])
        state = ("closed", "") if shard.closed else ("open", "bold yellow")
        rows.append([shard.name, f"{shard.rows:,}", format_size(shard.bytes), state])
    output.table(columns, rows)
