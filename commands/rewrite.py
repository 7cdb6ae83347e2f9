"""`expkit rewrite`: the same run with other rows, columns, representation, rewards or parts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expkit.commands.merge_report import merge_runs
from expkit.commands.options import (
    Columns,
    DryRun,
    Force,
    Json,
    Partial,
    Representation,
    Reward,
    RewardColumn,
    RunInputs,
    Where,
)

EXAMPLES = (
    ("expkit rewrite sample_data/run -o runs/won --where won --force", "whole games, of who won them"),
    ("expkit rewrite sample_data/run -o runs/early --where 'step < 50' --force", "rows; the rest counts as filtered"),
    ("expkit rewrite sample_data/run -o runs/small --columns observation,action --force", "without the other fields"),
    (
        "expkit rewrite sample_data/run -o runs/u1 --representation planes-uint8 --force",
        "boards as bytes for a network",
    ),
    ("expkit rewrite sample_data/run -o runs/dense --reward weighted --dry-run", "what other rewards would be"),
    ("expkit rewrite sample_data/run -o runs/x --reward-column 'x=sparse + potential' --force", "one more, reward/x"),
    ("expkit rewrite sample_data/run -o runs/sets --split train=.8,val=.2 --force", "runs/sets/train, runs/sets/val"),
)


def rewrite(
    runs: RunInputs,
    out: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="The run folder to make.")],
    where: Where = None,
    columns: Columns = None,
    split: Annotated[
        str | None,
        typer.Option("--split", metavar="A=.9,B=.1", help="A run for each part, all players of a game in the same."),
    ] = None,
    representation: Representation = None,
    reward: Reward = None,
    reward_column: RewardColumn = None,
    dedupe: Annotated[
        bool, typer.Option("--dedupe", help="Leave out episodes whose rows are those of one already taken.")
    ] = False,
    partial: Partial = False,
    dry_run: DryRun = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write runs anew with other rows, columns, boards, rewards, parts."""
    from expkit.rewards.columns import RewardColumns
    from expkit.rewrite.change import Change
    from expkit.rewrite.filter import parse_split
    from expkit.rewrite.merge import Choice

    rewards = RewardColumns.parse(reward, reward_column or ())
    choice = Choice(dedupe, where, columns, None if split is None else parse_split(split), rewards)
    change = None if representation is None else Change(representation=representation)
    merge_runs("rewrite", runs, out, choice, change, partial=partial, dry_run=dry_run, force=force, json=json)
