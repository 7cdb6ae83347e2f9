"""`expkit replay --verify`: what came of re-simulating."""

from __future__ import annotations

import sys

from expkit.commands import output
from expkit.commands.progress import Progress
from expkit.commands.streams import one_line
from expkit.reading.run import Run
from expkit.resimulation.verify import Difference
from expkit.resimulation.verify import verify_run as verify_episodes


def verify_run(run: Run, number: int | None, json: bool) -> int:
    """Re-simulate one episode or all, print the result; 0 when all are the same, else 4."""
    episodes = run.episodes() if number is None else [run.find_episode(number)]
    first: Difference | None = None
    rows = differing = 0
    left: list[str] = []
    with Progress(f"re-simulating {len(episodes):,} episodes of {run.path}", unit="episodes") as progress:
        for count, result in enumerate(verify_episodes(run, episodes, on_left_out=left.append), 1):
            rows += result.rows
            if result.difference is not None:
                differing += 1
                first = first or result.difference
            progress.update(count, len(episodes), fields=[f"{rows:,} rows", f"{differing} differ"])
    for told in left:
        print(f"expkit replay: not computed anew: {one_line(told)}", file=sys.stderr)
    if json:
        body = None
        if first is not None:
            body = {**first._asdict(), "episode": output.wide_integer(first.episode)}
        output.write_json(
            {
                "schema": "expkit.replay.verify/1",
                "run": run.path,
                "equal": first is None,
                "episodes": len(episodes),
                "episodes_differing": differing,
                "rows": rows,
                "first_difference": body,
                "not_imported": left,
            }
        )
        return 4 if first is not None else 0
    if first is None:
        output.line(("same", "bold green"), f": {len(episodes):,} episodes, {rows:,} rows re-simulated")
        return 0
    output.line(("differs", "bold red"), f" first at {first}")
    output.line(f"{differing:,} of {len(episodes):,} episodes differ", ("   [exit 4]", "dim"))
    address = f"--episode {first.episode} --player {first.player} --step {first.step}"
    output.hint(f"expkit inspect {output.quoted(run.path)} {address}")
    return 4
