"""`expkit list`: the runs under a folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expkit.commands import output
from expkit.commands.options import Json, complete_runs, near
from expkit.errors import CheckFailed, ExpkitError, NewerFormat, NotThere
from expkit.system.files import read_failed
from expkit.system.units import format_duration, format_number, format_size

if TYPE_CHECKING:
    from expkit.reading.run import Run

EXAMPLES = (
    ("expkit list", "the runs under ./runs, or under this folder where there is none"),
    ("expkit list sample_data", "the runs that come with the project"),
    ("expkit list sample_data --json", "the same for a script"),
)

STATE_STYLES = {
    "recording": "bold green",
    "closed": "",
    "killed": "bold red",
    "damaged": "bold red",
    "newer": "bold red",
}


def list_(
    folder: Annotated[
        str | None,
        typer.Argument(metavar="DIR", help="Where to look.  [default: runs]", autocompletion=complete_runs),
    ] = None,
    json: Json = False,
) -> None:
    """The runs under a folder: state, episodes, rows, age, size."""
    from expkit.runs.layout import find_runs

    root = Path(folder) if folder is not None else Path("runs") if Path("runs").is_dir() else Path()
    if not root.exists():
        raise NotThere(f"there is no {root}{near(str(root))}")
    found = [_describe(path) for path in find_runs(root)]
    if json:
        output.write_json({"schema": "expkit.list/1", "folder": root, "runs": found})
        if _newer(found):
            raise typer.Exit(NewerFormat.exit_code)
        return
    if not found:
        output.line(f"no runs in {root}")
        output.hint("expkit record")
        return
    columns = [
        output.Column("run", fold=True),
        output.Column("state"),
        output.Column("episodes", right=True),
        output.Column("rows", right=True),
        output.Column("age", right=True),
        output.Column("size", right=True),
        output.Column("source", wide=90),
        output.Column("players", wide=110),
        output.Column("policies", fold=True, wide=130),
    ]
    output.table(columns, [_row(run) for run in found])
    total = sum(run["bytes"] or 0 for run in found)
    rows = sum(run["rows"] or 0 for run in found)
    output.line((f"{format_number(len(found), 'run')}, {rows:,} rows, {format_size(total)}", "dim"))
    if newer := _newer(found):
        more = f" ({len(newer) - 1} more of the runs are newer, too)" if len(newer) > 1 else ""
        raise NewerFormat(newer[0] + more)
    damaged = next((run["run"] for run in found if run["state"] == "damaged"), None)
    output.hint(f"expkit {'inspect' if damaged is None else 'validate'} {output.quoted(damaged or found[-1]['run'])}")


def _newer(found: list[dict[str, Any]]) -> list[str]:
    """What there is to say of each run that only a later expkit can read."""
    return [run["error"] for run in found if run["state"] == "newer"]


def _describe(path: Path) -> dict[str, Any]:
    """One run for JSON; one that cannot be opened is `damaged` or `newer` and says why, it does not hide the others."""
    from expkit.reading.opening import open_run

    try:
        with open_run(path) as run:
            return _read(path, run)
    except (ExpkitError, OSError) as failed:
        error = _told(path, failed)
        nothing = dict.fromkeys(("id", "source", "episodes", "rows", "bytes", "shards", "created_ns", "age_seconds"))
        state = "newer" if isinstance(error, NewerFormat) else "damaged"
        return {"run": path, "state": state, **nothing, "players": [], "policies": [], "error": str(error)}


def state_of(run: Run) -> tuple[str, str | None]:
    """The state of a run, and what is wrong with it where it is `damaged`: shards or rows are missing, or cannot be
    read. Values are not looked at, which is for `expkit validate`."""
    state = run.state
    try:
        if state != "recording":
            run.check_whole()
    except (CheckFailed, OSError) as error:
        if run.state != "recording":  # by now
            return "damaged", str(_told(run.path, error))
    return state, None


def _told(path: Path, error: ExpkitError | OSError) -> ExpkitError | OSError:
    """The error as one of expkit's: what the system refuses to tell now is a read that failed. A file that is gone may
    have been rewritten in this moment."""
    if isinstance(error, ExpkitError | FileNotFoundError):
        return error
    return read_failed(error.filename or path, "read", error)


def _read(path: Path, run: Run) -> dict[str, Any]:
    state, error = state_of(run)
    return {
        "run": path,
        "state": state,
        "id": run.id,
        "source": run.info.source,
        "episodes": len(run.episodes()),
        "rows": len(run),
        "bytes": run.bytes,
        "shards": len(run.shards),
        "created_ns": output.wide_integer(run.created_ns),
        "age_seconds": max(time.time() - run.created_ns / 1e9, 0.0),
        "players": run.info.players,
        "policies": [policy.name for policy in run.policies],
        "error": error,
    }


def _row(run: dict[str, Any]) -> list[output.Piece]:
    state = (run["state"], STATE_STYLES.get(run["state"], ""))
    if run["rows"] is None:
        return [str(run["run"]), state, "", "", "", "", run["error"], "", ""]
    return [
        str(run["run"]),
        state,
        f"{run['episodes']:,}",
        f"{run['rows']:,}",
        format_duration(run["age_seconds"]),
        format_size(run["bytes"]),
        run["source"],
        ", ".join(run["players"]),
        ", ".join(run["policies"]),
    ]
