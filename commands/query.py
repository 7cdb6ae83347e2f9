"""`expkit query`: rows by a condition, or SQL over runs."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from expkit.commands import output, session
from expkit.commands.options import Force, Json, Partial, SafeCsv, complete_runs, expand_runs, split_names
from expkit.errors import OutputExists, UsageError

EXAMPLES = (
    ("expkit query sample_data/run 'player == 1 and reward > 0.5'", "the rows for which a condition holds"),
    ("expkit query sample_data/run 'step = 3' --columns observation/total_army", "with columns of one's own choice"),
    (
        "expkit query sample_data/run 'SELECT player, avg(return) FROM episodes GROUP BY player'",
        "SQL; tables: steps, rows, episodes",
    ),
    (
        "expkit query sample_data/run 'SELECT max(\"observation/army\"[1][1]) FROM steps WHERE step < 9'",
        "arrays count from 1, names with a slash are quoted",
    ),
    ("expkit query sample_data/run 'reward is nan' --fail-if-any", "exit 4 when there is one, for CI"),
    ("expkit query sample_data/run 'reward != 0' --format csv", "also ndjson, parquet, arrow; -o FILE"),
)

FORMATS = ("table", "json", "ndjson", "csv", "parquet", "arrow")
_SUFFIXES = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson", ".parquet": "parquet", ".arrow": "arrow"}
_BINARY = ("parquet", "arrow")
_LIMITS = {"table": 20, "json": 1000}


def query(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN... QUERY",
            help="Runs, folders of runs, globs; then a condition on rows, or SQL.",
            autocompletion=complete_runs,
        ),
    ],
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", min=0, help="At most N rows, 0: all.  [default: a table 20, JSON 1000]"),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--columns",
            metavar="A,B",
            help="Of a condition: these fields or groups, or all.  [default: those that are one value]",
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option("--format", metavar="F", help="table, json, ndjson, csv, parquet or arrow.  [default: table]"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write there, - is stdout; its suffix tells the format."),
    ] = None,
    fail_if_any: Annotated[bool, typer.Option("--fail-if-any", help="Exit 4 when there is a row.")] = False,
    fail_if_none: Annotated[bool, typer.Option("--fail-if-none", help="Exit 4 when there is none.")] = False,
    memory: Annotated[
        str, typer.Option("--memory", metavar="SIZE", help="What SQL may take before it uses a temporary folder.")
    ] = "1GiB",
    safe_csv: SafeCsv = False,
    partial: Partial = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Rows by a condition, or SQL over one or many runs."""
    from expkit.commands import query_output
    from expkit.queries import ask
    from expkit.reading.opening import open_run

    *paths, question = inputs
    if not paths:
        raise UsageError("QUERY is missing; as in expkit query RUN 'reward > 0'; see expkit query --help")
    out = None if out == Path("-") else out
    chosen = _format(format, out, json)
    if safe_csv and chosen != "csv":
        raise UsageError(f"--safe-csv is for CSV, this is {chosen}; use --format csv, or leave it out")
    if out is not None and out.exists() and not force:
        raise OutputExists(f"{out} exists already; use --force to replace it")
    most = limit if limit is not None else None if out is not None else _LIMITS.get(chosen)
    most = most or None
    with ExitStack() as stack:
        runs = [stack.enter_context(open_run(path)) for path in expand_runs(paths)]
        for run in runs if not partial else ():
            run.check_whole()
        answer = stack.enter_context(ask(runs, question, columns=split_names(columns), memory=memory))
        told: dict[str, Any] = {"runs": [run.path for run in runs], "query": question}
        if out is not None:
            rows = query_output.write_file(answer, out, chosen, most, safe=safe_csv)
            _say_written(out, chosen, rows, told, json)
        elif chosen == "table":
            rows = query_output.print_table(answer, most)
        elif chosen == "json":
            rows = query_output.print_json(answer, most, told)
        else:
            rows = query_output.write_stdout(answer, chosen, most, safe=safe_csv)
    if (rows and fail_if_any) or (not rows and fail_if_none):
        raise typer.Exit(4)


def _format(given: str | None, out: Path | None, json: bool) -> str:
    """The format to write. Raises UsageError."""
    if given is not None and given not in FORMATS:
        raise UsageError(f"--format: no format {given}; use {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if out is None:
        chosen = "json" if json or given == "json" else given or "table"
        if given not in (None, chosen):
            raise UsageError(f"--json and --format {given} are two formats; use one of them, or -o FILE")
        if chosen in _BINARY and sys.stdout.isatty():
            raise UsageError(f"--format {chosen} is no text for a terminal; use -o FILE, or a pipe")
        return chosen
    if given in ("table", "json"):
        raise UsageError(f"--format {given} is for stdout; a file holds ndjson, csv, parquet or arrow")
    chosen = given or _SUFFIXES.get(out.suffix, "")
    if not chosen:
        raise UsageError(f"{out}: its suffix tells no format; end it in {', '.join(_SUFFIXES)}, or use --format")
    return chosen


def _say_written(out: Path, chosen: str, rows: int, told: dict[str, Any], json: bool) -> None:
    size = out.stat().st_size
    if json:
        body = {"schema": "expkit.query/1", **told, "count": rows, "output": out, "format": chosen, "bytes": size}
        output.write_json(body)
    elif not session.current().quiet:
        from expkit.system.units import format_size

        output.line((str(out), "bold"), f": {rows:,} rows, {format_size(size)}")
