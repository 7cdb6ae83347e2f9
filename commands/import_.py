"""`expkit import`: recordings of other programs, and exports, become runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from expkit.commands import output
from expkit.commands.options import Force, Json
from expkit.system.units import format_number

EXAMPLES = (
    ("expkit import game.gior -o runs/game", "play a generals.io replay again, into a run"),
    ("expkit import data.hdf5 -o runs/d4rl", "D4RL's layout: episodes are cut where terminals or timeouts are"),
    ("expkit import games.parquet -o runs/back", "what expkit export wrote, as it was"),
)


def import_(
    source: Annotated[Path, typer.Argument(metavar="IN", help="The file or folder to import.")],
    run: Annotated[Path, typer.Option("--output", "-o", metavar="RUN", help="The run folder to make.")],
    format: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="F", help="gior, parquet, arrow, npz, hdf5, minari, ndjson, huggingface, or yours."
        ),
    ] = None,
    state: Annotated[bool, typer.Option("--state", help="Record the whole truth too, as state/... (gior).")] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Import recordings of other programs, and exports, into a run. Of games player names are never kept."""
    from expkit.commands.whole_output import whole_output
    from expkit.exchange.recordings import import_recording, source_format

    name = source_format(source, format)
    with whole_output("import", f"importing {source}") as asking:
        done = import_recording(
            source, run, format=name, state=state, force=force, on_rows=asking.on_rows, stop=asking.stop
        )
    if json:
        output.write_json({"schema": "expkit.import/1", **asdict(done)})
        return
    output.line(
        (f"{done.run}", "bold"),
        f": {done.rows:,} rows ({done.steps:,} steps) of {format_number(done.players, 'player')}, "
        f"{format_number(done.episodes, 'episode')}",
    )
    for note in done.notes:
        output.note(note, "yellow")
    output.hint(
        f"expkit replay {output.quoted(done.run)} --verify"
        if done.format == "gior"
        else f"expkit inspect {output.quoted(done.run)}"
    )
