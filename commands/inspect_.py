"""`expkit inspect`: what is in runs, a shard, an episode, a row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expkit.commands import output
from expkit.commands.options import Episode, Json, Player, RunPaths, Step, expand, expand_runs, is_shard
from expkit.errors import UsageError

if TYPE_CHECKING:
    from expkit.reading.run import Run

EXAMPLES = (
    ("expkit inspect sample_data/run", "a run: rows, ledger, fields, distributions, shards"),
    ("expkit inspect sample_data/run/shards/w0/000000.exp", "one shard file: header and blocks"),
    ("expkit inspect sample_data/run --episode 0", "an episode, a line per row"),
    ("expkit inspect sample_data/run --episode 0 --player 0 --step 20", "one row in full, its board drawn"),
    ("expkit inspect sample_data/run --json", "everything for a script"),
)


def inspect_(
    paths: RunPaths,
    episode: Episode = None,
    player: Player = None,
    step: Step = None,
    fog: Annotated[
        str, typer.Option("--fog", metavar="on|off", help="Draw what the player saw, or what is known of it all.")
    ] = "on",
    json: Json = False,
) -> None:
    """What is in runs, a shard, an episode or a row."""
    from expkit.commands.inspect_run import run_as_json, show_run
    from expkit.reading.opening import open_run

    if fog not in ("on", "off"):
        raise UsageError(f"--fog '{fog}' is not understood; use on or off")
    if episode is None and (player is not None or step is not None):
        raise UsageError("--player and --step need --episode: an address is --episode E --player P --step S")
    found = expand(paths)
    shards = [path for path in found if is_shard(path)]
    if shards and len(shards) < len(found):
        raise UsageError(f"shard files and runs together are two questions; ask for {shards[0]} by itself")
    if shards:
        if episode is not None:
            raise UsageError("--episode is asked of a run; name the folder that holds run.yaml")
        _inspect_shards(shards, json)
        return
    runs = expand_runs([str(path) for path in found])
    if episode is not None:
        if len(runs) > 1:
            raise UsageError(f"--episode needs one run, these are {len(runs)}; name one, like {runs[0]}")
        with open_run(runs[0]) as run:
            _inspect_episode(run, episode, player, step, fog == "on", json)
        return
    pages: list[dict[str, Any]] = []
    for number, path in enumerate(runs):
        with open_run(path) as run:
            if json:
                pages.append(run_as_json(run))
                continue
            if number:
                output.blank()
            show_run(run)
    if json:
        output.write_json({"schema": "expkit.inspect/1", **_together(pages)})


def _together(pages: list[dict[str, Any]]) -> dict[str, Any]:
    """One run as it is; of several their sums, and each under `runs`."""
    if len(pages) == 1:
        return pages[0]
    totals = {name: sum(page[name] for page in pages) for name in ("rows", "steps", "episodes", "bytes")}
    return {**totals, "runs": pages}


def _inspect_shards(shards: list[Path], json: bool) -> None:
    from expkit.commands.inspect_shard import shard_as_json, show_shard

    if json:
        pages = [shard_as_json(path) for path in shards]
        body = pages[0] if len(pages) == 1 else {"shards": pages}
        output.write_json({"schema": "expkit.inspect.shard/1", **body})
        return
    for number, path in enumerate(shards):
        if number:
            output.blank()
        show_shard(path)


def _inspect_episode(run: Run, number: int, player: int | None, step: int | None, fog: bool, json: bool) -> None:
    from expkit.commands.inspect_row import episode_as_json, row_as_json, show_episode, show_row

    episode = run.find_episode(number)
    if step is None:
        if json:
            output.write_json({"schema": "expkit.inspect.episode/1", **episode_as_json(run, episode, player)})
        else:
            show_episode(run, episode, player)
        return
    if player is None and len(run.players) == 1:
        player = run.players[0]
    if player is None:
        raise UsageError("--step needs --player too: an address is --episode E --player P --step S")
    if json:
        output.write_json({"schema": "expkit.inspect.row/1", **row_as_json(run, number, player, step)})
    else:
        show_row(run, number, player, step, fog)
