"""The episodes of runs as a table that DuckDB reads: one row for each player of each episode.

What the rows themselves have to be read for (`steps`, `return`, and which policy played) is read when it is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from expkit.batches.decode import BatchDecoder
from expkit.batches.scan import scan_rows
from expkit.batches.source import BatchSource
from expkit.predicates import EpisodeTable
from expkit.predicates.binding import POLICY_NAME
from expkit.queries.filters import columns_in
from expkit.queries.row_table import Table
from expkit.queries.run_rows import NAMES, RunRows
from expkit.row import arrow
from expkit.row.episodes import Episode
from expkit.system.extras import require

pa = require("pyarrow", "sql", "SQL")

_BATCH_ROWS = 1 << 16
_FROM_ROWS = ("steps", "return", "policy", POLICY_NAME, "policy_version")
_NEEDED = {
    "return": {"reward"},
    "policy": {"policy", "step"},
    POLICY_NAME: {"policy", "step"},
    "policy_version": {"policy_version", "step"},
}
SCHEMA = pa.schema(
    [
        pa.field(arrow.RUN, NAMES, nullable=False),
        pa.field("episode", pa.uint64(), nullable=False),
        pa.field("player", pa.uint16(), nullable=False),
        pa.field("policy", pa.uint16()),
        pa.field(POLICY_NAME, NAMES),
        pa.field("policy_version", pa.uint32()),
        pa.field("return", pa.float64()),
        pa.field("outcome", pa.float64()),
        pa.field("won", pa.bool_()),
        pa.field("ended", pa.string(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("steps", pa.int64(), nullable=False),
        pa.field("game", pa.string()),
        pa.field("seed", pa.string()),
        pa.field("seeds", pa.string()),
        pa.field("started_ns", pa.int64()),
        pa.field("ended_ns", pa.int64()),
        pa.field("metadata", pa.string(), nullable=False),
    ]
)


class EpisodeRows(Table):
    """Episodes of runs, a row for each player that has rows.

    policy, policy_name, policy_version  of the player's first row of the episode
    return          sum of the player's rewards; null where a reward is no single number
    outcome, won    null where the player has no outcome; won: terminated, and above all others' outcomes
    ended           terminated, truncated or interrupted
    length          steps of the longest player; rows, steps: this player's rows, and those that are transitions
    seed            of the environment, decimal; seeds, metadata: JSON
    started_ns, ended_ns  since 1970; null without a start or an end record
    """

    def __init__(self, runs: Sequence[BatchSource], threads: int):
        self._runs = list(runs)
        self._threads = threads
        super().__init__(SCHEMA)

    def rows(self, shape: Any, filter: Any) -> Iterator[Any]:
        for run in self._runs:
            wanted = {name: None for name in SCHEMA.names if name in shape.names}
            if filter is not None:
                wanted |= dict.fromkeys(columns_in(filter, SCHEMA.names))
            columns = _columns(run, list(wanted), self._threads)
            table = pa.table(columns, schema=pa.schema([SCHEMA.field(name) for name in columns]))
            if filter is not None:
                table = table.filter(filter)
            yield from table.select(shape.names).to_batches(_BATCH_ROWS)


def _columns(run: BatchSource, names: list[str], threads: int) -> dict[str, Any]:
    """Those columns of all (episode, player) with rows."""
    episodes = run.episodes()
    pairs = [(episode, player) for episode in episodes for player in sorted(episode.rows)]
    numbers = np.array([episode.number for episode, _ in pairs], np.uint64)
    players = np.array([player for _, player in pairs], np.uint16)
    out: dict[str, Any] = {}
    for name in names:
        if name in _OF_RECORDS:
            tell = _OF_RECORDS[name]
            out[name] = pa.array([tell(episode, player) for episode, player in pairs], SCHEMA.field(name).type)
    if arrow.RUN in names:
        out[arrow.RUN] = pa.DictionaryArray.from_arrays(np.zeros(len(pairs), np.int32), [run.label])
    if "episode" in names:
        out["episode"] = pa.array(numbers)
    if "player" in names:
        out["player"] = pa.array(players)
    if "won" in names:
        out["won"] = _won(episodes, numbers, players)
    if any(name in _FROM_ROWS for name in names):
        out |= _from_rows(run, numbers, players, [name for name in names if name in _FROM_ROWS], threads)
    return {name: out[name] for name in names}


def _seed(episode: Episode) -> str | None:
    seed = None if episode.start is None else episode.start.seeds.get("env")
    return None if seed is None else str(seed)


_OF_RECORDS: dict[str, Callable[[Episode, int], Any]] = {
    "outcome": lambda episode, player: episode.outcome.get(player),
    "ended": lambda episode, player: episode.ended,
    "length": lambda episode, player: episode.length,
    "rows": lambda episode, player: episode.rows[player],
    "game": lambda episode, player: None if episode.start is None else episode.start.game,
    "seed": lambda episode, player: _seed(episode),
    "seeds": lambda episode, player: None if episode.start is None else json.dumps(episode.start.seeds),
    "started_ns": lambda episode, player: None if episode.start is None else episode.start.time_ns,
    "ended_ns": lambda episode, player: None if episode.end is None else episode.end.time_ns,
    "metadata": lambda episode, player: json.dumps(episode.metadata),
}


def _won(episodes: list[Episode], numbers: np.ndarray, players: np.ndarray) -> Any:
    table = EpisodeTable(episodes)
    places = np.searchsorted(table.numbers, numbers)
    won, known = np.zeros(len(numbers), bool), np.zeros(len(numbers), bool)
    for player in np.unique(players).tolist():
        mine = players == player
        values, there = table.values("won", player)
        won[mine], known[mine] = values[places[mine]], there[places[mine]]
    return pa.array(won, mask=~known)


def _from_rows(
    run: BatchSource, numbers: np.ndarray, players: np.ndarray, names: list[str], threads: int
) -> dict[str, Any]:
    """Columns that the rows tell, by one scan of those columns only that are needed."""
    stored = {"episode", "is_last"}
    for name in names:
        stored |= _NEEDED.get(name, set())
    rewarded = not run.schema["reward"].shape
    if not rewarded:
        stored.discard("reward")
    steps = np.zeros(len(numbers), np.int64)
    returns = np.zeros(len(numbers))
    first = np.full(len(numbers), np.iinfo(np.int64).max)
    policy, version = np.zeros(len(numbers), np.uint16), np.zeros(len(numbers), np.uint32)
    of_player = {player: np.flatnonzero(players == player) for player in np.unique(players).tolist()}
    decoder = BatchDecoder(run.schema, [column.name for column in run.schema.columns if column.name in stored])
    # One block a batch, so of one player.
    for batch in scan_rows(run, decoder, None, "all", False, threads):
        mine = of_player[int(batch["player"][0])]
        places = mine[np.searchsorted(numbers[mine], batch["episode"])]
        moved = ~batch["is_last"]
        if moved.any():
            # Blocks are sorted by episode, so that few of all episodes are within these bounds.
            base = int(places.min())
            counted = np.bincount(places[moved] - base)
            steps[base : base + len(counted)] += counted
            if "reward" in batch:
                paid = np.bincount(places[moved] - base, batch["reward"][moved].astype(np.float64))
                returns[base : base + len(paid)] += paid
        if "step" in batch:
            begins = np.flatnonzero(np.diff(places, prepend=-1))
            earlier = begins[batch["step"][begins] < first[places[begins]]]
            first[places[earlier]] = batch["step"][earlier]
            for name, kept in (("policy", policy), ("policy_version", version)):
                if name in batch:
                    kept[places[earlier]] = batch[name][earlier]
    out = {
        "steps": pa.array(steps),
        "return": pa.array(returns) if rewarded else pa.nulls(len(returns), pa.float64()),
        "policy": pa.array(policy),
        "policy_version": pa.array(version),
    }
    if POLICY_NAME in names:
        out[POLICY_NAME] = RunRows(run, "all").policy_names(policy)
    return out
