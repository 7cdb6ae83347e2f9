"""`expkit diff`: are two runs the same, and if not, where do they differ first?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expkit.commands import output
from expkit.commands.options import Json, complete_runs, is_shard, one_run, split_names
from expkit.errors import UsageError
from expkit.system.units import format_number

if TYPE_CHECKING:
    from expkit.comparison.compare import Comparison, Difference
    from expkit.reading.run import Run

EXAMPLES = (
    ("expkit diff sample_data/run sample_data/run", "a run and its copy, compacted or not: equal"),
    ("expkit diff sample_data/run sample_data/run --ignore time_ns", "two recordings of the same seed"),
    ("expkit diff sample_data/run sample_data/run --tolerance 1e-6", "floats may differ a little"),
    ("expkit diff sample_data/run sample_data/run --columns observation,action --json", "some columns, for a script"),
)

_SHOWN = 8


def diff(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="A run folder.", autocompletion=complete_runs)],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="The other one.", autocompletion=complete_runs)],
    tolerance: Annotated[
        float, typer.Option("--tolerance", metavar="X", help="Floats are equal within abs(a - b) <= X.")
    ] = 0.0,
    columns: Annotated[
        list[str] | None,
        typer.Option("--columns", metavar="A,B", help="Compare these fields, groups or keys only.  [default: all]"),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", metavar="COLUMN", help="Leave this one out, like time_ns; may be repeated."),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Decode every row, also where digests and checksums prove them equal.")
    ] = False,
    json: Json = False,
) -> None:
    """Whether two runs hold the same, or where they differ first."""
    from expkit.commands.progress import PATIENCE, Progress
    from expkit.comparison.compare import compare_runs

    for given in (run_a, run_b):
        if is_shard(Path(given)):
            raise UsageError(f"{given} is one shard file of a run; name the folders that hold run.yaml")
    with (
        one_run(run_a) as a,
        one_run(run_b) as b,
        Progress(f"comparing {a.path} and {b.path}", "episodes", after=PATIENCE) as progress,
    ):

        def show(done: int, total: int, found: Comparison) -> None:
            fields = [f"{found.rows:,} rows", f"{found.episodes_differing:,} differ"]
            progress.update(done, total, fields=fields)

        names, left_out = split_names(columns), split_names(ignore) or []
        found = compare_runs(a, b, tolerance, names, ignore=left_out, full=full, on_episode=show)
    if json:
        output.write_json(_as_json(a, b, found, tolerance))
    else:
        options = [f"--columns {','.join(columns)}"] if columns else []
        options += [f"--ignore {name}" for name in ignore or ()]
        _print(a, b, found, " ".join(["expkit diff", output.quoted(a.path), output.quoted(b.path), *options]))
    raise typer.Exit(0 if found.equal else 4)


def _print(a: Run, b: Run, found: Comparison, again: str) -> None:
    """again: this very command, for advice that adds to it."""
    first = found.first_difference
    both: list[output.Piece] = [(str(a.path), "bold"), " and ", (str(b.path), "bold")]
    if first is None:
        decoded = "" if found.rows_decoded else ", proved by digests and checksums"
        output.line(*both, " are ", ("equal", "bold green"), f": {_counts(found)}{decoded}")
        return
    output.line(*both, " ", ("differ", "bold red"), f": {first}")
    for more in found.schema_differences[1:_SHOWN]:
        output.line(more.describe(str(a.path), str(b.path)), indent=2)
    for lost in [one for one in found.unreadable if str(one) not in str(first)][:_SHOWN]:
        output.line((str(lost), "red"), indent=2)
    if found.columns:
        ranked = sorted(found.columns.items(), key=lambda item: -item[1])
        told = [f"{name} {rows:,}" for name, rows in ranked[:_SHOWN]] + ["…"] * (len(ranked) > _SHOWN)
        output.line(f"{found.rows_differing:,} of {found.rows:,} rows differ: {', '.join(told)}", indent=2)
    only = [(found.rows_only_in_a, a.path), (found.rows_only_in_b, b.path)]
    said = [f"{found.episodes_differing:,} of {found.episodes:,} episodes differ"]
    said += [f" · {rows:,} rows only in {path}" for rows, path in only if rows]
    output.line(*(["the fields differ"] if found.schema_differences else said), ("   [exit 4]", "dim"))
    output.hint(_next(a, b, found, first, again))


def _counts(found: Comparison) -> str:
    return f"{format_number(found.episodes, 'episode')}, {found.rows:,} rows"


def _next(a: Run, b: Run, found: Comparison, first: Difference, again: str) -> str:
    """What to do next: look at the row, or leave out what may differ."""
    in_one_only = [one.field for one in found.schema_differences if one.a is None or one.b is None]
    if in_one_only and len(in_one_only) == len(found.schema_differences):
        return " ".join([again, *(f"--ignore {name}" for name in in_one_only)])
    if first.field == "time_ns":
        return f"{again} --ignore time_ns"
    if found.unreadable:
        return f"expkit validate {output.quoted(found.unreadable[0].run)}"
    if first.episode is None:
        return f"expkit inspect {output.quoted(a.path)} {output.quoted(b.path)}"
    there = b if first.field in ("episode", "rows") and first.a is None else a
    parts = [("episode", first.episode), ("player", first.player), ("step", first.step)]
    return " ".join(
        ["expkit inspect", output.quoted(there.path), *(f"--{name} {n}" for name, n in parts if n is not None)]
    )


def _as_json(a: Run, b: Run, found: Comparison, tolerance: float) -> dict[str, Any]:
    first = found.first_difference
    body = None
    if first is not None:
        body = {
            "episode": None if first.episode is None else output.wide_integer(first.episode),
            "player": first.player,
            "step": first.step,
            "field": first.field,
            "index": first.index,
            "a": _value(first, first.a),
            "b": _value(first, first.b),
            "message": first.message,
        }
    return {
        "schema": "expkit.diff/1",
        "run_a": a.path,
        "run_b": b.path,
        "equal": found.equal,
        "tolerance": tolerance,
        "first_difference": body,
        "episodes": found.episodes,
        "episodes_differing": found.episodes_differing,
        "rows": found.rows,
        "rows_differing": found.rows_differing,
        "rows_only_in_a": found.rows_only_in_a,
        "rows_only_in_b": found.rows_only_in_b,
        "rows_decoded": found.rows_decoded,
        "columns": found.columns,
        "schema_differences": [one._asdict() for one in found.schema_differences],
        "unreadable": [one._asdict() for one in found.unreadable],
    }


def _value(first: Difference, value: Any) -> Any:
    """One of the two values: wide integers as text."""
    if isinstance(value, int) and not isinstance(value, bool) and (first.field == "time_ns" or abs(value) >= 1 << 53):
        return output.wide_integer(value)
    return value
