"""`expkit merge`: runs of several writers and machines become one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expkit.commands.merge_report import merge_runs
from expkit.commands.options import DryRun, Force, Json, Partial, RunInputs

EXAMPLES = (
    ("expkit merge runs/a runs/b -o runs/both --force --dry-run", "what it would do, or why it cannot"),
    ("expkit merge runs/a runs/b -o runs/both --force", "one run of all their games"),
    (
        "expkit merge runs/a runs/b --pad 32x32 -o runs/large --force",
        "boards of two sizes; actions stay the same moves",
    ),
    ("expkit merge runs/both runs/b -o runs/once --dedupe --force", "games that are there twice are taken once"),
)


def merge(
    runs: RunInputs,
    out: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="The run folder to make.")],
    dedupe: Annotated[
        bool, typer.Option("--dedupe", help="Leave out episodes whose rows are those of one already taken.")
    ] = False,
    pad: Annotated[
        str | None,
        typer.Option(
            "--pad", metavar="HxW", help="Lay all boards out on one of this size: mountains to the right and below."
        ),
    ] = None,
    partial: Partial = False,
    dry_run: DryRun = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Join runs into a new one; every episode keeps its origin."""
    from expkit.rewrite.change import Change
    from expkit.rewrite.merge import Choice
    from expkit.system.units import parse_board_size

    change = None if pad is None else Change(pad=parse_board_size(pad))
    merge_runs(
        "merge", runs, out, Choice(dedupe=dedupe), change, partial=partial, dry_run=dry_run, force=force, json=json
    )
