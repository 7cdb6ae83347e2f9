"""One shard file by itself: what its header says, its columns, its blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from expkit.commands import output
from expkit.formats.shard.read import ShardReader
from expkit.reading.summary import column_bytes
from expkit.system.units import format_size

_BLOCKS_SHOWN = 20


def shard_as_json(path: Path) -> dict[str, Any]:
    """Header, counts, bytes by column, every block, and what was found damaged on the way."""
    with ShardReader(path) as reader:
        sizes = column_bytes(reader).tolist()
        return {
            "path": path,
            "header": reader.header,
            "closed": reader.closed,
            "rows": reader.rows,
            "bytes": reader.nbytes,
            "tail_bytes": reader.tail_bytes,
            "episodes_started": len(reader.episode_starts),
            "episodes_ended": len(reader.episode_ends),
            "dropped": {str(player): causes for player, causes in reader.drops.items()},
            "columns": [
                {"name": column.name, "dtype": column.dtype.str, "bytes": size}
                for column, size in zip(reader.schema.columns, sizes, strict=True)
            ],
            "blocks": [
                {
                    "block": block.index,
                    "offset": block.offset,
                    "bytes": block.nbytes,
                    "player": block.player,
                    "rows": block.rows,
                    "episodes": [output.wide_integer(block.episode_min), output.wide_integer(block.episode_max)],
                    "steps": [block.step_min, block.step_max],
                    "policy_versions": [block.policy_version_min, block.policy_version_max],
                    "time_ns": [output.wide_integer(block.time_ns_min), output.wide_integer(block.time_ns_max)],
                    "dropped": block.dropped,
                }
                for block in reader.blocks
            ],
            "findings": [str(finding) for finding in reader.findings],
        }


def show_shard(path: Path) -> None:
    """The page of a shard file."""
    with ShardReader(path) as reader:
        state = ("closed", "") if reader.closed else ("open: no footer", "bold yellow")
        output.line((str(path), "bold"), f" · {format_size(reader.nbytes)} · {reader.rows:,} rows · ", state)
        _show_header(reader)
        _show_columns(reader)
        _show_blocks(reader)
        for finding in reader.findings:
            output.line(("damaged: ", "bold red"), str(finding))
        output.hint(f"expkit validate {output.quoted(path)}")


def _show_header(reader: ShardReader) -> None:
    starts, ends = len(reader.episode_starts), len(reader.episode_ends)
    output.line(f"{len(reader.blocks)} blocks · {starts:,} episodes begin here, {ends:,} end", indent=2)
    for key in ("run", "source", "writer", "number", "expkit", "host"):
        if reader.header.get(key) not in (None, ""):
            output.line((f"{key} ", "dim"), str(reader.header[key]), indent=2)
    if reader.tail_bytes:
        output.line((f"{reader.tail_bytes:,} bytes of an unfinished record at the end", "yellow"), indent=2)


def _show_columns(reader: ShardReader) -> None:
    sizes = column_bytes(reader).tolist()
    total = sum(sizes) or 1
    output.blank()
    columns = [
        output.Column("column"),
        output.Column("stored as"),
        output.Column("bytes", right=True),
        output.Column("B/row", right=True),
        output.Column("", style="cyan"),
    ]
    rows: list[list[output.Piece]] = []
    for column, size in zip(reader.schema.columns, sizes, strict=True):
        items = f" x {column.items}" if column.items else ""
        each = f"{size / reader.rows:.2f}" if reader.rows else ""
        name = column.dtype.name + (" bits" if column.packed else "") + items
        rows.append([column.name, name, f"{size:,}", each, output.bar(size / total, 16).rstrip()])
    output.table(columns, rows)


def _show_blocks(reader: ShardReader) -> None:
    if not reader.blocks:
        return
    output.blank()
    columns = [
        output.Column("block", right=True),
        output.Column("player", right=True),
        output.Column("rows", right=True),
        output.Column("episodes", right=True),
        output.Column("steps", right=True),
        output.Column("bytes", right=True),
        output.Column("versions", right=True, wide=90),
        output.Column("offset", right=True, wide=100),
        output.Column("dropped"),
    ]
    blocks = reader.blocks
    shown = blocks if len(blocks) <= _BLOCKS_SHOWN else [*blocks[: _BLOCKS_SHOWN - 1], blocks[-1]]
    rows: list[list[output.Piece]] = []
    for block in shown:
        if block is blocks[-1] and len(shown) < len(blocks):
            rows.append([("…", "dim"), "", "", (f"{len(blocks) - len(shown):,} more", "dim"), *[""] * 5])
        causes = ", ".join(f"{cause} {count:,}" for cause, count in block.dropped.items())
        rows.append(
            [
                str(block.index),
                str(block.player),
                f"{block.rows:,}",
                _span(block.episode_min, block.episode_max),
                _span(block.step_min, block.step_max),
                f"{block.nbytes:,}",
                _span(block.policy_version_min, block.policy_version_max),
                f"{block.offset:,}",
                causes,
            ]
        )
    output.table(columns, rows)


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}-{high}"
