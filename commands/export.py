"""`expkit export`: rows of runs into the formats of other tools."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expkit.commands import output
from expkit.commands.options import (
    Columns,
    DryRun,
    Force,
    Json,
    Partial,
    Representation,
    RunInputs,
    SafeCsv,
    Where,
    input_runs,
)
from expkit.errors import UsageError
from expkit.system.units import format_number, format_size

if TYPE_CHECKING:
    from expkit.exchange.exported import Exported
    from expkit.exchange.plan import ExportPlan

EXAMPLES = (
    ("expkit export sample_data/run -o games.parquet --force", "every row, for DuckDB, pandas, Polars"),
    ("expkit export sample_data/run -o won.npz --where won --rows transitions --force", "steps of who won, for NumPy"),
    ("expkit export sample_data/run -o games.hdf5 --columns observation,action --force", "D4RL's layout"),
    ("expkit export sample_data/run -o hub --format huggingface --split train=.9,test=.1 --card --force", "for a hub"),
    ("expkit export sample_data/run -o sets --format minari --force", "a Minari dataset for each player"),
    ("expkit export sample_data/run -o planes.npz --representation planes-uint8 --dry-run", "what would be written"),
)


def export(
    runs: RunInputs,
    out: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="The file or folder to make.")],
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="F",
            help="parquet, arrow, npz, hdf5, minari, csv, ndjson, huggingface, yours; from OUT's suffix when left out.",
        ),
    ] = None,
    where: Where = None,
    columns: Columns = None,
    rows: Annotated[
        str | None,
        typer.Option("--rows", metavar="all|transitions", help="With final observations as rows, or without."),
    ] = None,
    representation: Representation = None,
    split: Annotated[
        str | None,
        typer.Option("--split", metavar="A=.9,B=.1", help="An output for each part, all rows of a game in the same."),
    ] = None,
    shuffle: Annotated[bool, typer.Option("--shuffle", help="Rows in random order, over all of them.")] = False,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="That --shuffle draws by.")] = 0,
    shard_rows: Annotated[
        int, typer.Option("--shard-rows", metavar="N", help="A folder of files of so many rows.")
    ] = 0,
    shard_size: Annotated[
        str | None, typer.Option("--shard-size", metavar="SIZE", help="A folder of files of about that size.")
    ] = None,
    compression: Annotated[
        str | None, typer.Option("--compression", metavar="NAME[:LEVEL]", help="Of the format's own, like zstd:9.")
    ] = None,
    threads: Annotated[int, typer.Option("--threads", metavar="N", help="That work; 0 for one a core.")] = 0,
    card: Annotated[bool, typer.Option("--card", help="A dataset card: counts, schema, origin, digests.")] = False,
    licence: Annotated[
        str | None, typer.Option("--licence", metavar="ID", help="That the card names, like cc-by-4.0.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse when the format cannot carry all of it.")] = False,
    safe_csv: SafeCsv = False,
    partial: Partial = False,
    dry_run: DryRun = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write rows for other tools: Parquet, NumPy, HDF5, Minari, CSV."""
    from expkit.commands.whole_output import whole_output
    from expkit.exchange.export import check_compression, check_output_path
    from expkit.exchange.export import export as write
    from expkit.exchange.plan import Asked, plan_export
    from expkit.exchange.registry import find_format, format_of
    from expkit.rewrite.change import Change
    from expkit.rewrite.filter import parse_split
    from expkit.rewrite.sources import Sources
    from expkit.system.parallel import cores
    from expkit.system.units import parse_size

    paths = input_runs(runs, out)
    chosen = find_format(format) if format is not None else format_of(out)
    if rows not in (None, "all", "transitions"):
        raise UsageError(f"--rows {rows} is not one of all, transitions")
    asked = Asked(
        where,
        columns,
        None if split is None else parse_split(split),
        "transitions" if rows == "transitions" else "all",
        seed if shuffle else None,
        shard_rows,
        0 if shard_size is None else parse_size(shard_size),
    )
    if safe_csv and chosen.name != "csv":
        raise UsageError(f"--safe-csv is for CSV, this is {chosen.name}; use --format csv, or leave it out")
    options = replace(parse_compression(compression), safe=safe_csv)
    check_output_path(out, force=force)
    change = None if representation is None else Change(representation=representation)
    with Sources(paths, change, partial=partial) as sources:
        plan = plan_export(sources, chosen, asked)
        check_compression(plan, options)
        if strict and plan.losses:
            raise UsageError(f"{chosen.name} cannot carry all of it: {'; '.join(plan.losses)}")
        for loss in plan.losses if not json else ():
            output.note(f"{chosen.name}: {loss}")
        if dry_run:
            _tell_plan(out, plan, json)
            return
        with whole_output("export", f"writing {out}", plan.rows) as asking:
            result = write(
                plan, out, options, force=force, card=card, licence=licence, threads=threads or max(2, cores()),
                on_rows=asking.on_rows, stop=asking.stop,
            )  # fmt: skip
    if json:
        output.write_json(_as_json(result))
    else:
        _tell(result)


def parse_compression(text: str | None) -> Any:
    """`zstd:9` as ExportOptions. Raises UsageError."""
    from expkit.formats.protocol import ExportOptions

    if text is None:
        return ExportOptions()
    name, _, level = text.partition(":")
    if level and not level.isdecimal():
        raise UsageError(f"--compression {text} is not understood; write it like zstd or zstd:9")
    return ExportOptions(name, int(level) if level else None)


def _tell_plan(out: Path, plan: ExportPlan, json: bool) -> None:
    parts = [
        {"name": part.name, "rows": part.rows, "episodes": len(part.numbers), "bytes": part.bytes}
        for part in plan.parts
    ]
    size = sum(part.bytes for part in plan.parts)
    if json:
        output.write_json(
            {
                "schema": "expkit.export/1", "output": out, "format": plan.format.name, "dry_run": True,
                "rows": plan.rows, "episodes": sum(len(part.numbers) for part in plan.parts), "bytes": size,
                "peak_temporary_bytes": _peak(plan, size), "parts": parts, "losses": plan.losses, "notes": plan.notes,
            }
        )  # fmt: skip
        return
    episodes = sum(len(part.numbers) for part in plan.parts)
    output.line(
        (str(out), "bold"),
        f": would write at most {plan.rows:,} rows of {episodes:,} episodes as {plan.format.name}, "
        f"{format_size(size)} before compression; {format_size(_peak(plan, size))} at the most on the disk meanwhile",
    )
    for part in plan.parts:
        if part.name:
            output.line(f"{part.name}: {part.rows:,} rows of {len(part.numbers):,} episodes", indent=2)
    for note in plan.notes:
        output.note(note, "yellow")


def _peak(plan: ExportPlan, size: int) -> int:
    """Bytes on the disk while it is written: the output, and rows that wait."""
    return size * (1 + (plan.asked.shuffle is not None) + (plan.format.name == "npz"))


def _tell(done: Exported) -> None:
    steps = done.rows - sum(part.last_rows for part in done.parts)
    output.line(
        (str(done.out), "bold"),
        f": {done.rows:,} rows ({steps:,} steps) of {sum(part.episodes for part in done.parts):,} episodes · "
        f"{format_size(done.bytes)} in {format_number(len(done.files), 'file')}, {done.format}",
    )
    for part in done.parts:
        if part.name:
            output.line(f"{part.name}: {part.rows:,} rows of {part.episodes:,} episodes", indent=2)
    for note in done.notes:
        output.note(note, "yellow")


def _as_json(done: Exported) -> dict[str, Any]:
    return {
        "schema": "expkit.export/1",
        "output": done.out,
        "format": done.format,
        "dry_run": False,
        "rows": done.rows,
        "steps": done.rows - sum(part.last_rows for part in done.parts),
        "episodes": sum(part.episodes for part in done.parts),
        "bytes": done.bytes,
        "parts": [{"name": part.name, "rows": part.rows, "episodes": part.episodes} for part in done.parts],
        "files": [{"path": file.path, "bytes": file.bytes, "sha256": file.sha256} for file in done.files],
        "losses": done.losses,
        "notes": done.notes,
    }
