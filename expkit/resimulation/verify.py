"""Does a recorded episode play out the same? Re-simulate it from its seeds and actions and compare every row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import numpy as np

from expkit.errors import GameError
from expkit.games import GameSource, PlaysWholeEpisodes
from expkit.games.protocol import Resimulator
from expkit.reading.run import Run
from expkit.resimulation.recorded_games import RecordedGames
from expkit.resimulation.rewards import RewardReader
from expkit.rewards.columns import RewardColumns, is_the_games
from expkit.row.episodes import Episode
from expkit.row.schema import KEY_NAMES
from expkit.runs.origins import as_recorded

_STANDARD = ("reward", "terminated", "truncated")


class Difference(NamedTuple):
    """The first thing that differs in an episode. `field` is a field's name, or `rows`, `action` for what the game
    refused. recorded and replayed tell the values, or where in an array they differ."""

    episode: int
    player: int
    step: int
    field: str
    recorded: str
    replayed: str

    def __str__(self) -> str:
        where = f"episode {self.episode} player {self.player} step {self.step} {self.field}"
        return f"{where}: recorded {self.recorded}, replayed {self.replayed}"


class Verified(NamedTuple):
    """One episode compared: how many rows, and the first difference, None when there is none."""

    episode: Episode
    rows: int
    difference: Difference | None


def verify_run(
    run: Run, episodes: list[Episode], *, on_left_out: Callable[[str], object] | None = None
) -> Iterator[Verified]:
    """Compare the given episodes of a run, one after the other.

    Rewards that were chosen, and are not the game's own, are computed anew; `on_left_out` is told of those whose code
    is not trusted, and without it they raise NotTrusted. Raises UsageError for a run whose game cannot be re-simulated
    and for a reward that is not installed here, ShardError for damaged rows.
    """
    games = RecordedGames(run)
    chosen = RewardColumns.told(run.info.metadata, on_left_out)
    rewards = RewardReader(run, chosen, again=True) if chosen else None
    for episode in episodes:
        source, config, seed = games.of(episode)
        if source.embedded:
            verified = verify_episode(run, episode, source, config, seed)
        else:
            verified = verify_whole_episode(run, episode, source, config)
        if rewards is not None and verified.difference is None and verified.rows:
            verified = verified._replace(difference=_compare_chosen(rewards, episode))
        yield verified


def _compare_chosen(rewards: RewardReader, episode: Episode) -> Difference | None:
    """The first row with a reward that is another one when it is computed anew."""
    found = []
    for player, mine in rewards.episode(episode).items():
        for name, stored in mine.stored.items():
            for at in np.flatnonzero(stored != mine.values[name])[:1].tolist():
                values = f"{stored[at]:g}", f"{mine.values[name][at]:g}"
                found.append(Difference(episode.number, player, int(mine.step[at]), name, *values))
    return min(found, key=lambda one: (one.step, one.player), default=None)


def _without_start(episode: Episode) -> Verified:
    return Verified(episode, 0, Difference(episode.number, 0, 0, "start", "no start record", "needs its seeds"))


def verify_episode(run: Run, episode: Episode, source: GameSource, config: Any, seed: int) -> Verified:
    """Re-simulate one episode with the recorded actions of all players and compare each row on the way."""
    if episode.start is None:
        return _without_start(episode)
    tables = {player: run.rows(episode.number, player) for player in sorted(episode.rows)}
    if not tables:
        return Verified(episode, 0, None)
    for player, table in tables.items():
        produced = episode.end.rows.get(str(player), len(table["step"])) if episode.end is not None else None
        if produced is not None and produced != len(table["step"]):
            said = f"{produced:,} were produced; without the others it cannot be played again"
            return Verified(episode, 0, Difference(episode.number, player, 0, "rows", f"{len(table['step']):,}", said))
    start = as_recorded(episode.start)
    game = source.resimulator(config, start, start.seeds.get("env", seed))
    places = {player: {int(s): at for at, s in enumerate(table["step"].tolist())} for player, table in tables.items()}
    steps = np.unique(np.concatenate([table["step"] for table in tables.values()])).tolist()
    compared = 0
    for step in steps:
        rows = {
            player: {name: values[at] for name, values in tables[player].items()}
            for player in tables
            if (at := places[player].get(step)) is not None
        }
        for player, row in rows.items():
            found = _compare_observation(run, game, row)
            if found is not None:
                return Verified(episode, compared, Difference(episode.number, player, step, *found))
            compared += 1
        acting = {player: row for player, row in rows.items() if not row["is_last"]}
        if not acting:
            continue
        # An illegal action is recorded as given and was played as a pass.
        actions = {player: int(row["action"]) for player, row in acting.items() if _is_legal(row)}
        try:
            game.step(actions)
        except GameError as error:
            player = min(acting)
            return Verified(episode, compared, Difference(episode.number, player, step, "action", "played", str(error)))
        differs = _compare_results(game, episode, rows, step, is_the_games(run.info.metadata))
        if differs is not None:
            return Verified(episode, compared, differs)
    return Verified(episode, compared, None)


def verify_whole_episode(run: Run, episode: Episode, source: GameSource, config: Any) -> Verified:
    """Play one episode again with the recorded actions, then compare all rows: for games of which each row tells of
    turns of others too."""
    if episode.start is None:
        return _without_start(episode)
    tables = {player: run.rows(episode.number, player) for player in sorted(episode.rows)}
    if not tables:
        return Verified(episode, 0, None)
    again = cast(PlaysWholeEpisodes, source)
    rows = sum(len(table["step"]) for table in tables.values())
    try:
        played = again.replay_rows(config, as_recorded(episode.start), tables)
    except GameError as error:
        return Verified(episode, 0, Difference(episode.number, min(tables), 0, "action", "played", str(error)))
    found = []
    for player, table in tables.items():
        found += _differences(run, episode.number, player, table, played.get(player, {}))
    return Verified(episode, rows, min(found, key=lambda one: (one.step, one.player), default=None))


def _differences(
    run: Run, number: int, player: int, recorded: dict[str, np.ndarray], played: dict[str, np.ndarray]
) -> list[Difference]:
    """The first row that differs, by field."""
    there, now = len(recorded["step"]), len(played.get("step", ()))
    both, out = min(there, now), []
    for name in ("step", "is_last", *(field.name for field in run.schema.fields)):
        if name not in played:
            continue
        left, right = recorded[name][:both], played[name][:both]
        differs = left != right
        if left.dtype.kind == "f":
            differs &= ~(np.isnan(left) & np.isnan(right))
        at = np.flatnonzero(differs.reshape(both, -1).any(1))
        if len(at):
            row, step = int(at[0]), int(recorded["step"][at[0]])
            where = tuple(int(i) for i in np.argwhere(differs[row])[0]) if left.ndim > 1 else ()
            told = f" at {where if len(where) > 1 else where[0]}" if where else ""
            out.append(
                Difference(number, player, step, name, f"{left[row][where]}{told}", f"{right[row][where]}{told}")
            )
    if there != now and not out:
        step = int((recorded if there > now else played)["step"][both])
        out.append(Difference(number, player, step, "rows", f"{there:,}", f"{now:,}"))
    return out


def _is_legal(row: dict[str, Any]) -> bool:
    """Whether the row's action is allowed by its mask; true where there is no mask."""
    mask, action = row.get("action_mask"), int(row["action"])
    return mask is None or (0 <= action < len(mask) and bool(mask[action]))


def _compare_observation(run: Run, game: Resimulator, row: dict[str, Any]) -> tuple[str, str, str] | None:
    """Field, recorded, replayed of the first field of the observation that differs."""
    seen = game.observation(int(row["player"]))
    for field in run.schema.fields:
        name = field.name
        if field.belongs != "observation" or name in KEY_NAMES or name not in seen:
            continue
        recorded, replayed = np.asarray(row[name]), np.asarray(seen[name])
        if recorded.shape != replayed.shape:
            return name, f"shape {recorded.shape}", f"shape {replayed.shape}"
        differs = recorded != replayed
        if differs.any():
            if not recorded.ndim:
                return name, str(recorded), str(replayed)
            at = tuple(int(i) for i in np.argwhere(differs)[0])
            where = f" at {at if len(at) > 1 else at[0]}"
            more = f" ({int(differs.sum()):,} values differ)" if differs.sum() > 1 else ""
            return name, f"{recorded[at]}{where}", f"{replayed[at]}{more}"
    return None


def _compare_results(
    game: Resimulator, episode: Episode, rows: dict[int, dict[str, Any]], step: int, games_reward: bool
) -> Difference | None:
    """Who is still in the game after a step, and rewards that are the game's own, against the recorded rows."""
    rewards = game.rewards()
    for player, row in rows.items():
        if row["is_last"]:
            continue
        recorded, replayed = float(row["reward"]), float(np.float32(rewards.get(player, 0.0)))
        if games_reward and recorded != replayed and not (np.isnan(recorded) and np.isnan(replayed)):
            return Difference(episode.number, player, step, "reward", f"{recorded:g}", f"{replayed:g}")
        if not row["truncated"] and bool(row["terminated"]) == game.alive(player) and not _is_decided(game, rows):
            words = ("ends here", "goes on") if row["terminated"] else ("goes on", "ends here")
            return Difference(episode.number, player, step, "terminated", *words)
    return None


def _is_decided(game: Resimulator, rows: dict[int, dict[str, Any]]) -> bool:
    """One player is left: the game ends for the winner too, who is alive."""
    return sum(game.alive(player) for player in range(game.players)) <= 1 and any(
        row["terminated"] for row in rows.values()
    )
