"""`expkit import`: recordings of other programs become runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from expkit.commands import output
from expkit.commands.options import Force, Json

EXAMPLES = (("expkit import game.gior -o runs/game", "play a generals.io replay again, into a run"),)


def import_(
    source: Annotated[Path, typer.Argument(metavar="IN", help="The file to import.")],
    run: Annotated[Path, typer.Option("--output", "-o", metavar="RUN", help="The run folder to make.")],
    format: Annotated[
        str | None, typer.Option("--format", metavar="F", help="gior; from the suffix when left out.")
    ] = None,
    state: Annotated[bool, typer.Option("--state", help="Record the whole truth too, as state/...")] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Import a recording of another program into a run. Player names are never kept."""
    from expkit.importing import import_recording

    done = import_recording(source, run, format=format, state=state, force=force)
    if json:
        output.write_json({"schema": "expkit.import/1", **asdict(done)})
        return
    output.line(
        (f"{done.run}", "bold"),
        f": {done.rows:,} rows ({done.steps:,} steps) of {done.players} players, {done.episodes} episode",
    )
    for note in done.notes:
        output.line((note, "yellow"))
    output.hint(f"expkit replay {done.run} --verify")
