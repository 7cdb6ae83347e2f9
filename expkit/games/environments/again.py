"""An episode of an environment played again, from its seeds and the actions that were recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from expkit.errors import ExpkitError, GameError
from expkit.games.environments.rows_into_sink import SinkTarget
from expkit.games.environments.tables import table_of
from expkit.row.episodes import EpisodeStart
from expkit.row.layout import RowSink
from expkit.spaces.environment import EnvLayout

Tables = Mapping[int, Mapping[str, np.ndarray]]


def play_again(env: Any, layout: EnvLayout, players: int, start: EpisodeStart, tables: Tables) -> dict[int, Any]:
    """Rows by player, as the environment gives them now; see `EnvironmentSource.replay_rows`."""
    target = SinkTarget(layout.schema, players, start.game, start.config_digest)
    sink = RowSink.scratch(layout.schema, players, 2 + max(len(table["step"]) for table in tables.values()))
    target.use(sink)
    actions = {player: _actions(layout, table) for player, table in tables.items()}
    seeds = {p: start.seeds.get(f"action_space/{p}", start.seeds.get("action_space", 0)) for p in range(players)}
    table = table_of(env, target, layout, players)
    try:
        table.reset(start.seeds.get("env", 0), seeds)
        table.rows.episode = start.episode
        while not table.is_over:
            step = table.rows.turn
            chosen = {turn.player: actions.get(turn.player, {}).get(step) for turn in table.turns()}
            if any(action is None for action in chosen.values()):
                break  # recorded so far; what follows was cut there, too
            table.step(chosen)
        table.interrupt()
    except ExpkitError:
        raise
    except Exception as error:  # whatever an environment raises for what it is told to do
        step = table.rows.turn
        raise GameError(f"step {step}: {type(error).__name__}: {str(error).splitlines()[:1]}") from None
    finally:
        table.close()
    out = {}
    for player, rows in enumerate(sink.position.tolist()):
        views = sink.views(player, rows)
        out[player] = {name: layout.schema.unpack(name, column) for name, column in views.items()}
    return out


def _actions(layout: EnvLayout, table: Mapping[str, np.ndarray]) -> dict[int, Any]:
    """By step what the player did."""
    acted = np.flatnonzero(~table["is_last"])
    columns = {field.name: table[field.name][acted] for field in layout.action.fields}
    batch = layout.action.values(columns, len(acted))
    return {int(step): layout.action.one(batch, at) for at, step in enumerate(table["step"][acted].tolist())}
