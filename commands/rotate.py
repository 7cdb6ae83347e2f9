"""`expkit rotate`: ask whoever records a run to close its active shard, so that it can be copied or read as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expkit.commands import output
from expkit.commands.options import Json, RunPath
from expkit.errors import NotThere
from expkit.system.units import parse_duration

EXAMPLES = (("expkit rotate runs/live", "while 'expkit record --forever -o runs/live' runs elsewhere"),)


def rotate(
    run: RunPath,
    timeout: Annotated[str, typer.Option("--timeout", metavar="T", help="How long to wait for the recorder.")] = "10s",
    json: Json = False,
) -> None:
    """Make a recording process close and publish its active shard."""
    from expkit.runs.layout import list_shards
    from expkit.runs.requests import request_rotation

    path = Path(run)
    if not path.exists():
        raise NotThere(f"there is no {path}; see expkit list")
    before = {shard.name for shard in list_shards(path) if not shard.active}
    writers = request_rotation(path, parse_duration(timeout))
    published = sorted(shard.name for shard in list_shards(path) if not shard.active and shard.name not in before)
    if json:
        output.write_json(
            {"schema": "expkit.rotate/1", "run": path, "writers": [f"w{w}" for w in writers], "published": published}
        )
        return
    output.line((str(path), "bold"), f": published {', '.join(published) or 'nothing: no rows since the last shard'}")
    output.hint(f"expkit inspect {output.quoted(path)}")
