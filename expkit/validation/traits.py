"""What is so of a whole run, and decides which rules are about it; see `expkit.rules.rule.TRAITS`."""

from __future__ import annotations

from expkit.errors import ExpkitError
from expkit.games import find_source
from expkit.games.protocol import SIMULTANEOUS
from expkit.rewards.columns import is_the_games
from expkit.runs.layout import RunInfo
from expkit.runs.origins import origins_of


def traits_of(info: RunInfo) -> frozenset[str]:
    """The traits of a run. A merged one has those that all runs have that it was made of."""
    origins = origins_of(info.metadata)
    if not origins:
        return _traits(info.source, info.metadata.get("game"), info) | {"unmerged"}
    each = [_traits(origin.source, origin.game, info) for origin in origins]
    return frozenset.intersection(*each) - {"self-play"}  # which of them were imported is not told


def _traits(name: str, game: object, info: RunInfo) -> frozenset[str]:
    told = {"simultaneous"} if info.metadata.get(SIMULTANEOUS) is True else set()
    if is_the_games(info.metadata):
        told.add("game-rewards")
    pipeline = info.config.get("pipeline")
    if not (isinstance(pipeline, dict) and pipeline.get("processors")):
        told.add("untouched")
    try:
        source = find_source(name)
        source.from_builtins(game if isinstance(game, dict) else {})
    except ExpkitError:
        return frozenset(told)
    if not isinstance(game, dict):
        return frozenset(told)
    traits = {source.name, *told}
    if source.embedded:  # a check of a run runs nobody's code
        traits.add("replayable")
    if source.simultaneous_moves:
        traits.add("simultaneous")
    if "imported" not in info.metadata:
        traits.add("self-play")
    return frozenset(traits)
